"""From raw columns to the log: order, splits, what is learnt from training alone, mistakes and their messages."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from batches import raw_splits, whole

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.config import DatasetConfig, FeatureKind, LabelKind, SplitKind
from recexp.dataset.log import SPLITS, Dataset
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError, DataError

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]
COLUMNS = ("label", "user", "item", "timestamp", "split")


def some_rows(raw: Raw, keep: np.ndarray) -> Raw:
    columns = {name: getattr(raw, name)[keep] for name in COLUMNS}
    assert raw.context is not None
    return replace(raw, context=raw.context[keep].reset_index(drop=True), **columns)


def seen(batch: Batch) -> Iterator[torch.Tensor]:
    """All that a model sees of a batch: labels, fields of user, target, context and history."""
    yield from (batch.label, batch.context.ids, batch.context.values, batch.mask, batch.history_label)
    for table, index in (
        (batch.catalogue.users, batch.user),
        (batch.catalogue.items, batch.target),
        (batch.catalogue.items, batch.history),
    ):
        yield from (table.ids[index], table.values[index])


def in_raw_ids(dataset: Dataset, batch: Batch, row: int) -> tuple:
    log = dataset.log
    length = int(batch.mask[row].sum())
    history = [str(log.items.raw[item]) for item in batch.history[row, :length]]
    fields = [
        *batch.catalogue.users.ids[batch.user[row]].tolist(),
        *batch.catalogue.users.values[batch.user[row]].tolist(),
        *batch.catalogue.items.ids[batch.target[row], :2].tolist(),
        *batch.context.ids[row].tolist(),
        *batch.context.values[row].tolist(),
    ]
    target = (str(log.users.raw[batch.user[row]]), str(log.items.raw[batch.target[row]]), float(batch.label[row]))
    return (*target, *fields, *history, *batch.history_label[row, :length].tolist())


def test_the_log_is_sorted_by_user_then_time_then_file_order(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw, log = tiny_log(), prepare(tiny_log(), tiny_config()).log
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    order = sorted(range(len(raw.user)), key=lambda row: (raw.user[row], raw.timestamp[row], row))
    assert log.row.tolist() == order
    assert log.users.raw[log.user].tolist() == [raw.user[row] for row in order]
    assert log.items.raw[log.item].tolist() == [raw.item[row] for row in order]
    assert log.label.tolist() == [raw.label[row] for row in order]
    for event, (user, time) in enumerate(zip(log.user, log.timestamp, strict=True)):
        same = (log.user == user) & (log.timestamp == time)
        assert log.before[event] == same.argmax()
        assert log.offsets[user] == (log.user == user).argmax()
        assert log.offsets[user + 1] == log.offsets[user] + (log.user == user).sum()


@pytest.mark.parametrize(("first", "kept"), [(0, np.int32), (2**31 - 41, np.int32), (2**31, np.int64), (-1, np.int64)])
def test_times_take_four_bytes_where_they_fit(
    first: int, kept: type, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw = tiny_log()
    assert raw.timestamp is not None
    raw = replace(raw, timestamp=raw.timestamp + first)
    log = prepare(raw, tiny_config()).log
    assert log.timestamp.dtype == kept
    assert log.timestamp.tolist() == raw.timestamp[log.row].tolist()


@pytest.mark.parametrize("kind", SplitKind)
def test_vocabularies_are_those_of_the_training_split(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw = tiny_log(seed=3, n_items=60)
    dataset = prepare(raw, tiny_config(kind))
    trains = raw_splits(dataset) == 0
    assert raw.user is not None and raw.item is not None and raw.items is not None and raw.context is not None
    trained_items = sorted(set(raw.item[trains]))
    schema, log = dataset.schema, dataset.log
    assert schema.user.fields[0].size == len(set(raw.user[trains]))
    assert schema.n_items == 2 + len(trained_items) < 2 + len(set(raw.item))
    brands = sorted(set(raw.items.loc[trained_items, "brand"]))
    tags = sorted(set("|".join(raw.items.loc[trained_items, "tags"]).split("|")) - {""})
    assert schema.item.fields[1].size == len(brands)
    assert schema.item.fields[2].size == len(tags)
    assert schema.context.fields[0].size == len(set(raw.context["device"][trains].dropna()))
    hour = raw.context["hour"][trains].mean()
    expected = (raw.context["hour"].fillna(hour) - hour) / raw.context["hour"][trains].std(ddof=0)
    np.testing.assert_allclose(log.context.values[:, 0], expected[log.row], rtol=1e-4, atol=1e-5)
    for place, item in enumerate(np.unique(raw.item), start=1):
        wanted = 2 + trained_items.index(item) if item in trained_items else UNKNOWN
        assert log.items.ids[place, 0] == wanted
        tag_ids = [i for i in log.items.ids[place, 2:-1] if i]  # between brand and price
        offset = schema.item.fields[2].offset
        names = [tag for tag in raw.items.loc[item, "tags"].split("|") if tag]
        assert tag_ids == [2 + offset + tags.index(tag) if tag in tags else UNKNOWN for tag in names]


def test_an_item_first_seen_in_test_is_unknown_with_known_features(tiny_config: MakeConfig) -> None:
    raw = Raw(
        origin="tiny",
        label=np.array([1, 0, 1, 1]),
        user=np.array([7, 7, 7, 8]),
        item=np.array([1, 2, 3, 1]),
        timestamp=np.array([1, 2, 3, 1]),
        items=pd.DataFrame({"brand": ["p", "q", "q"], "tags": ["v|w", "", "w|new"]}, index=[1, 2, 3]),
        split=np.array(["train", "train", "test", "train"]),
    )
    kinds = {"item": {"brand": FeatureKind.categorical, "tags": FeatureKind.multi}}
    dataset = prepare(raw, tiny_config(SplitKind.given, features=kinds))
    assert dataset.log.items.ids.tolist() == [
        [0, 0, 0, 0],
        [2, 4, 6, 7],  # item 1, brand p, tags v and w
        [3, 5, 0, 0],
        [UNKNOWN, 5, 7, UNKNOWN],
    ]
    assert dataset.facts["unknown_rate"] == {"test": {"user": 0.0, "item": 1.0, "item.brand": 0.0, "item.tags": 1.0}}


@pytest.mark.parametrize("seed", range(3))
def test_facts_report_sizes_label_rates_and_unknown_values_by_column(
    seed: int, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw = tiny_log(seed, n_items=60)
    dataset = prepare(raw, tiny_config(SplitKind.time))
    facts, splits = dataset.facts, raw_splits(dataset)
    assert raw.user is not None and raw.item is not None and raw.context is not None
    assert (facts["users"], facts["items"]) == (len(set(raw.user)), len(set(raw.item)))
    assert set(facts["unknown_rate"]) == {"valid", "test"}
    columns = {"user": raw.user, "item": raw.item, "context.device": raw.context["device"].to_numpy(object)}
    for index, split in enumerate(SPLITS):
        rows = np.flatnonzero(splits == index)
        assert facts["rows"][split] == len(rows)
        assert facts["label_rate"][split] == pytest.approx(raw.label[rows].mean(), abs=1e-6)
        for name, values in columns.items() if split != "train" else ():
            trained = {value for value in values[splits == 0] if not pd.isna(value)}
            unknown = sum(value not in trained for value in values[rows])
            assert facts["unknown_rate"][split][name] == pytest.approx(unknown / len(rows), abs=1e-6)


def test_the_digest_is_of_events_labels_and_splits_alone(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw = tiny_log()
    assert raw.item is not None and raw.timestamp is not None

    def digest(config: DatasetConfig, **changed: np.ndarray) -> str:
        return prepare(replace(raw, **changed), config).facts["events"]

    same = digest(tiny_config(SplitKind.time))
    fewer = {"item": {"brand": FeatureKind.categorical}}
    assert digest(tiny_config(SplitKind.time, features=fewer)) == same
    assert digest(replace(tiny_config(SplitKind.time), max_history=3, n_bins=3)) == same
    assert digest(tiny_config(SplitKind.time, (0.5, 0.2, 0.3))) != same
    assert digest(tiny_config(SplitKind.time), label=1 - raw.label) != same
    assert digest(tiny_config(SplitKind.time), item=np.where(raw.item == raw.item[0], "new", raw.item)) != same
    assert digest(tiny_config(SplitKind.time), timestamp=raw.timestamp + 1) != same


@pytest.mark.parametrize("label", LabelKind)
@pytest.mark.parametrize("cut", [15, 25, 35])
def test_without_the_events_after_a_moment_earlier_samples_are_as_before(
    cut: int, label: LabelKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    """Training events lie before the cut, so that vocabularies and means are the same."""
    raw = tiny_log(seed=1)
    assert raw.timestamp is not None and raw.split is not None and raw.user is not None
    raw = replace(raw, split=np.where((raw.split == "train") & (raw.timestamp > 15), "valid", raw.split))
    raw.split[np.flatnonzero(raw.timestamp == 15)[0]] = "test"
    config = tiny_config(SplitKind.given, label=label)
    found = []
    for source in (raw, some_rows(raw, raw.timestamp <= cut)):
        dataset = prepare(source, config)
        batches, log = Batches(dataset, config), dataset.log
        samples = {}
        for split in SPLITS:
            rows = log.rows(split)
            batch = whole(batches, split)
            positives = range(0, len(batch), 1 + batches.negatives)
            assert source.timestamp is not None
            keep = np.flatnonzero(source.timestamp <= cut) if source is raw else np.arange(len(log.row))
            number = {int(row): place for place, row in enumerate(keep)}
            for row, place in zip(rows, positives, strict=True):
                if log.timestamp[row] <= cut:
                    samples[split, number[int(log.row[row])]] = in_raw_ids(dataset, batch, place)
        found.append(samples)
    assert found[0] == found[1]
    assert len(found[0]) == (raw.timestamp <= cut).sum()


def with_other_future(raw: Raw, splits: np.ndarray) -> Raw:
    """Other labels and context in valid and test; other features of the users and items seen there alone."""
    assert raw.context is not None and raw.users is not None and raw.items is not None
    assert raw.user is not None and raw.item is not None
    later = splits > 0
    users, items = raw.users.copy(), raw.items.copy()
    users.loc[~users.index.isin(raw.user[~later]), ["city", "age"]] = ["elsewhere", 1e5]
    items.loc[~items.index.isin(raw.item[~later]), ["brand", "tags", "price"]] = ["other", "v|other", -9.0]
    context = raw.context.copy()
    context.loc[later, ["device", "hour"]] = ["watch", 1e4]
    return replace(raw, label=np.where(later, 1 - raw.label, raw.label), context=context, users=users, items=items)


@pytest.mark.parametrize("history", ["all", "liked"])
@pytest.mark.parametrize("kind", SplitKind)
def test_another_future_leaves_every_training_batch_equal_to_the_bit(
    kind: SplitKind, history: str, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    config = tiny_config(kind)
    config = replace(config, history=type(config.history)[history])
    raw = tiny_log(seed=2, n_items=60)
    first = prepare(raw, config)
    second = prepare(with_other_future(raw, raw_splits(first)), config)
    assert not np.array_equal(first.log.label, second.log.label)
    assert first.schema == second.schema
    one, two = (Batches(dataset, config) for dataset in (first, second))
    for before, after in zip(one.epoch("train", 7, seed=3), two.epoch("train", 7, seed=3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(seen(before), seen(after), strict=True))
        assert torch.equal(before.catalogue.sampling_pool, after.catalogue.sampling_pool)
    for side in ("user", "item", "context"):
        assert torch.equal(one.counts(side), two.counts(side))


@pytest.mark.parametrize("label", LabelKind)
@pytest.mark.parametrize("kind", [SplitKind.given, SplitKind.time])
def test_training_batches_are_those_of_the_training_rows_alone(
    kind: SplitKind, label: LabelKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    """Sampled negatives included: what a user meets in valid or test is a negative like any other."""
    raw = tiny_log(seed=5)
    whole = prepare(raw, tiny_config(kind, label=label))
    trains = raw_splits(whole) == 0
    assert raw.user is not None
    names = np.where(trains, "train", raw.split)
    alone = some_rows(replace(raw, split=names), trains | (np.arange(len(names)) == np.flatnonzero(~trains)[0]))
    config = tiny_config(SplitKind.given, label=label)
    alone.split[alone.split != "train"] = "test"  # type: ignore[index]
    one, two = (Batches(dataset, config) for dataset in (whole, prepare(alone, config)))
    for before, after in zip(one.epoch("train", 11, seed=4), two.epoch("train", 11, seed=4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(seen(before), seen(after), strict=True))


def test_a_missing_id_is_named(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw = tiny_log()
    assert raw.user is not None and raw.item is not None
    raw.user[7] = None
    with pytest.raises(DataError, match="tiny: a user is missing in row 7"):
        prepare(raw, tiny_config())


def test_an_empty_source_and_a_split_without_rows_are_mistakes(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw = tiny_log()
    with pytest.raises(DataError, match="tiny: holds no rows"):
        prepare(some_rows(raw, np.zeros(len(raw.label), bool)), tiny_config())
    for ratios, split in (((1, 0, 0), "test"), ((0.001, 0, 0.999), "train")):
        with pytest.raises(DataError, match=f"split time leaves no rows for {split}"):
            prepare(raw, tiny_config(SplitKind.time, ratios))
    assert prepare(raw, tiny_config(SplitKind.time, (0.8, 0, 0.2))).facts["label_rate"]["valid"] is None


def test_feature_columns_that_are_not_there_are_named(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    kinds = {"item": {"brnad": FeatureKind.categorical}}
    with pytest.raises(ConfigError, match=r"features\.item\.brnad: no such column\. Did you mean 'brand'"):
        prepare(tiny_log(), tiny_config(features=kinds))
    for side in ("user", "context"):
        with pytest.raises(ConfigError, match=rf"features\.{side}\.x: no such column\. Choices: none"):
            raw = replace(tiny_log(), users=None, context=None)
            prepare(raw, tiny_config(features={side: {"x": FeatureKind.numeric}}))
    with pytest.raises(ConfigError, match=r"features\.item\.item: is the name of the id itself"):
        prepare(tiny_log(), tiny_config(features={"item": {"item": FeatureKind.categorical}}))


def test_users_and_items_without_a_row_of_features_have_unknown_ones(
    tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    raw = tiny_log()
    assert raw.users is not None and raw.items is not None
    fewer = replace(raw, users=raw.users.drop("u00"), items=raw.items.drop(0))
    log = prepare(fewer, tiny_config()).log
    assert (log.users.ids[1, 1], log.users.values[1, 0]) == (UNKNOWN, 0)
    assert (log.items.ids[1, 1], set(log.items.ids[1, 2:-1]), log.items.ids[1, -1]) == (UNKNOWN, {0}, UNKNOWN)


def test_a_log_of_ids_alone_has_no_context(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(features={})
    for raw in (tiny_log(), replace(tiny_log(), users=None, items=None, context=None)):
        dataset = prepare(raw, config)
        schema = dataset.schema
        assert [side.id_columns for side in (schema.user, schema.item, schema.context)] == [1, 1, 0]
        assert whole(Batches(dataset, config), "test").context.ids.shape[1] == 0


def test_a_table_has_fields_and_neither_users_nor_histories(tiny_config: MakeConfig, tiny_table: MakeRaw) -> None:
    kinds = {"context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric}}
    for kind in (SplitKind.random, SplitKind.given):
        dataset = prepare(tiny_table(), tiny_config(kind, features=kinds))
        assert (dataset.schema.max_history, dataset.schema.history_labels) == (0, False)
        assert set(dataset.log.arrays()) == {"label", "split", "context.ids", "context.values", "row"}
    for message, config in {
        "split.kind = time: a table has no time": tiny_config(SplitKind.time, features=kinds),
        "features.context": tiny_config(SplitKind.random, features={}),
        "label = implicit": tiny_config(SplitKind.random, features=kinds, label=LabelKind.implicit),
    }.items():
        with pytest.raises(ConfigError, match=message):
            prepare(tiny_table(), config)


MANY = np.arange(60)
EMPTY = {  # kind, ratios, user and time of each event, what is told, and a kind that it names
    "one time": ("time", (0.8, 0.1, 0.1), MANY % 6, MANY * 0, "all rows have the same time", "random"),
    "one time of each": ("user_time", (0.8, 0.1, 0.1), MANY % 6, MANY * 0, "all rows have the same time", "random"),
    "an early heap": ("time", (0.5, 0.2, 0.3), MANY % 6, np.maximum(MANY, 40), "68% of the rows have the earliest time",
                      "user_time"),
    "no share": ("random", (0.9, 0.1, 0), MANY % 6, MANY, "gives it no share; give it one, as [0.8,0.1,0.1]", None),
    "few rows": ("random", (0.99, 0.005, 0.005), MANY % 6, MANY, "60 rows are too few for a share of 0.005", None),
    "users of one": ("leave_last_out", (0.8, 0.1, 0.1), MANY, MANY, "no user has events at two times or more", "time"),
    "short users": ("user_time", (0.8, 0.1, 0.1), MANY // 2, MANY, "no user has events at enough times for a share of "
                    "0.1; use dataset.split.kind=time", "time"),
    "no test": ("given", (0.8, 0.1, 0.1), MANY % 6, MANY, "must say test somewhere", None),
}  # fmt: skip


@pytest.mark.parametrize("case", EMPTY)
def test_a_split_without_rows_is_told_with_what_would_be_right(case: str, tiny_config: MakeConfig) -> None:
    kind, ratios, user, timestamp, told, remedy = EMPTY[case]
    raw = Raw(origin="tiny", label=MANY % 2, user=user, item=MANY % 9, timestamp=timestamp,
              split=np.array(["train", "valid"], object)[MANY % 2])  # fmt: skip
    config = tiny_config(SplitKind[kind], ratios, features={})
    with pytest.raises(DataError) as caught:
        prepare(raw, config)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    if remedy:
        assert f"kind={remedy}" in str(caught.value)
        assert prepare(raw, tiny_config(SplitKind[remedy], ratios, features={})).facts["rows"]["test"]


def test_one_user_with_one_item_has_histories_of_it(tiny_config: MakeConfig) -> None:
    same, rows = np.zeros(3, int), np.arange(3)
    raw = Raw(origin="tiny", label=(rows + 1) % 2, user=same, item=same, timestamp=rows)
    config = tiny_config(SplitKind.leave_last_out, features={})
    batch = whole(Batches(prepare(raw, config), config), "test")
    assert (batch.user.tolist(), batch.target.tolist(), batch.history.tolist()) == ([1], [1], [[1, 1]])
    assert batch.history_label.tolist() == [[1, 0]]
    implicit = replace(config, label=LabelKind.implicit)
    batch = whole(Batches(prepare(raw, implicit), implicit), "test")
    assert batch.label.tolist() == [1, 0]  # there is no item but the met one to draw
    with pytest.raises(DataError, match="leaves no rows for test"):
        prepare(replace(raw, label=rows[:1], user=rows[:1], item=rows[:1], timestamp=rows[:1]), config)


def test_synthetic_data_comes_with_fields_of_every_kind_and_its_probabilities(compose: Callable) -> None:
    config = compose().dataset
    dataset = load(config)
    assert sum(dataset.facts["rows"].values()) == len(dataset.log.label) == config.n_events
    assert [field.name for field in dataset.schema.item.fields] == ["item", *config.features.item]
    probability, train = dataset.log.probability, dataset.log.rows("train")
    assert probability is not None
    assert abs(probability[train].mean() - dataset.log.label[train].mean()) < 0.05
