"""Where training is recorded: a run directory, or nowhere."""

from pathlib import Path
from typing import Any, Protocol


class Recorder(Protocol):
    """Receives one line per epoch; checkpoints go to a folder."""

    checkpoints: Path
    identity: str  # of the run: to it the checkpoints belong

    def epoch(self, line: dict[str, Any]) -> None:
        """Records an epoch."""

    def rewind(self, lines: int) -> None:
        """Keeps the first lines, those that the checkpoint includes; called once, before any epoch."""

    def stopped(self) -> bool:
        """Whether training should end early; asked between epochs."""


class NullRecorder:
    """Records nothing; checkpoints go to a folder that the caller removes."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints, self.identity = checkpoints, ""

    def epoch(self, line: dict[str, Any]) -> None: ...

    def rewind(self, lines: int) -> None: ...

    def stopped(self) -> bool:
        return False
