"""Coverage-guided fuzzing of readers.py with atheris; what it finds is kept in torture/cases, which the tests read.

`python -m torture.fuzz TARGET` fuzzes one target; `python -m torture fuzz` each of them, and says what was covered.
"""

import argparse
import hashlib
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from inspect import CO_OPTIMIZED
from pathlib import Path
from random import Random
from types import CodeType, FrameType, ModuleType
from typing import Any

from torture.case import Problem, last_line

MEMORY = 2**32  # bytes of address space that an input may take beyond what is mapped before
SECONDS = 30  # that an input may take
LENGTH = 2**15  # bytes of an input


def prepare(folder: Path) -> Path:
    return folder


def cases(setup: Path, count: int, random: Random) -> list[tuple[str, int]]:
    """count: seconds in all."""
    from torture.readers import TARGETS

    return [(target, max(1, count // len(TARGETS))) for target in TARGETS]


def attempt(setup: Path, case: tuple[str, int], folder: Path) -> list[list[Problem]]:
    """One trial an input, though all but those with problems are only counted."""
    target, seconds = case
    done = _call(target, "--corpus", folder, "--seconds", seconds)
    findings = [line for line in done.stdout.splitlines() if line.startswith("finding ")]
    tried = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    trials = [[Problem("untidy", f"{target}: {line}")] for line in findings]
    if done.returncode or not tried:
        trials.append([Problem("unreadable", f"{target}: the fuzzer ended: {last_line(done.stderr)}")])
    print(_call(target, "--corpus", folder, "--coverage").stdout, end="", flush=True)
    return trials + [[] for _ in range(int(tried[1]) if tried else 0)]


def _call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torture.fuzz", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("python -m torture.fuzz")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, required=True, help="where inputs that reach more code are kept")
    parser.add_argument("--coverage", action="store_true", help="say what the inputs of the corpus cover instead")
    typed = parser.parse_args(arguments)
    if typed.coverage:
        print(_coverage(typed.target, typed.corpus))
    else:
        _fuzz(typed.target, typed.corpus, typed.seconds)


def _fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Ends the process. A finding is a line on stdout and a file among the cases."""
    import atheris

    with atheris.instrument_imports(include=["recexp"], enable_loader_override=False):
        readers = _readers()
        target = readers.TARGETS[name]
        for number, seed in enumerate(target.seeds()):
            with tempfile.TemporaryDirectory() as folder:
                target.read(seed, Path(folder))  # a seed is a good input
            (corpus / f"seed-{number}").write_bytes(seed)
    kept = [case.read_bytes() for case in (readers.CASES / name).glob("*")]
    found = {wrong.split(": ")[0] for content in kept if (wrong := readers.complaint(target, content))}
    _limit_memory()

    def try_one(content: bytes) -> None:
        wrong = readers.complaint(target, content)
        if wrong and (place := wrong.split(": ")[0]) not in found:
            found.add(place)
            file = readers.CASES / name / hashlib.blake2b(content, digest_size=4).hexdigest()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            print(f"finding {file.name}: {wrong}", flush=True)

    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-max_len={LENGTH}", "-rss_limit_mb=0"]
    artifacts = [f"-artifact_prefix={readers.CASES / name}-", "-print_final_stats=1", "-reload=0", "-reduce_inputs=0"]
    atheris.Setup([sys.argv[0], *options, *artifacts, str(corpus)], try_one)
    atheris.Fuzz()


def _readers() -> ModuleType:
    import torch

    import recexp.cli
    import recexp.experiment  # noqa: F401
    from torture import readers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return readers


def _coverage(name: str, corpus: Path) -> str:
    """How many lines of a target's files the inputs of a corpus run, seeds included."""
    readers = _readers()
    target, lines = readers.TARGETS[name], set()
    files = {str(readers.RECEXP / file): file for file in target.files}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = files.get(frame.f_code.co_filename)
        if file is None:
            return None
        lines.add((file, frame.f_lineno))
        return trace

    sys.settrace(trace)
    for path in corpus.iterdir():
        readers.complaint(target, path.read_bytes())
    sys.settrace(None)
    code = {file: _lines(path) for path, file in files.items()}
    told = [f"{file} {len({line for of, line in lines if of == file} & code[file])}/{len(code[file])}" for file in code]
    return f"{name}: lines run by {len(list(corpus.iterdir()))} inputs: {', '.join(told)}"


def _lines(path: str) -> set[int]:
    """The lines of a file's functions that hold code."""
    found, codes = set(), [compile(Path(path).read_text("utf-8"), path, "exec")]
    for code in codes:  # grows
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        if code.co_flags & CO_OPTIMIZED:  # a function
            found |= {line for _, _, line in code.co_lines() if line}
    return found


def _limit_memory() -> None:
    """An input that takes more raises MemoryError, which is a finding."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
