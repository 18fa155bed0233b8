"""What a run is, apart from where it runs and for how long it trains."""

from pathlib import Path
from typing import Any

from recexp.config import Config
from recexp.error import RunError
from recexp.run.earlier import completed
from recexp.run.read import read_config
from recexp.storage import digest
from recexp.tree import flat, to_dict

PLACES = ("run", "logger", "device")  # groups that say where and on what a configuration runs, not what it is
DATA_PATHS = ("dataset.path", "dataset.user_path", "dataset.item_path", "dataset.cache_dir")  # their content counts
LENGTHS = ("trainer.epochs", "trainer.patience")  # what a run that goes on may raise


def identity(config: Config, fingerprint: str, path: Path | None = None) -> str:
    """Identifies a run for its checkpoints: equal for configurations and data that train the same, step by step.

    path: of the run; options that did not exist in the version that began it do not count.
    """
    left_out = {*DATA_PATHS, *LENGTHS, *(completed(read_config(path))[1] if path else ())}
    options = {key: value for key, value in _options(to_dict(config)).items() if key not in left_out}
    return digest(repr([sorted(options.items()), fingerprint]).encode())


def check_same(path: Path, config: Config) -> None:
    """Raises RunError if a run's configuration differs from this one in anything but PLACES."""
    old, new = _options(completed(read_config(path))[0]), _options(to_dict(config))
    if different := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        key = different[0]
        raise RunError(
            f"{path}: {key} is {new.get(key)} here and {old.get(key)} in the run; a run goes on as it began."
        )


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(config) if key.split(".")[0] not in PLACES}
