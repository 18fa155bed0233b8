"""Bad input of every kind: exit code 2, one line that names the key, file or row, and nothing left behind.

Tables of cases. What is typed goes through the command line; values of options and files of data, of which there are
many, go to the function that the command line calls, and its error through the command line's exit.
"""

import bz2
import copy
import functools
import gzip
import io
import json
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

import pytest
import yaml
from omegaconf import OmegaConf

from recexp import cli, registry
from recexp.compose import compose, model_file
from recexp.groups import conf_folder
from recexp.tree import to_dict
from recexp.validate import check, typed

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
    "trainer.sparse": "maybe 2 null",
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
    "dataset.history": "some null",
    "dataset.features": "null 5 [a]",
    "dataset.features.user": "null 5 [a] {a:some} {a:1}",
    "dataset.features.derived.last_items": "-1 101 1.5 x",
    "dataset.features.derived.most_liked": "5 [nope] [1]",
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
    "run.dir=log.csv/x": ["log.csv/x"],
    "hydra=null": ["hydra"],
    "hydra/launcher=nope": ["launcher = nope"],
    "hydra.mode=NOPE": ["hydra.mode"],
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
    "dataset=csv dataset.path=sub": ["sub: is a folder"],
    "dataset=csv dataset.path=fifo": ["fifo: is no regular file"],
    "-m seed=0,1 trainer.epochs=0": ["trainer.epochs = 0"],
    "-m seed=0,x": ["seed = x"],
    "-m model=fm,nosuch": ["model = nosuch"],
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
    "explain seed --config-dir nope", "explain seed -x", "check --x", "check trainer.epochs=0", "check --config-dir nope",
    "resume", "resume nope", "resume a b", "resume FILE", "resume EMPTY", "resume --trust", "resume --nope RUN",
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
