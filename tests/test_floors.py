"""Imports run downwards only: each room of recexp/ imports from those below it, and no two in a circle.

An import counts wherever it stands: in a function, and under TYPE_CHECKING too, as a type is knowledge of a room.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# Single files that import no room.
GROUND = ("config", "error", "groups", "lock", "option", "plugin", "process", "registry", "safe_yaml", "secret",
          "storage", "terminal", "tree")  # fmt: skip
FLOORS = (  # from the top
    ("__init__", "__main__", "cli", "verb"),
    ("hydra_plugins",),
    ("report",),
    ("sweep",),
    ("contract", "experiment"),
    ("compose", "describe", "unread", "validate"),
    ("advice", "contradiction"),
    ("run",),
    ("logger",),
    ("trainer",),
    ("metric",),
    ("model",),
    ("layer",),
    ("kernel",),
    ("dataset",),
    GROUND,
)
FLOOR = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}  # 1 is the ground
ONLY = {  # rooms that import less than all below them: what they may import
    "kernel": ("recexp.kernel",),
    "layer": ("recexp.layer", "recexp.kernel", "recexp.dataset.batch", "recexp.dataset.schema"),
}


class Import(NamedTuple):
    path: Path
    line: int
    module: str  # as recexp.layer.mlp

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {room_of(self.path)} imports {self.module}"


@functools.cache
def imports(root: Path) -> list[Import]:
    """All imports of recexp and hydra_plugins by their own files, whose paths start at root."""
    paths = sorted(path for top in ("recexp", "hydra_plugins") for path in (root / top).rglob("*.py"))
    return [item for path in paths for item in _imports(root, path)]


def _imports(root: Path, path: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: a relative import"
            modules = [_module(root, node.module, alias.name) for alias in node.names]
        else:
            continue
        for module in dict.fromkeys(modules):
            if module.split(".")[0] in ("recexp", "hydra_plugins"):
                yield Import(path.relative_to(root), node.lineno, module)


def _module(root: Path, module: str, name: str) -> str:
    """module.name if that is a module, or module."""
    path = root.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def room_of(path: Path) -> str:
    """The room of a file: a folder of recexp/, or a single file there. All of hydra_plugins/ is one."""
    return path.parts[0] if path.parts[0] != "recexp" else Path(path.parts[1]).stem


def imported_room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "recexp" else (*parts, "__init__")[1]


def upward(items: list[Import]) -> list[str]:
    """The imports of a higher floor."""
    return [str(item) for item in items if FLOOR[imported_room(item.module)] > FLOOR[room_of(item.path)]]


def circles(items: list[Import]) -> list[str]:
    """The imports in a circle: of a room that imports, maybe through others, the importing one."""
    edges: dict[str, set[str]] = {}
    for item in items:
        edges.setdefault(room_of(item.path), set()).add(imported_room(item.module))

    def reachable(room: str) -> set[str]:
        rooms, new = set(), {room}
        while new:
            rooms |= new
            new = {target for room in new for target in edges.get(room, ())} - rooms
        return rooms

    below = {room: reachable(room) for room in edges}
    rooms = [(item, room_of(item.path), imported_room(item.module)) for item in items]
    return [str(item) for item, room, target in rooms if room != target and room in below.get(target, ())]


def test_every_room_has_a_floor():
    rooms = {room_of(path.relative_to(ROOT)) for path in (ROOT / "recexp").rglob("*.py")}
    assert rooms | {"hydra_plugins"} == set(FLOOR)


def test_no_import_runs_upwards():
    assert upward(imports(ROOT)) == []


def test_no_imports_run_in_a_circle():
    assert circles(imports(ROOT)) == []


def test_layers_and_kernels_import_no_more_than_they_need():
    outside = [item for item in imports(ROOT) if not item.module.startswith(ONLY.get(room_of(item.path), ""))]
    assert list(map(str, outside)) == []


def test_imports_in_functions_and_for_types_count(tmp_path):
    package = tmp_path / "recexp"
    for name in ("dataset", "layer", "model"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "layer" / "mlp.py").write_text("def f():\n    from recexp.dataset import log\n")
    (package / "dataset" / "log.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from recexp.model import Output\n"
    )
    (package / "model" / "__init__.py").write_text("import recexp.layer.mlp\n")
    items = imports(tmp_path)
    assert upward(items) == ["recexp/dataset/log.py:3: dataset imports recexp.model"]
    assert len(circles(items)) == 3
