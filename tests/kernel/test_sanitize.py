"""No kernel reads or writes out of bounds, or does what C leaves undefined."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recexp.kernel import library

FOLDER = Path(library.__file__).parent
DECLARED = re.compile(r"^STRUCT\((\w+)", re.MULTILINE)
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-march=native", "-shared", "-fPIC"]


def runtime() -> str | None:
    """The address sanitizer's library, which has to be loaded before all others; None without a compiler or it."""
    if not shutil.which("gcc"):
        return None
    path = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return path if Path(path).is_absolute() else None


@pytest.mark.slow
@pytest.mark.skipif(not library.installed(), reason="no kernels are compiled for this machine")
@pytest.mark.skipif(runtime() is None, reason="no gcc with its address sanitizer")
def test_kernels_under_sanitizers(tmp_path):
    sources, path = sorted(FOLDER.glob("*.c")), tmp_path / "kernel_sanitized.so"
    subprocess.run(["gcc", *FLAGS, "-fvisibility=hidden", "-o", path, *sources], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(runtime()), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, Path(__file__).with_name("sanitize.py"), path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    declared = {name for source in sources for name in DECLARED.findall(source.read_text())}
    assert set(done.stdout.split()) == declared
