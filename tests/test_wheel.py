"""What a user installs: the built wheel in a fresh environment, from an empty directory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def test_the_wheel_trains_in_a_fresh_environment_from_an_empty_directory(tmp_path):
    """The environment holds what the wheel declares and nothing else, so all that recexp imports must be declared."""

    def call(*words: object, folder: Path = tmp_path) -> str:
        done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    bin = tmp_path / "env" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", bin / "python")
    # Compiling all of torch's files would take longer than the rest of this test.
    call(*pip, "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "recexp model=dien" in call(bin / "recexp", "--help", folder=empty)
    told = call(bin / "recexp", "model=dien", "+experiment=smoke", folder=empty)
    (metrics,) = empty.glob("outputs/*/*/metrics.json")
    assert json.loads(metrics.read_text())["status"] == "finished"
    assert str(metrics.parent.relative_to(empty)) in told
    assert call(bin / "recexp", "report", "outputs", "--format", "html", folder=empty).endswith("</html>\n")
    assert {path.name for path in empty.iterdir()} == {"outputs"}
    assert list((tmp_path / "env").glob("lib/*/site-packages/recexp/py.typed"))
