"""Tables as text: rounded for the terminal, Markdown and LaTeX, with all digits in CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recexp.error import RunError
from recexp.report.setting import text
from recexp.storage import write_text
from recexp.terminal import columns

ENDINGS = {".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex", ".html": "html"}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
         "<": "$<$", ">": "$>$", "|": r"\textbar{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells for people and values for programs: one mapping per row, with numbers in full and None for missing."""

    head: list[str]
    cells: list[list[str]]
    values: list[dict[str, Any]]
    notes: list[str]
    title: str = ""  # stands above the head
    best: frozenset[tuple[int, int]] = frozenset()  # (row, column) of the best cells of their columns
    about: dict[str, Any] = field(default_factory=dict)  # for programs: the metric and the baseline


def render(table: Table, kind: str) -> str:
    """kind: table, csv, json, markdown or latex."""
    return {"table": plain, "csv": to_csv, "json": to_json, "markdown": markdown, "latex": latex}[kind](table)


def kind_of(name: str | None, output: str | None) -> str:
    """The format, by name or by the ending of the output file."""
    return name or ENDINGS.get(Path(output or "").suffix, "table")


def put(content: str, output: str | None, option: str = "-o") -> None:
    """Prints the content, or writes it whole to a file. Raises RunError if the file cannot be written."""
    if output is None:
        print(content, end="")
        return
    if Path(output).is_dir():
        raise RunError(f"{option} {output}: is a directory.")
    try:
        write_text(Path(output), content)
    except OSError as error:
        raise RunError(f"{option} {output}: cannot be written ({error.strerror}).") from error


def plain(table: Table) -> str:
    title, notes = [table.title] if table.title else [], ["", *table.notes] if table.notes else []
    return "\n".join([*title, *columns([table.head, *table.cells]), *notes]) + "\n"


def to_csv(table: Table) -> str:
    """Text that a spreadsheet would run as a formula, such as =1+1, gets an apostrophe before it."""
    file = io.StringIO()
    names = dict.fromkeys(name for row in table.values for name in row)
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writerow({name: _inert(name) for name in names})
    for row in table.values:
        writer.writerow(
            {name: _inert(text(value) if isinstance(value, list) else value) for name, value in row.items()}
        )
    return file.getvalue()


def to_json(table: Table) -> str:
    return json.dumps({**table.about, "rows": table.values, "notes": table.notes}, indent=1, ensure_ascii=False) + "\n"


def markdown(table: Table) -> str:
    """A pipe table, as GitHub shows it; the best cells bold."""
    rows = _formatted(table, _marked, "**{}**")
    lines = [map(_marked, table.head), ["---"] * len(table.head), *rows]
    title = f"{_marked(table.title)}\n\n" if table.title else ""
    notes = "".join(f"\n{_marked(note)}\n" for note in table.notes)
    return title + "".join(f"| {' | '.join(line)} |\n" for line in lines) + notes


def latex(table: Table) -> str:
    """A tabular for the package booktabs; the best cells bold."""
    rows = _formatted(table, _typeset, r"\textbf{{{}}}")
    return "\n".join(
        [
            *(f"% {line}" for line in (table.title, *table.notes) if line),
            rf"\begin{{tabular}}{{{'l' * len(table.head)}}}",
            r"\toprule",
            _latex_line(map(_typeset, table.head)),
            r"\midrule",
            *map(_latex_line, rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def _formatted(table: Table, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    """The cells escaped, the best ones in the format `bold`."""
    return [
        [bold.format(escape(cell)) if (i, j) in table.best else escape(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.cells)
    ]


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _marked(cell: str) -> str:
    """Escaped for Markdown."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", cell).replace("\n", " ")


def _typeset(cell: str) -> str:
    """Escaped for LaTeX; the hyphen before a number becomes a minus."""
    escaped = "".join(LATEX.get(sign, sign) for sign in cell.replace("\n", " "))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
