"""Run directories read back: configuration, metrics and state, by dotted name."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import DamagedFile, RunError, first_line
from recexp.metric.table import of_label
from recexp.run.read import find_runs, read_config, read_epochs, read_json, read_metrics
from recexp.run.status import ENDED, check_results, last_status, read_status
from recexp.tree import flat

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
NEEDED = ("model.name", "dataset.name", "trainer.monitor", "seed")  # keys of any configuration that readers rely on
REPEATED = ("model", "dataset", "seed", "status")  # keys of metrics.json that config.yaml and status.json hold too


@dataclass(frozen=True)
class Record:
    """A run directory read back."""

    path: Path
    state: str  # of status.json; damaged if a file cannot be read
    config: dict[str, Any]  # of config.yaml
    metrics: dict[str, Any]  # of metrics.json: "test.auc", "seconds", ...; empty if there is none yet
    fingerprint: str | None  # of the data as prepared, features included
    events: str | None = None  # digest of only the events, their labels and splits
    warnings: tuple[str, ...] = ()  # of the data

    def epochs(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl: stage, epoch, losses, valid, seconds, samples_per_second."""
        return self._epochs

    @cached_property
    def _epochs(self) -> list[dict[str, Any]]:
        try:
            lines, torn = read_epochs(self.path)
        except DamagedFile as error:
            logger.warning("%s", error)
            return []
        if torn and self.state != "running":
            logger.warning("%s", torn_lines(self.path, torn))
        return lines

    def by_label(self) -> "dict[str, pd.DataFrame]":
        """The predictions for each label by name, in the rows that have the label. A single label has the name "".

        The columns are label, score and so on, as for a single label. Empty if there are no predictions to read.
        """
        frame = self.predictions()
        if frame is None:
            return {}
        names = [name.partition("/")[2] for name in frame.columns if name.startswith("label/")]
        return {name: _of_label(frame, name, names) for name in names} or {"": frame}

    def predictions(self) -> "pd.DataFrame | None":
        """predictions.parquet: label, score, and user, item, timestamp or row.

        None if there is no such file or, with a warning, if it is damaged.
        """
        return self._result("predictions.parquet", ("label", "score"))

    def recommendations(self) -> "pd.DataFrame | None":
        """recommendations.parquet: user, item, rank from 1 and score. None as of predictions."""
        return self._result("recommendations.parquet", ("user", "item", "rank", "score"))

    def _result(self, name: str, columns: Sequence[str]) -> "pd.DataFrame | None":
        """The file of this name, which must have these columns; if several labels, one for each, as score/like."""
        import pandas as pd

        file = self.path / name
        if not file.is_file():
            return None
        try:
            check_results(self.path, last_status(self.path), [file.name])
            frame = pd.read_parquet(file)
            if not {*columns} <= {name.partition("/")[0] for name in frame.columns}:
                raise DamagedFile(f"{file}: damaged (it has no columns {' and '.join(columns)}).")
            return frame
        except DamagedFile as error:
            logger.warning("%s", error)
        except (OSError, ValueError) as error:  # pyarrow's too
            logger.warning("%s: damaged (%s).", file, first_line(error))
        return None


def _of_label(frame: "pd.DataFrame", name: str, names: list[str]) -> "pd.DataFrame":
    """The rows that have one of several labels, as of one label."""
    others = [of_label(column, other) for other in names for column in ("label", "score") if other != name]
    plain_names = {of_label(column, name): column for column in ("label", "score")}
    frame = frame.drop(columns=others).rename(columns=plain_names)
    return frame[frame["label"] >= 0].reset_index(drop=True)


def read(path: Path) -> Record:
    """The record of a run directory. Raises RunError if the path is not one, or a file in it is damaged."""
    config, status = dict(flat(read_config(path))), read_status(path)
    if lacking := [key for key in NEEDED if key not in config]:
        raise DamagedFile(f"{path / 'config.yaml'}: damaged (lacks {lacking[0]}).")
    metrics: dict[str, Any] = {}
    if status["state"] in ENDED:
        check_results(path, status, ["metrics.json"])
        metrics = read_metrics(path) or {}
    data = (read_json(path / "environment.json") or {}).get("data", {})
    if not isinstance(data, dict):
        raise DamagedFile(f"{path / 'environment.json'}: damaged (it tells of no data).")
    return Record(
        path=path,
        state=status["state"],
        config=config,
        metrics={key: value for key, value in flat(metrics) if key not in REPEATED},
        fingerprint=data.get("fingerprint"),
        # The fingerprint is the finer of the two: equal ones mean equal events.
        events=data.get("events", data.get("fingerprint")),
        warnings=tuple(data.get("warnings", ())),
    )


def has_ended(path: Path) -> bool:
    """Whether a run has ended. Raises RunError if it has, and a file of it is missing or not what was written."""
    record = read(path)
    if record.state not in ENDED:
        return False
    check_results(path, last_status(path))
    if not record.metrics:
        raise DamagedFile(f"{path / 'metrics.json'}: is missing.")
    return True


def read_or_damaged(path: Path) -> Record:
    """As `read`, so that one damaged run hides no other: its state is damaged, and a warning says why."""
    try:
        return read(path)
    except RunError as error:
        logger.warning("%s", error)
    try:
        config = dict(flat(read_config(path)))
    except RunError:
        config = {}
    return Record(path=path, state="damaged", config=config, metrics={}, fingerprint=None)


def read_all(folders: Iterable[str | Path]) -> list[Record]:
    """The records of all runs in or below the folders, by path. Raises RunError for a folder that is not there."""
    return [read_or_damaged(path) for path in find_runs([Path(folder) for folder in folders])]


def torn_lines(path: Path, numbers: list[int]) -> str:
    """The warning about damaged lines of metrics.jsonl."""
    return f"{path / 'metrics.jsonl'}: damaged in line {', '.join(map(str, numbers))}, which is left out."


def frame(records: list[Record]) -> "pd.DataFrame":
    """One row per run: directory, state, data, configuration and metrics by dotted name."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "directory": str(record.path),
                "state": record.state,
                "fingerprint": record.fingerprint,
                "events": record.events,
                **record.config,
                **record.metrics,
            }
            for record in records
        ]
    )


def load_runs(folder: str | Path) -> "pd.DataFrame":
    """`frame` of the runs in or below a folder. Raises RunError for a folder that is not there."""
    return frame(read_all([folder]))
