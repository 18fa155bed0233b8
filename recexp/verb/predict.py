"""The verb `predict`: scores the rows of a file by a trained model."""

import logging
from pathlib import Path

from recexp.error import DataError
from recexp.verb.options import HISTORY, RUN, TABLE, TRAINED, load_trained, option, parse, table_path

logger = logging.getLogger(__name__)
USAGE = "RUN FILE -o OUT"
HELP = "scores rows by a trained model: their probability of label 1"
FILE = option(
    "file",
    metavar="FILE",
    help="CSV, Parquet or JSON lines file with columns named as in the run's data; labels are not needed. OUT has its "
    "rows in the same order: the columns that the run's data name, unchanged, and a last one, score, or one of each of "
    "several labels, as score/like",
)
CALIBRATED = option("--calibrated", action="store_true", help="as recexp calibrate has fitted, which comes first")
OPTIONS = (RUN, FILE, TABLE, HISTORY, CALIBRATED, *TRAINED)


def run(arguments: list[str]) -> int:
    """Raises ConfigError, DataError or RunError."""
    args = parse("predict", OPTIONS, arguments)
    output = table_path(args.output)
    trained = load_trained(args)
    from recexp.dataset.given import open_table
    from recexp.run.table import table_writer

    rows = trained.read(open_table(Path(args.file), trained.config.dataset, "FILE"))
    scores = trained.scores(rows, args.history, args.calibrated)
    if taken := scores.keys() & {*rows.frame.columns}:
        raise DataError(f"{args.file}: column '{min(taken)}' is of the run's data; OUT needs that name for the scores.")
    with table_writer(output) as put:
        put(rows.frame.assign(**scores))
    means = ", ".join(f"mean {name} {values.mean():.4f}" for name, values in scores.items())
    logger.info("%s: %s rows, %s", output, f"{len(rows.frame):,}", means)
    return 0
