"""Power losses, replayed: from a log of what a run did to its files, the states that a file system may leave.

What a file holds beyond its last fsync may be there, missing, zeros, or there in part. What happened to the names of a
directory since its last fsync may have reached the disk up to some point, each directory on its own. A file's fsync
says nothing about its name. That is less than ext4, XFS and Btrfs promise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from torture import process, start
from torture.case import CACHED, DIN, Problem, Reference, judge, state
from torture.process import Fault

Scene = Literal["run", "resume", "cache"]
SHARE: dict[Scene, float] = {"run": 0.6, "resume": 0.2, "cache": 0.2}  # of the cases
OPTIONS: dict[Scene, tuple[str, ...]] = {"run": DIN, "resume": DIN, "cache": CACHED}


class Record(NamedTuple):
    """A line of the log, as faults.c writes it."""

    operation: str
    path: str
    other: str
    offset: int
    data: bytes


Write = tuple[int, int, bytes | None]  # time, offset, data; None: cut or lengthened to the offset


@dataclass(eq=False)
class File:
    """synced: the times of each fsync."""

    writes: list[Write] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Directory:
    """edits: (time, name, what it then means); None: nothing. names: what they mean at the end of the log."""

    edits: list[tuple[int, str, "Node | None"]] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)
    names: dict[str, "Node"] = field(default_factory=dict)


Node = File | Directory


@dataclass(frozen=True)
class Scenario:
    """The root of what was logged, and the length of the log."""

    root: Directory
    times: int
    reference: Reference


class Case(NamedTuple):
    """A loss of power before operation `time`, and the seed of what is lost with it."""

    scene: Scene
    time: int
    seed: int


def prepare(folder: Path) -> dict[Scene, Scenario]:
    return {scene: _scenario(scene, folder / scene) for scene in SHARE}


def cases(setup: dict[Scene, Scenario], count: int, random: Random) -> list[Case]:
    """The times are spread evenly over the log; the last is after its end."""
    drawn = []
    for scene, share in SHARE.items():
        n = round(share * count)
        times = [round(setup[scene].times * (number + 1) / n) for number in range(n)]
        drawn += [Case(scene, time, random.getrandbits(32)) for time in times]
    return drawn


def attempt(setup: dict[Scene, Scenario], case: Case, folder: Path) -> list[list[Problem]]:
    scenario, path = setup[case.scene], folder / "run"
    for name, content in _lost(scenario.root, Loss(case.time, Random(case.seed))):
        target = folder / name
        target.mkdir() if content is None else target.write_bytes(content)
    problems = []
    if case.time == scenario.times and state(path) != "finished":
        problems.append(Problem("silent", "had ended, and is not finished after a loss of power"))
    problems += judge(path, scenario.reference)
    if case.scene == "cache":
        problems += judge(folder / "again", scenario.reference)
    return [[Problem(sort, f"{case}: {text}") for sort, text in problems]]


def _scenario(scene: Scene, folder: Path) -> Scenario:
    """Runs the scene with a log of what it does."""
    path, options, log = folder / "logged" / "run", OPTIONS[scene], folder / "log"
    reference = start.reference(folder / "whole" / "run", options)
    path.parent.mkdir()
    if scene == "resume":
        start.interrupted(path, steps=5, options=options)
    root = _snapshot(path.parent)
    fault = Fault(path.parent, log=log)
    ended = (
        process.run(["resume", "run"], path.parent, fault) if scene == "resume" else start.start(path, options, fault)
    )
    if ended.code:
        raise RuntimeError(f"fails without a fault: {ended.err}")
    return Scenario(root, _replay(root, path.parent.resolve(), list(_read(log.read_bytes()))), reference)


def _read(log: bytes) -> Iterator[Record]:
    at = 0
    while at < len(log):
        head, _, _ = log[at : log.index(b"\n", at)].partition(b"\n")
        operation, path, other, offset, size = head.decode().split("\x1f")
        at += len(head) + 1
        length = int(size)
        yield Record(operation, path, other, int(offset), log[at : at + length])
        at += length


def _snapshot(folder: Path) -> Directory:
    """What lies in a folder, all of it synced before time 0."""
    directory = Directory()
    for path in folder.iterdir():
        node = _snapshot(path) if path.is_dir() else File([(-1, 0, path.read_bytes())])
        directory.names[path.name] = node
        directory.edits.append((-1, path.name, node))
    return directory


def _replay(root: Directory, folder: Path, records: list[Record]) -> int:
    """Adds to the nodes below root what the records did to them; returns the time after the last."""
    for time, record in enumerate(records):
        parent, name = _find(root, Path(record.path).relative_to(folder))
        node = parent.names.get(name) if name else parent
        match record.operation:
            case "create":
                _edit(parent, time, name, File())
            case "mkdir":
                _edit(parent, time, name, Directory())
            case "unlink":
                _edit(parent, time, name, None)
            case "link" | "rename":
                target, new_name = _find(root, Path(record.other).relative_to(folder))
                assert record.operation == "link" or target is parent, "renamed to another directory"
                if record.operation == "rename":
                    _edit(parent, time, name, None)
                _edit(target, time, new_name, node)
            case "sync":
                if node is not None:  # else it has no name any more
                    node.synced.append(time)
            case "write" | "truncate":
                if isinstance(node, File):
                    node.writes.append((time, record.offset, record.data if record.operation == "write" else None))
    return len(records)


def _edit(directory: Directory, time: int, name: str, node: Node | None) -> None:
    directory.edits.append((time, name, node))
    if node is None:
        directory.names.pop(name, None)
    else:
        directory.names[name] = node


def _find(root: Directory, path: Path) -> tuple[Directory, str]:
    """The directory that holds a name, and the name; the name is empty for the root itself."""
    for name in path.parts[:-1]:
        child = root.names[name]
        assert isinstance(child, Directory)
        root = child
    return root, path.name


def _lost(directory: Directory, loss: "Loss") -> Iterator[tuple[str, bytes | None]]:
    """Paths and contents after a loss of power; None for a directory, which comes before what it holds."""
    cut = loss.names_until(directory.synced)
    names = {name: node for when, name, node in directory.edits if when < cut}  # the last edit of a name counts
    for name, node in names.items():
        if isinstance(node, File):
            yield name, loss.content(node)
        elif node is not None:
            yield name, None
            yield from ((f"{name}/{below}", content) for below, content in _lost(node, loss))


class Loss:
    """A loss of power before operation `time`. One state in so many keeps or loses all of a sort, others at random."""

    def __init__(self, time: int, random: Random) -> None:
        self.time, self.random = time, random
        self.names = random.choice(["synced", "kept", "any"])
        self.data = random.choice(["lost", "zeros", "part", "kept", "any"])

    def names_until(self, synced: list[int]) -> int:
        """The time before which edits of a directory have reached the disk."""
        first = self._last(synced)
        return {"synced": first, "kept": self.time, "any": self.random.randint(first, self.time)}[self.names]

    def content(self, file: File) -> bytes:
        first, content = self._last(file.synced), bytearray()
        pending = [write for write in file.writes if first <= write[0] < self.time]
        for _, offset, data in [write for write in file.writes if write[0] < first]:
            _apply(content, offset, data)
        what = self.random.choice(["lost", "zeros", "part", "kept"]) if self.data == "any" else self.data
        if what == "part":
            pending = self._part(pending)
        for _, offset, data in [] if what == "lost" else pending:
            _apply(content, offset, bytes(len(data)) if what == "zeros" and data else data)
        return bytes(content)

    def _last(self, synced: list[int]) -> int:
        """The last fsync; what was there before the log is older than 0."""
        return max([0, *(time for time in synced if time < self.time)])

    def _part(self, pending: list[Write]) -> list[Write]:
        """Some of the first writes, the last of them cut."""
        if not pending:
            return []
        n = self.random.randrange(len(pending))
        time, offset, data = pending[n]
        return [*pending[:n], (time, offset, data and data[: self.random.randint(0, len(data))])]


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    content.extend(bytes(max(0, end - len(content))))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data
