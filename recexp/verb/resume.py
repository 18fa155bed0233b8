"""The verb `resume`: goes on with a run, or does a sweep again without what has ended."""

from pathlib import Path

from recexp.error import ConfigError
from recexp.run.read import read_config
from recexp.sweep.folder import begun


def resume(arguments: list[str]) -> int:
    """`resume RUN`. Raises RunError for a directory that is neither."""
    from omegaconf import OmegaConf

    from recexp.validate import check

    if len(arguments) != 1:
        raise ConfigError(
            "resume: takes one directory, as in: recexp resume outputs/2026-01-31/12-00-00-dien-synthetic-s0"
        )
    path = Path(arguments[0])
    if begun(path):
        from hydra_plugins.recexp_launcher._entry import resume_sweep

        return resume_sweep(path)
    from recexp.experiment import train

    raw = OmegaConf.create(read_config(path))
    raw.run.dir, raw.run.resume = str(path), True
    train(check(raw))
    return 0
