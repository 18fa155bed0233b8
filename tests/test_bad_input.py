"""Bad input of every kind: exit code 2, one line that names the key, file or row, and nothing left behind.

Tables of cases. What is typed goes through the command line; values of options and files of data, of which there are
many, go to the function that the command line calls, and its error through the command line's exit.
"""

import bz2
import copy
import functools
import gzip
import io
import lzma
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from omegaconf import OmegaConf

from recexp import cli, registry
from recexp.compose import compose, model_file
from recexp.dataset.reader import source
from recexp.groups import conf_folder
from recexp.tree import to_dataclass
from recexp.validate import check

ROWS = "".join(f"{n % 9},{n % 7},{n % 2},{n}\n" for n in range(60))
LOG = f"user,item,label,timestamp\n{ROWS}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, in which the tests below leave nothing that they have not put there."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line on stderr of a command that exits with 2 and leaves its directory as it was."""
    before = listing()
    code = cli.run(arguments)
    told = capsys.readouterr().err
    assert code == 2, told
    assert told.startswith("recexp: ") and told.count("\n") == 1 and "Traceback" not in told, told
    assert told.isprintable() or told[:-1].isprintable(), repr(told)
    assert listing() == before
    return told


def listing() -> list[str]:
    return sorted(str(path) for path in Path(".").rglob("*") if "__pycache__" not in path.parts)


def refused_by(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> str:
    """As `refused`, of a function that the command line calls."""
    monkeypatch.setattr(cli, "_dispatch", lambda arguments: action())
    return refused(capsys, [])


# Values of options: key, and values that are wrong for it. The line names the key.

NUMBER = "inf -inf nan null x true [1] {a:1} ${nope} ${oc.env:NOPE_} ${trainer} ??? 1e400"
COUNT = "0 -1 1.5 inf nan x [1] {a:1} 99999999999 99999999999999999999999 ${nope}"
VALUES = {
    "seed": "-1 1.5 one true null [1] {a:1} inf nan 2147483648 99999999999999999999 ${seed} ${nope} ${f:1} ???",
    "device": "gpu null 1 [cpu] cuda:-1 cuda:x cpu:1 ${nope}",
    "objective": "au 1 [auc] ${nope}",
    "plugins": "x.py [1] [null] [[a]] {a:1} [.] [''] [nope.py] [log.csv] ${nope}",
    "trainer.epochs": COUNT,
    "trainer.batch_size": COUNT,
    "trainer.eval_batch_size": COUNT,
    "trainer.learning_rate": f"0 -1 {NUMBER}",
    "trainer.weight_decay": f"-1 {NUMBER}",
    "trainer.clip_norm": "0 -1 inf nan x [1]",
    "trainer.ftrl": "null 5 [1] x",
    "trainer.ftrl.beta": "0 inf nan x null",
    "trainer.ftrl.l1": "-1 inf nan x",
    "trainer.warmup_steps": "-1 inf nan 1.5 99999999999",
    "trainer.patience": "0 -1 nan 1.5",
    "trainer.monitor": "au null 1 [auc]",
    "trainer.optimizer": "adamm null 1 [adam]",
    "trainer.schedule": "step null",
    "trainer.precision": "fp16 null",
    "trainer.sparse": "maybe",
    "trainer.name": "nope null [a] ../x",
    "run.resume": "maybe null",
    "run.name": "a/b .. . '' ../../x a\\b [a]",
    "run.dir": "'' [a]",
    "logger.name": "nope null",
    "dataset.reader": "nope null ../csv [csv]",
    "dataset.name": "a/b ../../x . '' null",
    "dataset.label": "some null 1",
    "dataset.label_threshold": "inf -inf nan x [1] true",
    "dataset.negatives": COUNT,
    "dataset.max_history": COUNT,
    "dataset.n_bins": f"1 {COUNT}",
    "dataset.n_buckets": f"1 {COUNT}",
    "dataset.n_quotients": f"317 {COUNT}",
    "dataset.min_count": COUNT,
    "dataset.k_core": COUNT.removeprefix("0 "),
    "dataset.duplicates": "some null 1",
    "dataset.history": "some null",
    "dataset.features": "null 5 [a]",
    "dataset.features.user": "null 5 [a] {a:some} {a:1}",
    "dataset.features.derived.last_items": "-1 101 1.5 x",
    "dataset.features.derived.most_liked": "5 [nope] [1]",
    "dataset.features.derived.time": "5 [noon] [1] [hour,hour]",
    "dataset.split.kind": "last null",
    "dataset.split.ratios": "null 5 [1,2] [0.8,0.1,0.2] [0,0.5,0.5] [-0.1,0.6,0.5] [nan,0,0] [inf,0,0] [a,b,c]",
    "dataset.n_users": "0 -1 99999999999 1.5 nan",
    "dataset.n_events": "0 -1 1 99999999999",
    "dataset.n_items": "0 -1 99999999999",
    "dataset.drift": "-1 nan inf",
    "model.name": "nope null [a] ../x",
    "model.embedding_dim": f"1000000000 {COUNT}",
    "model.embedding_std": f"0 {NUMBER}",
    "model.embedding_l2": f"-1 {NUMBER}",
    "model.hidden_sizes": "[0] [-1] [1000000000] [99999999999999999999] [a] [1.5] [null] [[1]] null 5 {a:1}",
    "model.attention_hidden_sizes": "[1000000000] [0]",
    "model.dropout": "1 -0.1 inf nan x null",
    "model.activation": "swish null 1",
    "model.loss_weights": "null 5 [1]",
    "model.loss_weights.target": "-1 inf nan null x",
    "model.history_labels": "maybe null",
    "trainer.nope": "1",
    "model.nope": "1",
    "dataset.nope": "1",
    "dataset.split.nope": "1",
    "nope": "1",
}  # fmt: skip


@functools.cache
def composed() -> tuple[Any, Any]:
    raw, folders = compose(["model=din"])
    return raw, model_file(raw, folders)


def with_value(key: str, value: str) -> None:
    """What training does with `key=value` before it reads any data."""
    raw, file = copy.deepcopy(composed())
    parsed = yaml.safe_load(value.replace(":", ": ") if value.startswith("{") else value)
    OmegaConf.set_struct(raw, False)
    OmegaConf.update(raw, key, float(value) if value in ("inf", "-inf", "nan", "1e400") else parsed, merge=False)
    check(raw, file)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in VALUES.items() for value in values.split()])
def test_a_wrong_value_is_named_by_its_key(key, value, folder, capsys, monkeypatch):
    told = refused_by(capsys, monkeypatch, lambda: with_value(key, value))
    assert key.rpartition(".")[2] in told


# What is typed, with files that lie in the working directory.

FILES: dict[str, str | bytes] = {
    "log.csv": LOG,
    "sub/mine.py": "",
    "syntax.py": "def f(:\n",
    "exit.py": "raise SystemExit(0)\n",
    "zero.py": "1 / 0\n",
    "absent.py": "import nope_nope\n",
    "lines.py": "raise ValueError('two\\nlines\\x1b[31m')\n",
    "plugin.txt": "no Python",
    "whole.yaml": "model: fm\n",
    "conf/config.yaml": "model: {name: fm}\n",
    "conf/model/tag.yaml": 'defaults: [fm]\nembedding_dim: !!python/object/apply:os.system ["touch canary"]\n',
    "conf/model/local.yaml": "defaults: [fm]\nembedding_dim: !new 3\n",
    "conf/model/indent.yaml": "name: fm\n  embedding_dim: 3\n",
    "conf/model/tab.yaml": "defaults: [fm]\nloss_weights:\n\ttarget: 1\n",
    "conf/model/twice.yaml": "defaults: [fm]\nembedding_dim: 3\nembedding_dim: 4\n",
    "conf/model/bytes.yaml": b"\xff\xfe\x00bad",
    "conf/model/nul.yaml": "a\0b: 1\n",
    "conf/model/scalar.yaml": "5\n",
    "conf/model/list.yaml": "- 1\n- 2\n",
    "conf/model/number.yaml": "defaults: [fm]\n1: 2\n",
    "conf/model/base.yaml": "defaults: [nope]\n",
    "conf/model/defaults.yaml": "defaults: 5\n",
    "conf/model/one.yaml": "defaults: [two]\n",
    "conf/model/two.yaml": "defaults: [one]\n",
    "conf/model/points.yaml": "defaults: [fm]\nembedding_dim: ${nope.x}\n",
    "conf/model/variable.yaml": "defaults: [fm]\nembedding_dim: ${oc.env:NOPE_}\n",
    "conf/model/extra.yaml": "defaults: [fm]\nextra: 1\n",
    "conf/model/empty.yaml": "",
    "conf/model/deep.yaml": f"x: {'[' * 3000}{']' * 3000}\n",
    "conf/experiment/apart.yaml": "defaults:\n  - override /dataset: csv\n",
    "conf/experiment/sweeps.yaml": "# @package _global_\nhydra: {mode: MULTIRUN}\n",
    "log.jsonl": '{"user": 1, "item": 2, "label": 1, "timestamp": 3}\n',
    "conf/dataset/bare.yaml": "path: log.csv\n",
    "conf/dataset/typo.yaml": "defaults: [csv]\nname: t\npath: log.csv\nfeatures: {contxt: {a: categorical}}\n",
    "conf/dataset/mine.yaml": "defaults: [csv]\nname: mine\npath: log.csv\n",
}  # fmt: skip
OWN = "--config-dir conf"
TYPED = {  # words that the line must hold
    "=5": ["=5"],
    "+=1": ["no key"],
    "model=null": ["model=null", "din"],
    "dataset=5": ["dataset=5", "csv"],
    "dataset={}": ["dataset={}", "csv"],
    "trainer=": ["trainer=", "default"],
    "model=[din,dien]": ["one choice"],
    "'model=fm dataset=csv'": ["model=fm dataset=csv"],
    "model = fm": ["model = fm", "no spaces"],
    "model:fm": ["model:fm"],
    "whole.yaml": ["whole.yaml", "An override has a ="],
    "model=FM": ["Did you mean 'fm'"],
    "epochs=3": ["Did you mean 'trainer.epochs'"],
    "trainer.epochs=1,2": ["trainer.epochs"],
    "trainer..epochs=1": ["trainer..epochs"],
    "trainer.epochs.x=1": ["trainer.epochs.x"],
    "seed=${seed}": ["seed: "],
    "seed=${nope}": ["seed: ", "nope"],
    "plugins=[1]": ["plugins = 1"],
    "plugins=[syntax.py]": ["syntax.py: fails on import: SyntaxError"],
    "plugins=[exit.py]": ["exit.py: fails on import: SystemExit"],
    "plugins=[zero.py]": ["zero.py: fails on import: ZeroDivisionError"],
    "plugins=[absent.py]": ["absent.py: fails on import: ModuleNotFoundError"],
    "plugins=[lines.py]": ["two\\nlines\\x1b[31m"],
    "plugins=[plugin.txt]": ["plugin.txt: must be a Python file"],
    "plugins=[sub]": ["plugins = sub"],
    "device=cuda:99999999999999999999": ["device"],
    "run.dir=log.csv": ["log.csv: is a file"],
    "run.dir=log.csv/x": ["log.csv/x: log.csv is a file"],
    "run.dir=/dev/null": ["/dev/null: is a file"],
    "hydra=null": ["hydra"],
    "hydra/launcher=nope": ["launcher = nope"],
    "hydra.mode=NOPE": ["hydra.mode"],
    f"{OWN} +experiment=sweeps": ["hydra.mode = MULTIRUN", "recexp -m"],
    "--nope": ["--nope", "neither a flag"],
    "-x": ["-x", "neither a flag"],
    "-m -x": ["-x", "neither a flag"],
    "--config whole.yaml": ["--config"],
    "--cfg": ["--cfg"],
    "--cfg nope": ["--cfg", "job"],
    "--info nope": ["--info"],
    "--package foo": ["--package foo", "--cfg"],
    "-m --package foo": ["--package foo", "--cfg"],
    "--cfg job --package nope": ["--package nope"],
    "--config-dir": ["--config-dir"],
    "--config-dir nope": ["nope: no such directory"],
    "--config-dir log.csv": ["log.csv: no such directory"],
    "--config-dir sub": ["nothing there would be read", "model"],
    "-cn config": ["--config-name config", "recexp's own"],
    f"{OWN} -cn config": ["--config-name config", "recexp's own"],
    "-cn nope": ["nope"],
    "-cp conf": ["--config-path", "--config-dir"],
    "--experimental-rerun log.csv": ["--experimental-rerun"],
    f"{OWN} model=tag": ["conf/model/tag.yaml:2:", "tag"],
    f"{OWN} model=local": ["conf/model/local.yaml:2:", "!new"],
    f"{OWN} model=indent": ["conf/model/indent.yaml:2:"],
    f"{OWN} model=tab": ["conf/model/tab.yaml:3:"],
    f"{OWN} model=twice": ["conf/model/twice.yaml:3:", "embedding_dim"],
    f"{OWN} model=bytes": ["conf/model/bytes.yaml: "],
    f"{OWN} model=nul": ["conf/model/nul.yaml: "],
    f"{OWN} model=scalar": ["conf/model/scalar.yaml: must hold keys"],
    f"{OWN} model=list": ["conf/model/list.yaml: must hold keys"],
    f"{OWN} model=number": ["model.1: unknown key"],
    f"{OWN} model=base": ["nope"],
    f"{OWN} model=defaults": ["defaults"],
    f"{OWN} model=one": ["circle"],
    f"{OWN} model=points": ["embedding_dim", "nope.x"],
    f"{OWN} model=variable": ["embedding_dim", "NOPE_"],
    f"{OWN} model=extra": ["model.extra: unknown key"],
    f"{OWN} model=empty": ["model"],
    f"{OWN} model=nope": ["model = nope", "extra"],
    f"{OWN} dataset=bare": ["dataset.reader"],
    f"{OWN} dataset=typo": ["contxt"],
    f"{OWN} dataset=mine trainer.epoch=1": ["trainer.epoch=1: unknown key", "trainer.epochs"],
    "dataset=csv dataset.path=nope.csv": ["nope.csv: no such file"],
    "dataset=csv dataset.path=sub": ["sub/mine.py: is empty"],
    "dataset=csv dataset.path=fifo": ["fifo: is no regular file"],
    "-m seed=0,1 trainer.epochs=0": ["trainer.epochs = 0"],
    "-m seed=0,x": ["seed = x"],
    "-m model=fm,nosuch": ["model = nosuch"],
    "-m model=fm,deepfm model.dropout=0.1,0.2": ["fm lacks this option", "-m model=deepfm ..."],
    "-m model=fm,din +model.history_labels=false": ["fm lacks this option", "-m model=din ..."],
    "+model.embedding_dim=3": ["model.embedding_dim=3", "is there already"],
    f"{OWN} +experiment=apart": ["# @package _global_"],
    f"{OWN} model=deep": ["deep.yaml:1"],
    "dataset=csv dataset.path=log.csv +dataset.features.context={a b:numeric}": ["'b:numeric}'", "stands in quotes"],
    "dataset=csv dataset.path=log.csv dataset.separator=^": ["write 'dataset.separator=\"^\"'"],
    "dataset=csv dataset.path=log.csv +dataset.features.context.a.b=numeric": ["context.a", "categorical"],
    "dataset=csv dataset.path=log.jsonl": ["is a JSON file"],
    "dataset=parquet dataset.path=log.csv": ["is no Parquet file but text"],
}  # fmt: skip


def lay_out(folder: Path) -> None:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.mkfifo(folder / "fifo")


@pytest.mark.parametrize("line", TYPED)
def test_a_wrong_command_is_one_line(line, folder, capsys):
    lay_out(folder)
    told = refused(capsys, shlex.split(line))
    for words in TYPED[line]:
        assert words in told, told


# Arguments of verbs; RUN is a run directory, FILE a file, EMPTY a folder.

VERBS = [
    "nope", "trian", "models nope", "models fm din", "datasets nope", "datasets --x", "explain", "explain nope",
    "explain seed nope", "explain trainer.epoch", "explain seed seed=[", "explain seed --config-dir",
    "explain seed --config-dir nope", "explain seed -x", "check --x", "check trainer.epochs=0",
    "check --config-dir nope",
    "resume", "resume nope", "resume a b", "resume FILE", "resume EMPTY", "resume --trust", "resume --nope RUN",
    "predict", "predict RUN", "predict RUN FILE", "predict RUN FILE -o x.json", "predict RUN FILE -o nope/x.csv",
    "predict RUN FILE -o x.csv", "predict nope FILE -o x.csv", "predict FILE FILE -o x.csv", "predict RUN FILE -o",
    "recommend", "recommend RUN", "recommend RUN -o x.csv", "recommend RUN -o x.csv -k 0",
    "recommend RUN -o x.csv -k x",
    "export", "export RUN", "export nope -o x", "export RUN -o EMPTY", "export RUN -o x --format pdf",
    "evaluate", "evaluate nope", "evaluate RUN", "evaluate RUN RUN", "evaluate RUN --rows nope", "evaluate RUN --x",
    "show", "show nope", "show FILE", "show EMPTY", "show RUN RUN", "show RUN --x",
    "runs nope", "runs FILE", "runs RUN --sort nope", "runs RUN --filter nope", "runs RUN --filter nope=1",
    "runs RUN --filter =1", "runs RUN --filter seed>x", "runs RUN --columns nope", "runs RUN --columns ''",
    "runs RUN --format nope", "runs RUN --format html", "runs RUN -o", "runs RUN -o EMPTY", "runs RUN -o nope/x.csv",
    "runs RUN --x", "runs RUN --sort",
    "report", "report nope", "report FILE", "report RUN --metric nope", "report RUN --sort nope",
    "report RUN --baseline nope", "report RUN --columns nope", "report RUN --filter seed=99", "report RUN --format pdf",
    "report RUN -o EMPTY", "report RUN -o nope/x.html",
    "compare", "compare RUN", "compare RUN nope", "compare RUN FILE", "compare RUN RUN RUN", "compare RUN RUN --x",
    "compare RUN RUN --draws", "compare RUN RUN --draws=0", "compare RUN RUN --draws=-5", "compare RUN RUN --draws=x",
    "compare RUN RUN --draws=1e3", "compare RUN RUN --draws=99999999999", "compare RUN RUN --draws=1000001",
    "compare RUN RUN --draws=\N{SUPERSCRIPT TWO}00", "compare RUN RUN --draws=\N{ARABIC-INDIC DIGIT FIVE}00",
]  # fmt: skip


@pytest.mark.parametrize("line", VERBS)
def test_wrong_arguments_of_a_verb_are_one_line(line, folder, capsys, write_run):
    write_run("run")
    (folder / "empty").mkdir()
    (folder / "file").write_text("text")
    places = {"RUN": "run", "FILE": "file", "EMPTY": "empty"}
    refused(capsys, [places.get(word, word) for word in shlex.split(line)])


# Files of data. A CSV file: its content, options of the dataset, and what the line holds beside the file's name.

HEADER = "user,item,label,timestamp\n"
NUMERIC = {"features": {"context": {"x": "numeric"}}}
BINNED = {"features": {"context": {"x": "binned"}}}
ITEM = {"features": {"item": {"x": "categorical"}}}
TABLE = {"columns": {"user": None, "item": None, "timestamp": None}, "split": {"kind": "random"}}
FIELD = TABLE | {"features": {"context": {"user": "categorical"}}}


def with_x(*values: str) -> str:
    rows = [f"{n % 9},{n % 7},{n % 2},{n},{values[n] if n < len(values) else 1}" for n in range(60)]
    return "user,item,label,timestamp,x\n" + "\n".join(rows) + "\n"


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ZEROS = bytes(2**22)
CSV: dict[str, tuple[Any, ...]] = {
    "nothing": ("", {}, "is empty"),
    "blank lines": ("\n\n\n", {}, "is empty"),
    "a header alone": (HEADER, {}, "no rows"),
    "one row": (f"{HEADER}1,1,1,1\n", {}, "no rows for"),
    "no header": (ROWS, {}, "dataset.header"),
    "header of fewer": (ROWS, {"header": ["user", "item"]}, "4 columns"),
    "header of more": (ROWS, {"header": list("abcde")}, "4 columns"),
    "header twice": (ROWS, {"header": ["user", "user", "label", "timestamp"]}, "dataset.header"),
    "empty header": (ROWS, {"header": []}, "dataset.header"),
    "a column twice": (LOG.replace("item", "user", 1), {}, "user"),
    "a column missing": (LOG.replace("item", "itme", 1), {}, "Did you mean 'itme'"),
    "case": (LOG.replace("item", "Item", 1), {}, "Did you mean 'Item'"),
    "semicolons": (LOG.replace(",", ";"), {}, "dataset.separator"),
    "tabs": (LOG.replace(",", "\t"), {}, "dataset.separator"),
    "spaces": (LOG.replace(",", " "), {}, "dataset.separator"),
    "carets": (LOG.replace(",", "^"), {}, "dataset.separator"),
    "separator of two": (LOG, {"separator": "::"}, "dataset.separator"),
    "separator a quote": (LOG, {"separator": '"'}, "dataset.separator"),
    "separator none": (LOG, {"separator": ""}, "dataset.separator"),
    "separator not ASCII": (LOG, {"separator": "é"}, "dataset.separator"),
    "a row too long": (f"{LOG}1,2,0,5,6\n", {}, ":62: 5 fields"),
    "a row too short": (f"{LOG}1,2,0\n", {}, ":62: 3 fields"),
    "no text": (b"\x89PNG\r\n\x1a\n\0\0", {}, "UTF-8"),
    "UTF-16": (LOG.encode("utf-16"), {}, "UTF-8"),
    "Latin-1": (f"{HEADER}caf\xe9,1,1,1\n".encode("latin-1"), {}, ":2: byte"),
    "a quote not closed": (f'{LOG}"1,2,0,61\n{ROWS}', {}, ":62: 1 fields, the header has 4; a quote opens"),
    "a quote not closed in between": (LOG.replace(",5\n", ',"5\n'), {}, ": a quote opens"),
    "a quote closed in a text": (f'{LOG}"1,2,0,61\n{ROWS}"x",2,0,62\n', {}, ":62: a quote opens"),
    "parquet": (b"PAR1" + bytes(40), {}, "is a parquet file"),
    "half a zstd": (zstd(LOG.encode() * 99)[:40], {}, "cannot be read"),
    "a zstd bomb": (zstd(ZEROS), {}, "expands"),
    "half a gzip": (gzip.compress(LOG.encode())[:50], {}, "cannot be read"),
    "a broken gzip": (gzip.compress(LOG.encode())[:30] + bytes(60), {}, "cannot be read"),
    "half a bzip2": (bz2.compress(LOG.encode())[:50], {}, "cannot be read"),
    "half an xz": (lzma.compress(LOG.encode())[:50], {}, "cannot be read"),
    "half a zip": (zipped(log=LOG.encode())[:50], {}, "cannot be read"),
    "a zip of two": (zipped(a=LOG.encode(), b=LOG.encode()), {}, "holds 2 files"),
    "an empty zip": (zipped(), {}, "is"),
    "a gzip bomb": (gzip.compress(ZEROS), {}, "expands"),
    "a zip bomb": (zipped(log=ZEROS), {}, "expands"),
    "a bzip2 bomb": (bz2.compress(ZEROS), {}, "expands"),
    "an xz bomb": (lzma.compress(ZEROS, preset=0), {}, "expands"),
    "an empty user": (f"{LOG},1,1,99\n", {}, ":62: column 'user'"),
    "an empty item": (f"{LOG}1,,1,99\n", {}, ":62: column 'item'"),
    "an empty label": (f"{LOG}1,1,,99\n", {}, ":62: column 'label'"),
    "an empty time": (f"{LOG}1,1,1,\n", {}, ":62: column 'timestamp'"),
    "a label of words": (f"{LOG}1,1,yes,99\n", {}, ":62: column 'label'"),
    "a label of 2": (f"{LOG}1,1,2,99\n", {}, "dataset.label_threshold"),
    "a label of nan": (f"{LOG}1,1,nan,99\n", {"label_threshold": 1.0}, ":62: column 'label'"),
    "a label of inf": (f"{LOG}1,1,inf,99\n", {"label_threshold": 1.0}, ":62: column 'label'"),
    "a time of words": (f"{LOG}1,1,1,soon\n", {}, ":62: column 'timestamp'"),
    "a time of nan": (f"{LOG}1,1,1,nan\n", {}, ":62: column 'timestamp'"),
    "a time of inf": (f"{LOG}1,1,1,1e999\n", {}, ":62: column 'timestamp'"),
    "a time in hex": (f"{LOG}1,1,1,0x10\n", {}, ":62: column 'timestamp'"),
    "a date among numbers": (f"{LOG}1,1,1,2024-01-31\n", {}, ":62: column 'timestamp'"),
    "a day of no month": (f"{HEADER}1,1,1,2024-01-01\n1,2,1,2024-02-31\n", {}, ":3: column 'timestamp'"),
    "a number of words": (with_x("1", "tall"), NUMERIC, ":3: column 'x' = 'tall'"),
    "a number of inf": (with_x("1", "inf"), NUMERIC, ":3: column 'x' = 'inf'"),
    "a huge number": (with_x("1", "1e200"), NUMERIC, ":3: column 'x' = '1e200'"),
    "a huge negative number": (with_x("1", "2", "-1e31"), BINNED, ":4: column 'x' = '-1e31'"),
    "a number with a comma": (with_x("1", '"1,5"'), NUMERIC, ":3: column 'x' = '1,5'"),
    "an item of two features": (with_x("a", *["b"] * 7), ITEM, ":9: column 'x'"),
    "an unknown feature": (LOG, {"features": {"context": {"nope": "numeric"}}}, "nope"),
    "a role as a feature": (LOG, {"features": {"context": {"label": "numeric"}}}, "features.context.label"),
    "the id's own name": (LOG, {"features": {"user": {"user": "categorical"}}}, "features.user.user"),
    "no path": (None, {"path": None}, "dataset.path"),
    "half the roles": (LOG, {"columns": {"item": None}}, "dataset.columns.item"),
    "one column twice": (LOG, {"columns": {"item": "user"}}, "dataset.columns"),
    "no label": (LOG, {"columns": {"label": None}}, "dataset.columns.label"),
    "a table by time": (LOG, {"columns": TABLE["columns"]}, "dataset.split.kind"),
    "a table without fields": (LOG, TABLE, "dataset.features.context"),
    "a table with users": (LOG, TABLE | {"features": {"user": {"x": "numeric"}}}, "features.user"),
    "a table without negatives": (LOG, FIELD | {"label": "implicit"}, "dataset.label"),
    "a table with lists": (LOG, FIELD | {"features": {"derived": {"last_items": 1}}}, "features.derived"),
    "a split of words": (LOG, {"split": {"kind": "given", "column": "label"}}, "label"),
    "a split without column": (LOG, {"split": {"kind": "given"}}, "must be a folder"),
    "a split not there": (LOG, {"split": {"kind": "given", "column": "nope"}}, "dataset.split.column"),
    "no test": (LOG, {"split": {"ratios": [1.0, 0.0, 0.0]}}, "no rows for test"),
    "users nowhere": (LOG, {"user_path": "nope.csv", "features": {"user": {"x": "numeric"}}}, "dataset.user_path"),
    "no separator of values": (LOG, {"multi_separator": ""}, "dataset.multi_separator"),
}  # fmt: skip


def prepared(name: str, options: dict[str, Any]) -> None:
    from recexp.dataset.prepare import load

    raw = OmegaConf.merge(OmegaConf.load(conf_folder() / f"dataset/{name}.yaml"), {"cache_dir": None}, options)
    assert OmegaConf.is_dict(raw)
    load(to_dataclass(registry.get("reader", raw.reader).Config, raw, "dataset"))


@pytest.mark.parametrize("name", CSV)
def test_a_bad_csv_file_is_named_by_file_row_and_column(name, folder, capsys, monkeypatch):
    content, options, words = CSV[name]
    monkeypatch.setattr(source, "ALLOWED", 2**20)  # which small bombs exceed
    if content is not None:
        (folder / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    told = refused_by(capsys, monkeypatch, lambda: prepared("csv", {"path": "log.csv"} | options))
    assert words in told, told


def parquet_file(folder: Path, n_rows: int = 60, **columns: Any) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    log = {"user": [n % 9 for n in range(n_rows)], "item": [n % 7 for n in range(n_rows)],
           "label": [n % 2 for n in range(n_rows)], "timestamp": list(range(n_rows))}  # fmt: skip
    parquet.write_table(pa.table(log | columns), folder / "log.parquet")
    return folder / "log.parquet"


def filled(value: Any, *first: Any) -> list[Any]:
    return [*first, *[value] * (60 - len(first))]


X = {"features": {"context": {"x": "categorical"}}}
MULTI = {"features": {"context": {"x": "multi"}}}
PARQUET: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a user of none": ({"user": filled(1, 2, None)}, {}, "row 2: column 'user'"),
    "a user of nan": ({"user": filled(1.0, 2.0, float("nan"))}, {}, "row 2: column 'user'"),
    "a user of inf": ({"user": filled(1.0, 2.0, float("inf"))}, {}, "row 2: column 'user'"),
    "a user with a fraction": ({"user": filled(1.0, 2.0, 1.5)}, {}, "row 2: column 'user' = '1.5'"),
    "a float user from 2^53": ({"user": filled(1.0, 2.0, 2.0**53)}, {}, "row 2: column 'user'"),
    "a decimal with a fraction": ({"user": filled(Decimal("1.0"), Decimal("1.5"))}, {}, "row 1: column 'user'"),
    "a user of bytes": ({"user": filled(b"x")}, {}, "column 'user': is binary"),
    "a user of structs": ({"user": filled({"a": 1})}, {}, "column 'user': is struct"),
    "a user of flags": ({"user": filled(True)}, {}, "column 'user'"),
    "an item of empty text": ({"item": filled("a", "b", "")}, {}, "row 2: column 'item'"),
    "a time of none": ({"timestamp": filled(1, 2, None)}, {}, "row 2: column 'timestamp'"),
    "a time of nan": ({"timestamp": filled(1.0, float("nan"))}, {}, "row 1: column 'timestamp'"),
    "a time of flags": ({"timestamp": filled(True)}, {}, "column 'timestamp'"),
    "a label of text": ({"label": filled("good")}, {}, "column 'label'"),
    "a label of 0.5": ({"label": filled(1.0, 0.5)}, {}, "row 1: column 'label' = '0.5'"),
    "a label of dates": ({"label": filled(__import__("datetime").datetime(2024, 1, 1))}, {}, "column 'label'"),
    "values of bytes": ({"x": filled(b"x")}, X, "column 'x': is binary"),
    "values of maps": ({"x": filled({"a": 1})}, MULTI, "column 'x': is struct"),
    "values of lists of structs": ({"x": filled([{"a": 1}])}, MULTI, "column 'x': is list"),
    "values with the separator": ({"x": filled(["a|b"])}, MULTI, "a value holds '|'"),
    "a huge number": ({"x": filled(1.0, 1e200)}, NUMERIC, "row 1: column 'x'"),
    "no such column": ({}, X, "no column 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARQUET)
def test_a_bad_parquet_file_is_named_by_file_row_and_column(name, folder, capsys, monkeypatch):
    columns, options, words = PARQUET[name]
    parquet_file(folder, **columns)
    told = refused_by(capsys, monkeypatch, lambda: prepared("parquet", {"path": "log.parquet"} | options))
    assert words in told, told


NO_PARQUET = {
    "nothing": b"", "text": LOG.encode(), "a mark alone": b"PAR1", "two marks": b"PAR1" + bytes(8) + b"PAR1",
    "half": None, "gzip": gzip.compress(LOG.encode()), "a long footer": b"PAR1" + b"\xff" * 8 + b"PAR1",
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PARQUET)
def test_what_is_no_parquet_file_is_named(name, folder, capsys, monkeypatch):
    content = NO_PARQUET[name]
    (folder / "log.parquet").write_bytes(parquet_file(folder).read_bytes()[:-20] if content is None else content)
    assert "log.parquet: is" in refused_by(capsys, monkeypatch, lambda: prepared("parquet", {"path": "log.parquet"}))


MOVIES = {
    "u.data": "".join(f"{n % 9 + 1}\t{n % 7 + 1}\t{n % 5 + 1}\t{n}\n" for n in range(60)),
    "u.user": "".join(f"{n}|30|M|writer|12345\n" for n in range(1, 10)),
    "u.item": "".join(f"{n}|Film ({1990 + n})|1-Jan-1990||url|{'|'.join('0' * 19)}\n" for n in range(1, 8)),
}
BAD_MOVIES: dict[str, tuple[dict[str, str | None], str]] = {
    "no ratings": ({"u.data": None}, "holds neither"),
    "no users": ({"u.user": None}, "holds neither"),
    "no items": ({"u.item": None}, "holds neither"),
    "empty ratings": ({"u.data": ""}, "u.data"),
    "a rating too short": ({"u.data": MOVIES["u.data"] + "1\t2\t3\n"}, "u.data:61: 3 fields"),
    "a rating too long": ({"u.data": MOVIES["u.data"] + "1\t2\t3\t4\t5\n"}, "u.data:61: 5 fields"),
    "a rating of words": ({"u.data": MOVIES["u.data"] + "1\t2\tgood\t4\n"}, "u.data:61: column 'rating'"),
    "a time of words": ({"u.data": MOVIES["u.data"] + "1\t2\t3\tsoon\n"}, "u.data:61: column 'timestamp'"),
    "an empty user": ({"u.data": MOVIES["u.data"] + "\t2\t3\t4\n"}, "u.data:61: column 'user_id'"),
    "a user twice": ({"u.user": MOVIES["u.user"] * 2}, "u.user:10: column 'user_id'"),
    "a user too short": ({"u.user": "1|30|M\n"}, "u.user:1: 3 fields"),
    "an age of words": ({"u.user": MOVIES["u.user"].replace("|30|", "|old|", 1)}, "u.user:1: column 'age'"),
    "an item twice": ({"u.item": MOVIES["u.item"] * 2}, "u.item:8: column 'item_id'"),
    "an item too short": ({"u.item": "1|Film\n"}, "u.item:1: 2 fields"),
}


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", BAD_MOVIES)
def test_bad_movielens_files_are_named_by_file_and_line(name, archive, folder, capsys, monkeypatch):
    changes, words = BAD_MOVIES[name]
    files = {name: text.encode() for name, text in (MOVIES | changes).items() if text is not None}
    if archive:
        (folder / "ml").write_bytes(zipped(**files))
    else:
        (folder / "ml").mkdir()
        for file, content in files.items():
            (folder / "ml" / file).write_bytes(content)
    told = refused_by(capsys, monkeypatch, lambda: prepared("ml-100k", {"path": "ml"}))
    assert words in told, told


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", zipped(**{"u.data": bytes(2**27)})], ids=range(4))
def test_what_is_no_movielens_archive_is_named(content, folder, capsys, monkeypatch):
    (folder / "ml.zip").write_bytes(content)
    assert "ml.zip" in refused_by(capsys, monkeypatch, lambda: prepared("ml-100k", {"path": "ml.zip"}))


# Run directories: a file of one, what stands in it, and the verbs that it stops.

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(8)
)
CONFIGS = {
    "nothing": "", "a number": "5", "a list": "- 1", "a word": "word",
    "half a list": "model: [", "a tab": "model:\n\tname: fm",
    "bytes": b"\xff\xfe\x00", "NUL": "a\0: 1",
    "a tag": "model: !!python/object/apply:os.system [touch canary]", "a bomb": BOMB,
    "a circle": "model: &a [*a]", "depth": f"model: {'[' * 5000}", "a model alone": "model: {name: fm}",
    "no such model": "model: {name: nope}", "a null": "model: null", "a number as model": "model: 5",
    "keys twice": "model: {name: fm}\nmodel: {name: fm}", "a key of a list": "? [1, 2]\n: 3",
}  # fmt: skip


@pytest.mark.parametrize("verb", ["resume", "compare"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_configuration_of_a_run_is_named(name, verb, folder, capsys, write_run):
    content = CONFIGS[name]
    (write_run("run") / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    write_run("other")
    if verb == "compare" and name in ("a model alone", "no such model", "a number as model", "keys twice", "a null"):
        pytest.skip("compare shows configurations of any content")
    refused(capsys, [verb, "run"] if verb == "resume" else [verb, "other", "run"])


def test_a_pipe_in_a_run_directory_is_not_waited_for(folder, capsys, write_run):
    path = write_run("run") / "config.yaml"
    path.unlink()
    os.mkfifo(path)
    for verb in (["resume", "run"], ["compare", "run", "run"]):
        assert "config.yaml" in refused(capsys, verb)


# Through a process of its own: what it prints is what the user sees.


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["trainer.epochs=0"], {}),
        (["model=\udcff"], {"PYTHONIOENCODING": "ascii"}),
        (["dataset=csv", "dataset.path=\u6027\u522b\x1b[31m.csv"], {"PYTHONIOENCODING": "ascii"}),
        (["dataset=csv", "dataset.path=fifo"], {"LC_ALL": "C"}),
        (["show", "a\x1b]0;title\x07b"], {}),
        (["--nope\x1b[2J"], {}),
    ],
)
def test_a_terminal_gets_one_line_that_it_can_show(arguments, variables, folder):
    os.mkfifo(folder / "fifo")
    command = [sys.executable, "-m", "recexp", *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **variables}, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"recexp: ") and done.stderr.count(b"\n") == 1
    assert not any(byte < 32 for byte in done.stderr[:-1])
    assert listing() == ["fifo"]
