"""Loggers: where the metrics of a run go besides its directory, which stays the source of truth.

A logger has a `Config` and is constructed from it, the run directory and the run's options by dotted key. It gets what
the directory gets, as numbers by name: `losses/target`, `valid/auc`, `stage`, at the end `final/test/auc`.
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
    """The options of every logger; a logger's own Config adds more."""

    name: str


class Logger(Protocol):
    """Any method may raise."""

    def begin(self, points: list[dict[str, float]]) -> str:
        """Opens the log, or reopens that of a resumed run; returns where it is, for the terminal.

        points: metrics of the run's epochs so far, from step 1. Afterwards the log holds each of them once.
        """

    def epoch(self, step: int, metrics: dict[str, float]) -> None: ...

    def end(self, step: int, metrics: dict[str, float], state: str) -> None:
        """state: finished, failed, interrupted or pruned. metrics: those of metrics.json; empty if there is none."""


class Guarded:
    """A logger whose errors never stop the run. One that has failed is tried once more when the run ends."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger = name, logger
        self.points: list[dict[str, float]] = []
        self.stages: list[str] = []
        self.final: dict[str, float] = {}
        self.begun = self.failing = self.warned = False

    def begin(self, lines: list[dict[str, Any]]) -> None:
        """lines: those of metrics.jsonl that a resumed run keeps."""
        self.points, self.stages, self.begun = [], [], True
        for line in lines:
            self._add(line)
        self._try(self._open)

    def epoch(self, line: dict[str, Any]) -> None:
        """line: one line of metrics.jsonl."""
        self._add(line)
        if self.begun and not self.failing:
            self._try(lambda: self.logger.epoch(len(self.points), self.points[-1]))

    def metrics(self, metrics: dict[str, Any]) -> None:
        """metrics: the content of metrics.json."""
        measured = {name: value for name, value in metrics.items() if name != "seed"}  # an option
        self.final = {f"final/{name}": value for name, value in numbers(measured)}

    def close(self, state: str) -> None:
        """state: of status.json."""
        if self.failing:
            self._try(self._open)
        if self.begun and not self.failing:
            self._try(lambda: self.logger.end(len(self.points), self.final, state))

    def _open(self) -> None:
        if where := self.logger.begin(self.points):
            log.info("logger %s: %s", self.name, _one_line(where))

    def _add(self, line: dict[str, Any]) -> None:
        """Adds the point of an epoch, in which stages are numbered from 1."""
        if line["stage"] not in self.stages:
            self.stages.append(line["stage"])
        self.points.append({**dict(numbers(line)), "stage": self.stages.index(line["stage"]) + 1})

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
            self.failing = False
        except Exception as error:
            if not self.warned:
                message = _one_line(f"{type(error).__name__}: {error}")
                log.warning("logger=%s: %s; the run goes on, its directory holds everything", self.name, message)
            self.failing = self.warned = True


def guarded(config: Config, path: Path) -> Guarded:
    """The logger that a configuration names, for a run directory."""
    options = {key: value for key, value in flat(to_dict(config)) if not key.startswith("logger.")}
    return Guarded(config.logger.name, registry.get("logger", config.logger.name)(config.logger, path, options))


def _one_line(text: str) -> str:
    """The text in one line that is not too long, without passwords in addresses."""
    return re.sub(r"//[^/\s]*@", "//", textwrap.shorten(text, 240, placeholder=" ..."))


def numbers(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a tree by path, as in `valid/auc`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def require_package(logger: str, package: str) -> None:
    """Raises ConfigError for a package that is not installed, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={logger}: needs the package {package}; pip install 'recexp[{logger}]'")
