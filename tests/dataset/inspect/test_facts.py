"""The numbers of a log, against counts by hand and by loops."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.inspect.facts import SPANS, facts_of, label_of
from recexp.dataset.inspect.order import hit_rate, order_of


def log(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "user": rng.integers(12, size=n).astype(str),
        "item": rng.integers(15, size=n).astype(str),
        "label": rng.integers(1, 6, size=n).astype(str),
        "timestamp": (10**9 + rng.integers(60, size=n)).astype(str),
    })  # fmt: skip


def facts(frame: pd.DataFrame, time_format: str | None = None):
    return facts_of({name: frame[name] for name in frame}, time_format)


def test_sizes_and_repetitions_are_those_that_loops_count() -> None:
    frame = log()
    found = facts(frame)
    rows = list(zip(frame["user"], frame["item"], frame["timestamp"], strict=True))
    moments = Counter((user, time) for user, _, time in rows)
    assert (found.rows, found.users, found.items) == (400, 12, 15)
    assert found.density == 400 / 180
    assert found.copies == 400 - len(set(rows))
    assert found.again == 400 - len({row[:2] for row in rows})
    assert found.time is not None and found.time.tied == sum(count for count in moments.values() if count > 1)
    assert found.heavy_users == Counter(frame["user"]).most_common(1) + found.heavy_users[1:]
    lengths = sorted(Counter(frame["user"]).values())
    assert (found.lengths[0], found.lengths[100]) == (lengths[0], lengths[-1])


def test_users_and_times_are_counted_by_doubling_and_by_spans() -> None:
    frame = log()
    found = facts(frame)
    lengths = list(Counter(frame["user"]).values())
    expected = [sum(2**n <= length < 2 ** (n + 1) for length in lengths) for n in range(max(lengths).bit_length())]
    assert found.users_by_events == expected and sum(found.items_by_events) == 15
    assert found.time is not None and len(found.time.counts) == SPANS
    first = (frame["timestamp"].astype(int) - 10**9 < 59 / SPANS).sum()
    assert sum(found.time.counts) == 400 and found.time.counts[0] == first


def test_unseen_users_are_those_without_a_training_row() -> None:
    rows = [("a", "x", n) for n in range(10)] + [("b", "y", n) for n in range(9, 12)]
    found = facts(pd.DataFrame(rows, columns=["user", "item", "timestamp"]))
    assert (found.unseen["leave_last_out"].rows, found.unseen["leave_last_out"].user) == (2, 0.0)
    assert (found.unseen["time"].rows, found.unseen["time"].user, found.unseen["time"].item) == (1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("times", "unit", "others", "sentinels"),
    [
        ([1.5e9, 1.6e9, 1.6e9 + 1], "seconds", {}, {}),
        ([1.5e12, 1.6e12, 1.6e9, 1.7e12], "milliseconds", {"seconds": 1}, {}),
        ([0, 1.5e9, 1.6e9, -1, 0], "seconds", {}, {0: 2, -1: 1}),
        ([1, 2, 3], "numbers", {}, {}),
        (["2020-01-01", "2021-01-01", "soon"], "date-times", {}, {}),
    ],
)
def test_units_sentinels_and_mixtures_are_told(times: list, unit: str, others: dict, sentinels: dict) -> None:
    values = [str(int(time)) if isinstance(time, float) else str(time) for time in times]
    frame = pd.DataFrame({"user": ["u"] * len(times), "item": ["i"] * len(times), "timestamp": values})
    found = facts(frame).time
    assert found is not None
    assert (found.unit, found.other_units, found.sentinels) == (unit, others, sentinels)
    assert found.wrong == ("soon" in times)


def test_times_of_another_form_are_read_by_their_format() -> None:
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["i", "j"], "timestamp": ["01/02/1980", "31/01/1980"]})
    found = facts(frame, "%d/%m/%Y").time
    assert found is not None and (found.last - found.first, found.wrong) == (86400, 0)


def test_a_threshold_halves_the_ratings() -> None:
    found = label_of(pd.Series(["1", "2", "3", "4", "4", "5", "x"]))
    assert (found.threshold, found.share, found.wrong, found.binary) == (4.0, 0.5, 1, False)
    assert found.counts == {1: 1, 2: 1, 3: 1, 4: 2, 5: 1}
    words = label_of(pd.Series(["True", "false", "true"]))
    assert (words.threshold, words.binary) == (None, True) and words.share == pytest.approx(2 / 3)


def test_the_next_item_baseline_equals_a_loop_over_users() -> None:
    frame = log(300)
    user, item = (pd.factorize(frame[name], sort=True)[0] + 1 for name in ("user", "item"))
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    steps, asked = defaultdict(Counter), []
    for one in np.unique(user):
        items = item[user == one].tolist()
        for before, after in pairwise(items[:-1]):
            steps[before][after] += 1
        asked.append((items[-2], items[-1]))
    best = {before: sorted(after, key=lambda name: (-after[name], name))[:2] for before, after in steps.items()}
    expected = np.mean([after in best.get(before, []) for before, after in asked])
    assert hit_rate(user, item, 15, top=2) == expected


def test_an_order_shows_against_a_shuffle_and_chance_does_not() -> None:
    rng, user = np.random.default_rng(0), np.repeat(np.arange(1, 201), 6)
    ring = (np.tile(np.arange(6), 200) + np.repeat(rng.integers(100, size=200), 6)) % 100 + 1
    for item, carries in ((ring, True), (rng.integers(1, 101, size=len(user)), False)):
        found = order_of(user, item, 100)
        assert found is not None and found.users == 200 and found.carries is carries
