"""Loggers: where a run's figures go beside its directory, which stays the truth.

A logger has a `Config`, and is made of it, the run's directory and the run's options by dotted key. It is told what the
directory is told, as numbers by name: `losses/target`, `valid/auc`, `stage`, at the end `final/test/auc`.
"""

import importlib.util
import logging
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recexp import registry
from recexp.config import Config
from recexp.error import ConfigError
from recexp.tree import flat, to_dict

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class LoggerConfig:
    """What every logger understands; a logger's own Config adds its options."""

    name: str


class Logger(Protocol):
    """Any method may raise."""

    def begin(self, points: list[dict[str, float]]) -> str:
        """Opens, or goes on where the run was before; returns where that is, to be told.

        points: figures of the run's epochs so far, by step from 1. Afterwards each of them is there, once.
        """

    def epoch(self, step: int, figures: dict[str, float]) -> None: ...

    def end(self, step: int, figures: dict[str, float], state: str) -> None:
        """state: finished, failed, interrupted or pruned. figures: of metrics.json; none where there is none."""


class Guarded:
    """A logger that can do a run no harm. One that has failed is asked again when the run ends, once."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self.points: list[dict[str, float]] = []
        self.stages: list[str] = []
        self.final: dict[str, float] = {}
        self.begun = self.failing = self.warned = False

    def begin(self, lines: list[dict[str, Any]]) -> None:
        """lines: of metrics.jsonl, those that a run which goes on keeps."""
        self.points, self.stages, self.begun = [], [], True
        for line in lines:
            self._add(line)
        self._try(self._open)

    def epoch(self, line: dict[str, Any]) -> None:
        """line: of metrics.jsonl."""
        self._add(line)
        if self.begun and not self.failing:
            self._try(lambda: self.logger.epoch(len(self.points), self.points[-1]))

    def metrics(self, metrics: dict[str, Any]) -> None:
        """metrics: the content of metrics.json."""
        told = {name: value for name, value in metrics.items() if name != "seed"}  # an option, no figure
        self.final = {f"final/{name}": value for name, value in figures(told)}

    def close(self, state: str) -> None:
        """state: of status.json."""
        if self.failing:
            self._try(self._open)
        if self.begun and not self.failing:
            self._try(lambda: self.logger.end(len(self.points), self.final, state))

    def _open(self) -> None:
        if where := self.logger.begin(self.points):
            log.info("logger %s: %s", self.name, _told(where))

    def _add(self, line: dict[str, Any]) -> None:
        """A stage's name is no number: its place among the stages is."""
        if line["stage"] not in self.stages:
            self.stages.append(line["stage"])
        self.points.append({**dict(figures(line)), "stage": self.stages.index(line["stage"]) + 1})

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
            self.failing = False
        except Exception as error:
            if not self.warned:
                said = _told(f"{type(error).__name__}: {error}")
                log.warning("logger=%s: %s; the run goes on, its directory holds everything", self.name, said)
            self.failing = self.warned = True


def guarded(config: Config, path: Path) -> Guarded:
    """The logger that a configuration names, of a run directory."""
    options = {key: value for key, value in flat(to_dict(config)) if not key.startswith("logger.")}
    return Guarded(config.logger.name, registry.get("logger", config.logger.name)(config.logger, path, options))


def _told(text: str) -> str:
    """In one line that is not too long, without passwords in addresses."""
    return re.sub(r"//[^/\s]*@", "//", textwrap.shorten(text, 240, placeholder=" ..."))


def figures(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a tree, each by its path, as in `valid/auc`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from figures(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def require_package(logger: str, package: str) -> None:
    """Raises ConfigError for a package that is not installed, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={logger}: needs the package {package}; pip install 'recexp[{logger}]'")
