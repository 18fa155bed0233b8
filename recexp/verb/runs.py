"""The verb `runs`: one line per run directory."""

from pathlib import Path
from typing import TYPE_CHECKING

from recexp.metric.table import PREDICTION_METRICS
from recexp.verb.options import COLUMNS, FILTER, FORMATS, OUTPUT, SORT, format_option, option, parse

if TYPE_CHECKING:
    from recexp.run.record import Record

USAGE = "[DIR...]"
HELP = "the run directories below DIR (outputs), filtered and sorted"
OPTIONS = (
    option("folders", metavar="DIR", nargs="*", help="folder of runs; default: outputs"),
    SORT,
    FILTER,
    COLUMNS,
    format_option(*FORMATS),
    OUTPUT,
)
WHAT, METRICS = ("model", "dataset", "seed", "best_epoch", "epochs"), ("valid.auc", "test.auc")


def run(arguments: list[str]) -> int:
    """Raises RunError for a folder that does not exist, ConfigError for an unknown key."""
    from recexp.report import select
    from recexp.report.format import kind_of, put, render
    from recexp.report.listing import to_table
    from recexp.report.setting import short
    from recexp.run.record import read_all

    args = parse("runs", OPTIONS, arguments)
    if not args.folders and not Path("outputs").is_dir():
        print("no runs: there is no folder outputs here")
        return 0
    records = read_all(args.folders or ["outputs"])
    known = select.known_keys(records)
    records = select.chosen(records, args.filter)
    if args.sort:
        key = select.resolve("--sort", args.sort, known, "valid")
        records = sorted(records, key=lambda record: select.rank(key, select.value(record, key)))
    names = [] if args.columns is None else args.columns.split(",")
    columns = [short(select.resolve("--columns", name, known)) for name in names] or [
        *WHAT,
        *_shown(records),
        "seconds",
    ]
    kind = kind_of(args.format, args.output)
    put("no runs\n" if kind == "table" and not records else render(to_table(records, columns), kind), args.output)
    return 0


def _shown(records: "list[Record]") -> list[str]:
    """AUC, and of runs that have none, as they only rank or have several labels, the metric that chooses the epoch."""
    monitors = dict.fromkeys(record.config.get("trainer.monitor") for record in records)
    others = [name for name in monitors if name and name not in PREDICTION_METRICS]
    names = [] if others and len(others) == len(monitors) else list(METRICS)
    return names + [f"{split}.{name}" for name in others for split in ("valid", "test")]
