"""The verb `recommend`: the best items for users, by a trained model."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from recexp.verb.options import RUN, TABLE, TRAINED, load_trained, option, parse, table_path, whole_number

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
USAGE = "RUN -k K -o OUT"
HELP = "the best items for each user, out of all or of some"
OPTIONS = (
    RUN,
    option("-k", metavar="K", type=whole_number(1, 999_999), default=10, help="items for each user; default: 10"),
    TABLE,
    option(
        "--users",
        metavar="FILE",
        help="CSV, Parquet or JSON lines file of users, one a row: the column of their ids; one for each feature of "
        "the context, if the model reads any; features of new users, if known; and the time of asking, by default "
        "after all known events. Default: all users of the run",
    ),
    option(
        "--items",
        metavar="FILE",
        help="file of the items to choose from: the column of their ids, and features of new items; default: all",
    ),
    option(
        "--names",
        metavar="FILE",
        help="file of items with the column of their ids; OUT gets all its other columns, such as titles, too",
    ),
    option("--label", metavar="NAME", help="of several labels the one that ranks; default: the first"),
    option("--keep-seen", action="store_true", help="recommend also what a user has had before"),
    *TRAINED,
)


def named(frame: "pd.DataFrame", names: "pd.DataFrame") -> "pd.DataFrame":
    """Recommendations with the columns of their items; NAME becomes NAME_of_item where the frame has it already."""
    columns = names.reindex(frame.item.astype(str)).set_axis(frame.index)
    return frame.assign(**{f"{name}_of_item" if name in frame else str(name): columns[name] for name in columns})


def run(arguments: list[str]) -> int:
    """Writes user, timestamp if times are given, item, rank and score. Raises ConfigError, DataError or RunError."""
    args = parse("recommend", OPTIONS, arguments)
    output = table_path(args.output)
    trained = load_trained(args)
    from recexp.dataset.given import names_by_id, open_table
    from recexp.run.table import table_writer

    users, items = (
        open_table(Path(path), trained.config.dataset, flag) if path else None
        for path, flag in ((args.users, "--users"), (args.items, "--items"))
    )
    config = trained.config.dataset
    names = names_by_id(open_table(Path(args.names), config, "--names"), config) if args.names else None
    n = 0
    with table_writer(output) as put:
        for frame in trained.recommendations(users, args.k, items, args.keep_seen, args.label):
            put(frame if names is None else named(frame, names))
            n += len(frame)
    logger.info("%s: %s recommendations", output, f"{n:,}")
    return 0
