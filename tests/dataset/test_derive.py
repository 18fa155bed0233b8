"""Derived fields against loops over the raw rows, and what they may not see."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recexp
from recexp.cli import run
from recexp.config import Config
from recexp.dataset.batch import Batches
from recexp.dataset.config import DatasetConfig, FeatureKind, HistoryKind, HistoryUntil, LabelKind, SplitKind, TimePart
from recexp.dataset.derive import derive
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw
from recexp.dataset.reader.movielens import MovieLens
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.model import losses

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]
REAL = Path(__file__).parents[2].parent / "shared/data/ml-100k"
FIELDS = ["last_item_1", "last_item_2", "last_item_3", "most_liked_brand", "most_liked_tags"]
ALL = {"last_items": 3, "most_liked": ["brand", "tags"]}


def in_file_order(dataset: Dataset, column: np.ndarray) -> np.ndarray:
    found = np.empty_like(column)
    found[dataset.log.row] = column
    return found


def values(raw: Raw, config: DatasetConfig, dataset: Dataset | None = None) -> dict[str, list]:
    """Each derived field in the order of the file, None where it is missing."""
    dataset = dataset or prepare(raw, config)
    assert raw.items is not None
    derived = derive(dataset.log, raw.items.reindex(pd.Index(dataset.log.items.raw[1:])), config)
    plain = {name: np.where(column.isna(), None, column.astype(object)) for name, column in derived.items()}
    return {name: in_file_order(dataset, column).tolist() for name, column in plain.items()}


def seen_by(raw: Raw, row: int, splits: np.ndarray, until_split: bool = False) -> list[int]:
    """The user's rows strictly before, the oldest first; to a training row, or until the split, those that train."""
    assert raw.user is not None and raw.timestamp is not None
    earlier = [
        other
        for other in np.flatnonzero(raw.user == raw.user[row]).tolist()
        if raw.timestamp[other] < raw.timestamp[row] and ((splits[row] > 0 and not until_split) or splits[other] == 0)
    ]
    return sorted(earlier, key=lambda other: (raw.timestamp[other], other))


def most_frequent(cells: list[list[str]]) -> tuple[str | None, bool]:
    """The value in most cells, of several the one that got there last; and whether there are several."""
    count: Counter = Counter()
    reached = {}  # value: when it got to its final count
    for value in (value for cell in cells for value in dict.fromkeys(cell)):
        count[value] += 1
        reached[value] = sum(count.values())
    most = [value for value in count if count[value] == max(count.values())]
    return max(most, key=lambda value: reached[value], default=None), len(most) > 1


def by_loop(raw: Raw, splits: np.ndarray, label: np.ndarray, until_split: bool = False) -> tuple[dict[str, list], int]:
    """The five fields, a row at a time; and in how many rows several values were the most frequent."""
    assert raw.item is not None and raw.items is not None
    found: dict[str, list] = {name: [] for name in FIELDS}
    n_tied = 0
    for row in range(len(raw.label)):
        seen = seen_by(raw, row, splits, until_split)
        latest = [*reversed([int(raw.item[other]) for other in seen]), None, None, None]
        for place in range(3):
            found[FIELDS[place]].append(latest[place])
        for name in ("brand", "tags"):
            texts = [str(raw.items.loc[raw.item[other], name]) for other in seen if label[other] == 1]
            value, tied = most_frequent([[tag for tag in text.split("|") if tag] for text in texts])
            found[f"most_liked_{name}"].append(value)
            n_tied += tied
    return found, n_tied


def splits_of(dataset: Dataset) -> np.ndarray:
    return in_file_order(dataset, dataset.log.split)


@pytest.mark.parametrize("kind", SplitKind)
def test_fields_are_those_of_a_loop_over_the_rows(kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(kind, **ALL)
    for seed in range(3):
        raw = tiny_log(seed)
        dataset = prepare(raw, config)
        splits = splits_of(dataset)
        expected, n_tied = by_loop(raw, splits, raw.label)
        assert values(raw, config, dataset) == expected
        assert n_tied > 20  # values, not only events, are tied
        regardless, _ = by_loop(raw, np.ones_like(splits), raw.label)
        assert (regardless == expected) == (kind not in (SplitKind.given, SplitKind.random))


@pytest.mark.parametrize("kind", SplitKind)
def test_until_the_split_fields_are_those_of_a_loop_over_the_training_rows(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    config = tiny_config(kind, history_until=HistoryUntil.split, **ALL)
    for seed in range(3):
        raw = tiny_log(seed)
        dataset = prepare(raw, config)
        splits = splits_of(dataset)
        of_training, _ = by_loop(raw, splits, raw.label, until_split=True)
        assert values(raw, config, dataset) == of_training
        assert of_training != by_loop(raw, splits, raw.label)[0]


@pytest.mark.parametrize("n_times", [1, 2, 10, 1000])
def test_fields_are_those_of_the_loop_at_any_density_of_ties(
    n_times: int, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw, config = tiny_log(4, n_times=n_times), tiny_config(SplitKind.given, **ALL)
    raw = replace(raw, timestamp=raw.timestamp / 7 - 2)  # type: ignore[operator]
    dataset = prepare(raw, config)
    assert values(raw, config, dataset) == by_loop(raw, splits_of(dataset), raw.label)[0]


@pytest.mark.parametrize("kind", SplitKind)
def test_ids_are_those_of_the_values_that_training_rows_hold(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw = tiny_log(seed=3, n_items=60)
    dataset = prepare(raw, tiny_config(kind, **ALL))
    splits, side = splits_of(dataset), dataset.schema.context
    expected, _ = by_loop(raw, splits, raw.label)
    assert [field.name for field in side.fields] == ["device", "hour", *FIELDS]
    n_unknown = 0
    for field in side.fields[2:]:
        assert (field.kind, field.width) == (FeatureKind.categorical, 1)
        trained = {value for value, split in zip(expected[field.name], splits, strict=True) if split == 0} - {None}
        ids = {value: 2 + field.offset + place for place, value in enumerate(sorted(trained))}
        assert field.size == len(ids) > 0
        found = in_file_order(dataset, dataset.log.context.ids[:, field.column]).tolist()
        assert found == [ids.get(value, UNKNOWN) for value in expected[field.name]]
        n_unknown += sum(value is not None and value not in ids for value in expected[field.name])
    assert n_unknown
    assert {f"context.{name}" for name in FIELDS} < set(dataset.facts["unknown_rate"]["test"])


def small(cells: list[str | None], label: list[int], **columns: list) -> Raw:
    """One user's events, an item each, at times 0, 1, ... unless others are given; the last is the test."""
    n = len(cells)
    return Raw(
        origin="small",
        label=np.array(label),
        user=np.zeros(n, int),
        item=np.arange(n),
        timestamp=np.array(columns.get("timestamp", range(n))),
        items=pd.DataFrame({"tags": cells}, index=range(n)),
        split=np.array(["train"] * (n - 1) + ["test"]),
    )


def tags_of(tiny_config: MakeConfig, raw: Raw, kind: FeatureKind = FeatureKind.multi) -> list:
    config = tiny_config(SplitKind.given, features={"item": {"tags": kind}}, most_liked=["tags"])
    return values(raw, config)["most_liked_tags"]


def test_the_most_liked_value_is_counted_in_liked_events_and_ties_go_to_the_later(tiny_config: MakeConfig) -> None:
    cells = ["a|b", "c", "a", "c", "c", "", "d|a", None, "c"]
    liked = [1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert tags_of(tiny_config, small(cells, liked)) == [None, "b", "b", "a", "a", "c", "c", "a", "a"]
    assert tags_of(tiny_config, small(cells, [0] * 8 + [1])) == [None] * 9


def test_a_value_that_a_cell_holds_twice_counts_once(tiny_config: MakeConfig) -> None:
    assert tags_of(tiny_config, small(["a|a|a", "b", "b", "a"], [1, 1, 1, 1])) == [None, "a", "b", "b"]


def test_a_categorical_cell_is_one_value_whatever_it_holds(tiny_config: MakeConfig) -> None:
    cells = ["a|b", None, "a", "a|b", "a"]
    raw = small(cells, [1] * 5)
    assert tags_of(tiny_config, raw, FeatureKind.categorical) == [None, "a|b", "a|b", "a", "a|b"]


def test_without_any_value_all_are_unknown(tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.given, features={"item": {"tags": FeatureKind.multi}}, most_liked=["tags"])
    for raw in (small(["", "", ""], [1, 1, 1]), small([None] * 3, [1, 1, 1]), small(["a", "b", "c"], [0, 0, 1])):
        dataset = prepare(raw, config)
        assert dataset.schema.context.fields[0].size == 0
        assert dataset.log.context.ids.tolist() == [[UNKNOWN]] * 3


def test_more_last_items_than_events_are_missing(tiny_config: MakeConfig) -> None:
    raw = small(["a", "b", "c"], [1, 0, 1], timestamp=[5, 5, 6])
    found = values(raw, tiny_config(SplitKind.given, features={}, last_items=100))
    assert len(found) == 100
    assert (found["last_item_1"], found["last_item_2"]) == ([None, None, 1], [None, None, 0])
    assert all(found[f"last_item_{place}"] == [None] * 3 for place in range(3, 101))


def test_ids_that_a_float_cannot_tell_apart_stay_apart(tiny_config: MakeConfig) -> None:
    raw = replace(small(["a"] * 4, [1] * 4), item=2**60 + np.arange(4), items=None)
    dataset = prepare(raw, tiny_config(SplitKind.given, features={}, last_items=1))
    assert dataset.log.context.ids.flatten().tolist() == [UNKNOWN, 2, 3, UNKNOWN]


@pytest.mark.parametrize("kind", [SplitKind.user_time, SplitKind.given, SplitKind.random])
def test_events_of_the_same_moment_or_later_change_nothing(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    """Labels and items of all events from a moment on are others; a field of that moment or earlier is the same."""
    raw, config = tiny_log(1, n_times=12), tiny_config(kind, **ALL)
    assert raw.timestamp is not None and raw.item is not None
    before, rng = values(raw, config), np.random.default_rng(0)
    n_same_moment = 0
    for cut in range(12):
        late = raw.timestamp >= cut
        other = replace(
            raw,
            label=np.where(late, 1 - raw.label, raw.label),
            item=np.where(late, rng.permutation(raw.item), raw.item),
        )
        after = values(other, config)
        rows = np.flatnonzero(raw.timestamp <= cut)
        for name in FIELDS:
            assert [after[name][row] for row in rows] == [before[name][row] for row in rows]
        changed = [row for name in FIELDS for row in np.flatnonzero(late) if after[name][row] != before[name][row]]
        assert changed or cut == 11  # what comes after sees them
        n_same_moment += (raw.timestamp == cut).sum()
    assert n_same_moment == len(raw.label)


@pytest.mark.parametrize("kind", SplitKind)
def test_training_rows_see_nothing_of_valid_and_test(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw, config = tiny_log(2), tiny_config(kind, **ALL)
    dataset = prepare(raw, config)
    later = splits_of(dataset) > 0
    assert raw.item is not None
    other = replace(
        raw, label=np.where(later, 1 - raw.label, raw.label), item=np.where(later, raw.item[::-1], raw.item)
    )
    before, after = values(raw, config), values(other, config)
    for name in FIELDS:
        assert [after[name][row] for row in np.flatnonzero(~later)] == [
            before[name][row] for row in np.flatnonzero(~later)
        ]
    assert before != after


@pytest.mark.parametrize("kind", [SplitKind.leave_last_out, SplitKind.given])
def test_with_implicit_labels_every_event_counts_as_liked(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw, config = tiny_log(), tiny_config(kind, label=LabelKind.implicit, **ALL)
    dataset = prepare(raw, config)
    expected, _ = by_loop(raw, splits_of(dataset), np.ones(len(raw.label)))
    assert values(raw, config, dataset) == expected
    batch = next(Batches(dataset, config).epoch("test", 10_000))
    events = batch.context.ids.unflatten(0, (-1, 2))  # an event, then its negative: the context is the event's
    assert torch.equal(events[:, 0], events[:, 1])
    assert events[:, 0].numpy().tolist() == dataset.log.context.ids[dataset.log.rows("test")].tolist()  # type: ignore


def test_what_histories_hold_changes_no_derived_field(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    first = prepare(tiny_log(), tiny_config(**ALL))
    second = prepare(tiny_log(), tiny_config(**ALL, history=HistoryKind.liked, max_history=1))
    assert first.log.context.ids.tobytes() == second.log.context.ids.tobytes()


def test_without_derived_fields_the_context_is_that_of_the_columns(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    bare, full = prepare(tiny_log(), tiny_config()), prepare(tiny_log(), tiny_config(**ALL))
    assert [field.name for field in bare.schema.context.fields] == ["device", "hour"]
    assert full.schema.context.fields[:2] == bare.schema.context.fields
    for name, array in bare.log.arrays().items():
        found = full.log.arrays()[name]
        assert np.array_equal(found[:, :1] if name == "context.ids" else found, array), name


def clock(timestamp: float, unit: int) -> list[int]:
    """The hour, weekday and month that Python's own calendar has."""
    moment = datetime.fromtimestamp(timestamp // unit, UTC)
    return [moment.hour, moment.weekday(), moment.month]


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_parts_of_the_time_are_those_of_the_calendar_in_every_unit(
    unit: int, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw, config = tiny_log(), tiny_config(last_items=1, time=[TimePart.hour, TimePart.weekday, TimePart.month])
    seconds = np.random.default_rng(0).integers(10**9, 2 * 10**9, size=len(raw.label))
    raw = replace(raw, timestamp=seconds * unit + unit - 1)
    found = values(raw, config)
    assert [*found] == ["last_item_1", "time_hour", "time_weekday", "time_month"]
    parts = zip(*(found[f"time_{part.name}"] for part in TimePart), strict=True)
    assert [list(each) for each in parts] == [clock(each, unit) for each in raw.timestamp.tolist()]  # type: ignore


def test_the_time_may_be_a_fraction_or_before_1970(tiny_config: MakeConfig) -> None:
    raw = small(["a"] * 4, [1] * 4, timestamp=[-0.5, 0.5, 3599.9, 3600.0])
    found = values(raw, tiny_config(SplitKind.given, features={}, time=list(TimePart)))
    assert found == {"time_hour": [23, 0, 0, 1], "time_weekday": [2, 3, 3, 3], "time_month": [12, 1, 1, 1]}


# Configuration

TABLE = ("dataset=csv", "dataset.path=absent.csv", "dataset.columns.user=null", "dataset.columns.item=null",
         "dataset.columns.timestamp=null", "dataset.split.kind=random")  # fmt: skip
DERIVED = "dataset.features.derived"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([f"{DERIVED}.last_items=-1"], f"{DERIVED}.last_items = -1: must be 0 to 100."),
        ([f"{DERIVED}.last_items=101"], f"{DERIVED}.last_items = 101: must be 0 to 100."),
        (
            [f"{DERIVED}.most_liked=[tag]"],
            f"{DERIVED}.most_liked = tag: no categorical or multi column of dataset.features.item. "
            "Did you mean 'tags'? Choices: brand, category, tags.",
        ),
        ([f"{DERIVED}.most_liked=[price]"], "Choices: brand, category, tags."),
        ([f"{DERIVED}.most_liked=[segment]"], "Choices: brand, category, tags."),
        ([f"{DERIVED}.most_liked=[release_year]", "dataset=ml-100k"], "Choices: genres."),
        ([f"{DERIVED}.most_liked=[tags,tags]"], "must be a list that names a column once"),
        (
            [f"{DERIVED}.last_items=2", "+dataset.features.context.last_item_2=categorical"],
            "dataset.features.context.last_item_2: is the name of a field of features.derived; rename the column.",
        ),
        (
            [f"{DERIVED}.most_liked=[tags]", "+dataset.features.context.most_liked_tags=multi"],
            "dataset.features.context.most_liked_tags: is the name of a field",
        ),
        (
            [f"{DERIVED}.time=[hour]", "+dataset.features.context.time_hour=categorical"],
            "dataset.features.context.time_hour: is the name of a field",
        ),
        (
            ["dataset=csv", "dataset.path=absent.csv", "dataset.columns.timestamp=null", f"{DERIVED}.time=[month]"],
            f"{DERIVED}.time = ['month']: must be empty; dataset.columns.timestamp names no column of times.",
        ),
        ([*TABLE, f"{DERIVED}.last_items=1"], f"{DERIVED}: a table without time has no events before"),
        ([f"+{DERIVED}.last_item=1"], f"{DERIVED}.last_item: unknown key. Did you mean 'last_items'?"),
    ],
)
def test_a_wrong_option_is_one_line_before_any_data_is_read(typed: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recexp.load_config(["model=fm", *typed])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_names_a_misspelt_key_rather_than_adding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([f"{DERIVED}.last_item=3"]) == 2
    told = capsys.readouterr().err
    assert f"Did you mean '{DERIVED}.last_items'?" in told and told.count("\n") == 1
    assert run(["datasets", "synthetic"]) == 0
    assert f"{DERIVED}.most_liked" in capsys.readouterr().out


def test_a_table_has_no_events_before_a_row(tiny_config: MakeConfig, tiny_table: MakeRaw) -> None:
    kinds = {"context": {"device": FeatureKind.categorical}}
    with pytest.raises(ConfigError, match=r"features\.derived: a table without time"):
        prepare(tiny_table(), tiny_config(SplitKind.random, features=kinds, last_items=1))


# Models


def test_models_name_derived_fields_like_any_other(compose: Callable[..., Config], make: Callable[..., Any]) -> None:
    config = compose("model=fm", f"{DERIVED}.last_items=2", f"{DERIVED}.most_liked=[tags]").dataset
    dataset, names = load(config), ["last_item_1", "last_item_2", "most_liked_tags"]
    assert [field.name for field in dataset.schema.context.fields] == ["device", *names]
    chosen = dataset.schema.select([*names, "user"], "model.wide")
    assert [field.name for field in chosen.context.fields] == names
    model, batch = make("fm", schema=dataset.schema), next(Batches(dataset, config).epoch("train", 10_000))
    losses(model, model(batch), batch)["target"].backward()
    gradient = model.embed.sides["context"].table.weight.grad
    for field in dataset.schema.context.fields:
        rows = slice(2 + field.offset, 2 + field.offset + field.size)
        assert field.size and gradient[rows].any(1).all()


def test_a_model_over_fields_learns_what_a_derived_field_alone_tells(
    tiny_config: MakeConfig, make: Callable[..., Any]
) -> None:
    """An event is liked where the user's event before was with an item of even number."""
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(60), 20), rng.integers(8, size=1200)
    raw = Raw(origin="even", label=1 - np.roll(item, 1) % 2, user=user, item=item, timestamp=np.arange(1200))
    right = {}
    for last_items in (0, 1):
        config = tiny_config(features={}, last_items=last_items)
        dataset = prepare(raw, config)
        batches, model = Batches(dataset, config), make("fm", schema=dataset.schema)
        adam, batch = torch.optim.Adam(model.parameters(), 0.05), next(batches.epoch("train", 10_000))
        for _ in range(60):
            adam.zero_grad()
            losses(model, model(batch), batch)["target"].backward()
            adam.step()
        test = next(batches.epoch("test", 10_000))
        right[last_items] = float(((model(test).logits > 0) == test.label.bool()).float().mean())
    assert right[1] > 0.95 and right[0] < 0.65


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no MovieLens 100K in {REAL}")
def test_fields_of_the_real_data_are_those_of_the_loop() -> None:
    typed = ("model=fm", "dataset=ml-100k", f"dataset.path={REAL}", "dataset.cache_dir=null")
    config = recexp.load_config([*typed, f"{DERIVED}.last_items=2", f"{DERIVED}.most_liked=[genres]"]).dataset
    raw = MovieLens(config).read()
    dataset = prepare(raw, config)
    assert raw.item is not None and raw.items is not None
    splits, found = splits_of(dataset), values(raw, config, dataset)
    cells = raw.items["genres"].fillna("").to_dict()
    for row in range(0, len(raw.label), 499):
        seen = seen_by(raw, row, splits)
        latest = [*reversed([raw.item[other] for other in seen]), None, None]
        liked = [cells[raw.item[other]].split("|") for other in seen if raw.label[other] >= 4]
        expected, _ = most_frequent([[genre for genre in genres if genre] for genres in liked])
        assert found["last_item_1"][row] == latest[0] and found["last_item_2"][row] == latest[1]
        assert found["most_liked_genres"][row] == expected
    assert dataset.facts["unknown_rate"]["test"]["context.most_liked_genres"] < 0.01
