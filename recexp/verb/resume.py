"""The verb `resume`: continues a run, or does a sweep again without the jobs that have ended."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import ConfigError, RunError
from recexp.verb.options import Option, folder_and_words

if TYPE_CHECKING:
    from recexp.config import Config

logger = logging.getLogger(__name__)
USAGE = "RUN [override...] [--trust]"
HELP = "goes on with an interrupted run or sweep; a larger trainer.epochs or trainer.patience makes a run longer"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises RunError for a directory that is neither a run nor a sweep, ConfigError for what would not lengthen it."""
    from recexp.sweep.folder import begun

    path, overrides = folder_and_words("resume", arguments)
    if begun(path):
        from hydra_plugins.recexp_launcher._entry import resume_sweep

        if overrides:
            raise ConfigError(f"{overrides[0]}: a sweep goes on as it was typed; only a single run can be made longer.")
        return resume_sweep(path)
    from recexp.experiment import train_checked
    from recexp.validate import read

    config = read(path)
    if overrides:
        lengths = dict(map(parse, overrides))
        lengthen(path, config, lengths)
        config = replace(config, trainer=replace(config.trainer, **lengths))
    train_checked(config)
    return 0


def parse(override: str) -> tuple[str, Any]:
    """The name in the trainer's configuration and the value. Raises ConfigError for any other key."""
    import yaml

    from recexp.run.identity import LENGTHS
    from recexp.safe_yaml import parse_yaml

    key, _, value = override.partition("=")
    if key not in LENGTHS:
        raise ConfigError(f"{override}: a run goes on as it began; only {' and '.join(LENGTHS)} may grow.")
    try:
        return key.removeprefix("trainer."), parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override}: no value that YAML can read.") from error


def lengthen(path: Path, config: "Config", lengths: dict[str, Any]) -> None:
    """Writes larger lengths into config.yaml, after which a finished run is an interrupted one.

    Raises ConfigError or RunError, leaving all as it is, if the run would not be that of the larger lengths from its
    first epoch on.
    """
    from recexp.lock import locked
    from recexp.run.folder import refuse_links
    from recexp.run.read import read_config
    from recexp.run.status import write_status
    from recexp.storage import write_yaml

    check_longer(path, config, lengths)
    raw = read_config(path)
    raw["trainer"] |= lengths
    with locked(path) as free:
        if not free:
            raise RunError(f"{path}: another process is at work on this run.")
        refuse_links(path, ["config.yaml", "metrics.json", "status.json"])
        write_status(path, "interrupted", "made longer; go on with: recexp resume")
        (path / "metrics.json").unlink(missing_ok=True)
        write_yaml(path / "config.yaml", raw)
    for name, value in lengths.items():
        logger.info("trainer.%s was %s and is %s", name, getattr(config.trainer, name), value)


def check_longer(path: Path, config: "Config", lengths: dict[str, Any]) -> None:
    """Raises ConfigError or RunError unless the run can become one of these lengths."""
    from recexp.config import Schedule
    from recexp.option import require
    from recexp.run.status import read_status
    from recexp.trainer.checkpoint import read_progress

    trainer = config.trainer
    epochs, patience = lengths.get("epochs", trainer.epochs), lengths.get("patience", trainer.patience)
    words = f"a whole number of {trainer.epochs} or more: resume makes a run only longer"
    require(type(epochs) is int and epochs >= trainer.epochs, "trainer.epochs", epochs, words)
    words = (
        "null" if trainer.patience is None else f"{trainer.patience} or more, or null: resume makes a run only longer"
    )
    grown = type(patience) is int and trainer.patience is not None and patience >= trainer.patience
    require(patience is None or grown, "trainer.patience", patience, words)
    if epochs > trainer.epochs and trainer.schedule in (Schedule.linear, Schedule.cosine):
        raise RunError(
            f"{path}: trainer.schedule = {trainer.schedule.name} spreads its learning rates over trainer.epochs, "
            "so a longer run differs from its first step on; train it anew."
        )
    state, progress = read_status(path)["state"], read_progress(path / "checkpoints")
    if state == "pruned":
        raise RunError(f"{path}: was ended by its file stop, for good.")
    if progress and progress.cut and patience != trainer.patience:
        raise RunError(f"{path}: trainer.patience has ended an earlier stage too, so a larger one needs a new run.")
    if progress and state == "finished" and patience is not None and progress.bad_epochs >= patience:
        raise RunError(
            f"{path}: early stopping ended the run after epoch {progress.epoch}, {progress.bad_epochs} after the best; "
            f"raise trainer.patience ({patience}) too."
        )
