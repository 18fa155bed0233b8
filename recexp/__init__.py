"""Config-driven experiments for deep recommender models.

The notebook's API; each name is imported when it is first used, so `import recexp` imports no torch.
"""

import importlib
from typing import Any

_HOMES = {
    "load_config": "recexp.compose",
    "build": "recexp.experiment",
    "train": "recexp.experiment",
    "load_runs": "recexp.run.record",
    "register": "recexp.registry",
}
__all__ = ["build", "load_config", "load_runs", "register", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recexp' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
