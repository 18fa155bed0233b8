"""The verbs `runs` and `show`, and `load_runs`: run directories read back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recexp.config import flat
from recexp.error import ConfigError
from recexp.run.directory import find_runs, read_config, read_epochs, read_json, read_status
from recexp.run.table import columns, epoch_line, number, result_lines

if TYPE_CHECKING:
    import pandas as pd


def runs(arguments: list[str]) -> int:
    """`runs [DIR...]`: a line a run. Raises RunError for a folder that is not there."""
    folders = [Path(word) for word in arguments] or [Path("outputs")]
    if not arguments and not folders[0].is_dir():
        print("no runs: there is no folder outputs here")
        return 0
    found = find_runs(folders)
    rows = [["state", "model", "dataset", "seed", "epoch", "valid auc", "test auc", "seconds", "directory"]]
    print("\n".join(columns([*rows, *map(_row, found)])) if found else "no runs")
    return 0


def show(arguments: list[str]) -> int:
    """`show RUN`. Raises RunError for a folder that is no run."""
    if len(arguments) != 1:
        raise ConfigError(
            "show: takes one run directory, as in: recexp show outputs/2026-01-31/12-00-00-dien-synthetic-s0"
        )
    path = Path(arguments[0])
    config, status = read_config(path), read_status(path)
    print(f"{path}: {status['state']}" + (f" ({status['error']})" if status["error"] else ""))
    typed = yaml.safe_load((path / "overrides.yaml").read_text("utf-8")) or []
    print("typed: " + (" ".join(typed) or "nothing") + "\n")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    for line in read_epochs(path):
        print(epoch_line(line, config["trainer"]["monitor"]))
    if metrics := read_json(path / "metrics.json"):
        print("\n".join(result_lines(metrics, path)))
    return 0


def load_runs(folder: str | Path) -> "pd.DataFrame":
    """A row a run directory in or below the folder: directory, state, configuration and figures by dotted name.

    Raises RunError for a folder that is not there.
    """
    import pandas as pd

    return pd.DataFrame([_flat_run(path) for path in find_runs([Path(folder)])])


def _flat_run(path: Path) -> dict[str, Any]:
    metrics = read_json(path / "metrics.json") or {}
    known = {"model", "dataset", "seed", "status"}
    figures = {key: value for key, value in flat(metrics) if key not in known}
    return {"directory": str(path), "state": read_status(path)["state"], **dict(flat(read_config(path))), **figures}


def _row(path: Path) -> list[str]:
    config, metrics = read_config(path), read_json(path / "metrics.json")
    state = read_status(path)["state"]
    head = [state, config["model"]["name"], config["dataset"]["name"], str(config["seed"])]
    if metrics is None:
        epochs = read_epochs(path)
        best = max((line["valid"].get("auc") or 0 for line in epochs), default=None)
        return [*head, str(len(epochs)), number(best), "-", "-", str(path)]
    valid, test = (number(metrics[part].get("auc")) for part in ("valid", "test"))
    return [*head, f"{metrics['best_epoch']}/{metrics['epochs']}", valid, test, f"{metrics['seconds']:.1f}", str(path)]
