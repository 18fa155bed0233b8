"""What reads files, as functions of bytes: each input is read, or refused by a UserError, in bounded memory."""

import atexit
import contextlib
import io
import json
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from torture.case import BASE, DIN

CASES = Path(__file__).with_name("cases")
RECEXP = Path(__file__).parents[1] / "recexp"
CSV = (
    "user,item,label,timestamp,age,tags\n"
    + "".join(f"u{n % 5},i{n % 7},{n % 2},{100 + n},{n % 9},a|b{n % 3}\n" for n in range(40))
).encode()  # fmt: skip
DATA = "".join(f"{n % 5 + 1}\t{n % 7 + 1}\t{n % 5 + 1}\t{100 + n}\n" for n in range(40)).encode()
USER = "".join(f"{n}|{20 + n}|M|writer|1{n}345\n" for n in range(1, 6)).encode()
ITEM = "".join(f"{n}|Film {n} (199{n})|01-Jan-199{n}||url|{'|'.join('01' * 9)}|1\n" for n in range(1, 8)).encode()
RUN_FILES = ("config.yaml", "overrides.yaml", "status.json", "environment.json", "metrics.json", "metrics.jsonl")


def read_csv(content: bytes, folder: Path) -> None:
    from recexp.dataset.prepare import load

    (folder / "log.csv").write_bytes(content)
    load(replace(_csv_config(), path=str(folder / "log.csv")))


def read_movielens(content: bytes, folder: Path) -> None:
    """The first byte says which of the three files the others are."""
    from recexp.dataset.prepare import load

    files = {"u.data": DATA, "u.user": USER, "u.item": ITEM}
    files[_chosen(content, tuple(files))] = content[1:]
    for name, text in files.items():
        (folder / name).write_bytes(text)
    load(replace(_movielens_config(), path=str(folder)))


def read_config(content: bytes, folder: Path) -> None:
    from recexp.validate import read

    (folder / "config.yaml").write_bytes(content)
    read(folder)


def read_run(content: bytes, folder: Path) -> None:
    """The first byte says which file of a finished run the others are."""
    shutil.copytree(_finished_run(), folder / "run", ignore=shutil.ignore_patterns("encoder", "checkpoints"))
    _put(folder / "run" / _chosen(content, RUN_FILES), content[1:])
    run = str(folder / "run")
    for arguments in (
        ["show", run],
        ["runs", str(folder)],
        ["compare", run, run, "--draws=20"],
        ["report", str(folder)],
    ):
        _expect_code(arguments)


def read_checkpoint(content: bytes, folder: Path) -> None:
    """The first byte says whether the others are the JSON of the last checkpoint or, with its digest, its tensors."""
    import torch

    from recexp.storage import file_digest, write_json
    from recexp.trainer.checkpoint import Checkpoints

    shutil.copytree(_finished_run() / "checkpoints", folder, dirs_exist_ok=True)
    last = folder / "last.json"
    saved = json.loads(last.read_text("utf-8"))
    if content[:1] == b"\1":
        tensors = folder / saved["tensors"]
        tensors.write_bytes(content[1:])
        write_json(last, {**saved, "digest": file_digest(tensors), "bytes": len(content) - 1})
    else:
        _put(last, content[1:])
    Checkpoints(folder, saved["identity"], [*saved["relies_on"]], torch.device("cpu")).resume(_model())


@dataclass(frozen=True)
class Target:
    """read: raises whatever is wrong. seeds: good inputs. files: of recexp, whose coverage is told."""

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    files: tuple[str, ...]


def _run_seeds() -> list[bytes]:
    return [bytes([number]) + (_finished_run() / name).read_bytes() for number, name in enumerate(RUN_FILES)]


def _checkpoint_seeds() -> list[bytes]:
    folder = _finished_run() / "checkpoints"
    (tensors,) = folder.glob("last-*.safetensors")
    return [b"\0" + (folder / "last.json").read_bytes(), b"\1" + tensors.read_bytes()]


TARGETS = {
    "csv": Target(
        read_csv, lambda: [CSV], ("dataset/reader/csv.py", "dataset/frame.py", "dataset/sheet.py", "dataset/cell.py")
    ),
    "movielens": Target(
        read_movielens,
        lambda: [b"\0" + DATA, b"\1" + USER, b"\2" + ITEM],
        ("dataset/reader/movielens.py", "dataset/sheet.py", "dataset/cell.py"),
    ),
    "config": Target(
        read_config, lambda: [(_finished_run() / "config.yaml").read_bytes()], ("validate.py", "storage.py")
    ),
    "checkpoint": Target(read_checkpoint, _checkpoint_seeds, ("trainer/checkpoint.py", "trainer/tensors.py")),
    "run": Target(
        read_run, _run_seeds, ("run/read.py", "run/record.py", "run/status.py", "storage.py", "verb/show.py")
    ),
}


def complaint(target: Target, content: bytes) -> str | None:
    """What is wrong with how an input is read: any exception but a UserError."""
    from recexp.error import UserError

    with tempfile.TemporaryDirectory(prefix="torture-fuzz-") as folder:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                target.read(content, Path(folder))
        except UserError:
            return None
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(RECEXP) in frame.filename]
            where = f"{Path(frames[-1].filename).relative_to(RECEXP)}:{frames[-1].lineno}" if frames else "?"
            return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    return None


def _expect_code(arguments: list[str]) -> None:
    """Raises AssertionError if a command ends otherwise than by success or a user's mistake."""
    from recexp.cli import run

    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        code = run(arguments)
    lines = error.getvalue().splitlines()
    mistakes = [line for line in lines if line.startswith("recexp: ")]
    if code not in (0, 2) or "Traceback" in error.getvalue() or len(mistakes) != (code == 2):
        raise AssertionError(f"{arguments[0]}: exit code {code}: {lines[-1] if lines else ''}")


def _chosen(content: bytes, names: tuple[str, ...]) -> str:
    return names[content[0] % len(names)] if content else names[0]


def _put(file: Path, content: bytes) -> None:
    """Writes a file with the checksum that fits, if it is JSON: who means harm can compute it."""
    from recexp.storage import write_json

    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "checksum" in value:
        with contextlib.suppress(ValueError, RecursionError):
            write_json(file, {key: held for key, held in value.items() if key != "checksum"})
            return
    file.write_bytes(content)


@cache
def _csv_config() -> Any:
    import recexp

    options = ["dataset=csv", "dataset.path=log.csv", "dataset.cache_dir=null", "device=cpu", "trainer.threads=1"]
    features = ["+dataset.features.context.age=numeric", "+dataset.features.context.tags=multi"]
    return recexp.load_config([*options, *features]).dataset


@cache
def _movielens_config() -> Any:
    import recexp

    options = ["dataset=ml-100k", "dataset.path=ml-100k", "dataset.cache_dir=null", "device=cpu", "trainer.threads=1"]
    return recexp.load_config(options).dataset


@cache
def _model() -> Any:
    """The model of the finished run."""
    import recexp

    return recexp.build(recexp.load_config([*BASE, *DIN])).model


@cache
def _finished_run() -> Path:
    """A finished run, removed when this process ends."""
    import recexp

    folder = Path(tempfile.mkdtemp(prefix="torture-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    recexp.train(recexp.load_config([*BASE, *DIN, "trainer.epochs=1", f"run.dir={folder / 'run'}"]))
    return folder / "run"
