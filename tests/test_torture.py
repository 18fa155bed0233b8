"""The short forms of `make torture`, and what fuzzing has found, read again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "torture" / "cases"


@pytest.fixture(scope="session")
def torture() -> Iterator[Callable[[str], dict]]:
    """torture("kill"): the row of a kind's short form, from one process that imports torch once."""
    if not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler")
    command = [sys.executable, "-m", "torture", "--serve", "--jobs", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout

        def ask(kind: str) -> dict:
            print(kind, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "steps", "faults", "power", "cut", "flip", "crowd"])
def test_nothing_is_lost_or_silently_wrong(torture: Callable[[str], dict], kind: str) -> None:
    row = torture(kind)
    assert row["problems"] == []
    assert row["tried"] > 0


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from torture import readers

    return readers


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda case: f"{case.parent.name}-{case.name}")
def test_what_fuzzing_found_is_read_or_refused(readers, case: Path) -> None:
    assert readers.complaint(readers.TARGETS[case.parent.name], case.read_bytes()) is None


@pytest.mark.parametrize("name", ["csv", "movielens", "config", "checkpoint", "run"])
def test_good_input_of_each_reader_is_read(readers, name: str, tmp_path: Path) -> None:
    for number, seed in enumerate(readers.TARGETS[name].seeds()):
        (tmp_path / str(number)).mkdir()
        readers.TARGETS[name].read(seed, tmp_path / str(number))
