"""Config-driven experiments for deep recommender models.

The notebook's API; each name is imported when it is first used, so `import recexp` imports no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers see
    from recexp.compose import load_config
    from recexp.experiment import build, load_run, train
    from recexp.registry import register
    from recexp.run.record import load_runs

_MODULES = {
    "build": "recexp.experiment",
    "load_config": "recexp.compose",
    "load_run": "recexp.experiment",
    "load_runs": "recexp.run.record",
    "register": "recexp.registry",
    "train": "recexp.experiment",
}
__all__ = ["build", "load_config", "load_run", "load_runs", "register", "train"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'recexp' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
