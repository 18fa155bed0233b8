"""The verb `datasets`: all datasets, or the options of one."""

from recexp.verb.options import Option

USAGE = "[NAME]"
HELP = "all datasets, or one's options"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises ConfigError for a dataset that does not exist."""
    from recexp.describe import listing

    print("\n".join(listing("dataset", arguments)))
    return 0
