"""Splits against loops over users and groups of equal timestamps."""

from dataclasses import dataclass

import numpy as np
import pytest

from recexp.dataset.config import SplitConfig, SplitKind
from recexp.dataset.split import by_name, by_row, split
from recexp.error import ConfigError, DataError

BY_USER = (SplitKind.user_time, SplitKind.leave_last_out)
BY_TIME = (*BY_USER, SplitKind.time)
SEEDS = range(8)


@dataclass
class Events:
    """Sorted by user, then time."""

    user: np.ndarray  # (N,), from 1
    time: np.ndarray  # (N,)

    def splits(self, kind: SplitKind, *ratios: float) -> np.ndarray:
        users = int(self.user.max())
        offsets = np.array([sum(self.user < user) for user in range(users + 2)])
        keys = list(zip(self.user, self.time, strict=True))
        before = np.array([keys.index(key) for key in keys], np.int32)
        return split(SplitConfig(kind=kind, ratios=list(ratios), column=None), offsets, before, self.time)

    def users(self) -> list[np.ndarray]:
        """Each user's events."""
        return [np.flatnonzero(self.user == user) for user in np.unique(self.user)]

    def groups(self, events: np.ndarray) -> list[list[int]]:
        """A user's events by timestamp."""
        return [[int(i) for i in events if self.time[i] == time] for time in sorted(set(self.time[events]))]


def random_events(seed: int, n_rows: int = 90, n_times: int = 12) -> Events:
    """Users 1 to 12, of one event or many; ties all over."""
    rng = np.random.default_rng(seed)
    user = np.append(1 + rng.integers(10, size=n_rows) * rng.integers(2, size=n_rows), [11, 12, 12])
    time = np.append(rng.integers(n_times, size=n_rows), [3, 5, 5])
    order = np.lexsort((time, user))
    return Events(user[order], time[order])


def without_ties(n_users: int, n_each: int) -> Events:
    return Events(np.repeat(np.arange(1, n_users + 1), n_each), np.tile(np.arange(n_each), n_users))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.7, 0, 0.3), (1, 0, 0)])
def test_user_time_cuts_each_user_at_the_tie_group_nearest_to_the_ratio(seed: int, ratios: tuple) -> None:
    events = random_events(seed)
    expected = np.zeros(len(events.user))
    for rows in events.users():
        edges = [0, *np.cumsum([len(group) for group in events.groups(rows)])]
        for share in (ratios[0], ratios[0] + ratios[1]):
            wanted = int(share * len(rows) + 0.5)
            expected[rows[min(edges, key=lambda edge: abs(edge - wanted)) :]] += 1  # the first of two as near
    assert events.splits(SplitKind.user_time, *ratios).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_leave_last_out_tests_the_last_tie_group_and_validates_on_the_one_before(seed: int) -> None:
    events = random_events(seed)
    expected = np.zeros(len(events.user))
    for rows in events.users():
        groups = events.groups(rows)
        if len(groups) > 1:
            expected[groups[-1]] = 2
        if len(groups) > 2:
            expected[groups[-2]] = 1
    assert events.splits(SplitKind.leave_last_out, 0.8, 0.1, 0.1).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.7, 0, 0.3), (1, 0, 0)])
def test_time_cuts_all_users_at_the_moments_where_the_shares_end(seed: int, ratios: tuple) -> None:
    events = random_events(seed)
    moments = sorted(events.time)
    expected = [0] * len(moments)
    for share in (ratios[0], ratios[0] + ratios[1]):
        cut = round(share * len(moments))
        if cut < len(moments):
            expected = [index + (time >= moments[cut]) for index, time in zip(expected, events.time, strict=True)]
    assert events.splits(SplitKind.time, *ratios).tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", BY_TIME)
def test_no_tie_group_is_cut_and_splits_follow_in_time(kind: SplitKind, seed: int) -> None:
    events = random_events(seed)
    splits = events.splits(kind, 0.6, 0.2, 0.2)
    assert set(splits) == {0, 1, 2}
    for rows in events.users() if kind in BY_USER else [np.arange(len(splits))]:
        for i in rows:
            for j in rows:
                assert events.time[i] < events.time[j] or splits[i] >= splits[j]


@pytest.mark.parametrize("kind", (SplitKind.user_time, SplitKind.time))
def test_without_ties_sizes_are_the_ratios(kind: SplitKind) -> None:
    splits = without_ties(7, 20).splits(kind, 0.8, 0.15, 0.05)
    assert np.bincount(splits).tolist() == [7 * 16, 7 * 3, 7]


@pytest.mark.parametrize("kind", BY_USER)
def test_users_of_one_event_or_one_tie_group_train(kind: SplitKind) -> None:
    events = Events(np.array([1, 2, 2, 2, 4]), np.array([9, 5, 5, 5, 1]))  # no event of user 3
    assert events.splits(kind, 0.8, 0.1, 0.1).tolist() == [0] * 5


@pytest.mark.parametrize("kind", (SplitKind.user_time, SplitKind.time))
def test_valid_of_ratio_0_is_empty_and_the_rest_as_without_it(kind: SplitKind) -> None:
    splits = without_ties(5, 10).splits(kind, 0.9, 0, 0.1)
    assert np.bincount(splits).tolist() == [45, 0, 5]


def test_random_deals_every_row_once_in_the_ratios_and_always_the_same() -> None:
    splits = by_row([0.8, 0.1, 0.1], 1000)
    assert np.bincount(splits).tolist() == [800, 100, 100]
    assert (splits == by_row([0.8, 0.1, 0.1], 1000)).all()
    assert (np.diff(splits) != 0).sum() > 200  # not in blocks
    assert np.bincount(by_row([0.5, 0, 0.5], 7)).tolist() == [4, 0, 3]


@pytest.mark.parametrize("dtype", [object, str])
def test_given_takes_the_names_as_they_stand(dtype: type) -> None:
    names = np.array(["test", "train", "valid", "train"], dtype)
    assert by_name(names).tolist() == [2, 0, 1, 0]


def test_given_names_what_is_not_a_split() -> None:
    with pytest.raises(DataError, match=r"'dev' is not a split\. Choices: train, valid, test"):
        by_name(np.array(["train", "dev"]))
    with pytest.raises(ConfigError, match=r"split\.kind = given"):
        by_name(None)
