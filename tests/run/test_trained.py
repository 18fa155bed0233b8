"""A trained model loaded back: it predicts as it did when it was trained, and new rows by what is known before them."""

import json
import runpy
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp import registry
from recexp.dataset.prepare import load
from recexp.error import ConfigError, DataError, RunError
from recexp.run.export.bundle import export
from recexp.run.trained import Trained

SMALL = ("dataset.n_users=40", "dataset.n_items=30", "dataset.n_events=800", "dataset.cache_dir=null", "device=cpu",
         "trainer.threads=1", "trainer.batch_size=256", "trainer.epochs=1", "trainer.eval_batch_size=64")  # fmt: skip
DERIVED = ("dataset.features.derived.last_items=2", "dataset.features.derived.most_liked=[category,tags]")
RUNS = {
    "din": ("model=din",),
    "din_split": ("model=din", "dataset.history_until=split"),
    "dien": ("model=dien",),
    "bst": ("model=bst", "dataset.history=liked", "model.history_labels=false"),
    "deepfm": ("model=deepfm", *DERIVED),
    "timed": ("model=deepfm", "dataset.features.derived.time=[hour,weekday,month]"),
    "fnn": ("model=fnn",),
    "als": ("model=als",),
    "implicit": ("model=din", "dataset.label=implicit", "model.history_labels=false"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """trained("din"): the run of that name, trained once, and loaded anew."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str) -> Trained:
        if not (path := folder / name).exists():
            recexp.train(recexp.load_config([*SMALL, *RUNS[name], f"run.dir={path}"]))
        return recexp.load_run(path)

    return trained


def held_out(run: Trained) -> pd.DataFrame:
    """The test rows as they were predicted, with their context."""
    config = run.config.dataset
    raw, frame = registry.get("reader", config.reader)(config).read(), run.predictions
    log = load(config).log
    rows = np.repeat(log.row[log.rows("test")], len(frame) // len(log.rows("test")))
    return frame.assign(**{name: column.to_numpy()[rows] for name, column in raw.context.items()})


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_own_test_rows_get_the_scores_and_metrics_that_they_had_to_the_bit(
    trained: Callable[[str], Trained], name: str
) -> None:
    run = trained(name)
    frame, metrics = held_out(run), json.loads((run.path / "metrics.json").read_text())
    for history in ("saved", "both"):
        assert run.predict(frame, history).tolist() == frame.score.tolist()
    if name != "implicit":  # there, each row is an event unless its label says no
        assert run.predict(frame.drop(columns="label")).tolist() == frame.score.tolist()
    assert run.evaluate() == metrics["test"] and run.evaluate(split="valid") == metrics["valid"]
    assert run.evaluate(frame, history="saved") == metrics["test"]
    assert run.epochs.last_stage.sum() == metrics["epochs"] and run.metrics["test.auc"] == metrics["test"]["auc"]


def without_test_rows(run: Trained) -> Trained:
    run.dataset = replace(run.dataset, log=run.dataset.log._subset(np.flatnonzero(run.dataset.log.split < 2)))
    return run


@pytest.mark.parametrize("name", ["din", "deepfm", "bst"])
def test_rows_with_labels_are_history_of_later_rows_whatever_their_order(
    trained: Callable[[str], Trained], name: str
) -> None:
    run = without_test_rows(trained(name))
    frame = held_out(run)
    shuffled = frame.sample(frac=1, random_state=0).sort_values("timestamp")
    if name == "deepfm":  # which of two events of the same time came last, the order of the rows says
        shuffled = frame.sort_values("user", ascending=False, kind="stable")
    assert np.allclose(run.predict(shuffled), shuffled.score, atol=1e-6)
    assert not np.allclose(run.predict(frame, history="saved"), frame.score, atol=1e-6)
    assert not np.allclose(run.predict(frame.drop(columns="label")), frame.score, atol=1e-6)
    once_more = trained(name)  # kept events and rows given are the same events: none counts twice
    assert np.allclose(once_more.predict(shuffled), shuffled.score, atol=1e-6)
    assert not np.allclose(once_more.predict(frame, history="given"), frame.score, atol=1e-6)


def test_a_model_that_serves_without_updates_sees_no_given_rows(trained: Callable[[str], Trained]) -> None:
    run = without_test_rows(trained("din_split"))
    frame = held_out(run)
    assert np.allclose(run.predict(frame), frame.score, atol=1e-6)
    with pytest.raises(ConfigError, match="history_until is split"):
        run.predict(frame, history="given")


def test_new_users_and_items_score_through_the_unknown_id_and_their_features_and_are_counted(
    trained: Callable[[str], Trained], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="recexp")
    run = trained("deepfm")
    known = held_out(run).iloc[[0]].drop(columns=["label", "score"])
    new = pd.concat([known] * 5, ignore_index=True).assign(user=[10**6, 10**6 + 1, 10**6 + 2, 10**6 + 3, known.user[0]])
    new["segment"], new["age"] = [0, 0, 1, None, 0], [0.5, 0.5, 0.5, None, 9.0]
    new["item"] = [*[known.item[0]] * 3, 10**7, known.item[0]]
    scores = run.predict(new)
    assert scores[0] == scores[1] and len({*scores}) == 4
    assert np.isclose(scores[4], run.predict(known).iloc[0], atol=1e-6)  # a known user has the features kept
    assert "unknown to the model, of 5 rows: user in 4, user.segment in 1, item in 1" in caplog.text


def test_ids_and_values_are_the_same_as_text_or_as_numbers(trained: Callable[[str], Trained]) -> None:
    run = trained("deepfm")
    frame = held_out(run)
    as_text = frame.assign(**{name: frame[name].astype(str) for name in ("user", "item", "timestamp", "device")})
    assert run.predict(as_text).tolist() == frame.score.tolist()
    coded = frame.assign(device=frame.device.astype("category"), item=frame.item.astype("category"))
    assert run.predict(coded.set_index("user", drop=False)).tolist() == frame.score.tolist()
    numbers = frame.device.astype(float)
    for device in (numbers, numbers.astype(str)):  # as pandas holds and writes integers beside gaps
        assert run.predict(frame.assign(device=device)).tolist() == frame.score.tolist()
    new = frame.head(3).assign(item=[10**6, 10**6 + 1, 10**6 + 2])
    first, other = tags = np.array(run.dataset.encoder.item.fields["tags"].vocabulary[:2], str)
    texts, lists = (new.assign(tags=cells) for cells in ([f"{first}|{other}", other, None], [[*tags], [other], None]))
    assert run.predict(lists, "saved").tolist() == run.predict(texts, "saved").tolist()


def test_ids_that_a_file_holds_as_fractions_are_those_numbers_in_a_frame(trained: Callable[[str], Trained]) -> None:
    run = trained("din")
    frame, log = held_out(run), run.dataset.log
    run.dataset = replace(
        run.dataset, log=replace(log, items=replace(log.items, raw=np.char.add(log.items.raw.astype(str), ".0")))
    )
    for item in (frame["item"].astype(str) + ".0", frame["item"].astype(int), frame["item"].astype(float)):
        assert run.predict(frame.assign(item=item)).tolist() == frame.score.tolist()


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
def test_date_times_are_taken_in_the_unit_of_the_runs_own_times(
    trained: Callable[[str], Trained], per_second: int
) -> None:
    run = trained("deepfm")
    frame, log, start = held_out(run), run.dataset.log, 1_600_000_000
    run.dataset = replace(run.dataset, log=replace(log, timestamp=(log.timestamp.astype(int) + start) * per_second))
    moments = pd.to_datetime(frame.timestamp + start, unit="s").map(lambda moment: moment.isoformat())
    assert run.predict(frame.assign(timestamp=moments), "saved").tolist() == frame.score.tolist()
    python = frame.assign(timestamp=moments.map(datetime.fromisoformat).astype(object))
    assert run.predict(python, "saved").tolist() == frame.score.tolist()
    halves = moments.where(np.arange(len(frame)) != 0, moments + ".5")  # of a second later
    assert run.predict(frame.assign(timestamp=halves), "saved").tolist()[1:] == frame.score.tolist()[1:]


def test_times_in_another_unit_are_warned_of(
    trained: Callable[[str], Trained], caplog: pytest.LogCaptureFixture
) -> None:
    run = trained("din")
    frame = held_out(run)
    run.predict(frame.assign(timestamp=frame.timestamp + 10**7))
    assert "another unit?" not in caplog.text
    run.predict(frame.assign(timestamp=frame.timestamp * 10**6))
    assert "another unit?" in caplog.text


def test_a_wrong_frame_is_one_line_that_names_column_and_row(trained: Callable[[str], Trained]) -> None:
    run = trained("din")
    frame = held_out(run).drop(columns="score")
    for changed, message in (
        (frame.drop(columns="item"), "frame: no column 'item' .the item of each row.. Did you mean 'time|Choices"),
        (frame.drop(columns="device"), "no column 'device' .dataset.features.context."),
        (frame.assign(user=[*frame.user[:-1], None]), f"row {len(frame) - 1} .*column 'user' = 'nan': must not be"),
        (frame.assign(user="a"), "row 0 .*column 'user' = 'a': must be an integer"),
        (frame.assign(timestamp="soon"), "column 'timestamp' = 'soon': must be"),
        (frame.assign(label=3), "row 0 .*column 'label' = '3': must be 0 or 1, or empty"),
    ):
        with pytest.raises(DataError, match=message):
            run.predict(changed)
    with pytest.raises(ConfigError, match="history = all: no such choice"):
        run.predict(frame, history="all")
    with pytest.raises(DataError, match=r"row 0 .*column 'label' = 'nan': must not be empty"):
        run.evaluate(frame.assign(label=[None, *frame.label[1:]]))
    assert run.predict(frame[:0]).empty


def test_a_table_predicts_its_test_rows_and_is_evaluated_on_its_source(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"label": random.integers(2, size=400), "site": random.integers(8, size=400),
                          "app": random.integers(30, size=400).astype(str), "hour": random.random(400)})  # fmt: skip
    frame.to_csv(tmp_path / "table.csv", index=False)
    columns = [f"dataset.columns.{role}=null" for role in ("user", "item", "timestamp")]
    kinds = "dataset.features.context={site: categorical, app: categorical, hour: numeric}"
    data = [*columns, kinds, f"dataset.path={tmp_path / 'table.csv'}", "dataset.split.kind=random"]
    train = [option for option in SMALL if not option.startswith("dataset.n_")]
    metrics = recexp.train(
        recexp.load_config(["model=deepfm", "dataset=csv", *train, *data, f"run.dir={tmp_path / 'run'}"])
    )
    run = recexp.load_run(tmp_path / "run")
    test = frame.iloc[run.predictions.row]
    assert run.predict(test.drop(columns="label")).tolist() == run.predictions.score.tolist()
    assert run.evaluate() == metrics["test"]
    (tmp_path / "table.csv").unlink()
    assert run.predict(test).tolist() == run.predictions.score.tolist()
    with pytest.raises(DataError, match="no such file"):
        recexp.load_run(run.path).evaluate()


def test_features_of_a_file_that_joins_a_table_are_kept_with_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"label": random.integers(2, size=400), "item": random.integers(40, size=400),
                          "site": random.choice(["a", "b"], size=400)})  # fmt: skip
    features = pd.DataFrame({"item": range(30), "tags": [["x|y", "y", None][n % 3] for n in range(30)],
                             "cost": random.normal(size=30), "image": [f"{n} {n / 7}" for n in range(30)]})  # fmt: skip
    frame.to_csv(tmp_path / "table.csv", index=False)
    features.to_csv(tmp_path / "items.csv", index=False)
    data = ["dataset.columns.user=null", "dataset.columns.timestamp=null", "dataset.split.kind=random",
            f"dataset.path={tmp_path / 'table.csv'}", f"dataset.item_path={tmp_path / 'items.csv'}",
            "+dataset.features.item={tags: multi, cost: numeric, image: vector}",
            "+dataset.features.context={item: categorical, site: categorical}"]  # fmt: skip
    train = [option for option in SMALL if not option.startswith("dataset.n_")]
    metrics = recexp.train(
        recexp.load_config(["model=deepfm", "dataset=csv", *train, *data, f"run.dir={tmp_path / 'run'}"])
    )
    run = recexp.load_run(tmp_path / "run")
    assert [field.name for field in run.dataset.schema.context.fields] == ["item", "site", "tags", "cost", "image"]
    lacking = int((frame["item"] >= 30).sum())
    assert run.dataset.facts["notes"] == [
        f"10 of 40 items, in {lacking} of 400 rows, have no features: their file lacks them"
    ]
    assert run.evaluate() == metrics["test"]
    for name in ("table.csv", "items.csv"):
        (tmp_path / name).unlink()
    test = frame.iloc[run.predictions.row].drop(columns="label")
    with caplog.at_level("INFO"):
        assert run.predict(test).tolist() == run.predictions.score.tolist()
    assert f"lack the item of {(test['item'] >= 30).sum()} of 40 rows; missing in these rows: tags, cost" in caplog.text
    new = test.assign(item=99)
    given = new.assign(**features.drop(columns="item").iloc[3])
    assert (run.predict(given) != run.predict(new)).all()
    assert (run.predict(given.assign(item=4)) == run.predict(test.assign(item=4))).all()  # the known ones count
    with pytest.raises(DataError, match=r"no column 'item' \(dataset\.columns\.item\)"):
        run.predict(test.drop(columns="item"))
    assert export(run, "torch", tmp_path / "out") < 1e-5  # example.py joins its rows itself


def test_more_values_than_rows_are_learnt_by_their_buckets(tmp_path: Path) -> None:
    random, n_buckets = np.random.default_rng(0), 40
    ad = [f"ad{n}" for n in random.integers(50_000, size=5000)]
    odd = np.array([zlib.crc32(text.encode()) % n_buckets % 2 for text in ad])  # what alone decides the label
    frame = pd.DataFrame({"ad": ad, "label": (random.random(5000) < 0.1 + 0.8 * odd).astype(int)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    columns = [f"dataset.columns.{role}=null" for role in ("user", "item", "timestamp")]
    data = [*columns, "dataset.features.context={ad: hash}", f"dataset.n_buckets={n_buckets}"]
    train = ["model=linear", "dataset=csv", "dataset.split.kind=random", f"dataset.path={tmp_path / 'table.csv'}"]
    train += ["dataset.cache_dir=null", "trainer.threads=1", "trainer.learning_rate=0.1", "trainer.epochs=2"]
    metrics = recexp.train(recexp.load_config([*train, *data, f"run.dir={tmp_path / 'run'}"]))
    run = recexp.load_run(tmp_path / "run")
    test = frame.iloc[run.predictions.row]
    assert metrics["test"]["auc"] > 0.87  # of the probabilities themselves it is 0.9
    assert test.ad.isin(frame.ad[~frame.index.isin(test.index)]).mean() < 0.2  # so a vocabulary knows few of them
    assert run.predict(test.drop(columns="label")).tolist() == run.predictions.score.tolist()
    assert export(run, "torch", tmp_path / "out") < 1e-6  # it compares made-up rows itself
    row = {"context": {"ad": test.ad.iloc[0]}}
    score = runpy.run_path(str(tmp_path / "out/example.py"))["scores"]([row])[0]
    assert abs(score - run.predictions.score.iloc[0]) < 1e-6
    notes = run.dataset.facts["notes"]
    assert len(notes) == 1 and notes[0].startswith("values in train, hashed into 40 buckets each: context.ad 3,")


def test_what_is_no_run_says_so() -> None:
    with pytest.raises(RunError, match="no run directory"):
        recexp.load_run("nowhere")
    with pytest.raises(ConfigError, match=r"thread: no option of how a run is used\. Did you mean 'threads'"):
        recexp.load_run("nowhere", thread=1)


def test_rows_without_times_come_after_all_others_and_patterns_are_those_of_training(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": np.arange(300) % 9, "item": np.arange(300) * 5 % 31, "label": np.arange(300) % 2})
    frame = frame.assign(C1=frame["item"] % 3, C2=frame["user"] % 2)
    frame.to_csv(tmp_path / "log.csv", index=False)
    source = ["dataset=csv", f"dataset.path={tmp_path / 'log.csv'}", "dataset.columns.timestamp=null"]
    plain = ["trainer.threads=1", "trainer.epochs=1", "dataset.cache_dir=null", f"run.dir={tmp_path / 'run'}"]
    recexp.train(recexp.load_config(["model=din", *source, "+dataset.features.context={C*:categorical}", *plain]))
    run = recexp.load_run(tmp_path / "run")
    rows = frame.head(5).assign(more="x").drop(columns="label")
    assert run.predict(rows).between(0, 1).all()
    log = load(run.config.dataset).log
    own, train = (frame.iloc[log.row[log.rows(split)]] for split in ("test", "train"))
    mixed = pd.concat([train.head(3).assign(user=99), own.head(2)])
    for history in ("saved", "both"):  # where their own labels would be
        with pytest.raises(DataError, match=r"row 3 .*column 'item' = .* whose label its history would hold"):
            run.evaluate(mixed, history=history)
    assert run.evaluate(own, history="given")["auc"] is not None
    assert run.evaluate(frame.assign(user=99))["auc"] is not None
    with pytest.raises(DataError, match=r"no column 'C2' \(dataset\.features\.context\)"):
        run.predict(rows.drop(columns="C2"))
    with pytest.raises(ConfigError, match=r"^users: a score depends on C1, C2;"):
        run.recommend(k=2)
