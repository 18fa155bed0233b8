"""The preloaded library of faults.c: compiling it, starting again with it, and its functions."""

import ctypes
import os
import subprocess
import sys
import tempfile
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


class Mode(IntEnum):
    """What happens at the n-th operation; the numbers are those of faults.c."""

    count = 0
    eio = 1
    enospc = 2
    full = 3  # no space from then on
    kill = 4
    torn = 5  # half of a write, then the process is killed


def start_again_preloaded() -> None:
    """Replaces this process by itself with the library loaded, unless it is. Raises CalledProcessError without a cc."""
    if hasattr(ctypes.CDLL(None), "faults_arm"):
        return
    library = Path(tempfile.mkdtemp(prefix="torture-")) / "faults.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "LD_PRELOAD": str(library), "PYTHONHASHSEED": "0"}
    os.execve(sys.executable, [sys.executable, "-m", "torture", *sys.argv[1:]], environment)


def remove_library() -> None:
    """The loader has mapped the file; it needs no name any more."""
    file = Path(os.environ.pop("LD_PRELOAD"))
    file.unlink(missing_ok=True)
    file.parent.rmdir()


def new_counters() -> None:
    ctypes.CDLL(None).faults_new()


def arm(folder: Path, mode: Mode, n: int, log: Path | None = None) -> None:
    """From now on, what this process and those it forks do below the folder is counted, and operation n strikes."""
    name = None if log is None else os.fsencode(log)
    ctypes.CDLL(None).faults_arm(os.fsencode(folder.resolve()), int(mode), ctypes.c_long(n), name)


def operations() -> int:
    return ctypes.CDLL(None).faults_operations()


def faults() -> int:
    return ctypes.CDLL(None).faults_faults()
