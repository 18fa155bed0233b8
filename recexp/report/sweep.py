"""What came of a sweep, read from its jobs' directories: sweep.csv, best.json, the closing table."""

import csv
import io
import math
import os
import shlex
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recexp.metric.binary import HIGHER_IS_BETTER
from recexp.run.lines import number
from recexp.run.read import read_config, read_json
from recexp.run.write import write_json, write_text
from recexp.sweep.folder import ENDED, find_jobs, read_typed, state
from recexp.sweep.job import objective_name
from recexp.terminal import columns

SHOWN = ("auc", "gauc", "logloss")
N_SETTINGS, N_BEST = 20, 10  # of more settings, the closing table shows the best
COST = ("best_epoch", "epochs", "parameters", "seconds", "samples_per_second", "peak_memory_mb")


@dataclass(frozen=True)
class Outcome:
    """typed: overrides, as typed. overrides: the same by key."""

    path: Path
    state: str
    error: str | None
    config: dict[str, Any]  # of config.yaml
    typed: list[str]
    overrides: dict[str, str]
    metrics: dict[str, Any]  # of metrics.json; {} where there is none


def outcomes(folder: Path) -> list[Outcome]:
    """All jobs of a sweep's folder, by number."""
    return [_outcome(path) for path in find_jobs(folder)]


def write(folder: Path, jobs: list[Outcome]) -> None:
    """sweep.csv and best.json."""
    write_text(folder / "sweep.csv", table_csv(jobs))
    if best := best_job(jobs):
        write_json(folder / "best.json", _best(best))


def table_csv(jobs: list[Outcome]) -> str:
    """A row a job: what differs, seed, state, figures, cost, directory below the sweep's folder, error."""
    differs = [key for key in differing(jobs) if key != "seed"]
    figures = [
        (part, name)
        for part in ("valid", "test")
        for name in dict.fromkeys(name for job in jobs for name in job.metrics.get(part, {}))
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", *differs, "seed", "status", *(f"{part}.{name}" for part, name in figures), *COST,
                     "directory", "error"])  # fmt: skip
    for job in jobs:
        values = [job.metrics.get(part, {}).get(name) for part, name in figures]
        cost = [job.metrics.get(name) for name in COST]
        typed = [job.overrides.get(key) for key in differs]
        writer.writerow([job.path.name.split("-")[0], *typed, job.config["seed"], job.state, *values, *cost,
                         job.path.name, job.error])  # fmt: skip
    return text.getvalue()


def best_job(jobs: list[Outcome]) -> Outcome | None:
    """The finished job with the best objective on valid; the first among equals."""
    found = [(value, job) for job in jobs if job.state == "finished" and (value := _value(job)) is not None]
    if not found:
        return None
    sign = 1 if HIGHER_IS_BETTER[objective_name(found[0][1].config)] else -1
    return max(found, key=lambda each: sign * each[0])[1]


def closing_lines(folder: Path, jobs: list[Outcome]) -> list[str]:
    """Mean and deviation over seeds of each setting, the best job and the command that trains it again, and those that
    have not come to their end.
    """
    settings = _settings(jobs)
    shown = dict(sorted(settings.items(), key=_rank)[:N_BEST]) if len(settings) > N_SETTINGS else settings
    lines = ["", *columns(_rows(shown))]
    if len(shown) < len(settings):
        lines.append(f"the {len(shown)} best on valid; {len(settings) - len(shown)} more are in sweep.csv")
    if best := best_job(jobs):
        test = "  ".join(f"{name} {number(best.metrics['test'].get(name))}" for name in SHOWN)
        value = f"valid {objective_name(best.config)} {number(_value(best))}"
        lines += [f"best: {best.path.name}, {value}  |  test {test}", command(best)]
    lines += [f"{job.state}: {job.path}: {job.error}" for job in jobs if job.state == "failed"]
    states = Counter(job.state for job in jobs if job.state not in ENDED)
    if states:
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"of {len(jobs)} jobs {told}; run these with: recexp resume {folder}")
    return [*lines, str(folder)]


def command(job: Outcome) -> str:
    """What trains a job again outside of its sweep, for a shell."""
    words = [word for word in job.typed if not word.startswith("+sweep=")]
    if len(words) < len(job.typed) and not any(word.startswith("model=") for word in words):
        words.insert(0, f"model={job.config['model']['name']}")  # which the space had chosen
    flags = [word for word in read_typed(job.path.parent)["flags"] if word not in ("-m", "--multirun")]
    return shlex.join(["recexp", *words, *flags])


def differing(jobs: list[Outcome]) -> list[str]:
    """The keys of overrides that are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def _settings(jobs: list[Outcome]) -> dict[str, list[Outcome]]:
    """The finished jobs of each setting, seeds apart."""
    settings: dict[str, list[Outcome]] = {}
    differs = [key for key in differing(jobs) if key != "seed" and not key.startswith("run.")]
    for job in jobs:
        setting = " ".join(f"{key}={job.overrides[key]}" for key in differs if key in job.overrides)
        settings.setdefault(setting, []).extend([job] if job.state == "finished" else [])
    return settings


def _rank(item: tuple[str, list[Outcome]]) -> float:
    """Smaller for a setting that is better on valid, by the mean over seeds."""
    values = [value for job in item[1] if (value := _value(job)) is not None]
    if not values:
        return math.inf
    mean = statistics.fmean(values)
    return -mean if HIGHER_IS_BETTER[objective_name(item[1][0].config)] else mean


def _rows(settings: dict[str, list[Outcome]]) -> list[list[str]]:
    rows = [["setting", "n", *(f"test {name}" for name in SHOWN), "parameters", "seconds"]]
    for setting, jobs in settings.items():
        found = [job.metrics for job in jobs]
        tests = [_mean([metrics["test"].get(name) for metrics in found]) for name in SHOWN]
        rows.append([setting or "-", str(len(found)), *tests, _whole(found, "parameters"), _whole(found, "seconds")])
    return rows


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return number(statistics.fmean(known)) + spread


def _whole(found: list[dict[str, Any]], name: str) -> str:
    """The mean of a figure that needs no decimals."""
    return f"{statistics.fmean(metrics[name] for metrics in found):,.0f}" if found else "-"


def _outcome(path: Path) -> Outcome:
    typed = yaml.safe_load((path / "overrides.yaml").read_text("utf-8")) or []
    overrides = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in typed}
    ended, error = state(path)
    return Outcome(path, ended, error, read_config(path), typed, overrides, read_json(path / "metrics.json") or {})


def _value(job: Outcome) -> float | None:
    return job.metrics["valid"].get(objective_name(job.config))


def _best(job: Outcome) -> dict[str, Any]:
    """What best.json holds. Paths start at the sweep's folder, which may be moved."""
    checkpoint = read_json(job.path / "checkpoints" / "best.json") or {}
    tensors = checkpoint.get("tensors")
    name = objective_name(job.config)
    return {
        "objective": f"valid.{name}",
        "value": _value(job),
        "directory": job.path.name,
        "checkpoint": os.path.join(job.path.name, "checkpoints", tensors) if tensors else None,
        "overrides": job.typed,
        "config": job.config,
        "metrics": job.metrics,
    }
