"""What a user installs: the built wheel in a fresh environment, from an empty directory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def declared(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """The distributions that one requires, with all that these require."""
    for text in distribution(name).requires or []:
        required = Requirement(text)
        wanted = required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in {"", *extras})
        key = (required.name, ",".join(sorted(required.extras)))
        if wanted and key not in seen:
            seen.add(key)
            yield required.name
            yield from declared(required.name, frozenset(required.extras), seen)


def link(name: str, folder: Path) -> None:
    """Puts links to what is installed here of a distribution into a folder: copying all of torch would take longer."""
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())


def test_the_wheel_trains_in_a_fresh_environment_from_an_empty_directory(tmp_path):
    """The environment holds what the wheel declares and nothing else, so all that recexp imports must be declared."""

    def call(*words: object, folder: Path = tmp_path) -> str:
        done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    bin = tmp_path / "env" / "bin"
    call(sys.executable, "-m", "pip", "--python", bin / "python", "install", "--quiet", "--no-deps", wheel)
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    for name in declared("recexp", frozenset(), set()):
        link(name, packages)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "recexp model=dien" in call(bin / "recexp", "--help", folder=empty)
    told = call(bin / "recexp", "model=dien", "+experiment=smoke", folder=empty)
    (metrics,) = empty.glob("outputs/*/*/metrics.json")
    assert json.loads(metrics.read_text())["status"] == "finished"
    assert str(metrics.parent.relative_to(empty)) in told
    assert call(bin / "recexp", "report", "outputs", "--format", "html", folder=empty).endswith("</html>\n")
    assert {path.name for path in empty.iterdir()} == {"outputs"}
    assert (packages / "recexp" / "py.typed").exists()
