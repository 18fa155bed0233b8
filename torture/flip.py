"""One bit flipped: in the checkpoints of an interrupted run, then resumed; in prepared data, then trained on."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from torture import start
from torture.case import CACHED, Problem, Reference, judge

Scene = Literal["checkpoints", "cache"]
HEAD = 512  # bytes: half of the flips are in the first of a file, where headers are


class Case(NamedTuple):
    """file: relative to the folder that holds run directory and cache."""

    scene: Scene
    file: Path
    bit: int


@dataclass(frozen=True)
class Setup:
    folder: Path  # holds an interrupted run and its cache
    reference: Reference


def prepare(folder: Path) -> Setup:
    reference = start.reference(folder / "whole" / "run", CACHED)
    start.interrupted(folder / "interrupted" / "run", steps=5, options=CACHED)
    return Setup(folder / "interrupted", reference)


def cases(setup: Setup, count: int, random: Random) -> list[Case]:
    """Half of them in checkpoints, half in the cache; each file is as likely as any other."""
    drawn = []
    for scene, folder in (("checkpoints", "run/checkpoints"), ("cache", "cache")):
        files = sorted(path for path in (setup.folder / folder).rglob("*") if path.is_file() and path.stat().st_size)
        for _ in range(count // 2):
            file = random.choice(files)
            size = file.stat().st_size
            bit = random.randrange(8 * random.choice([size, min(size, HEAD)]))
            drawn.append(Case(scene, file.relative_to(setup.folder), bit))
    return drawn


def attempt(setup: Setup, case: Case, folder: Path) -> list[list[Problem]]:
    shutil.copytree(setup.folder, folder, dirs_exist_ok=True)
    flip(folder / case.file, case.bit)
    if case.scene == "cache":
        shutil.rmtree(folder / "run")
    problems = judge(folder / "run", setup.reference, damaged=_owner(case))
    return [[Problem(sort, f"{case.file}, bit {case.bit}: {text}") for sort, text in problems]]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def _owner(case: Case) -> str:
    """What a message must name: the folder of the checkpoints or of the prepared data."""
    return "checkpoints" if case.scene == "checkpoints" else case.file.parts[2]
