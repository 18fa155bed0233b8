"""A sweep's sweep.csv, best.json and closing table over seeds; the validation split decides which job is best."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from recexp.metric.table import HEADLINE, TRAINING_METRICS, format_value
from recexp.report.format import Table, to_csv
from recexp.report.leaderboard import Row, grouped
from recexp.report.select import rank
from recexp.report.table import mean_cell
from recexp.run.read import read_config, read_json, read_metrics
from recexp.storage import write_json, write_text
from recexp.sweep.folder import ENDED
from recexp.sweep.outcome import Outcome, command
from recexp.terminal import columns

N_SETTINGS, N_BEST = 20, 10  # beyond N_SETTINGS settings, the closing table shows only the N_BEST best
SHOWN = (*(f"test.{name}" for name in HEADLINE), "parameters", "seconds")


def write(folder: Path, jobs: list[Outcome]) -> None:
    """Writes sweep.csv and best.json."""
    write_text(folder / "sweep.csv", table_csv(jobs))
    if best := best_job(jobs):
        write_json(folder / "best.json", _best(best))


def table_csv(jobs: list[Outcome]) -> str:
    """One row per job: overrides that differ, seed, status, metrics, cost, directory below the sweep's, error."""
    typed = [key for key in differing(jobs) if key != "seed"]
    measured = dict.fromkeys(name for job in jobs for name in job.record.metrics)
    metrics = [name for split in ("valid.", "test.") for name in measured if name.startswith(split)]
    head = ["job", *typed, "seed", "status", *metrics, *TRAINING_METRICS, "directory", "error"]
    cells = [
        [job.path.name.split("-")[0], *(job.overrides.get(key) for key in typed), job.record.config["seed"],
         job.record.state, *(job.record.metrics.get(name) for name in (*metrics, *TRAINING_METRICS)),
         job.path.name, job.error]
        for job in jobs
    ]  # fmt: skip
    return to_csv(Table(head=head, values=[dict(zip(head, row, strict=True)) for row in cells], cells=[], notes=[]))


def best_job(jobs: list[Outcome]) -> Outcome | None:
    """The finished job with the best objective on valid; the first among equals."""
    candidates = [job for job in jobs if job.record.state == "finished" and job.value is not None]
    if not candidates:
        return None
    name = f"valid.{candidates[0].objective}"
    return min(candidates, key=lambda job: rank(name, job.value))


def closing_lines(folder: Path, jobs: list[Outcome]) -> list[str]:
    """Each setting's metrics over seeds, the best job and the command that trains it again, and unfinished jobs."""
    lines = ["", *_settings(jobs)]
    if best := best_job(jobs):
        metrics = best.record.metrics
        test = "  ".join(f"{name} {format_value(f'test.{name}', metrics.get(f'test.{name}'))}" for name in HEADLINE)
        value = f"valid {best.objective} {format_value(f'valid.{best.objective}', best.value)}"
        lines += [f"best: {best.path.name}, {value}  |  test {test}", command(best)]
    lines += [f"failed: {job.path}: {job.error}" for job in jobs if job.record.state == "failed"]
    states = Counter(job.record.state for job in jobs if job.record.state not in ENDED)
    if states:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"of {len(jobs)} jobs {counts}; run these with: recexp resume {folder}")
    return [*lines, str(folder)]


def differing(jobs: list[Outcome]) -> list[str]:
    """The override keys whose values differ between jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def _settings(jobs: list[Outcome]) -> list[str]:
    """The table of settings, or of the best of them if there are many."""
    _, rows = grouped([job.record for job in jobs])
    objective = f"valid.{jobs[0].objective}"
    best = sorted(rows, key=lambda row: _rank(row, objective))[:N_BEST]
    shown = best if len(rows) > N_SETTINGS else rows
    cells = [[row.name if row.setting else "-", *_cells(row)] for row in shown]
    lines = columns([["setting", "n", *(name.replace(".", " ") for name in SHOWN)], *cells])
    if len(shown) < len(rows):
        lines.append(f"the {len(shown)} best on valid; {len(rows) - len(shown)} more are in sweep.csv")
    return lines


def _cells(row: Row) -> list[str]:
    n = len({record.config["seed"] for record in row.records if record.state == "finished"})
    return [str(n), *(mean_cell(name, row.metrics.get(name)) for name in SHOWN)]


def _rank(row: Row, objective: str) -> tuple[int, float, str]:
    """Sorts the setting with the best mean over seeds first, one without a finished run last."""
    return rank(objective, row.metrics[objective].mean if objective in row.metrics else None)


def _best(job: Outcome) -> dict[str, Any]:
    """The content of best.json. Paths are relative to the sweep's folder, which may be moved."""
    checkpoint = read_json(job.path / "checkpoints" / "best.json") or {}
    tensors = checkpoint.get("tensors")
    return {
        "objective": f"valid.{job.objective}",
        "value": job.value,
        "directory": job.path.name,
        "checkpoint": os.path.join(job.path.name, "checkpoints", tensors) if tensors else None,
        "overrides": job.typed,
        "config": read_config(job.path),
        "metrics": read_metrics(job.path),
    }
