"""No logger: only the run directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recexp.logger import LoggerConfig
from recexp.registry import register


@register("none", kind="logger")
class Silent:
    @dataclass(kw_only=True)
    class Config(LoggerConfig): ...

    def __init__(self, config: Config, path: Path, options: dict[str, Any]) -> None: ...

    def begin(self, points: list[dict[str, float]]) -> str:
        return ""

    def epoch(self, step: int, metrics: dict[str, float]) -> None: ...

    def end(self, step: int, metrics: dict[str, float], state: str) -> None: ...
