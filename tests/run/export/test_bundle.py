"""What `recexp export` writes, as a program without recexp uses it."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.cli import run
from recexp.run.export.embeddings import embeddings

FEATURES = ("dataset.features.context={place: categorical, ad: hash, hour: numeric, price: binned, mood: vector}",
            "+dataset.features.context.late=numeric",
            "dataset.features.user={age: binned, street: hash}", "+dataset.features.item.tags=multi",
            "dataset.n_buckets=30", "dataset.n_quotients=5")  # fmt: skip
ROOT = Path(__file__).parents[3]
OPTIONS = ["model=din", "model.history_labels=true", "dataset=csv", "dataset.path=log.csv", *FEATURES,
           "dataset.cache_dir=null", "device=cpu", "trainer.threads=1", "trainer.epochs=1", "run.dir=run"]  # fmt: skip
ALONE = """
import runpy, sys
sys.modules["recexp"] = sys.modules["pandas"] = None  # neither can be imported
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def make_log() -> pd.DataFrame:
    """Users and items with text ids and gaps in every feature."""
    random, n = np.random.default_rng(0), 600
    user, item = random.integers(20, size=n), random.integers(30, size=n)
    return pd.DataFrame({
        "user": [f"u{n:02}" for n in user], "item": [f"i{n}" for n in item], "label": random.integers(2, size=n),
        "timestamp": np.sort(random.integers(10**6, size=n)), "place": random.choice(["home", "away", None], size=n),
        "hour": np.where(random.random(n) < 0.1, np.nan, random.random(n)), "price": random.integers(50, size=n),
        "mood": np.where(random.random(n) < 0.1, None, [f"{x:.3f} {x * x:.3f}" for x in random.normal(3, size=n)]),
        "ad": [f"a{ad}" if ad % 9 else None for ad in random.integers(200, size=n)], "street": user % 7,
        "late": np.where(np.arange(n) < 500, np.nan, 1000.0 * np.arange(n)),  # no number in train
        "age": 20.0 + user, "tags": [None if n == 3 else "|".join(f"t{n % k}" for k in (2, 3)) for n in item],
    })  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run and its export, where all tests work."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_log().to_csv("log.csv", index=False)
        assert run(OPTIONS) == 0
        assert run(["export", "run", "-o", "out"]) == 0
        yield folder


@pytest.mark.slow
def test_the_example_scores_raw_ids_without_recexp_as_the_run_does() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE, "out/example.py"], capture_output=True, text=True, check=True)
    rows = json.loads(Path("out/rows.json").read_text())["rows"]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [[row["user"], row["item"]] for row in rows]
    assert np.allclose([float(line[2]) for line in lines], [row["score"] for row in rows], rtol=0, atol=2e-6)


def test_new_users_items_and_values_are_scored_as_predict_scores_them() -> None:
    known = {"place": "home", "ad": "a17", "hour": 0.25, "price": 7, "mood": [2.5, 6.0], "late": 9e5}
    strange = {"place": "nowhere", "ad": None, "hour": None, "price": None, "mood": None, "late": None}
    history = [{"item": "i3", "label": 1, "age": 900}, {"item": "i4", "label": 0, "age": 30}]
    rows = [
        {"user": "u03", "item": "i5", "context": known},
        {
            "user": {"user": "new", "age": 31, "street": 3.0},
            "item": {"item": "i99", "tags": ["t1", "never"]},
            "context": strange,
        },
        {"user": {"user": "later"}, "item": "i5", "context": known, "history": history},
    ]
    events = [
        {"user": "later", "item": "i3", "timestamp": 100, "label": 1},
        {"user": "later", "item": "i4", "timestamp": 970, "label": 0},
    ]
    asked = [
        {"user": "u03", "item": "i5", "timestamp": -1, **known},
        {"user": "new", "item": "i99", "timestamp": 0, "age": 31, "street": 3.0, "tags": "t1|never", **strange},
        {"user": "later", "item": "i5", "timestamp": 1000, **known},
    ]
    expected = recexp.load_run("run").predict(pd.DataFrame([*asked, *events]))[:3]
    assert len(set(expected)) == 3
    assert np.allclose(runpy.run_path("out/example.py")["scores"](rows), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["{}", "{}.0", "n{}"])
def test_numbers_are_the_ids_and_categories_that_predict_takes_them_for(form: str) -> None:
    log = make_log()[["user", "item", "label", "timestamp"]].assign(place=[n % 5 for n in range(600)])
    for side in ("user", "item"):
        log[side] = [form.format(int(raw[1:])) for raw in log[side]]
    log.assign(place=log.place.map(form.format)).to_csv("numbers.csv", index=False)
    name = f"numbers{len(form)}"
    typed = ["model=fm", "dataset=csv", "dataset.path=numbers.csv", "+dataset.features.context.place=categorical"]
    assert run([*typed, "dataset.cache_dir=null", "trainer.threads=1", "trainer.epochs=3", f"run.dir={name}"]) == 0
    assert run(["export", name, "-o", f"{name}-out"]) == 0
    bundle, trained = runpy.run_path(f"{name}-out/example.py")["scores"], recexp.load_run(name)
    scores = []
    for raw in (7, 7.0, "7", "7.0", "n7", 70):
        row = {"user": raw, "item": raw, "place": 3 if raw == 7 else "3.0"}
        expected = trained.predict(pd.DataFrame([row | {"timestamp": 10**7}]))
        given = {"user": raw, "item": raw, "context": {"place": row["place"]}}
        assert np.allclose(bundle([given]), expected, rtol=0, atol=2e-6), raw
        scores.append(float(expected[0]))
    unknown = scores[-1]
    assert [score != unknown for score in scores[:3]] == [form != "n{}", form != "n{}", form == "{}"]


def test_the_row_that_the_documents_show_is_scored() -> None:
    (row,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "use.md").read_text("utf-8"), re.S)
    assert 0 < runpy.run_path("out/example.py")["scores"]([json.loads(row)])[0] < 1


def test_the_bundle_says_what_the_model_takes() -> None:
    about = json.loads(Path("out/model.json").read_text())
    shapes = {each["name"]: each["shape"] for each in about["inputs"]}
    assert shapes["mask"] == ["batch", "length"] and shapes["history_ids"][:2] == ["batch", "length"]
    assert shapes["context_values"] == ["batch", 4]
    assert "history_age" not in shapes  # din reads none
    assert about["metrics"]["test.auc"] == recexp.load_run("run").metrics["test.auc"]


@pytest.mark.parametrize(
    ("typed", "events"),
    [
        ("dataset.history_until=split", "all events of the training split"),
        ("dataset.history=liked model.history_labels=false", "liked events"),
    ],
)
def test_the_bundle_says_which_events_its_histories_were(typed: str, events: str, tmp_path: Path) -> None:
    made, out = f"run.dir={tmp_path / 'run'}", tmp_path / "out"
    assert run(["model=din", "+experiment=tiny", "trainer.threads=1", *typed.split(), made]) == 0
    assert run(["export", str(tmp_path / "run"), "-o", str(out)]) == 0
    assert json.loads((out / "model.json").read_text())["history"] == events


@pytest.mark.slow
def test_onnx_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="recexp[export] is not installed")
    pytest.importorskip("onnxruntime", reason="recexp[export] is not installed")
    assert run(["export", "run", "--format", "onnx", "-o", "onnx"]) == 0
    monkeypatch.setitem(sys.modules, "torch", None)  # what the bundle does not need
    rows = json.loads(Path("onnx/rows.json").read_text())["rows"]
    assert np.allclose(
        runpy.run_path("onnx/example.py")["scores"](rows), [row["score"] for row in rows], rtol=0, atol=1e-5
    )


def test_embeddings_stand_beside_raw_ids() -> None:
    trained = recexp.load_run("run")
    for side, table in trained.model.embed.embed.sides.items():
        frame = embeddings(trained.model, trained.dataset.encoder, side)
        if side == "context":
            assert frame is None
            continue
        entities = getattr(trained.dataset.log, f"{side}s")
        row = entities.index_of(frame.id.to_numpy())
        vectors = table.table.weight.detach().numpy()[entities.ids[row, 0]]
        assert len(frame) > 10 and np.array_equal(frame.drop(columns="id").to_numpy(), vectors)


def test_a_ranker_gives_the_best_items_that_a_user_has_not_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    typed = ["model=bpr_mf", "trainer=next_item", "dataset=csv", "dataset.path=log.csv", "dataset.label=implicit"]
    assert run([*typed, "dataset.cache_dir=null", "trainer.threads=1", "trainer.epochs=1", "run.dir=ranker"]) == 0
    assert run(["export", "ranker", "-o", "ranking", "--embeddings"]) == 0
    assert list(pd.read_parquet("ranking/item.parquet"))[:2] == ["id", "0"] and Path("ranking/user.parquet").exists()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["example.py"])
    runpy.run_path("ranking/example.py", run_name="__main__")
    rows = json.loads(Path("ranking/rows.json").read_text())["rows"]
    for row, line in zip(rows, capsys.readouterr().out.splitlines()[len(rows) :], strict=True):
        user, *best = line.split()
        assert user == row["user"] and [pair.split(":")[0] for pair in best] == [item for item, _ in row["best"]]
        assert not set(row["seen"]) & {item for item, _ in row["best"]} and len(best) == 3
        assert np.allclose([float(pair.split(":")[1]) for pair in best], [score for _, score in row["best"]], atol=2e-6)


def test_cells_of_many_values_are_padded_beside_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    random, frame = np.random.default_rng(1), make_log()
    words = ["|".join(f"w{n}" for n in random.integers(40, size=size)) for size in random.integers(25, size=len(frame))]
    tags = frame.item.map({item: "|".join(f"t{k}" for k in range(n)) for n, item in enumerate(frame.item.unique())})
    frame.assign(tags=tags, words=words).to_csv("wide.csv", index=False)
    wide = ["model=seq_pooling", "dataset.path=wide.csv", "run.dir=wide", "+dataset.features.context.words=multi",
            "dataset.n_quotients=1"]  # fmt: skip
    assert run([*(option for option in OPTIONS if not option.startswith("model")), *wide]) == 0
    assert run(["export", "wide", "-o", "wide_out"]) == 0  # compares scores itself
    rows = json.loads(Path("wide_out/rows.json").read_text())["rows"]
    encoder = json.loads(Path("wide_out/encoder.json").read_text())
    widths = {field["name"]: field.get("width") for side in encoder.values() for field in side}
    assert (widths["words"], widths["tags"]) == (24, 29)
    new = [rows[0] | {"item": {"item": "new", "tags": [f"t{n}" for n in range(20)]}}]
    assert 0 < runpy.run_path("wide_out/example.py")["scores"](new)[0] < 1
    monkeypatch.setattr("recexp.run.export.padded.MOST", 100)
    assert run(["export", "wide", "-o", "more"]) == 2 and not Path("more").exists()
