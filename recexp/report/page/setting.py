"""The configuration of each row: the keys that differ, those that are shared, and the runs."""

from typing import Any

from recexp.metric.table import format_value
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element
from recexp.report.page.ranking import row_name
from recexp.report.row import Row
from recexp.report.setting import text
from recexp.run.record import Record

TRAINING = ("best_epoch", "epochs", "seconds")


def differences(board: Leaderboard) -> Html | None:
    """One line per row, one column per key that differs. None if no key does."""
    if not board.keys:
        return None
    head = [element("th", name, scope="col") for name in ("#", *board.keys)]
    body = [_settings(index, row, board.keys) for index, row in enumerate(board.rows)]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="settings")


def common(records: list[Record]) -> dict[str, Any]:
    """The keys that have the same value in all runs, without the runs' locations."""
    first, *others = [record.config for record in records] or [{}]
    keys = [key for key in first if not key.startswith("run.") and all(key in config for config in others)]
    return {key: first[key] for key in keys if all(config[key] == first[key] for config in others)}


def shared(board: Leaderboard) -> list[tuple[str, dict[str, Any]]]:
    """What all runs have in common, and what the runs of each model have in common besides."""
    records = [record for row in board.rows for record in row.records]
    of_all = common(records)
    models = dict.fromkeys(record.config.get("model.name") for record in records)
    groups = [("all runs", of_all)]
    for model in models if len(models) > 1 else []:
        own = common([record for record in records if record.config.get("model.name") == model])
        groups.append((f"all runs of {model}", {key: own[key] for key in own.keys() - of_all.keys() - {"model.name"}}))
    return [(runs, dict(sorted(keys.items()))) for runs, keys in groups if keys]


def pairs(config: dict[str, Any]) -> Html:
    """Keys and values."""
    lines = [element("div", element("dt", key), element("dd", text(value))) for key, value in config.items()]
    return element("dl", *lines, class_="common")


def directories(board: Leaderboard) -> Html:
    """One line per run: its directory, state and training."""
    training = (name.replace("_", " ") for name in TRAINING)
    names = ("#", "row", "seed", "state", board.metric, *training, "directory")
    head = [element("th", name, scope="col") for name in names]
    body = [_run(index, row, record, board.metric) for index, row in enumerate(board.rows) for record in row.records]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="runs")


def _settings(index: int, row: Row, keys: list[str]) -> Html:
    cells = [element("td", text(row.setting[key]) if key in row.setting else "-") for key in keys]
    return element("tr", element("th", index + 1, scope="row", class_="number"), *cells)


def _run(index: int, row: Row, record: Record, metric: str) -> Html:
    return element(
        "tr",
        element("th", index + 1, scope="row", class_="number"),
        element("td", row_name(row.name)),
        element("td", record.config.get("seed"), class_="number"),
        element("td", record.state),
        *(element("td", format_value(name, record.metrics.get(name)), class_="number") for name in (metric, *TRAINING)),
        element("td", record.path, class_="path"),
    )
