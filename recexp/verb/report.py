"""The verb `report`: a leaderboard of run directories, in the format asked for."""

from recexp.error import RunError
from recexp.report import select
from recexp.report.format import kind_of, put, render
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.table import to_table
from recexp.run.record import read_all
from recexp.verb.options import parse


def report(arguments: list[str]) -> int:
    """`report DIR...`. Raises RunError or ConfigError."""
    typed = parse("report", arguments)
    found = read_all(typed.folders)
    records = select.chosen(found, typed.filter) if found else found
    if found and not records:
        raise RunError(f"--filter {' --filter '.join(typed.filter)}: leaves none of {len(found)} runs.")
    columns = typed.columns.split(",") if typed.columns else None
    board = leaderboard(records, Choice(typed.metric, typed.sort, columns, typed.baseline, typed.mix))
    kind = kind_of(typed.format, typed.output)
    if kind == "html":
        from recexp.report.page import page

        content = page(board, " ".join(typed.folders))
    else:
        content = render(to_table(board), kind)
    put(content, typed.output)
    return 0
