"""Each planted fault of the data is told in one line, and data as they should be are told nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.dataset.config import DatasetConfig, FeatureKind, LabelKind, SplitKind
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw
from recexp.dataset.warning import auc_error, warnings_of_run

MakeConfig = Callable[..., DatasetConfig]
DATA = Path(__file__).parents[2].parent / "shared/data"
N_USERS, N_EVENTS = 100, 8000
CONTEXT = {"context": dict.fromkeys(("page", "place", "hour"), FeatureKind.categorical)}


@pytest.fixture(scope="module")
def raw() -> Raw:
    """A log of users with 80 events each, in the order of time."""
    rng = np.random.default_rng(0)
    return Raw(
        origin="made up",
        label=rng.integers(2, size=N_EVENTS),
        user=np.arange(N_EVENTS) % N_USERS,
        item=rng.integers(50, size=N_EVENTS),
        timestamp=np.arange(N_EVENTS),
        split=np.repeat(["train", "valid", "test"], [6400, 800, 800]).astype(object),
    )


def table(n_pages: int, seed: int = 0) -> Raw:
    """Rows of three columns, one of them with so many values."""
    rng = np.random.default_rng(seed)
    columns = {"page": rng.integers(n_pages, size=N_EVENTS), "place": rng.integers(4, size=N_EVENTS),
               "hour": rng.integers(24, size=N_EVENTS)}  # fmt: skip
    label = rng.random(N_EVENTS) < rng.uniform(0.3, 0.7, n_pages)[columns["page"]]
    return Raw(origin="made up", label=label.astype(int), context=pd.DataFrame(columns))


def rows(raw: Raw, index: np.ndarray) -> Raw:
    columns = {name: value[index] for name, value in vars(raw).items() if isinstance(value, np.ndarray)}
    return replace(raw, context=None if raw.context is None else raw.context.iloc[index], **columns)


def warned(raw: Raw, config: DatasetConfig) -> list[str]:
    return prepare(raw, config).facts["warnings"]


@pytest.mark.parametrize("kind", [SplitKind.user_time, SplitKind.time, SplitKind.leave_last_out, SplitKind.given])
def test_a_log_as_it_should_be_is_told_nothing_but_that_its_test_is_small(
    kind: SplitKind, raw: Raw, tiny_config: MakeConfig
) -> None:
    told = warned(raw, tiny_config(kind, (0.8, 0.1, 0.1), features={}))
    assert all("standard error" in line for line in told)
    assert bool(told) == (kind is SplitKind.leave_last_out)  # 100 rows


@pytest.mark.parametrize("n_pages", [1, 20, 100_000])
@pytest.mark.parametrize("kind", [SplitKind.random, SplitKind.given])
def test_a_table_as_it_should_be_is_told_nothing_however_many_rows_are_alike_by_nature(
    kind: SplitKind, n_pages: int, raw: Raw, tiny_config: MakeConfig
) -> None:
    assert warned(replace(table(n_pages), split=raw.split), tiny_config(kind, (0.8, 0.1, 0.1), features=CONTEXT)) == []


def test_test_rows_copied_into_train_are_told(raw: Raw, tiny_config: MakeConfig) -> None:
    copied = np.arange(7200, 7200 + 40)
    index = np.concatenate([np.arange(N_EVENTS), copied])
    config = tiny_config(SplitKind.given, features={})
    split = np.append(raw.split, ["train"] * len(copied))
    told = warned(replace(rows(raw, index), split=split), config)
    assert len(told) == 1 and "stand in train too: the same user, item and time, the same label" in told[0]
    told = warned(replace(rows(table(100_000), index), split=split), replace(config, features=tables(tiny_config)))
    assert len(told) == 1 and "stand in train too: the same fields, the same label" in told[0]


def tables(tiny_config: MakeConfig) -> object:
    return tiny_config(features=CONTEXT).features


def test_a_table_of_which_each_row_stands_twice_is_told(tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.random, (0.8, 0.1, 0.1), features=CONTEXT)
    told = warned(rows(table(100_000), np.repeat(np.arange(N_EVENTS), 2)), config)
    assert sum("% of test rows with label" in line and "stand in train too" in line for line in told) == 1


def test_a_test_that_lies_before_its_train_is_told(raw: Raw, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.given, features={})
    assert warned(replace(raw, split=raw.split[::-1]), config) == [  # type: ignore[index]
        "split.kind = given: 100% of test rows are earlier than a training event of their user."
    ]
    assert raw.user is not None
    strangers = np.where(raw.split == "train", raw.user, raw.user + N_USERS)  # type: ignore[operator]
    told = warned(replace(raw, user=strangers[::-1], split=raw.split[::-1]), config)  # type: ignore[index]
    assert any("test lies before train in time" in line for line in told)


def test_users_and_items_that_no_training_row_has_are_told(raw: Raw, tiny_config: MakeConfig) -> None:
    assert raw.user is not None and raw.item is not None
    later = raw.split != "train"
    config = tiny_config(SplitKind.given, features={})
    for name in ("user", "item"):
        column = getattr(raw, name)
        for new, expected in ((40, False), (60, True)):
            strange = later & (np.arange(N_EVENTS) % 100 < new)
            told = warned(replace(raw, **{name: np.where(strange, column + 1000, column)}), config)
            assert [f"of test rows are of {name}s that no training row has" in line for line in told] == [
                True
            ] * expected


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_of_one_class_is_told(split: str, raw: Raw, tiny_config: MakeConfig) -> None:
    label = np.where(raw.split == split, 1, raw.label)
    config = tiny_config(SplitKind.given, features={})
    assert warned(replace(raw, label=label), config) == [
        f"every label of {split} is 1: auc and gauc have no value there."
    ]
    assert warned(replace(raw, label=label), replace(config, label=LabelKind.implicit)) == []


def test_a_valid_split_without_rows_is_told(raw: Raw, tiny_config: MakeConfig) -> None:
    told = warned(raw, tiny_config(SplitKind.time, (0.8, 0.0, 0.2), features={}))
    assert told == ["valid has no rows: no epoch and no threshold can be chosen on it."]


def test_a_small_test_is_told_with_the_difference_that_chance_can_make(raw: Raw, tiny_config: MakeConfig) -> None:
    told = warned(raw, tiny_config(SplitKind.time, (0.9, 0.06, 0.04), features={}))
    assert len(told) == 1
    assert told[0].startswith("test has 320 rows: the standard error of auc is about 0.027, so differences below 0.05 ")


def test_a_run_that_computes_no_auc_is_told_all_but_its_error(raw: Raw, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.time, (0.96, 0.0, 0.04), features={})
    dataset = prepare(raw, config)
    told, left = (warnings_of_run(dataset, config, auc=auc) for auc in (True, False))
    assert told == dataset.facts["warnings"] == [*left, told[1]] and "standard error of auc" in told[1]
    assert left == ["valid has no rows: no epoch and no threshold can be chosen on it."]


def test_the_standard_error_of_auc_is_that_of_drawn_tests() -> None:
    rng = np.random.default_rng(0)
    shift = 0.9539  # of normal scores, for an auc of .75
    drawn = []
    for _ in range(1500):
        positive, negative = rng.normal(shift, size=60), rng.normal(size=140)
        drawn.append((positive[:, None] > negative).mean())
    assert np.std(drawn) == pytest.approx(auc_error(60, 140), rel=0.1)


def test_warnings_are_kept_with_the_prepared_data(compose: Callable, tmp_path: Path) -> None:
    config = replace(compose("dataset.split.kind=random").dataset, cache_dir=str(tmp_path))
    made, read = (load(config).facts["warnings"] for _ in range(2))
    assert made == read and any("split.kind = random" in line for line in made)


FRAPPE = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
PRESETS: dict[str, list[str]] = {
    "synthetic": [],
    "ml-100k": ["dataset=ml-100k", f"dataset.path={DATA}/ml-100k"],
    "latest-small": ["dataset=csv", f"dataset.path={DATA}/latest-small/ratings.csv", "dataset.columns.user=userId",
                     "dataset.columns.item=movieId", "dataset.columns.label=rating", "dataset.label_threshold=4",
                     f"dataset.item_path={DATA}/latest-small/movies.csv", "+dataset.features.item.genres=multi",
                     "dataset.split.kind=user_time"],
    "frappe": ["dataset=csv", f"dataset.path={DATA}/frappe", "dataset.split.kind=given", "dataset.columns.user=null",
               "dataset.columns.item=null", "dataset.columns.timestamp=null",
               *(f"+dataset.features.context.{name}=categorical" for name in FRAPPE)],
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_public_data_are_told_nothing(name: str) -> None:
    if name != "synthetic" and not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}")
    config = recexp.load_config(["model=fm", "dataset.cache_dir=null", *PRESETS[name]]).dataset
    assert load(config).facts["warnings"] == []


def test_each_of_several_labels_is_looked_at(raw: Raw, tiny_config: MakeConfig) -> None:
    assert raw.split is not None
    train, test = raw.split == "train", raw.split == "test"
    tasks = {
        "click": raw.label.astype(float),
        "buy": np.where(train, 0.0, raw.label),
        "share": np.where(train, np.nan, raw.label),
        "rate": np.where(test & (np.arange(N_EVENTS) % 8 > 0), np.nan, raw.label),
    }
    told = warned(replace(raw, tasks=tasks), tiny_config(SplitKind.given, features={}))
    assert told[:2] == [
        "every label buy of train is 0: auc and gauc have no value there.",
        "no row of train has a label share: nothing is learnt or measured of it there.",
    ]
    assert len(told) == 3 and told[2].startswith("test has 100 rows with a label rate: the standard error of auc")
