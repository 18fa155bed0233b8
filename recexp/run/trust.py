"""Whether a directory may say what this user's computer does."""

import os
from pathlib import Path

from recexp.error import RunError


def require_trust(path: Path, trusted: bool) -> None:
    """Raises RunError for a directory that somebody else has made, unless its user says that it is trusted."""
    files = (path, path / "config.yaml", path / "sweep.yaml")
    strange = any(file.exists() and file.stat().st_uid != os.getuid() for file in files)
    if strange and not trusted:
        raise RunError(
            f"{path}: belongs to another user. Going on runs the plugins that its configuration names and reads the "
            "variables of your environment that it refers to: look at it, and add --trust if you agree."
        )
