"""Loggers whatever they are: what they are told, and that none can do a run harm."""

import subprocess
import sys

import pytest

from recexp.logger import Guarded, numbers

LINES = [
    {"stage": "als", "epoch": 1, "losses": {}, "valid": {"auc": 0.5, "gauc": None}},
    {"stage": "train", "epoch": 1, "losses": {"target": 0.7}, "valid": {"auc": 0.6, "gauc": None}},
    {"stage": "train", "epoch": 2, "losses": {"target": 0.6}, "valid": {"auc": 0.7, "gauc": 0.8}},
]
POINTS = [
    {"stage": 1, "epoch": 1, "valid/auc": 0.5},
    {"stage": 2, "epoch": 1, "losses/target": 0.7, "valid/auc": 0.6},
    {"stage": 2, "epoch": 2, "losses/target": 0.6, "valid/auc": 0.7, "valid/gauc": 0.8},
]


class Told:
    """Remembers what it is told; fails while it is away."""

    def __init__(self, away: int = 0) -> None:
        self.points, self.calls, self.away = {}, [], away

    def begin(self, points):
        self.call("begin")
        self.points = dict(enumerate(points, 1))
        return "http://bob:secret@there/"

    def epoch(self, step, metrics):
        self.call("epoch")
        self.points[step] = metrics

    def end(self, step, metrics, state):
        self.call("end")
        self.ended = (step, metrics, state)

    def call(self, name):
        self.calls.append(name)
        if self.away:
            self.away -= 1
            raise ConnectionError("nobody at http://bob:secret@there\nsecond line")


def fill(logger: Guarded) -> None:
    logger.begin([])
    for line in LINES:
        logger.epoch(line)
    logger.metrics({"seed": 3, "status": "finished", "test": {"auc": 0.75, "gauc": None}, "seconds": 2})
    logger.close("finished")


def test_numbers_are_named_by_path():
    tree = {"a": 1, "b": {"c@d": 0.5, "e": None, "f": "text", "g": True, "h": {"i": 2}}}
    assert dict(numbers(tree)) == {"a": 1, "b/c@d": 0.5, "b/h/i": 2}


def test_steps_go_on_over_stages_and_a_stage_is_told_by_its_place():
    told = Told()
    fill(Guarded("told", told))
    assert told.points == {1: POINTS[0], 2: POINTS[1], 3: POINTS[2]}
    assert told.ended == (3, {"final/test/auc": 0.75, "final/seconds": 2}, "finished")


def test_a_run_that_goes_on_tells_what_it_kept_first():
    told = Told()
    logger = Guarded("told", told)
    logger.begin(LINES[:2])
    logger.epoch(LINES[2])
    assert told.points == {1: POINTS[0], 2: POINTS[1], 3: POINTS[2]}


def test_a_logger_that_is_away_is_warned_of_once_and_gets_everything_at_the_end(caplog):
    told = Told(away=1)
    with caplog.at_level("WARNING", "recexp"):
        fill(Guarded("told", told))
    assert told.calls == ["begin", "begin", "end"]
    assert told.points == {1: POINTS[0], 2: POINTS[1], 3: POINTS[2]} and told.ended[2] == "finished"
    (record,) = caplog.records
    assert "logger=told: ConnectionError: nobody at http://there second line; the run goes on" in record.getMessage()


def test_a_logger_that_stays_away_is_asked_twice_and_warned_of_once(caplog):
    told = Told(away=99)
    with caplog.at_level("WARNING", "recexp"):
        fill(Guarded("told", told))
    assert told.calls == ["begin", "begin"] and len(caplog.records) == 1


def test_a_run_that_never_trains_leaves_nothing():
    told = Told()
    Guarded("told", told).close("failed")
    assert told.calls == []


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_package_that_is_not_there_is_a_mistake_that_says_how_to_install_it(name, tmp_path):
    code = (
        f"import sys; sys.modules[{name!r}] = None; from recexp.cli import run; print(run(['logger={name}']))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert done.stderr == f"recexp: logger={name}: needs the package {name}; pip install 'recexp[{name}]'\n"
    assert list(tmp_path.iterdir()) == []
