"""Hostile files: nothing of them is executed, nothing outside is read or written, and memory stays bounded."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from recexp import cli, registry
from recexp.compose import load_config
from recexp.dataset import store
from recexp.error import UserError
from recexp.groups import conf_folder
from recexp.storage import file_digest, read_json, read_yaml, write_json
from recexp.trainer import tensors
from recexp.tree import to_dataclass

HEADER = "user,item,label,timestamp\n"
LOG = HEADER + "".join(f"{n % 9},{n % 7},{n % 2},{n}\n" for n in range(60))
LEAVES = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
BOMB = LEAVES + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(12))


class Payload:
    """Touches a file `canary` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory, in which nothing may ever make the file `canary`, beside one that stays as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    assert not list(tmp_path.rglob("canary"))
    assert [(path.name, path.read_text()) for path in (tmp_path / "outside").iterdir()] == [("secret", "secret")]


def prepared(name: str, **options: Any) -> None:
    from recexp.dataset.prepare import load

    raw = OmegaConf.merge(OmegaConf.load(conf_folder() / f"dataset/{name}.yaml"), {"cache_dir": None}, options)
    assert OmegaConf.is_dict(raw)
    load(to_dataclass(registry.get("reader", raw.reader).Config, raw, "dataset"))


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


# Pickles under other names.


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet", "log.csv.zip", "log.csv.xz", "log.csv.bz2"])
def test_a_pickle_under_the_name_of_data_is_no_data(name, folder):
    content = pickle.dumps(Payload(folder))
    packed = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)(content)
    Path(name).write_bytes(packed)
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("log.csv", content)
    refused(lambda: prepared("parquet" if name.endswith("parquet") else "csv", path=name))


def test_a_pickle_in_the_archive_of_movielens_is_no_data(folder):
    with zipfile.ZipFile("ml.zip", "w") as archive:
        for name in ("u.data", "u.user", "u.item"):
            archive.writestr(name, pickle.dumps(Payload(folder)))
    refused(lambda: prepared("ml-100k", path="ml.zip"))


def test_a_pickle_under_the_name_of_weights_is_none(folder):
    path = Path("best.safetensors")
    path.write_bytes(pickle.dumps(Payload(folder)))
    refused(lambda: tensors.read(path, written(path), torch.device("cpu")))


def written(path: Path) -> dict[str, Any]:
    """What one who makes such a file says of it."""
    return {"tensors": path.name, "bytes": path.stat().st_size, "digest": file_digest(path)}


SAFETENSORS = {
    "no length": b"\x01",
    "an absurd length": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a length beyond the file": (1000).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"\xff\xff\xff\xff",
    "deep JSON": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "offsets beyond": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}},
    "offsets backwards": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
    "offsets negative": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
    "overlapping": {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"},
    "an absurd shape": {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
    "an unknown type": {"a": {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}},
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_weights_with_a_hostile_header_are_refused(name, folder):
    content = SAFETENSORS[name]
    if isinstance(content, dict):
        text = json.dumps(content).encode()
        content = len(text).to_bytes(8, "little") + text + bytes(16)
    path = Path("best.safetensors")
    path.write_bytes(content)
    refused(lambda: tensors.read(path, written(path), torch.device("cpu")))


def dataset_folder(folder: Path, dataset: Any) -> Path:
    path = folder / "encoder"
    path.mkdir()
    store.write(path, dataset)
    return path


def resealed(path: Path, **changes: Any) -> None:
    """Changes dataset.json as one who knows the format does."""
    content = read_json(path / "dataset.json") | changes
    names = list(content["digests"])
    content["digests"] = {name: file_digest(path / name) for name in names}
    write_json(path / "dataset.json", content)


def test_a_pickled_array_is_not_unpickled(folder, dataset):
    path = dataset_folder(folder, dataset)
    np.save(path / "label.npy", np.array([Payload(folder)], object), allow_pickle=True)
    resealed(path)
    refused(lambda: store.read(path))


@pytest.mark.parametrize("name", ["../../outside/secret", "/etc/passwd", "a/../../x"])
def test_arrays_outside_the_folder_are_not_read(name, folder, dataset):
    path = dataset_folder(folder, dataset)
    resealed(path, arrays=[name])
    assert "damaged" in refused(lambda: store.read(path))


# YAML.

TAGS = [
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:os.system ['touch canary']",
    "!!python/object/apply:subprocess.Popen [['touch', 'canary']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!include /etc/passwd",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_file_of_ones_own_makes_no_object(tag, folder):
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/mine.yaml").write_text(f"defaults: [fm]\nembedding_dim: {tag}\n")
    assert "mine.yaml:2: " in refused(lambda: load_config(["model=mine"], "conf"))


@pytest.mark.parametrize("name", ["config.yaml", "sweep.yaml", "overrides.yaml"])
@pytest.mark.parametrize("content", [f"model: {TAGS[0]}\n", BOMB, "a: &a [*a]\n"], ids=["tag", "bomb", "circle"])
def test_a_hostile_file_of_a_run_is_damaged(name, content, folder):
    Path("run").mkdir()
    Path("run", name).write_text(content)
    refused(lambda: read_yaml(Path("run", name)))
    if name != "overrides.yaml":
        assert cli.run(["resume", "run"]) == 2


# What a small file expands to, within a process that may not take much memory.

READ = """
import resource, sys
import pyarrow, pandas  # whose libraries are large
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)
from pathlib import Path
from types import SimpleNamespace
from recexp.error import UserError
from recexp.dataset.reader.csv import CsvTable
from recexp.dataset.reader.parquet import ParquetTable
from recexp.dataset.reader.movielens import _contents
from recexp.storage import read_yaml
read = {
    'csv': lambda path: CsvTable(path, SimpleNamespace(
        separator=',', quoting=True, header=list('abcd'), encoding='utf-8')).read(['a']),
    'parquet': lambda path: ParquetTable(path, '|').read(['a']),
    'movielens': _contents,
    'yaml': read_yaml,
}[sys.argv[1]]
try:
    read(Path(sys.argv[2]))
except UserError as error:
    print(error, end='')
"""


PIECE = b"1,1,1,1\n" * 2**21  # 16 MB, of which there are 128


def parquet_bomb(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**22, np.int32)), ["x" * 100])
    with parquet.ParquetWriter(path, pa.schema({"a": rows.type})) as writer:
        for _ in range(128):
            writer.write_table(pa.table({"a": rows}))


def dictionary_bomb(path: Path, lists: bool = False) -> None:
    """A long value that stands in the file once, as that of every row but the first thousands."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.array((np.arange(2**16) > 5000).astype(np.int32))
    text = pa.DictionaryArray.from_arrays(rows, ["x", "y" * 2**20])
    column = pa.ListArray.from_arrays(pa.array(np.arange(2**16 + 1, dtype=np.int32)), text) if lists else text
    parquet.write_table(pa.table({"a": column}), path)


def zip_bomb(path: Path, name: str = "u.data") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member in ("u.user", "u.item", name):
            archive.writestr(member, bytes(2**28) if member == name else b"")


BOMBS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "gzip": ("csv", lambda path: path.write_bytes(gzip.compress(PIECE) * 128)),
    "bzip2": ("csv", lambda path: path.write_bytes(bz2.compress(PIECE) * 128)),
    "xz": ("csv", lambda path: path.write_bytes(lzma.compress(PIECE, preset=0) * 128)),
    "parquet": ("parquet", parquet_bomb),
    "parquet dictionary": ("parquet", dictionary_bomb),
    "parquet dictionary of lists": ("parquet", lambda path: dictionary_bomb(path, lists=True)),
    "zip of movielens": ("movielens", zip_bomb),
    "yaml": ("yaml", lambda path: path.write_text(BOMB)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(name, folder):
    kind, make = BOMBS[name]
    make(folder / "bomb")
    assert (folder / "bomb").stat().st_size < 2**24
    command = [sys.executable, "-c", READ, kind, "bomb"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0 and done.stdout.startswith(("bomb", "dataset.path = bomb")), done.stderr + done.stdout


# Paths.


@pytest.mark.parametrize("name", ["../outside/secret", "/etc/passwd"])
def test_the_names_of_an_archives_members_lead_nowhere(name, folder):
    with zipfile.ZipFile("log.zip", "w") as archive:
        archive.writestr(name, LOG)
    prepared("csv", path="log.zip")  # read as what it holds; no file is made
    assert [path.name for path in folder.iterdir()] == ["log.zip"]


@pytest.mark.parametrize("key", ["run.name", "dataset.name"])
@pytest.mark.parametrize("name", ["../../outside/x", "/tmp/x", "..", "a/b", "a\\b"])
def test_a_name_is_no_path(key, name, folder):
    assert key in refused(lambda: load_config([f"{key}='{name}'"]))


@pytest.mark.parametrize("name", ["../../outside/x", "/etc/hosts"])
def test_a_model_of_a_run_is_no_path(name, folder):
    Path("run").mkdir()
    Path("run/config.yaml").write_text(f"model: {{name: {name}, loss_weights: {{}}}}\n")
    assert cli.run(["resume", "run"]) == 2


@pytest.mark.parametrize("what", ["pipe", "link to a pipe", "link to a device", "link to nothing", "link to itself"])
@pytest.mark.parametrize("reader", ["csv", "parquet", "ml-100k"])
def test_what_is_no_file_is_not_read(what, reader, folder):
    os.mkfifo("fifo")
    targets = {
        "link to a pipe": "fifo",
        "link to a device": "/dev/zero",
        "link to nothing": "none",
        "link to itself": "log",
    }
    Path("fifo").rename("log") if what == "pipe" else Path("log").symlink_to(targets[what])
    assert "dataset.path" in refused(lambda: prepared(reader, path="log"))


@pytest.mark.parametrize("name", ["config.yaml", "sweep.yaml"])
def test_a_device_in_a_run_directory_is_not_read(name, folder):
    Path("run").mkdir()
    Path("run", name).symlink_to("/dev/zero")
    assert cli.run(["resume", "run"]) == 2


# What somebody else's directory may do.


@pytest.mark.parametrize("verb", ["resume", "rerun", "reproduce", "importance", "calibrate"])
def test_another_users_directory_is_asked_about_before_its_plugin_runs(verb, folder, write_run, monkeypatch, capsys):
    path = write_run("run")
    Path("plugin.py").write_text(f"open({str(folder / 'canary')!r}, 'w')\n")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(f"{text}plugins: [{Path('plugin.py').absolute()}]\n")
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert cli.run([verb, str(path)]) == 2
    assert "add --trust" in capsys.readouterr().err


# Names in reports.

MARKUP = "<script>alert(1)</script>"
NAMES = [MARKUP, "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "';alert(1)//", "</table><h1>", "&lt;b&gt;"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_names_is_text_on_the_page(name, folder, write_run, capsys):
    for seed in (0, 1):
        options = {"dataset.name": name, f"dataset.features.{name}": "categorical", "trainer.note": name}
        write_run(f"runs/a{seed}", model=name, seed=seed, **options)
        write_run(f"runs/b{seed}", model="din", seed=seed)
    assert cli.run(["report", str(folder.parent / "runs"), "--mix", "-o", "page.html"]) == 0, capsys.readouterr().err
    text = Path("page.html").read_text()
    scripts = re.findall(r"<script[^>]*>", text)
    assert name not in text or name.isalnum()
    assert not re.search(r"<(img|svg|h1)[^>]*(onerror|onload)", text) and "<script>alert" not in text, scripts


FORMULAS = ["=1+1", "+1+1", "-1+cmd", "@SUM(A1)", "\t=1", "=HYPERLINK(1)"]


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_in_names_are_text_in_csv_files(name, folder, write_run, capsys):
    import csv

    write_run("runs/a", model=name)
    write_run("runs/b", model="din")
    for verb in (["report", "--mix"], ["runs"]):
        assert cli.run([verb[0], str(folder.parent / "runs"), *verb[1:], "-o", "out.csv"]) == 0, capsys.readouterr().err
        cells = [cell for row in csv.reader(Path("out.csv").read_text().splitlines()) for cell in row]
        assert f"'{name}" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]
