"""The verb `cache`: the prepared data that are kept for later runs, and how to be rid of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import ConfigError, choices
from recexp.verb.options import option, parse

if TYPE_CHECKING:
    from recexp.dataset.cache import Entry

FOLDER = "~/.cache/recexp"  # dataset.cache_dir of all datasets
SHORTEST = 6  # beginning of a fingerprint that may stand for it
USAGE = "[NAME...] [--clear]"
HELP = "prepared data that are kept: for which data, how large, last used"
OPTIONS = (
    option("names", metavar="NAME", nargs="*", help="a dataset, or the beginning of a fingerprint; default: all"),
    option("--clear", action="store_true", help="remove them; runs at work keep what they have read"),
    option("--dir", metavar="DIR", default=FOLDER, help=f"the dataset.cache_dir of runs; default: {FOLDER}"),
)


def run(arguments: list[str]) -> int:
    """0, or 1 if something could not be cleared because a process is making it. Raises ConfigError."""
    from recexp.dataset.cache import clear, entries
    from recexp.terminal import size

    args = parse("cache", OPTIONS, arguments)
    folder = Path(args.dir).expanduser()
    kept = chosen(entries(folder), args.names)
    if not args.clear:
        print("\n".join([str(folder), *table(kept)]))
        return 0
    busy = [entry for entry in kept if not clear(entry)]
    cleared = [entry for entry in kept if entry not in busy]
    print(f"cleared {count(len(cleared))}, {size(sum(entry.n_bytes for entry in cleared))}, from {folder}")
    for entry in busy:
        print(f"{entry.path.name}: stays, as a run is making it just now")
    return 1 if busy else 0


def chosen(entries: "list[Entry]", names: list[str]) -> "list[Entry]":
    """The entries of some datasets or fingerprints; all if none is named. Raises ConfigError for a name of none."""
    for name in names:
        if not any(is_called(entry, name) for entry in entries):
            known = {str(entry.source.get("name", entry.path.name)) for entry in entries}
            raise ConfigError(f"cache: {name}: nothing is kept by this name. {choices(name, known)}")
    return [entry for entry in entries if not names or any(is_called(entry, name) for name in names)]


def is_called(entry: "Entry", name: str) -> bool:
    return entry.source.get("name") == name or (len(name) >= SHORTEST and entry.path.name.startswith(name))


def table(entries: "list[Entry]") -> list[str]:
    """One line for each entry, and their sum."""
    from datetime import datetime

    from recexp.terminal import columns, size

    rows = [["data", "rows", "size", "last used", "fingerprint", "from"]]
    for entry in entries:
        used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
        n_rows = "damaged" if entry.rows is None else f"{entry.rows:,}"
        name = str(entry.source.get("name", "-"))
        rows.append([name, n_rows, size(entry.n_bytes), used, entry.path.name, origin(entry.source)])
    total = f"{count(len(entries))}, {size(sum(entry.n_bytes for entry in entries))}"
    return [*columns(rows), total] if entries else [total]


def origin(source: dict[str, Any]) -> str:
    """The files that data were prepared from first, and the columns read there."""
    if not source:
        return "unknown: prepared by an earlier version"
    paths = [str(source[name]) for name in ("path", "user_path", "item_path") if source.get(name)]
    names = [f"{role} {name}" for role, name in source.get("columns", {}).items() if name]
    return "; ".join(filter(None, [", ".join(paths) or f"reader {source['reader']}", ", ".join(names)]))


def count(n: int) -> str:
    return f"{n} data set{'' if n == 1 else 's'}"
