"""Run directories read back: configuration, metrics and state, by dotted name."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import RunError
from recexp.run.read import find_runs, read_config, read_epochs, read_json
from recexp.run.status import read_status
from recexp.tree import flat

if TYPE_CHECKING:
    import pandas as pd

REPEATED = ("model", "dataset", "seed", "status")  # keys of metrics.json that config.yaml and status.json hold too


@dataclass(frozen=True)
class Record:
    """A run directory read back."""

    path: Path
    state: str  # of status.json; damaged if a file cannot be read
    config: dict[str, Any]  # of config.yaml
    metrics: dict[str, Any]  # of metrics.json: "test.auc", "seconds", ...; empty if there is none yet
    fingerprint: str | None  # of the data as prepared, features included
    events: str | None = None  # digest of the events alone, their labels and splits

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: stage, epoch, losses, valid, seconds, samples_per_second."""
        return read_epochs(self.path)

    def predictions(self) -> "pd.DataFrame | None":
        """predictions.parquet: label, score, and user, item, timestamp or row; None if there is no such file."""
        import pandas as pd

        file = self.path / "predictions.parquet"
        return pd.read_parquet(file) if file.is_file() else None


def read(path: Path) -> Record:
    """The record of a run directory. Raises RunError if the path is not one, or a file in it is damaged."""
    metrics = read_json(path / "metrics.json") or {}
    data = (read_json(path / "environment.json") or {}).get("data", {})
    return Record(
        path=path,
        state=read_status(path)["state"],
        config=dict(flat(read_config(path))),
        metrics={key: value for key, value in flat(metrics) if key not in REPEATED},
        fingerprint=data.get("fingerprint"),
        # The fingerprint is the finer of the two: equal ones mean equal events.
        events=data.get("events", data.get("fingerprint")),
    )


def read_all(folders: Iterable[str | Path]) -> list[Record]:
    """The records of all runs in or below the folders, by path. Raises RunError for a folder that is not there."""
    return [_read_or_damaged(path) for path in find_runs([Path(folder) for folder in folders])]


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


def _read_or_damaged(path: Path) -> Record:
    """One unreadable file hides no other run: `recexp show` on its directory says what is wrong."""
    try:
        return read(path)
    except RunError:
        return Record(path=path, state="damaged", config={}, metrics={}, fingerprint=None)
