"""Tables as text, read back by other programs or by eye, whatever stands in their cells."""

import io
import json

import pandas as pd
import pytest

from recexp.error import RunError
from recexp.report.format import Table, kind_of, put, render

NASTY = 'a|b & 100% _x_ "q", <i> $1 #2 {c} ~^\\'


@pytest.fixture
def table():
    return Table(
        head=["model_name", "auc"],
        cells=[["din", "0.8000 ± 0.0100"], [NASTY, "-0.0012 [-0.1, 0.2]"]],
        values=[{"model": "din", "auc": 0.1 + 0.2, "on": True}, {"model": NASTY, "auc": None, "on": [1, "b"]}],
        notes=["Left out: 2_failed."],
        best=frozenset({(0, 1)}),
        about={"metric": "auc"},
    )


def test_csv_has_every_digit_and_nothing_for_missing(table):
    frame = pd.read_csv(io.StringIO(render(table, "csv")), keep_default_na=False)
    assert frame["auc"].tolist() == ["0.30000000000000004", ""]
    assert frame["model"].tolist() == ["din", NASTY]
    assert frame["on"].tolist() == ["True", "[1,b]"]


def test_json_has_every_digit_and_null_for_missing(table):
    assert json.loads(render(table, "json")) == {"metric": "auc", "rows": table.values, "notes": table.notes}


def test_the_terminals_table_has_columns_of_one_width(table):
    lines = render(table, "table").splitlines()
    column = lines[0].index("auc")
    assert lines[1][column:] == "0.8000 ± 0.0100" and lines[2][column:] == "-0.0012 [-0.1, 0.2]"
    assert lines[3:] == ["", "Left out: 2_failed."]


def test_markdown_is_a_pipe_table_in_which_nothing_breaks_out_of_its_cell(table):
    lines = render(table, "markdown").splitlines()
    assert lines[:3] == [r"| model\_name | auc |", "| --- | --- |", "| din | **0.8000 ± 0.0100** |"]
    assert lines[3] == r'| a\|b & 100% \_x\_ "q", \<i\> $1 \#2 {c} \~^\\ | -0.0012 \[-0.1, 0.2\] |'
    assert lines[5] == r"Left out: 2\_failed."


def test_latex_is_a_booktabs_tabular_with_every_sign_escaped(table):
    lines = render(table, "latex").splitlines()
    assert lines[:4] == ["% Left out: 2_failed.", r"\begin{tabular}{ll}", r"\toprule", r"model\_name & auc \\"]
    assert lines[4:6] == [r"\midrule", r"din & \textbf{0.8000 $\pm$ 0.0100} \\"]
    assert lines[6] == (
        r'a\textbar{}b \& 100\% \_x\_ "q", $<$i$>$ \$1 \#2 \{c\} \textasciitilde{}\textasciicircum{}\textbackslash{}'
        r" & $-$0.0012 [$-$0.1, 0.2] \\"
    )
    assert lines[7:] == [r"\bottomrule", r"\end{tabular}"]


def test_a_hyphen_in_a_name_is_no_minus():
    text = render(Table(head=["data"], cells=[["ml-100k"], ["1e-05"], ["-3"]], values=[], notes=[]), "latex")
    assert "ml-100k" in text and "1e-05" in text and "$-$3" in text


@pytest.mark.parametrize("kind", ["table", "csv", "json", "markdown", "latex"])
def test_a_table_without_rows_is_still_one(kind):
    assert render(Table(head=["a"], cells=[], values=[], notes=[]), kind).endswith("\n")


def test_the_format_is_the_one_named_or_that_of_the_files_ending():
    assert kind_of(None, None) == "table" and kind_of(None, "a/b.tex") == "latex" and kind_of(None, "b.txt") == "table"
    assert (
        kind_of("csv", "a.json") == "csv" and kind_of(None, "x.html") == "html" and kind_of(None, "x.md") == "markdown"
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    put("new\n", str(tmp_path / "a.csv"))
    put("newer\n", str(tmp_path / "a.csv"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "newer\n")]
    for output in (tmp_path, tmp_path / "no" / "a.csv"):
        with pytest.raises(RunError, match="-o "):
            put("x", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
