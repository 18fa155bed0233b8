"""Which configuration each row has: the keys that differ, and folded away those that don't, and the runs."""

from typing import Any

from recexp.metric.figure import shown
from recexp.report.leaderboard import Leaderboard, Row
from recexp.report.page.element import Html, element
from recexp.report.page.ranking import row_name
from recexp.report.setting import text
from recexp.run.record import Record

FIGURES = ("best_epoch", "epochs", "seconds")


def differences(board: Leaderboard) -> Html | None:
    """A line a row, a column a key that differs. None where nothing does."""
    if not board.keys:
        return None
    head = [element("th", name, scope="col") for name in ("#", *board.keys)]
    body = [_settings(place, row, board.keys) for place, row in enumerate(board.rows)]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="settings")


def common(records: list[Record]) -> dict[str, Any]:
    """The keys that all runs have with the same value, apart from where they lie."""
    first, *others = [record.config for record in records] or [{}]
    keys = [key for key in first if not key.startswith("run.") and all(key in config for config in others)]
    return {key: first[key] for key in keys if all(config[key] == first[key] for config in others)}


def shared(board: Leaderboard) -> list[tuple[str, dict[str, Any]]]:
    """What all runs have in common, and what those of each model have besides."""
    records = [record for row in board.rows for record in row.records]
    of_all = common(records)
    models = dict.fromkeys(record.config.get("model.name") for record in records)
    found = [("all runs", of_all)]
    for model in models if len(models) > 1 else []:
        own = common([record for record in records if record.config.get("model.name") == model])
        found.append((f"all runs of {model}", {key: own[key] for key in own.keys() - of_all.keys() - {"model.name"}}))
    return [(of, dict(sorted(keys.items()))) for of, keys in found if keys]


def pairs(config: dict[str, Any]) -> Html:
    """Keys and values."""
    found = [element("div", element("dt", key), element("dd", text(value))) for key, value in config.items()]
    return element("dl", *found, class_="common")


def directories(board: Leaderboard) -> Html:
    """A line a run: where it lies, and what became of it."""
    names = ("#", "row", "seed", "state", board.metric, "best epoch", "epochs", "seconds", "directory")
    head = [element("th", name, scope="col") for name in names]
    body = [_run(place, row, record, board.metric) for place, row in enumerate(board.rows) for record in row.records]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="runs")


def _settings(place: int, row: Row, keys: list[str]) -> Html:
    cells = [element("td", text(row.setting[key]) if key in row.setting else "-") for key in keys]
    return element("tr", element("th", place + 1, scope="row", class_="number"), *cells)


def _run(place: int, row: Row, record: Record, metric: str) -> Html:
    return element(
        "tr",
        element("th", place + 1, scope="row", class_="number"),
        element("td", row_name(row.name)),
        element("td", record.config.get("seed"), class_="number"),
        element("td", record.state),
        *(element("td", shown(name, record.metrics.get(name)), class_="number") for name in (metric, *FIGURES)),
        element("td", record.path, class_="path"),
    )
