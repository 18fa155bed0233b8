"""The verb `rerun`: the configuration of a run again, changed where said, in a new directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import ConfigError
from recexp.verb.options import Option, folder_and_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from recexp.config import Config

USAGE = "RUN [override...] [--trust]"
HELP = "a run's configuration again, changed where said, in a new directory"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises RunError for a directory that is no run, ConfigError for an override that is wrong."""
    from recexp.experiment import train_checked

    path, overrides = run_and_overrides("rerun", arguments)
    train_checked(*again(path, overrides))
    return 0


def run_and_overrides(verb: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The run directory and the overrides of a verb that trains it anew. Raises ConfigError or RunError."""
    path, overrides = folder_and_words(verb, arguments)
    if other := [word for word in overrides if "=" not in word and not word.startswith("~")]:
        raise ConfigError(f"{other[0]}: is no override, such as trainer.epochs=3.")
    return path, overrides


def again(path: Path, overrides: list[str]) -> "tuple[Config, list[str]]":
    """A run's configuration, changed by overrides and without its directory, and the overrides that compose it.

    Raises RunError or ConfigError.
    """
    from recexp.compose import changed, model_file
    from recexp.groups import GROUPS, conf_folder
    from recexp.run.earlier import completed
    from recexp.run.read import read_config, read_overrides
    from recexp.validate import check, read

    first = read(path)  # a mistake in the file itself is told as one
    tree, _ = completed(read_config(path))
    tree |= {"run": tree["run"] | {"dir": None, "resume": False}}
    raw = changed(tree, overrides)
    gone = [name for name in first.dataset.tasks if name not in _labels(raw)]
    if gone:
        raw = changed(_without(gone, tree), overrides)
    regrouped = {word.partition("=")[0] for word in overrides} & {*GROUPS}  # nothing of the earlier choice is left
    kept = [
        word
        for word in read_overrides(path)
        if word.lstrip("+~").split("=")[0].split(".")[0] not in {"run", *regrouped} and not _is_of(gone, word)
    ]
    return check(raw, model_file(raw, [conf_folder()])), [*kept, *overrides]


def _labels(raw: "DictConfig") -> list[str]:
    """The names of the labels of a composed configuration, if there are several."""
    columns = raw.dataset.get("columns") or {}
    label = columns.get("label")
    return list(label) if label is not None and not isinstance(label, str) and len(label) > 1 else []


def _without(gone: list[str], tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration without labels that are gone: without their weights, and monitoring no metric of theirs."""
    weights = {name: weight for name, weight in tree["model"]["loss_weights"].items() if name not in gone}
    monitor, objective = (_of_any(gone, name) for name in (tree["trainer"]["monitor"], tree.get("objective")))
    changes = {"model": tree["model"] | {"loss_weights": weights}, "trainer": tree["trainer"] | {"monitor": monitor}}
    return tree | changes | {"objective": objective}


def _of_any(gone: list[str], metric: str | None) -> str | None:
    """A metric of a label that is gone becomes that of the first label, which has no name."""
    base, _, label = (metric or "").partition("/")
    return base if label in gone else metric


def _is_of(gone: list[str], word: str) -> bool:
    """Whether an override weighs a label that is gone, or names a metric of one."""
    key, _, value = word.lstrip("+~").partition("=")
    if key in ("trainer.monitor", "objective"):
        return value.partition("/")[2] in gone
    return key.removeprefix("model.loss_weights.") in gone
