"""The verb `report`: a leaderboard of run directories, in any format."""

from recexp.error import RunError
from recexp.verb.options import COLUMNS, FILTER, FORMATS, OUTPUT, SORT, format_option, option, parse

USAGE = "DIR..."
HELP = "a leaderboard over seeds, as text, table or offline page"
OPTIONS = (
    option("folders", metavar="DIR", nargs="+", help="folder of runs, such as a sweep's"),
    option("--metric", metavar="NAME", help="figure to compare rows by; default: what the runs monitored, on test"),
    SORT,
    FILTER,
    COLUMNS,
    option("--baseline", metavar="ROW", help="row to compare with, by words of its name; default: the best on valid"),
    option("--mix", action="store_true", help="let runs on other data, splits or labels share the table"),
    format_option(*FORMATS, "html"),
    OUTPUT,
)


def run(arguments: list[str]) -> int:
    """Raises RunError or ConfigError."""
    from recexp.report import select
    from recexp.report.format import kind_of, put, render
    from recexp.report.leaderboard import Choice, leaderboard
    from recexp.report.table import to_table
    from recexp.run.record import read_all

    args = parse("report", OPTIONS, arguments)
    all_records = read_all(args.folders)
    records = select.chosen(all_records, args.filter) if all_records else []
    if all_records and not records:
        raise RunError(f"--filter {' --filter '.join(args.filter)}: leaves none of {len(all_records)} runs.")
    columns = args.columns.split(",") if args.columns else None
    board = leaderboard(records, Choice(args.metric, args.sort, columns, args.baseline, args.mix))
    kind = kind_of(args.format, args.output)
    if kind == "html":
        from recexp.report.page import page

        content = page(board, " ".join(args.folders))
    else:
        content = render(to_table(board), kind)
    put(content, args.output)
    return 0
