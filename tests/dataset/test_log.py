"""Tables and logs cut to some of their rows, and taken apart into arrays."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from batches import raw_splits

from recexp.dataset.config import DatasetConfig, FeatureKind, SplitKind
from recexp.dataset.log import Dataset, Log, Table, from_arrays
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw


@pytest.fixture
def dataset(tiny_config: Callable[..., DatasetConfig], tiny_log: Callable[..., Raw]) -> Dataset:
    return prepare(tiny_log(), tiny_config())


@pytest.fixture
def table(tiny_config: Callable[..., DatasetConfig], tiny_table: Callable[..., Raw]) -> Table:
    kinds = {"context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric}}
    return prepare(tiny_table(), tiny_config(SplitKind.random, features=kinds)).log


def assert_equal(one: Table, two: Table) -> None:
    first, second = one.arrays(), two.arrays()
    assert type(one) is type(two) and first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype and array.tobytes() == second[name].tobytes(), name


def test_a_log_is_a_table_with_users_items_and_time(dataset: Dataset, table: Table) -> None:
    assert isinstance(dataset.log, Log) and not isinstance(table, Log)
    assert table.arrays().keys() < dataset.log.arrays().keys()


def test_tables_of_other_users_are_other_data(table: Table) -> None:
    of_users = [replace(table, user=np.arange(len(table), dtype=np.int32) % n_users) for n_users in (3, 4)]
    assert len({log.digest() for log in (table, *of_users)}) == 3
    labels_and_splits = table.label.tobytes() + table.split.tobytes()  # as in runs from before users counted
    assert table.digest() == hashlib.blake2b(labels_and_splits, digest_size=12).hexdigest()


def test_arrays_make_the_log_and_the_table_again(dataset: Dataset, table: Table) -> None:
    for log in (dataset.log, table):
        assert_equal(from_arrays(log.arrays()), log)
    incomplete = dataset.log.arrays()
    del incomplete["before"]
    with pytest.raises(TypeError, match="before"):
        from_arrays(incomplete)


def test_raw_ids_lead_to_their_rows_and_unknown_ones_to_padding(dataset: Dataset) -> None:
    users, items = dataset.log.users, dataset.log.items
    assert users.index_of(users.raw[[3, 1]]).tolist() == [3, 1]
    assert users.index_of(np.array(["nobody", "u00"], object)).tolist() == [0, 1]
    assert items.index_of(np.array([10, 5])).tolist() == [items.raw.tolist().index(10), 0]


def test_splits_cover_every_row_once(dataset: Dataset, table: Table) -> None:
    for log in (dataset.log, table):
        rows = np.concatenate([log.rows(split) for split in ("train", "valid", "test")])
        assert sorted(rows) == list(range(len(log)))
    assert np.array_equal(raw_splits(dataset)[dataset.log.row], dataset.log.split)


@pytest.mark.parametrize("n_rows", [1, 50, 160, 1000])
def test_a_sample_of_a_log_is_whole_users_from_all_over_it_and_of_a_table_rows(
    n_rows: int, dataset: Dataset, table: Table
) -> None:
    sample, log = dataset.sample(n_rows).log, dataset.log
    kept = np.flatnonzero(np.isin(log.user, sample.user))
    assert len(sample) == len(kept) > 0
    for name in ("user", "item", "label", "timestamp", "split", "row"):
        assert getattr(sample, name).tolist() == getattr(log, name)[kept].tolist()
    assert sample.context.ids.tolist() == log.context.ids[kept].tolist()
    assert sample.users is log.users and sample.items is log.items
    assert sample.timestamp[sample.before].tolist() == sample.timestamp.tolist()  # the first event of its time
    assert (sample.user[sample.before] == sample.user).all()
    n_users = len(np.unique(sample.user))
    n_all = len(log.users.raw) - 1
    assert n_users == min(n_all, max(1, n_all * n_rows // len(log)))
    if n_users > 1:
        assert {1, n_all} <= set(sample.user.tolist())
    rows = table.sample(n_rows).row
    assert len(rows) == min(n_rows, len(table)) and (n_rows == 1 or rows[-1] == table.row[-1])


def test_a_log_since_some_events_keeps_the_later_ones_of_each_user(dataset: Dataset) -> None:
    log = dataset.log
    length = np.diff(log.offsets)
    start = log.offsets[:-1] + length // 2
    kept = log.since(start)
    expected = [row for row in range(len(log)) if row >= start[log.user[row]]]
    assert kept.row.tolist() == log.row[expected].tolist()
    for event, row in enumerate(expected):
        first = max(log.before[row], start[log.user[row]])  # of its group of equal timestamps
        assert expected[kept.before[event]] == first
