"""Whether a directory is trusted to run plugins and read environment variables."""

import os
from pathlib import Path

from recexp.error import RunError


def require_trust(path: Path, trusted: bool) -> None:
    """Raises RunError for a directory of another user, unless it is trusted."""
    files = (path, path / "config.yaml", path / "sweep.yaml")
    is_foreign = any(file.exists() and file.stat().st_uid != os.getuid() for file in files)
    if is_foreign and not trusted:
        raise RunError(
            f"{path}: belongs to another user. Going on runs the plugins that its configuration names and reads the "
            "variables of your environment that it refers to: look at it, and add --trust if you agree."
        )
