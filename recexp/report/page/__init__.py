"""The report as one self-contained HTML file that also works without scripts."""

from importlib.resources import files
from string import Template

from recexp.report.leaderboard import Leaderboard
from recexp.report.page.calibration import calibration
from recexp.report.page.cost import costs
from recexp.report.page.curve import curves, rules
from recexp.report.page.element import Html, element, join
from recexp.report.page.group import groups
from recexp.report.page.importance import importance
from recexp.report.page.ranking import ranking
from recexp.report.page.setting import differences, directories, pairs, shared


def page(board: Leaderboard, title: str) -> str:
    """The whole HTML text. Reads epochs and predictions of the board's runs."""
    sections = [
        ("leaderboard", "Leaderboard", _leaderboard(board)),
        ("curves", "Learning curves", _curves(board)),
        ("rankings", "Rankings", groups(board)),
        ("importance", "Importance of keys", _scrolled("importance of keys", importance(board))),
        ("configuration", "Configuration", _configuration(board)),
        ("calibration", "Calibration", calibration(board)),
        ("cost", "Quality against cost", costs(board)),
        ("runs", "Runs", _folded("run directories", directories(board))),
    ]
    shown = [(name, heading, content) for name, heading, content in sections if content is not None]
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in shown]
    return Template(_file("page.html")).substitute(
        title=element("title", title),
        style=element("style", Html(_file("page.css") + rules(len(board.rows)))),
        header=element("header", element("h1", title), _facts(board), element("nav", *links, aria_label="sections")),
        main=element("main", *(_section(*section) for section in shown)),
        script=element("script", Html(_file("page.js"))),
    )


def _file(name: str) -> str:
    return (files(__name__) / name).read_text("utf-8")


def _section(name: str, heading: str, content: Html) -> Html:
    return element("section", element("h2", heading, id=f"{name}-heading"), content, id=name,
                   aria_labelledby=f"{name}-heading")  # fmt: skip


def _facts(board: Leaderboard) -> Html:
    """What was compared, and the leaderboard's notes."""
    records = [record for row in board.rows for record in row.records]
    datasets = dict.fromkeys(str(record.config.get("dataset.name", "-")) for record in records)
    fingerprints = dict.fromkeys(record.fingerprint or "unknown" for record in records)
    better = "higher is better" if board.higher_is_better else "lower is better"
    facts = {
        "dataset": ", ".join(datasets) or "-",
        "data fingerprint": ", ".join(fingerprints) or "-",
        "runs": f"{len(records):,} in {len(board.rows):,} rows",
        "order": board.order,
        "metric": f"{board.metric}, {better}",
        "baseline": board.baseline.name if board.baseline else "none",
    }
    pairs = [element("div", element("dt", name), element("dd", fact)) for name, fact in facts.items()]
    notes = element("ul", *(element("li", note) for note in board.notes), class_="notes") if board.notes else None
    return join(element("dl", *pairs, class_="facts"), notes)


def _leaderboard(board: Leaderboard) -> Html:
    explanation = (
        "Mean ± standard deviation over the n runs of a row, which differ in the seed alone. Drawn: the mean, its 95 % "
        "interval (an arrow where it goes on), and each run as a small dot; dashed, the baseline's mean."
    )
    pairings = dict.fromkeys(row.difference.pairing for row in board.rows if row.difference)
    compared = (
        f" Difference: the row's mean less the baseline's with its 95 % interval ({', '.join(pairings)}); p is "
        "corrected for the number of comparisons, bold below 0.05."
    )
    note = element("p", explanation + (compared if pairings else ""), class_="note")
    return join(_scrolled("leaderboard", ranking(board)), note)


def _curves(board: Leaderboard) -> Html | None:
    explanation = (
        "Mean over a row's seeds, and from the least to the greatest seed as a band. The line is faint from where the "
        "first seed has stopped. Epochs of earlier stages come first. What lies far off is cut off by the frame."
    )
    drawn = curves(board)
    return drawn and join(element("p", explanation, class_="note"), drawn)


def _configuration(board: Leaderboard) -> Html:
    return join(
        _scrolled("keys that differ", differences(board)),
        *(_folded(f"what {runs} have in common", pairs(config)) for runs, config in shared(board)),
    )


def _scrolled(label: str, content: Html | None) -> Html | None:
    """A table in its own container, so that a narrow screen scrolls the table and not the page."""
    return content and element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def _folded(label: str, content: Html) -> Html:
    return element("details", element("summary", label), _scrolled(label, content))
