"""The verb `runs`: run directories listed."""

from pathlib import Path

from recexp.report import select
from recexp.report.format import kind_of, put, render
from recexp.report.listing import to_table
from recexp.report.setting import short
from recexp.run.record import read_all
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
