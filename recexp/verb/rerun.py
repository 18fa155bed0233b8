"""The verb `rerun`: the configuration of a run again, changed where said, in a new directory."""

from pathlib import Path
from typing import TYPE_CHECKING

from recexp.error import ConfigError
from recexp.run.trust import require_trust
from recexp.verb.options import Option, folder

if TYPE_CHECKING:
    from recexp.config import Config

USAGE = "RUN [override...] [--trust]"
HELP = "a run's configuration again, changed where said, in a new directory"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises RunError for a directory that is no run, ConfigError for an override that is wrong."""
    from recexp.experiment import train_checked

    path, overrides = typed("rerun", arguments)
    train_checked(*again(path, overrides))
    return 0


def typed(verb: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The run directory and the overrides of a verb that trains it anew. Raises ConfigError or RunError."""
    words = [word for word in arguments if word != "--trust"]
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"{verb}: takes a run directory, as in: recexp {verb} outputs/RUN")
    path, overrides = folder(words[0]), words[1:]
    if other := [word for word in overrides if "=" not in word and not word.startswith("~")]:
        raise ConfigError(f"{other[0]}: is no override, such as trainer.epochs=3.")
    require_trust(path, trusted=words != arguments)
    return path, overrides


def again(path: Path, overrides: list[str]) -> "tuple[Config, list[str]]":
    """The configuration of a run, changed by overrides and without its place, and what would have to be typed for it.

    Raises RunError or ConfigError.
    """
    from recexp.compose import changed, model_file
    from recexp.groups import GROUPS, conf_folder
    from recexp.run.read import read_config, read_overrides
    from recexp.validate import check, read

    read(path)  # a mistake in the file itself is told as one
    tree = read_config(path)
    raw = changed(tree | {"run": tree["run"] | {"dir": None, "resume": False}}, overrides)
    anew = {word.partition("=")[0] for word in overrides} & {*GROUPS}  # nothing of the earlier choice is left
    kept = [
        word for word in read_overrides(path) if word.lstrip("+~").split("=")[0].split(".")[0] not in {"run", *anew}
    ]
    return check(raw, model_file(raw, [conf_folder()])), [*kept, *overrides]
