"""The verbs `runs` and `show`: run directories listed, and one looked at."""

from pathlib import Path
from typing import Any

import yaml

from recexp.metric.figure import is_figure, is_number, shown
from recexp.report import select
from recexp.report.format import Table, kind_of, put, render
from recexp.report.setting import short, text
from recexp.run.directory import read_config, read_epochs, read_json, read_status
from recexp.run.record import Record, read_all
from recexp.run.table import epoch_line, result_lines
from recexp.verb.options import parse

COLUMNS = ("model", "dataset", "seed", "best_epoch", "epochs", "valid.auc", "test.auc", "seconds")


def runs(arguments: list[str]) -> int:
    """`runs [DIR...]`: a line a run. Raises RunError for a folder that is not there, ConfigError for unknown keys."""
    typed = parse("runs", arguments)
    if not typed.folders and not Path("outputs").is_dir():
        print("no runs: there is no folder outputs here")
        return 0
    records = read_all(typed.folders or ["outputs"])
    known = select.known_keys(records)
    records = select.chosen(records, typed.filter)
    if typed.sort:
        key = select.resolve("--sort", typed.sort, known)
        records = sorted(records, key=lambda record: select.rank(key, select.value(record, key)))
    names = typed.columns.split(",") if typed.columns else []
    columns = [short(select.resolve("--columns", name, known)) for name in names] or list(COLUMNS)
    kind = kind_of(typed.format, typed.output)
    put("no runs\n" if kind == "table" and not records else render(to_table(records, columns), kind), typed.output)
    return 0


def to_table(records: list[Record], columns: list[str]) -> Table:
    """A row a run: its state, the columns, its directory."""
    head = list(dict.fromkeys(["state", *columns, "directory"]))
    values = [{name: _value(record, name) for name in head} for record in records]
    cells = [[_cell(name, value) for name, value in row.items()] for row in values]
    return Table(head=head, cells=cells, values=values, notes=[])


def show(arguments: list[str]) -> int:
    """`show RUN`. Raises RunError for a folder that is no run."""
    path = Path(parse("show", arguments).run)
    config, status = read_config(path), read_status(path)
    print(f"{path}: {status['state']}" + (f" ({status['error']})" if status["error"] else ""))
    typed = yaml.safe_load((path / "overrides.yaml").read_text("utf-8")) or []
    print("typed: " + (" ".join(typed) or "nothing") + "\n")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    for line in read_epochs(path):
        print(epoch_line(line, config["trainer"]["monitor"]))
    if metrics := read_json(path / "metrics.json"):
        print("\n".join(result_lines(metrics, path)))
    return 0


def _value(record: Record, name: str) -> Any:
    """Of a run that is not finished, the epochs so far and the best of their valid figures."""
    if (value := select.value(record, name)) is not None or record.metrics:
        return value
    if name == "epochs":
        return len(record.epochs())
    part, _, metric = name.partition(".")
    found = [line["valid"].get(metric) for line in record.epochs()] if part == "valid" else []
    return min(filter(is_number, found), key=lambda value: select.rank(name, value), default=None)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return shown(name, value) if is_number(value) and is_figure(name) else text(value)
