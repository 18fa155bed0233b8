"""Recommendations are the best of all items, as scoring each pair of a user and an item finds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp import registry
from recexp.error import ConfigError, DataError
from recexp.metric import item_scores
from recexp.run.trained import Trained

SMALL = ("dataset.n_users=30", "dataset.n_items=25", "dataset.n_events=900", "dataset.max_history=4",
         "dataset.cache_dir=null", "device=cpu", "trainer.threads=1", "trainer.epochs=1")  # fmt: skip
MODELS = ("din", "bst", "als")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """load("din"): the run of that model, trained once, on data without context for `als`."""
    folder = tmp_path_factory.mktemp("runs")

    def load(model: str) -> Trained:
        if not (path := folder / model).exists():
            context = ["~dataset.features.context.device"] if model == "als" else []
            recexp.train(recexp.load_config([*SMALL, *context, f"model={model}", f"run.dir={path}"]))
        return recexp.load_run(path, eval_batch_size=64)

    return load


def requests(run: Trained, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"user": run.dataset.log.users.raw[1:], "device": 1} | columns)


def events(run: Trained) -> pd.DataFrame:
    raw = registry.get("reader", "synthetic")(run.config.dataset).read()
    return pd.DataFrame({"user": raw.user, "item": raw.item, "timestamp": raw.timestamp})


def brute_force(run: Trained, users: pd.DataFrame, items: pd.Series, k: int) -> pd.DataFrame:
    """The k best unseen items of each user, by predicting all pairs."""
    pairs = users.merge(items, how="cross")
    pairs["score"] = run.predict(pairs, history="saved")
    known = events(run).rename(columns={"timestamp": "at"})
    seen = pairs.merge(known, on=["user", "item"]).query("at < timestamp")[["user", "item"]].drop_duplicates()
    left = pairs.merge(seen, how="left", indicator=True).query("_merge == 'left_only'")
    ordered = left.sort_values(["user", "score"], ascending=[True, False], kind="stable")
    ordered["rank"] = ordered.groupby("user").cumcount() + 1
    return ordered[ordered["rank"] <= k][["user", "item", "rank", "score"]].reset_index(drop=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("when", ["middle", "end"])
def test_the_best_items_are_those_of_brute_force_over_all_pairs(
    load: Callable[..., Trained], model: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_scores, "LARGEST", 200)  # a few users a block
    run = load(model)
    end = int(events(run).timestamp.max())
    users = requests(run, timestamp=end + 1 if when == "end" else end - end // 20)
    items = pd.Series(run.dataset.log.items.raw[1:], name="item")
    found, expected = run.recommend(users, k=3), brute_force(run, users, items, k=3)
    assert found[["user", "rank"]].equals(expected[["user", "rank"]].astype(found[["user", "rank"]].dtypes))
    assert np.allclose(found.score, expected.score, atol=1e-6)
    assert (found.item == expected.item).mean() > 0.95  # all but ties within rounding
    if when == "end":
        assert run.recommend(users.drop(columns="timestamp"), k=3).equals(found.drop(columns="timestamp"))


def test_what_a_user_has_had_is_left_out_also_if_the_run_has_not_kept_its_event_unless_it_is_wanted(
    load: Callable[..., Trained],
) -> None:
    run = load("din")
    pairs = set(map(tuple, events(run)[["user", "item"]].to_numpy()))
    kept = len(run.dataset.log)
    assert run.dataset.earlier is not None and kept < len(events(run))
    new = run.recommend(requests(run), k=99)
    assert len(new) == 30 * 25 - len(pairs) and not pairs & set(zip(new.user, new.item, strict=True))
    every = run.recommend(requests(run), k=99, keep_seen=True)
    assert len(every) == 30 * 25 and every["rank"].max() == 25
    assert every.groupby("user").score.apply(lambda score: score.is_monotonic_decreasing).all()


def test_candidates_and_users_may_be_few_or_new(load: Callable[..., Trained]) -> None:
    run = load("din")
    chosen = [3, 5, 8]
    users = requests(run).iloc[[4, 2]]
    found = run.recommend(users, k=2, items=chosen, keep_seen=True)
    assert set(found.item) <= {*chosen} and found.user.tolist() == [*users.user[:1]] * 2 + [*users.user[1:]] * 2
    items = pd.DataFrame({"item": [10**6, 3], "price": [0.5, None], "brand": [1, None]})
    both = run.recommend(pd.DataFrame({"user": [10**7], "device": [1]}), items=items)
    assert {*both.item} == {10**6, 3} and both["rank"].tolist() == [1, 2] and (both.user == 10**7).all()


def test_a_ranker_ranks_no_item_that_training_lacks_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = ["model=popularity", "trainer=next_item", "dataset.label=implicit", f"run.dir={tmp_path / 'run'}"]
    recexp.train(recexp.load_config([*SMALL, *ranker]))
    run = recexp.load_run(tmp_path / "run")
    found = run.recommend(requests(run).head(2), items=[3, 5, 10**6], keep_seen=True)
    assert set(found.item) == {3, 5}
    assert "items: 1 of 3 items are not in the training split, so this model ranks none of them." in caplog.text
    with pytest.raises(DataError, match="items: 1 of 1 items are not in the training split"):
        run.recommend(requests(run), items=[10**6])


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_a_number_of_items_that_is_none_is_one_line(load: Callable[..., Trained], k: Any) -> None:
    with pytest.raises(ConfigError, match=f"^k = {k}: must be a whole number, 1 or more"):
        load("als").recommend(k=k)


def test_all_users_are_asked_for_if_nothing_of_the_moment_is_needed(load: Callable[..., Trained]) -> None:
    run = load("als")
    assert run.recommend(k=2).equals(run.recommend(run.dataset.log.users.raw[1:], k=2))
    assert len(run.recommend(k=2)) == 60
    with pytest.raises(ConfigError, match="users: a score depends on device; give"):
        load("din").recommend()
    with pytest.raises(DataError, match=r"users: no column 'device' \(dataset.features.context\)"):
        load("din").recommend([1, 2])
    for given in (5, "ann"):
        with pytest.raises(
            ConfigError, match=rf"users = {given!r}: must be a frame or a list of ids, as \[{given!r}\]"
        ):
            run.recommend(given)


def test_a_model_that_reads_the_time_is_asked_at_a_time(tmp_path: Path) -> None:
    timed = ["model=fm", "dataset.features.derived.time=[hour]", "~dataset.features.context.device"]
    recexp.train(recexp.load_config([*SMALL, *timed, f"run.dir={tmp_path / 'run'}"]))
    run = recexp.load_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="users: a score depends on timestamp; give"):
        run.recommend()
    with pytest.raises(DataError, match="users: no column 'timestamp'"):
        run.recommend([1, 2])
    last = int(run.dataset.log.timestamp.max()) // 86_400 * 86_400 + 86_400
    by_hour = [run.recommend(requests(run, timestamp=last + hour * 3600).head(3)) for hour in (2, 26, 15)]
    assert by_hour[0].score.equals(by_hour[1].score) and not by_hour[0].score.equals(by_hour[2].score)


def test_a_model_that_reads_no_context_is_asked_without_it_and_does_not_call_it_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "recexp")
    ranker = ["model=gru4rec", "trainer=next_item", "dataset.label=implicit", f"run.dir={tmp_path / 'run'}"]
    recexp.train(recexp.load_config([*SMALL, *ranker]))
    run = recexp.load_run(tmp_path / "run")
    assert "device" in run.dataset.encoder.context.fields
    found = run.recommend(k=2)
    assert len(found) == 60 and found.equals(run.recommend(requests(run), k=2))
    pairs = pd.DataFrame({"user": 1, "item": [3, 5], "timestamp": 10**9})
    assert run.predict(pairs).equals(run.predict(pairs.assign(device=1)))
    assert "unknown to the model" not in caplog.text


def test_a_model_that_scores_many_items_at_once_scores_as_pair_by_pair(
    load: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load("din")
    at_once = run.recommend(requests(run), k=99)
    monkeypatch.delattr(type(run.model), "score")
    by_pair = run.recommend(requests(run), k=99)
    assert np.allclose(at_once.score, by_pair.score, atol=1e-6)


def test_a_file_of_names_with_another_separator_is_told_with_it(
    load: Callable[..., Trained], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from recexp.cli import run as command

    (tmp_path / "names.csv").write_text("item;title\n1;One\n")
    typed = ["recommend", str(load("als").path), "-o", f"{tmp_path}/top.csv", "--names", f"{tmp_path}/names.csv"]
    assert command(typed) == 2 and not (tmp_path / "top.csv").exists()
    assert "The header is one column, 'item;title'; set 'dataset.separator=\";\"'" in capsys.readouterr().err


def test_the_verb_writes_them(load: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recexp.cli import run as command

    run = load("als")
    monkeypatch.setattr(item_scores, "LARGEST", 100)
    monkeypatch.chdir(tmp_path)
    for file in ("top.csv", "top.parquet"):
        assert command(["recommend", str(run.path), "-k", "2", "-o", file]) == 0
        found = pd.read_csv(file) if file.endswith("csv") else pd.read_parquet(file)
        assert np.allclose(found, run.recommend(k=2), atol=1e-12) and list(found) == ["user", "item", "rank", "score"]
    Path("names.csv").write_text('item,title,user\n1,"One, or first",x\n2,Two,y\n1,again,z\n')
    assert command(["recommend", str(run.path), "-k", "2", "-o", "named.csv", "--names", "names.csv"]) == 0
    named = pd.read_csv("named.csv")
    assert list(named) == ["user", "item", "rank", "score", "title", "user_of_item"]
    titles = {1: "One, or first", 2: "Two"}
    assert named.title.fillna("").tolist() == [titles.get(item, "") for item in named.item] and len(named) == 60
    Path("few.csv").write_text("user\n3\n1\n")
    assert command(["recommend", str(run.path), "-k", "1", "-o", "few.parquet", "--users", "few.csv"]) == 0
    assert pd.read_parquet("few.parquet").user.tolist() == [3, 1]


def test_the_times_that_are_given_stand_beside_the_users(load: Callable[..., Trained]) -> None:
    run = load("din")
    first, last = run.dataset.log.timestamp.min(), run.dataset.log.timestamp.max() + 9
    users = pd.concat(
        [requests(run).iloc[[1, 1]].assign(timestamp=[first, last]), requests(run, timestamp=last).tail(1)]
    )
    found = run.recommend(users, k=3)
    assert [*found] == ["user", "timestamp", "item", "rank", "score"]
    assert found.timestamp.tolist() == [first] * 3 + [last] * 6
    assert found.user.tolist() == [user for user in users.user for _ in range(3)]
    assert [*run.recommend(requests(run).head(1))] == ["user", "item", "rank", "score"]
