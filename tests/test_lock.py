import subprocess
import sys

from recexp import lock


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from recexp import lock\n"
        "with lock.locked(Path(sys.argv[1])) as mine: print(mine, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    assert lock.is_locked(tmp_path)
    with lock.locked(tmp_path) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    assert lock.is_locked(tmp_path) is False
    with lock.locked(tmp_path) as mine:
        assert mine and lock.is_locked(tmp_path)
