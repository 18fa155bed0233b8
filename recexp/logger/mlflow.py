"""MLflow: a run in an experiment, on a server, in a database or in a local SQLite file."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.lock import lock_file
from recexp.logger import LoggerConfig, require_package
from recexp.option import require
from recexp.registry import register
from recexp.secret import MASK, masked
from recexp.storage import read_json, write_json

if TYPE_CHECKING:
    from mlflow.entities import Run

LOCAL = "sqlite:///"
NOTE = "mlflow.json"  # in the run directory: the run's id
MAX_LENGTH = 6000  # characters of a parameter's value
STATES = {"finished": "FINISHED", "interrupted": "KILLED", "pruned": "KILLED"}
# An unresponsive server costs seconds, not the minutes that MLflow would wait; nothing is sent to anybody else.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Adds PATIENCE to the environment for a while, except for variables that the user has set."""
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time in a local store: if two create its tables at once, both fail."""
    if not uri.startswith(LOCAL):
        yield
        return
    database = _database(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(database.with_name(f"{database.name}.lock")):
        yield


def _with_password(uri: str) -> str:
    """The address of a configuration; where a file has lost its password, the same one from the environment."""
    if MASK not in uri:
        return uri
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if masked(given) != uri:
        raise ValueError(f"no file holds the password of {uri}; set MLFLOW_TRACKING_URI to the address with it")
    return given


def _database(uri: str) -> Path:
    """The file of a local store."""
    return Path(uri.removeprefix(LOCAL).partition("?")[0]).absolute()


@register("mlflow", kind="logger")
class MLflow:
    @dataclass(kw_only=True)
    class Config(LoggerConfig):
        tracking_uri: str | None
        experiment: str
        run_name: str | None
        tags: dict[str, str]

        def __post_init__(self) -> None:
            require_package("mlflow", "mlflow")
            require(bool(self.experiment.strip()), "logger.experiment", repr(self.experiment), "a name")
            if not (uri := self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
                uri = self.tracking_uri = f"{LOCAL}{Path('outputs/mlflow/mlflow.db').absolute()}"
            if uri.startswith(LOCAL):
                require_package("mlflow", "sqlalchemy")
            if MASK not in uri and masked(uri) != uri:
                os.environ["MLFLOW_TRACKING_URI"] = uri  # for a sweep's jobs, whose config.yaml has no password

    def __init__(self, config: Config, path: Path, options: dict[str, Any]) -> None:
        self.config, self.path, self.options = config, path, options

    @_patience()
    def begin(self, points: list[dict[str, float]]) -> str:
        from mlflow.tracking import MlflowClient

        uri = _with_password(self.config.tracking_uri or os.environ["MLFLOW_TRACKING_URI"])
        with _alone(uri):
            self.client = MlflowClient(uri)
            run = self._earlier() or self._new()
        self.id = run.info.run_id
        if not run.data.params:
            self._log_options()
        self.last = max((metric.step for metric in self.client.get_metric_history(self.id, "epoch")), default=0)
        for step, metrics in enumerate(points, 1):
            self._log_epoch(step, metrics)
        return f"run {self.id} of experiment {self.config.experiment}, {uri}"

    @_patience()
    def epoch(self, step: int, metrics: dict[str, float]) -> None:
        self._log_epoch(step, metrics)

    @_patience()
    def end(self, step: int, metrics: dict[str, float], state: str) -> None:
        self._log(step, metrics)
        if (picture := self.path / "curves.png").exists():
            self.client.log_artifact(self.id, str(picture))
        self.client.set_terminated(self.id, STATES.get(state, "FAILED"))

    def _earlier(self) -> "Run | None":
        """The run that mlflow.json names, if the store has it."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(read_json(self.path / NOTE)["run_id"])
        except FileNotFoundError:
            return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # it was in another store
        if run.info.lifecycle_stage != "active":
            return None  # deleted by hand
        self.client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _new(self) -> "Run":
        name = self.config.run_name or self.path.absolute().name
        tags = {"mlflow.source.name": "recexp", "directory": str(self.path.absolute()), **self.config.tags}
        run = self.client.create_run(self._experiment(), run_name=name, tags=tags)
        write_json(self.path / NOTE, {"run_id": run.info.run_id})
        return run

    def _experiment(self) -> str:
        """The id of the experiment, which is created if missing; its files lie beside a local store."""
        from mlflow.exceptions import MlflowException

        name, uri = self.config.experiment, self.client.tracking_uri
        if not (experiment := self.client.get_experiment_by_name(name)):
            files = (_database(uri).parent / "artifacts").as_uri() if uri.startswith(LOCAL) else None
            try:
                return self.client.create_experiment(name, files)
            except MlflowException:
                experiment = self.client.get_experiment_by_name(name)
                if not experiment:  # no other run has just created it either
                    raise
        return experiment.experiment_id

    def _log_options(self) -> None:
        from mlflow.entities import Param

        options = [Param(name, str(value)[:MAX_LENGTH]) for name, value in self.options.items()]
        self.client.log_batch(self.id, params=options)
        self.client.log_artifact(self.id, str(self.path / "config.yaml"))

    def _log_epoch(self, step: int, metrics: dict[str, float]) -> None:
        """Skips an epoch logged before a kill that preceded its checkpoint: retrained, it has the same metrics."""
        if step > self.last:
            self._log(step, metrics)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(
            self.id, metrics=[Metric(_name(name), value, now, step) for name, value in metrics.items()]
        )


def _name(name: str) -> str:
    """The name of a metric as MLflow allows it."""
    return re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))
