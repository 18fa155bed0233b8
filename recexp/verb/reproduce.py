"""The verb `reproduce`: a run again, in a new directory, compared with the first bit by bit."""

from recexp.error import ConfigError
from recexp.verb.options import Option
from recexp.verb.rerun import again, run_and_overrides

USAGE = "RUN [run.dir=DIR] [--trust]"
HELP = "a run again, in a new directory, compared bit by bit"
OPTIONS: tuple[Option, ...] = ()
N_SHOWN = 10  # lines of what differs in one part


def run(arguments: list[str]) -> int:
    """0 if all is equal, 1 if something differs. Raises RunError or ConfigError."""
    from recexp.experiment import train_in_directory
    from recexp.run.identity import DATA_PATHS, PLACES
    from recexp.run.reproduction import comparisons, require_finished, surroundings

    first, overrides = run_and_overrides("reproduce", arguments)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in PLACES and key not in DATA_PATHS:
            raise ConfigError(f"{word}: would make another run of it, as recexp rerun does; reproduce changes nothing.")
    require_finished(first)
    second, _ = train_in_directory(*again(first, overrides))
    print(f"\ncompared with {first}")
    parts = comparisons(first, second)
    width = max(len(part.name) for part in parts)
    for part in parts:
        print(f"  {part.name:{width}}  {'differ' if part.differs else 'equal' if part.kept else 'not kept by both'}")
        _show(part.differs)
    if differs := surroundings(first, second):
        print("  not the same where they ran:")
        _show(differs)
    return 1 if any(part.differs for part in parts) else 0


def _show(lines: list[str]) -> None:
    shown = lines if len(lines) <= N_SHOWN else [*lines[:N_SHOWN], f"and {len(lines) - N_SHOWN} more"]
    for line in shown:
        print(f"    {line}")
