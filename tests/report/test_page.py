"""The report's page as text: whole, well formed, escaped, and its numbers right. In a browser: test_page_browser.py."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from boards import AUC, board, rates, record

from recexp.dataset.inspect.look import inspect
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.page import inspection, page
from recexp.report.page.calibration import bins, calibration
from recexp.report.page.cost import front
from recexp.report.page.curve import N_SHOWN, Point, over_seeds
from recexp.report.page.importance import explained, grouped, influences
from recexp.report.page.plot import N_DASHES, N_HUES, Scale, spread

HOSTILE = "\"'><img src=x onerror=hacked()></script></style><!-- &amp; ]]>"
SECTIONS = ["leaderboard", "curves", "importance", "configuration", "calibration", "cost", "runs"]
VOID = {"meta", "link", "input", "wbr"}


class Tree(HTMLParser):
    """What a page is made of; fails at a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []  # of all tables, their cells' text
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.elements if tag == "section"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two keys in all combinations, and an option that one model alone has."""
    settings = [
        {"model.name": model, "trainer.learning_rate": rate} for model in ("din", "dien") for rate in (0.001, 0.01)
    ]
    return board(tmp_path_factory.mktemp("runs"), settings)


@pytest.fixture(scope="module")
def tree(grid):
    return Tree(page(grid, "A grid"))


def test_the_page_has_every_section_and_all_tags_are_balanced(tree):
    assert tree.sections() == SECTIONS
    assert [tag for tag, _ in tree.elements].count("title") == 1 + 4 * 10 + 2 * 4 + 4  # page, bins, dots, intervals


def test_every_row_has_its_metrics_as_the_terminal_shows_them(tree):
    mean, deviation = np.mean(AUC), np.std(AUC, ddof=1)
    first = next(cells for cells in tree.rows if cells[1].strip() == "model=din trainer.learning_rate=0.001")
    assert first[:4] == ["1", first[1], "3", f"{mean:.4f} ± {deviation:.4f}"]
    assert "baseline" in first and f"{1e6 * mean:,.0f}" in " ".join(first)
    names = [cells[1].strip() for cells in tree.rows[1:5]]
    assert len(set(names)) == 4
    differences = [cells[5].split(" ")[0] for cells in tree.rows[2:5]]
    assert differences == ["-0.0100", "-0.0200", "-0.0300"]


def test_the_page_needs_nothing_from_elsewhere(grid):
    text = page(grid, "A grid")
    assert not re.search(r"https?:|//\w|@import|url\((?!#clip)", text.replace("// ", ""))
    links = {value for _, attributes in Tree(text).elements for name, value in attributes.items()
             if name in ("href", "src", "srcset", "action", "data", "xlink:href")}  # fmt: skip
    assert links == {"data:,", *(f"#{name}" for name in SECTIONS)}


def test_no_text_of_a_run_becomes_markup(tmp_path):
    plain, hostile = (
        Tree(page(replace(board(tmp_path / folder, settings), notes=[note]), note))
        for folder, note, settings in (
            ("plain", "note", [{"x": index} for index in range(2)]),
            (
                HOSTILE.replace("/", "_"),
                HOSTILE,
                [{"dataset.name": HOSTILE, HOSTILE: f"{HOSTILE}{n}"} for n in range(2)],
            ),
        )
    )
    tags = [[tag for tag, _ in tree.elements if tag not in ("span", "wbr")] for tree in (plain, hostile)]
    assert tags[0] == tags[1]
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert hostile.text.count(HOSTILE) > 10


def test_no_text_of_a_log_becomes_markup(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n, trees = np.arange(60), []
    for word in ("plain", HOSTILE):
        path = Path(word.replace("/", "_")) / "log.csv"
        path.parent.mkdir()
        cells = np.where(n % 3 == 0, "", word)
        frame = pd.DataFrame({"user": n % 7, "item": n % 5, "label": n % 2, "timestamp": n, word: cells})
        frame.to_csv(path, index=False)
        trees.append(Tree(inspection.page(inspect([str(path)]))))
    tags = [[tag for tag, _ in tree.elements] for tree in trees]
    assert tags[0] == tags[1] and "rect" in tags[0]
    assert HOSTILE in trees[1].text


def test_a_path_that_is_no_text_can_still_be_written(tmp_path):
    single = board(tmp_path, rates(1))
    odd = replace(single.rows[0].records[0], path=Path("a\udcff"))
    text = page(replace(single, rows=[replace(single.rows[0], records=[odd])]), "t")
    assert "a?" in text and text.encode("utf-8")


def test_what_there_is_nothing_to_show_of_is_left_out(tmp_path):
    bare = board(tmp_path, [{}], n_seeds=1, n_epochs=0, predictions=False)
    tree = Tree(page(bare, "One run"))
    assert tree.sections() == ["leaderboard", "configuration", "runs"]
    assert "importance" not in tree.text and "baseline" in tree.text


def test_values_that_are_missing_or_diverge_leave_gaps(tmp_path):
    runs = [record(tmp_path / str(seed), {}, 0.7, seed) for seed in range(2)]
    lines = (runs[0].path / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace("0.65", "NaN", 1)
    (runs[0].path / "metrics.jsonl").write_text("\n".join([*lines, lines[0].replace("0.7,", "1e30,"), ""]))
    text = page(leaderboard(runs, Choice()), "t")
    paths = re.findall(r' d="([^"]*)"', text)
    assert not any("nan" in path or "inf" in path for path in paths)


def test_a_point_is_the_mean_and_range_of_the_seeds_that_have_the_epoch():
    nan = float("nan")
    assert over_seeds([[1.0, 2.0, None], [3.0, nan, None], [2.0]]) == [
        Point(1, 2.0, 1.0, 3.0, complete=True),
        Point(2, 2.0, 2.0, 2.0, complete=False),
    ]
    assert over_seeds([]) == over_seeds([[], []]) == []


def test_the_share_that_a_key_explains_is_epsilon_squared():
    # Groups (1, 3) and (5, 7): within 4 / (4 - 2) = 2, total 20 / 3.
    assert explained(np.array([1.0, 5.0, 3.0, 7.0]), np.array([0, 1, 0, 1])) == pytest.approx(1 - 2 / (20 / 3))
    assert explained(np.array([1.0, 1.0, 2.0, 2.0]), np.array([0, 1, 0, 1])) == 0  # less than chance
    assert explained(np.ones(4), np.array([0, 1, 0, 1])) == 0
    assert explained(np.array([1.0, 2.0, 1.0, 2.0]), np.array([0, 1, 0, 1])) == 1


def test_groups_that_mean_nothing_explain_nothing_on_average():
    random = np.random.default_rng(0)
    shares = [explained(random.normal(size=24), random.permutation(np.arange(24) % 8)) for _ in range(300)]
    assert np.median(shares) < 0.03  # eta squared would be 7 / 23


def test_values_are_groups_and_many_numbers_are_bins():
    labels, index = grouped([0.01, 0.001, 0.01, 1])
    assert labels == ["0.001", "0.01", "1"] and list(index) == [1, 0, 1, 2]
    assert grouped([[8, 4], None, [8, 4], True])[0] == ["[8,4]", "null", "true"]
    labels, index = grouped(list(range(100)))
    assert labels == ["0 to 24", "25 to 49", "50 to 74", "75 to 99"] and list(np.bincount(index)) == [25] * 4
    labels, index = grouped([0] * 90 + list(range(10)))  # ties share a bin, and none is empty
    assert sum(np.bincount(index)) == 100 and np.bincount(index).all()


def test_keys_that_split_the_runs_alike_share_a_line(tmp_path):
    settings = [{"a": a, "b": -a, "c": c} for a in (1, 2) for c in (1, 2)]
    explaining = influences(board(tmp_path, settings))
    assert [(influence.keys, influence.n) for influence in explaining] == [(["a", "b"], 12), (["c"], 12)]
    assert [(group.label, group.n) for group in explaining[1].groups] == [("1", 6), ("2", 6)]
    assert explaining[1].groups[0].mean == pytest.approx(np.mean(AUC) - 0.01)


def test_importance_keeps_silent_about_few_runs(tmp_path):
    assert influences(board(tmp_path / "a", [{"a": a, "b": a % 2} for a in range(3)])) == []
    assert influences(board(tmp_path / "b", [{"a": str(a)} for a in range(10)], n_seeds=2)) == []  # 2 runs a group


def test_calibration_of_rankings_shows_the_runs_own_error(tmp_path: Path) -> None:
    ranked = replace(board(tmp_path, rates(2), n_seeds=1), metric="test.ndcg@10/all")
    shown = str(calibration(ranked))
    assert "ECE -" not in shown and len(re.findall(r"ECE 0?\.01", shown)) == 4  # caption and label of each


def test_calibration_bins_hold_equally_many_and_ties_stay_together():
    score = np.arange(1000) / 1000
    binned = bins((score >= 0.5).astype(float), score)
    np.testing.assert_allclose(binned[:, 0], np.arange(10) / 10 + 0.0495)
    np.testing.assert_array_equal(binned[:, 1], [0] * 5 + [1] * 5)
    np.testing.assert_allclose(bins(np.array([0, 1, 1, 1]), np.full(4, 0.3)), [[0.3, 0.75]])


def test_the_front_is_what_nothing_cheaper_equals():
    points = [(1, 0.5), (2, 0.7), (2, 0.6), (3, 0.7), (4, 0.9)]
    assert front(points, higher_is_better=True) == [0, 1, 4]
    assert front(points, higher_is_better=False) == [0]
    assert front([(cost, -quality) for cost, quality in points], higher_is_better=False) == [0, 1, 4]


@pytest.mark.parametrize(("low", "high", "log", "labels"), [
    (0.61, 0.69, False, ["0.62", "0.64", "0.66", "0.68"]),
    (0, 6, False, ["0", "1", "2", "3", "4", "5", "6"]),
    (-3, 3, False, ["-3", "-2", "-1", "0", "1", "2", "3"]),
    (36_000, 108_000, False, ["40k", "60k", "80k", "100k"]),
    (0.2, 4, True, ["0.3", "1", "3"]),
    (900, 2e6, True, ["1k", "10k", "100k", "1M"]),
])  # fmt: skip
def test_ticks_are_round_and_labelled_alike(low, high, log, labels):
    assert [label for _, label in Scale(low, high, 0, 100, log).ticks()] == labels


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e9])
def test_a_single_value_has_a_range_around_it(value):
    low, high = spread([value])
    assert low < value < high and Scale(low, high, 0, 100)(value) == pytest.approx(50)


def test_fifty_rows_of_five_seeds_and_fifty_epochs_stay_small(tmp_path):
    large = board(tmp_path, rates(50), n_seeds=5, n_epochs=50, predictions=False)
    assert len(page(large, "large").encode()) < 1.5e6


def test_the_curves_of_the_best_rows_are_shown_and_the_others_can_be(tmp_path):
    tree = Tree(page(board(tmp_path, rates(200), n_seeds=1, n_epochs=2, predictions=False), "many"))
    boxes = [attributes for tag, attributes in tree.elements if tag == "input"]
    assert ["checked" in box for box in boxes] == [True] * N_SHOWN + [False] * (200 - N_SHOWN)
    drawn = {attributes["data-row"] for tag, attributes in tree.elements if "data-row" in attributes}
    assert drawn == {str(index) for index in range(200)}


PALETTES = ["light", "dark"]
# Machado et al. 2009, severity 1, on linear RGB: what the colour-blind see.
SIGHT = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def _palette(name: str) -> dict[str, np.ndarray]:
    """Linear RGB of the style sheet's colours."""
    light, dark = (files("recexp.report.page") / "page.css").read_text().split("@media screen")
    named = re.findall(r"--(\w+): #(\w{6})", light if name == "light" else dark.split("* {")[0])
    values = {key: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for key, code in named}
    return {key: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) for key, v in values.items()}


def _oklab(linear: np.ndarray) -> np.ndarray:
    """Ottosson 2020: equal distances look equally different."""
    lms = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.4505937],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.array(lab) @ np.cbrt(np.array(lms) @ np.clip(linear, 0, 1))


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", PALETTES)
def test_the_hues_stay_apart_for_every_sight(palette, sight):
    colours = _palette(palette)
    seen = [_oklab(np.array(SIGHT[sight]) @ colours[f"hue{index}"]) for index in range(N_HUES)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1


@pytest.mark.parametrize("palette", PALETTES)
def test_the_hues_stand_out_from_the_paper(palette):
    luminance = {name: value @ [0.2126, 0.7152, 0.0722] + 0.05 for name, value in _palette(palette).items()}
    for index in range(N_HUES):
        low, high = sorted((luminance["paper"], luminance[f"hue{index}"]))
        assert high / low > 3


def test_the_style_sheet_has_the_looks_that_rows_are_given():
    css = (files("recexp.report.page") / "page.css").read_text()
    assert len(set(re.findall(r"\.hue\d", css))) == N_HUES
    assert len(set(re.findall(r"\.dash\d", css))) == N_DASHES - 1  # the first is solid
