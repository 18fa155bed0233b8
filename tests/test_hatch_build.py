"""What installing compiles, that it installs without a compiler too, and what the package says of itself."""

import importlib.util
import platform
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path, module):
    """Builds what `target` needs in a copy, of two kernels: what it adds to the build, and the warnings it gave.

    test_wheel.py compiles them all.
    """
    folder = tmp_path / module.FOLDER
    folder.mkdir(parents=True)
    for source in [
        *(ROOT / module.FOLDER).glob("*.h"),
        *(ROOT / module.FOLDER / name for name in ("rank.c", "rows.c")),
    ]:
        shutil.copy(source, folder)

    def run(target="wheel"):
        warnings, data = [], {"artifacts": [], "pure_python": True}
        app = SimpleNamespace(display_warning=warnings.append)
        module.Kernels(str(tmp_path), {}, None, None, str(tmp_path), target, app).initialize("standard", data)
        return data, warnings

    run.folder = folder
    return run


@pytest.mark.skipif(not shutil.which("cc") or platform.machine() != "x86_64", reason="no C compiler for x86-64")
def test_a_wheel_has_a_library_for_each_kind_of_processor(build):
    data, warnings = build()
    assert data["artifacts"] == [f"/recexp/kernel/kernel_{name}.so" for name in ("avx512", "avx2")]
    assert data["tag"] == "py3-none-linux_x86_64" and not data["pure_python"] and not warnings
    assert all((build.folder / f"kernel_{name}.so").exists() for name in ("avx512", "avx2"))


def test_without_a_compiler_recexp_is_installed_all_the_same(build, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    (build.folder / "kernel_avx2.so").touch()  # of an earlier version
    data, warnings = build()
    assert data == {"artifacts": [], "pure_python": True}
    assert not list(build.folder.glob("*.so"))
    assert all("no C compiler" in warning and "slower" in warning for warning in warnings)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_what_cannot_be_compiled_is_left_out_with_the_compilers_words(build):
    (build.folder / "rank.c").write_text("int kernel( {\n")
    data, warnings = build()
    assert data["pure_python"] and all("rank.c:1" in warning for warning in warnings)


def test_a_source_distribution_has_no_libraries(build):
    assert build("sdist") == ({"artifacts": [], "pure_python": True}, [])


def test_the_packages_readme_has_no_link_into_the_repository(module):
    metadata = {}
    module.Readme(str(ROOT), {}).update(metadata)
    text, original = metadata["readme"]["text"], (ROOT / "README.md").read_text("utf-8")
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]
    assert "Several labels at once: docs/labels.md." in text.replace("\n", " ") and "](docs/labels.md)" in original
    assert module.without_links("[a](https://b.c) ![d](e.png)\n\n[f](g.md#h)") == "[a](https://b.c) f"
