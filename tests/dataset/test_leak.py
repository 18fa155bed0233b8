"""Columns that hold the label or the future are told, honest ones are not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.config import DatasetConfig, FeatureKind, SplitKind
from recexp.dataset.leak import _auc, _ranks
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw

MakeConfig = Callable[..., DatasetConfig]
N_USERS, N_ITEMS, N_EVENTS = 150, 120, 6000


@pytest.fixture(scope="module")
def raw() -> Raw:
    """Ratings from 1 to 5 of users and items that are liked to different degrees."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(N_USERS, size=N_EVENTS), (N_ITEMS * rng.random(N_EVENTS) ** 2).astype(int)
    liking = rng.normal(size=N_USERS)[user] + rng.normal(size=N_ITEMS)[item]
    rating = np.clip(np.round(3 + 0.6 * liking + rng.normal(size=N_EVENTS)), 1, 5)
    return Raw(origin="made up", label=rating, user=user, item=item, timestamp=np.arange(N_EVENTS))


def warned(raw: Raw, config: DatasetConfig) -> list[str]:
    """All but that the test is small, which it is."""
    return [line for line in prepare(raw, config).facts["warnings"] if "standard error" not in line]


def of_side(raw: Raw, side: str, column: pd.Series) -> Raw:
    return replace(raw, **{f"{side}s": pd.DataFrame({"x": column})})


def statistics(raw: Raw, side: str, rows: np.ndarray | slice) -> dict[str, pd.Series]:
    """Statistics of some rows by user or item."""
    frame = pd.DataFrame({"entity": getattr(raw, side)[rows], "rating": raw.label[rows]})
    frame["label"] = (frame["rating"] >= 4).astype(float)
    grouped = frame.groupby("entity")
    smoothed = (grouped["label"].sum() + 10 * frame["label"].mean()) / (grouped["label"].count() + 10)
    return {
        "mean label": grouped["label"].mean(),
        "mean rating": grouped["rating"].mean(),
        "smoothed mean label": smoothed,
        "number of events": grouped["label"].count().astype(float),
    }


@pytest.mark.parametrize("kind", [SplitKind.user_time, SplitKind.time])
@pytest.mark.parametrize("side", ["user", "item"])
def test_a_statistic_over_all_time_is_told_and_one_over_train_is_not(
    side: str, kind: SplitKind, raw: Raw, tiny_config: MakeConfig
) -> None:
    bare = tiny_config(kind, (0.8, 0.1, 0.1), features={}, label_threshold=4.0)
    log = prepare(raw, bare).log
    train = log.row[log.rows("train")]
    for feature in (FeatureKind.numeric, FeatureKind.binned):
        options = {"features": {side: {"x": feature}}, "label_threshold": 4.0, "n_bins": 40}
        config = tiny_config(kind, (0.8, 0.1, 0.1), **options)
        for name, column in statistics(raw, side, slice(None)).items():
            told = warned(of_side(raw, side, column), config)
            if name == "number of events" and (side, kind) == ("user", SplitKind.user_time):
                assert told == []  # train holds as large a share of every user's events
            else:
                assert len(told) == 1 and told[0].startswith(f"{side}.x is the "), (name, feature)
                assert name.split()[-1] in told[0] or "label" in told[0]
        for name, column in statistics(raw, side, train).items():
            assert warned(of_side(raw, side, column), config) == [], (name, feature)


def test_the_number_of_positives_over_all_time_is_told_and_that_over_train_is_not(
    raw: Raw, tiny_config: MakeConfig
) -> None:
    config = tiny_config(SplitKind.time, (0.8, 0.1, 0.1), label_threshold=4.0,
                         features={"item": {"x": FeatureKind.numeric}})  # fmt: skip
    assert raw.item is not None
    train = np.arange(int(0.8 * N_EVENTS))

    def positives(rows: np.ndarray | slice) -> pd.Series:
        return pd.Series(raw.label[rows] >= 4).groupby(raw.item[rows]).sum().astype(float)

    (told,) = warned(of_side(raw, "item", positives(slice(None))), config)
    assert told.startswith("item.x is the number of positives (label) of each item over train, valid and test")
    assert warned(of_side(raw, "item", positives(train)), config) == []


@pytest.mark.parametrize("side", ["user", "item"])
def test_categories_made_of_a_statistic_over_all_time_are_told_and_of_train_are_not(
    side: str, raw: Raw, tiny_config: MakeConfig
) -> None:
    def tenths(rows: np.ndarray | slice) -> pd.Series:
        return pd.qcut(statistics(raw, side, rows)["mean rating"], 10, labels=False).astype(str)

    config = tiny_config(SplitKind.time, (0.7, 0.1, 0.2), label_threshold=4.0,
                         features={side: {"x": FeatureKind.categorical}})  # fmt: skip
    (told,) = warned(of_side(raw, side, tenths(slice(None))), config)
    assert told.startswith(f"{side}.x is the ") and "mean rating" in told
    assert warned(of_side(raw, side, tenths(np.arange(int(0.7 * N_EVENTS)))), config) == []
    shuffled = pd.Series(np.random.default_rng(0).permutation(tenths(slice(None))), tenths(slice(None)).index)
    assert warned(of_side(raw, side, shuffled), config) == []


def test_a_column_that_predicts_another_than_the_first_label_is_told(raw: Raw, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.time, (0.8, 0.1, 0.1), features={"context": {"x": FeatureKind.categorical}})
    random = np.random.default_rng(1)
    click, buy = (random.random((2, N_EVENTS)) < 0.5).astype(float)
    buy[::5] = np.nan  # not known
    of_two = replace(raw, label=click, tasks={"click": click, "buy": buy}, context=pd.DataFrame({"x": buy == 1}))
    (told,) = warned(of_two, config)
    assert told.startswith("context.x alone predicts the label buy (auc 1.000 on valid)")
    noise = pd.DataFrame({"x": random.permutation(buy == 1)})
    assert warned(replace(of_two, context=noise), config) == []


def test_a_statistic_written_beside_each_event_is_told_too(raw: Raw, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.user_time, (0.8, 0.1, 0.1), label_threshold=4.0,
                         features={"context": {"x": FeatureKind.numeric}})  # fmt: skip
    over_all = statistics(raw, "item", slice(None))["mean rating"].loc[raw.item].to_numpy()
    assert warned(replace(raw, context=pd.DataFrame({"x": over_all})), config) == [
        "context.x is the mean rating of each item over train, valid and test: it tells what test asks."
    ]
    earlier = pd.Series(raw.label).groupby(raw.item).transform(lambda rating: rating.shift().expanding().mean())
    assert warned(replace(raw, context=pd.DataFrame({"x": earlier})), config) == []


def test_a_statistic_in_a_file_that_joins_a_table_is_told_too(raw: Raw, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.random, (0.8, 0.1, 0.1), label_threshold=4.0,
                         features={"item": {"x": FeatureKind.numeric}})  # fmt: skip
    over_all = of_side(raw, "item", statistics(raw, "item", slice(None))["mean rating"])
    assert warned(replace(over_all, user=None, users=None, timestamp=None), config) == [
        "context.x is the mean rating of each item over train, valid and test: it tells what test asks."
    ]


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_quality_known_from_elsewhere_is_no_leak(side: str, raw: Raw, tiny_config: MakeConfig) -> None:
    """Statistics of half of the data, as of another site, for the other half."""
    other = raw.item if side == "user" else raw.user
    assert other is not None and raw.user is not None and raw.item is not None and raw.timestamp is not None
    elsewhere = other % 2 == 0
    columns = {name: getattr(raw, name)[~elsewhere] for name in ("label", "user", "item", "timestamp")}
    here = replace(raw, **columns)
    config = tiny_config(SplitKind.user_time, (0.8, 0.1, 0.1), label_threshold=4.0,
                         features={side: {"x": FeatureKind.numeric}})  # fmt: skip
    for name, column in statistics(raw, side, elsewhere).items():
        assert warned(of_side(here, side, column), config) == [], name


LEAKS = {
    "the rating itself": lambda rating, rng: (rating, FeatureKind.numeric),
    "the rating as a category": lambda rating, rng: (rating, FeatureKind.categorical),
    "a number that is small or large where liked": lambda rating, rng: (np.abs(rating - 3.2), FeatureKind.numeric),
    "seconds watched": lambda rating, rng: (np.where(rating >= 4, rng.random(len(rating)), 0), FeatureKind.numeric),
    "a list that grows": lambda rating, rng: (np.where(rating >= 4, "a|b", "a"), FeatureKind.multi),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.8, 0.0, 0.2)])
def test_a_column_that_alone_predicts_the_label_is_told(
    leak: str, ratios: tuple[float, float, float], raw: Raw, tiny_config: MakeConfig
) -> None:
    if leak.startswith("a number"):
        raw = replace(raw, label=np.where(raw.label == 3, 1, 5))
    column, kind = LEAKS[leak](raw.label, np.random.default_rng(1))
    config = tiny_config(SplitKind.time, ratios, label_threshold=4.0, features={"context": {"x": kind}})
    told = [line for line in warned(replace(raw, context=pd.DataFrame({"x": column})), config) if "context.x" in line]
    assert len(told) == 1 and "alone predicts the label (auc 1.000 on " in told[0]


def test_a_good_column_is_no_leak(raw: Raw, tiny_config: MakeConfig) -> None:
    rng = np.random.default_rng(1)
    hint = (raw.label >= 4) + rng.normal(scale=0.6, size=N_EVENTS)  # auc .88
    config = tiny_config(SplitKind.user_time, (0.8, 0.1, 0.1), label_threshold=4.0,
                         features={"context": {"x": FeatureKind.numeric}})  # fmt: skip
    assert warned(replace(raw, context=pd.DataFrame({"x": hint})), config) == []


def test_auc_and_ranks_are_those_of_pandas_and_of_all_pairs() -> None:
    rng = np.random.default_rng(2)
    score, label = rng.integers(6, size=80), rng.integers(2, size=80)
    assert _ranks(score).tolist() == pd.Series(score).rank().tolist()
    won = [(a > b) + (a == b) / 2 for a in score[label == 1] for b in score[label == 0]]
    assert _auc(label, score) == pytest.approx(np.mean(won))
    assert np.isnan(_auc(np.ones(3), score[:3]))


N_COMPONENTS = 40


def vectors(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=(n, N_COMPONENTS)).astype(np.float32)


def with_vectors(raw: Raw, side: str, given: np.ndarray) -> Raw:
    frame = pd.DataFrame({"x": list(given)})
    return replace(raw, **{"context" if side == "context" else f"{side}s": frame})


def vector_config(tiny_config: MakeConfig, side: str) -> DatasetConfig:
    return tiny_config(SplitKind.user_time, (0.8, 0.1, 0.1), label_threshold=4.0,
                       features={side: {"x": FeatureKind.vector}})  # fmt: skip


@pytest.mark.parametrize(("side", "n"), [("user", N_USERS), ("item", N_ITEMS), ("context", N_EVENTS)])
def test_random_vectors_and_those_learnt_in_train_are_no_leak(
    side: str, n: int, raw: Raw, tiny_config: MakeConfig
) -> None:
    config = vector_config(tiny_config, side)
    for seed in range(5):
        assert warned(with_vectors(raw, side, vectors(np.random.default_rng(seed), n)), config) == [], seed
    if side == "context":
        return
    assert raw.user is not None and raw.item is not None
    log = prepare(raw, tiny_config(SplitKind.user_time, (0.8, 0.1, 0.1), features={}, label_threshold=4.0)).log
    train, matrix = log.row[log.rows("train")], np.zeros((N_USERS, N_ITEMS))
    np.add.at(matrix, (raw.user[train], raw.item[train]), raw.label[train] - 3)
    left, sizes, right = np.linalg.svd(matrix)
    learnt = (left if side == "user" else right.T)[:, :N_COMPONENTS] * sizes[:N_COMPONENTS]
    learnt[:, 3] = statistics(raw, side, train)["mean label"].reindex(range(n)).fillna(0)
    assert warned(with_vectors(raw, side, learnt), config) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_label_in_a_vector_is_told_with_its_component(sign: int, raw: Raw, tiny_config: MakeConfig) -> None:
    given = vectors(rng := np.random.default_rng(1), N_EVENTS)
    given[:, 7] = sign * (raw.label + rng.normal(scale=0.1, size=N_EVENTS))
    (told,) = warned(with_vectors(raw, "context", given), vector_config(tiny_config, "context"))
    assert told.startswith("component 7 (counted from 0) of context.x alone predicts the label (auc 1.000 on valid)")


def test_a_label_in_a_combination_of_components_is_told(raw: Raw, tiny_config: MakeConfig) -> None:
    given = vectors(rng := np.random.default_rng(1), N_EVENTS)
    direction = rng.normal(size=N_COMPONENTS) / np.sqrt(N_COMPONENTS)
    label = np.where(given @ direction > 0, 5, 1)
    (told,) = warned(with_vectors(replace(raw, label=label), "context", given), vector_config(tiny_config, "context"))
    assert told.startswith("a linear combination of context.x alone predicts the label (auc 0.9")


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_statistic_over_all_time_in_a_vector_is_told_with_its_component(
    side: str, raw: Raw, tiny_config: MakeConfig
) -> None:
    given = vectors(np.random.default_rng(1), N_USERS if side == "user" else N_ITEMS)
    mean = statistics(raw, side, slice(None))["mean rating"]
    given[mean.index, 9] = mean
    (told,) = warned(with_vectors(raw, side, given), vector_config(tiny_config, side))
    assert told.startswith(
        f"component 9 (counted from 0) of {side}.x is the mean rating of each {side} over train, valid"
    )
