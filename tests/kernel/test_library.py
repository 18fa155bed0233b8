"""Kernels take the members of their structures by name, and refuse what C would misread."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import recexp
from recexp.kernel import library as module

SOURCES = Path(module.__file__).parent.glob("*.c")
NAMES = sorted(name for source in SOURCES for name in re.findall(r"^STRUCT\((\w+)", source.read_text(), re.M))

needs_kernels = pytest.mark.skipif(not module.installed(), reason="no kernels are compiled for this machine")


def linear_back(**changes) -> dict:
    """The members of the kernel, some of them changed; those that are ... are left out."""
    x, weight = torch.randn(5, 16), torch.randn(32, 16)
    given = {"x": x, "weight": weight, "dout": torch.randn(5, 32), "dx": torch.empty(5, 16)}
    sums = {"dweight": torch.empty(32, 16), "dbias": torch.empty(32)}
    values = {**given, **sums, "n": 5, "n_in": 16, "n_out": 32, **changes}
    return {name: value for name, value in values.items() if value is not ...}


def moments(**changes) -> dict:
    arrays = {name: torch.zeros(16) for name in ("running_mean", "running_var", "shift", "scale")}
    distances = torch.empty(2, 16)
    return {"x": torch.randn(5, 16), **arrays, "n": 5, "width": 16, "distances": distances, "momentum": 0.1, **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"wieght": None}, "linear_back: no member wieght among x, weight, dout, dx"),
        ({"weight": ..., "n": ...}, "linear_back: missing n, weight"),
        ({"dweight": ...}, "missing dweight"),
        ({"weight": None}, "weight is None, not contiguous torch.float32 on cpu"),
        ({"weight": 3}, "weight is 3"),
        ({"weight": [torch.zeros(16)]}, "weight is .*not contiguous"),
        ({"weight": torch.zeros(32, 16, dtype=torch.double)}, "weight is torch.float64 on cpu"),
        ({"weight": torch.zeros(32, 16, device="meta")}, "weight is torch.float32 on meta"),
        ({"dx": torch.zeros(16, 5).t()}, "dx is not contiguous"),
        ({"dweight": torch.zeros(16, 32).t()}, "dweight is not contiguous"),
        ({"dbias": torch.zeros(32).long()}, "dbias is torch.int64"),
        ({"n": 5.0}, "n is 5.0, not long"),
        ({"n": None}, "n is None, not long"),
        ({"n": torch.tensor(5)}, "n is torch.int64 on cpu, not long"),
    ],
)
def test_members_that_are_not_as_c_has_them_are_refused(changes, told, library):
    library["linear_back"](**linear_back())
    with pytest.raises(TypeError, match=told):
        library["linear_back"](**linear_back(**changes))


@pytest.mark.parametrize("eps", ["1e-8", None, torch.tensor(1e-8)])
def test_a_double_is_a_number(eps, library):
    library["moments"](**moments(eps=1))
    with pytest.raises(TypeError, match=r"eps is .*, not double"):
        library["moments"](**moments(eps=eps))


@pytest.mark.parametrize("tables", [[], [torch.zeros(3, 16)] * 3, [torch.zeros(3, 16), None], torch.zeros(3, 16)])
def test_an_array_takes_as_many_entries_as_it_has_or_fewer(tables, library):
    index, out = torch.zeros(4, dtype=torch.long), torch.empty(4, 16)
    gather = {"index": [index], "out": out, "n": 4, "width": 16, "n_rows": [3]}
    assert library["gather"](table=[torch.ones(3, 16)], **gather) is False and out.eq(1).all()
    assert library["gather"](table=[torch.ones(3, 16)], **gather | {"n_rows": [0]}) is True
    with pytest.raises(TypeError, match="gather: table is"):
        library["gather"](table=tables, **gather)


def test_what_is_read_may_have_any_strides(library):
    whole, gaps = linear_back(), linear_back()
    for name in ("x", "weight", "dout"):
        gaps[name] = torch.stack([whole[name]] * 2, -1)[..., 0]
    library["linear_back"](**whole), library["linear_back"](**gaps)
    assert all(torch.equal(whole[name], gaps[name]) for name in ("dx", "dweight", "dbias"))


@pytest.mark.parametrize("name", NAMES)
def test_every_structure_says_what_it_holds(name, library):
    members = library[name].members
    assert any(member.kind in ("written", "sum") for member in members.values())
    if "out_of_range" in members:
        assert members["out_of_range"].kind == "long" and members["out_of_range"].optional
    offsets = [(member.offset, member.words * member.size) for member in members.values()]
    assert all(start + words == after for (start, words), (after, _) in pairwise(offsets))


def test_declarations_of_c_are_read():
    text = "const float *x, *OPTIONAL y[2]; long n, width[3]; double eps; struct sum OPTIONAL dx, dy;"
    members = {member.name: member for member in module.members(text)}
    assert [member.offset for member in members.values()] == [0, 1, 3, 4, 7, 8, 11]
    assert [name for name, member in members.items() if member.optional] == ["y", "dx"]
    assert [member.kind for member in members.values()] == ["read"] * 2 + ["long"] * 2 + ["double"] + ["sum"] * 2


def test_other_types_and_widths_are_left_to_torch():
    assert module.library(torch.zeros(2, 16, dtype=torch.float64), 16) is None
    assert module.library(torch.zeros(2, 16, device="meta"), 16) is None
    assert module.library(torch.zeros(2, 16), 16, 7) is None


@needs_kernels
def test_threads_are_those_of_torch():
    """A second pool of threads would fight with torch's for the cores."""
    code = (
        "import torch; from recexp.kernel.lookup import lookup; torch.set_num_threads(2);"
        "x = torch.randn(500000, 16); x.exp();"
        "count = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('Threads'));"
        "before = count(); lookup(x, torch.arange(500000)); print(count() - before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """switch("0"): kernels as in a process with this value of the environment variable."""

    def switch(value: str) -> None:
        monkeypatch.setenv(module.SWITCH, value)
        module.installed.cache_clear()

    yield switch
    module.installed.cache_clear()


@needs_kernels
def test_a_model_trains_alike_with_kernels_switched_off(tmp_path, switch):
    losses, names = [], []
    for value in ("1", "0"):
        folder = tmp_path / value
        switch(value)
        typed = ["model=din", "+experiment=tiny", "trainer.epochs=1", "trainer.threads=1", f"run.dir={folder}"]
        recexp.train(recexp.load_config(typed))
        names.append(json.loads((folder / "environment.json").read_text())["hardware"]["kernels"])
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["losses"])
    assert names[0] and not names[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
