"""A sweep's sweep.csv, best.json and closing table over seeds; the validation split decides which setting is best."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from recexp.metric.table import TRAINING_METRICS, rank_metric
from recexp.report.format import Table, to_csv
from recexp.report.protocol import mixture
from recexp.report.row import Row, grouped, headline_of_test, on_seeds, ranked
from recexp.report.select import rank
from recexp.report.table import mean_cell
from recexp.run.read import read_config, read_json, read_metrics
from recexp.run.status import ENDED
from recexp.storage import write_json, write_text
from recexp.sweep.outcome import Outcome, command
from recexp.terminal import columns

N_SETTINGS, N_BEST = 20, 10  # beyond N_SETTINGS settings, the closing table shows only the N_BEST best


def write(folder: Path, jobs: list[Outcome]) -> None:
    """Writes sweep.csv and, unless no setting is best, best.json."""
    write_text(folder / "sweep.csv", table_csv(jobs))
    if best := best_setting(jobs):
        write_json(folder / "best.json", _best(best, jobs))
    else:
        (folder / "best.json").unlink(missing_ok=True)  # of an earlier time, when fewer jobs had ended


def table_csv(jobs: list[Outcome]) -> str:
    """One row per job: overrides that differ, seed, status, metrics, cost, directory below the sweep's, error."""
    keys = [key for key in differing(jobs) if key != "seed"]
    measured = dict.fromkeys(name for job in jobs for name in job.record.metrics)
    metrics = [name for split in ("valid.", "test.") for name in measured if name.startswith(split)]
    head = ["job", *keys, "seed", "status", *metrics, *TRAINING_METRICS, "directory", "error"]
    cells = [
        [job.path.name.split("-")[0], *(job.overrides.get(key) for key in keys), job.record.config["seed"],
         job.record.state, *(job.record.metrics.get(name) for name in (*metrics, *TRAINING_METRICS)),
         job.path.name, job.error]
        for job in jobs
    ]  # fmt: skip
    return to_csv(Table(head=head, values=[dict(zip(head, row, strict=True)) for row in cells], cells=[], notes=[]))


def best_setting(jobs: list[Outcome]) -> Row | None:
    """The setting whose mean objective over seeds is best; None if none has one, or the jobs' protocols differ."""
    best = next(iter(_ranked(jobs)), None)
    return best if best and _objective(jobs) in best.metrics and not _no_best(jobs) else None


def closing_lines(folder: Path, jobs: list[Outcome]) -> list[str]:
    """Each setting's metrics over seeds, the best one with the command that trains it again, and unfinished jobs."""
    lines = ["", *_settings(jobs), *on_seeds(_ranked(jobs), _objective(jobs))]
    if why := _no_best(jobs):
        lines.append(f"no best: {why}")
    elif best := best_setting(jobs):
        valid = _objective(jobs)
        seeds = f"{best.metrics[valid].n} seeds" if best.metrics[valid].n > 1 else "one seed"
        cells = [(name, mean_cell(name, best.metrics.get(name))) for name in _of_test([best], valid)]
        test = "  ".join(f"{name.removeprefix('test.')} {cell}" for name, cell in cells)
        value = f"{valid.replace('.', ' ')} {mean_cell(valid, best.metrics[valid])}"
        job = _best_run(best, jobs)
        lines += [
            f"best: {best.name}, {seeds}, {value}  |  test {test}",
            f"its best run: {job.path.name}",
            command(job),
        ]
    broken = [job for job in jobs if job.record.state in ("failed", "damaged")]
    lines += [f"{job.record.state}: {job.path}: {job.error}" for job in broken]
    states = Counter(job.record.state for job in jobs if job.record.state not in ENDED)
    if states:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"of {len(jobs)} jobs {counts}; run these with: recexp resume {quote(str(folder))}")
    return [*lines, str(folder)]


def differing(jobs: list[Outcome]) -> list[str]:
    """The override keys whose values differ between jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def _objective(jobs: list[Outcome]) -> str:
    return f"valid.{jobs[0].objective}"


def _ranked(jobs: list[Outcome]) -> list[Row]:
    """The settings, the best on valid first."""
    return ranked(grouped([job.record for job in jobs])[1], _objective(jobs))


def _no_best(jobs: list[Outcome]) -> str | None:
    """Why no setting can be called the best of all; None if one can, or no job has finished."""
    if len(objectives := sorted({job.objective for job in jobs})) > 1:
        return f"the jobs choose by {' or '.join(objectives)}; name one by objective=METRIC."
    finished = [job for job in jobs if job.record.state == "finished"]
    if finished and all(job.value is None for job in finished):
        name = jobs[0].objective
        return f"valid {name} cannot be computed in any of them; name another metric by objective=METRIC."
    return mixture([job.record for job in finished])


def _best_run(setting: Row, jobs: list[Outcome]) -> Outcome:
    """The run of a setting that is best on valid; the first among equals."""
    paths = [record.path for record in setting.records]
    runs = [job for job in jobs if job.path in paths and job.record.state == "finished" and job.value is not None]
    return min(runs, key=lambda job: rank(_objective(jobs), job.value))


def _settings(jobs: list[Outcome]) -> list[str]:
    """The table of settings, or of the best of them if there are many."""
    rows = _ranked(jobs)
    shown = rows[:N_BEST] if len(rows) > N_SETTINGS else rows
    names = [_objective(jobs), *_of_test(rows, _objective(jobs)), "parameters", "seconds"]
    cells = [[row.name if row.setting else "-", *_cells(row, names)] for row in shown]
    lines = columns([["setting", "n", *(name.replace(".", " ") for name in names)], *cells])
    if len(shown) < len(rows):
        lines.append(f"the {len(shown)} best on valid; {len(rows) - len(shown)} more are in sweep.csv")
    return lines


def _of_test(rows: Sequence[Row], valid: str) -> list[str]:
    """The test metrics shown. Rankings have many metrics, of which only the objective is shown."""
    objective = valid.partition(".")[2]
    return [f"test.{objective}"] if rank_metric(objective) else headline_of_test(list(rows))


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    n = len({record.config["seed"] for record in row.records if record.state == "finished"})
    return [str(n), *(mean_cell(name, row.metrics.get(name)) for name in names)]


def _best(setting: Row, jobs: list[Outcome]) -> dict[str, Any]:
    """The content of best.json: the setting and its runs, then the one of them to use.

    Paths are relative to the sweep's folder, which may be moved.
    """
    job, objective = _best_run(setting, jobs), _objective(jobs)
    checkpoint = read_json(job.path / "checkpoints" / "best.json") or {}
    tensors = checkpoint.get("tensors")
    return {
        "objective": objective,
        "setting": setting.name,
        "value": setting.metrics[objective].mean,
        "deviation": setting.metrics[objective].deviation,
        "seeds": setting.metrics[objective].n,
        "runs": [record.path.name for record in setting.records],
        "directory": job.path.name,
        "checkpoint": os.path.join(job.path.name, "checkpoints", tensors) if tensors else None,
        "overrides": job.words,
        "config": read_config(job.path),
        "metrics": read_metrics(job.path),
    }
