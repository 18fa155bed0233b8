"""The groups of YAML files, and their folder."""

import re
from pathlib import Path

GROUPS = ("model", "dataset", "trainer", "logger", "experiment", "sweep")
# The options whose type is a dict. A model's or logger's options are all flat, so a mapping there is one; so is one of
# a dataset's, apart from its groups of fixed keys: a user's own reader may have such options.
MAPPING = re.compile(
    r"(model|logger)\.[^.]+|dataset\.features\.(user|item|context)|dataset\.(?!columns$|features$|split$)[^.]+"
    r"|hydra\.sweeper\.params"
)


def conf_folder() -> Path:
    """The folder of the YAML files: inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def options(group: str) -> list[str]:
    """The names of a group's files."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
