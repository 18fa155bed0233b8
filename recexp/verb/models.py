"""The verb `models`: all models, or the options of one."""

from recexp.verb.options import Option

USAGE = "[NAME]"
HELP = "all models, or one's options: type, default, meaning"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises ConfigError for a model that does not exist."""
    from recexp.describe import listing

    print("\n".join(listing("model", arguments)))
    return 0
