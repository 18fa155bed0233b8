"""The report as one self-contained HTML file that also works without scripts."""

from recexp.report.leaderboard import Leaderboard
from recexp.report.page.calibration import calibration
from recexp.report.page.cost import costs
from recexp.report.page.curve import curves, rules
from recexp.report.page.document import Section, document, scrolled
from recexp.report.page.element import Html, element, join
from recexp.report.page.group import groups
from recexp.report.page.importance import importance
from recexp.report.page.ranking import ranking
from recexp.report.page.setting import differences, directories, pairs, shared


def page(board: Leaderboard, title: str) -> str:
    """The whole HTML text. Reads epochs and predictions of the board's runs."""
    sections: list[Section] = [
        ("leaderboard", "Leaderboard", _leaderboard(board)),
        ("curves", "Learning curves", _curves(board)),
        ("rankings", "Rankings", groups(board)),
        ("importance", "Importance of keys", scrolled("importance of keys", importance(board))),
        ("configuration", "Configuration", _configuration(board)),
        ("calibration", "Calibration", calibration(board)),
        ("cost", "Quality against cost", costs(board)),
        ("runs", "Runs", _folded("run directories", directories(board))),
    ]
    return document(title, _facts(board), sections, rules(len(board.rows)), scripted=True)


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
    return join(scrolled("leaderboard", ranking(board)), note)


def _curves(board: Leaderboard) -> Html | None:
    explanation = (
        "Mean over a row's seeds, and from the least to the greatest seed as a band. The line is faint from where the "
        "first seed has stopped. Epochs of earlier stages come first. What lies far off is cut off by the frame."
    )
    drawn = curves(board)
    return drawn and join(element("p", explanation, class_="note"), drawn)


def _configuration(board: Leaderboard) -> Html:
    return join(
        scrolled("keys that differ", differences(board)),
        *(_folded(f"what {runs} have in common", pairs(config)) for runs, config in shared(board)),
    )


def _folded(label: str, content: Html) -> Html:
    return element("details", element("summary", label), scrolled(label, content))
