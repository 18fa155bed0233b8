"""Synthetic items that follow by a known law: each rule shows in the data, and no other part of the data changes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from recexp.dataset.reader import planted
from recexp.dataset.reader.planted import FOLLOWERS, RULES
from recexp.dataset.reader.synthetic import Synthetic
from recexp.dataset.reader.world import Events
from recexp.error import ConfigError

SHARE = 0.9


@pytest.fixture(scope="module")
def config(compose: Callable) -> Synthetic.Config:
    return replace(compose().dataset, n_users=200, n_items=60, n_events=8_000)


@pytest.fixture(scope="module")
def alone(config: Synthetic.Config) -> dict[str, Events]:
    """Each rule with most of the events, the others off."""
    return {rule: Synthetic(replace(config, **{rule: SHARE})).generate()[1] for rule in RULES}


def surprise(situation: np.ndarray, item: np.ndarray) -> float:
    """The share of second-half events that are among the five most frequent items of their situation before."""
    half = len(item) // 2
    counts = np.zeros((situation.max() + 1, item.max() + 1))
    np.add.at(counts, (situation[:half], item[:half]), 1)
    best = np.argsort(-counts, axis=1)[:, :FOLLOWERS]
    found = (best[situation[half:]] == item[half:, None]).any(1)
    return float(found.mean())


def situations(events: Events) -> dict[str, np.ndarray]:
    last = np.where(events.before > events.start, events.item[np.maximum(events.before - 1, 0)], 0)
    period = (events.timestamp - events.timestamp.min()) * planted.N_PERIODS // (np.ptp(events.timestamp) + 1)
    return {"transition": last, "daytime": events.timestamp % planted.DAY * 4 // planted.DAY, "trend": period}


def test_each_rule_is_found_where_it_is_planted_and_only_there(alone: dict[str, Events]) -> None:
    random = np.random.default_rng(0).permutation
    for rule, events in alone.items():
        order = random(len(events.item))  # halves of all users and times
        for name, situation in situations(events).items():
            share = surprise(situation[order], events.item[order])
            assert (share > 0.7) if name == rule else (share < 0.7), (rule, name, share)


def test_a_true_rank_is_low_as_often_as_the_law_says(alone: dict[str, Events]) -> None:
    for rule, events in alone.items():
        applies = events.before - events.start >= (2 if rule == "second_order" else 1)
        assert events.true_rank is not None
        assert (events.true_rank[applies] <= FOLLOWERS).mean() > SHARE - 0.02, rule
        assert events.true_rank.min() == 1 and events.true_rank.max() <= 60


def test_rules_change_items_alone(config: Synthetic.Config, alone: dict[str, Events]) -> None:
    plain = Synthetic(config).generate()[1]
    assert plain.true_rank is None
    for events in alone.values():
        for name in ("user", "timestamp", "device", "before"):
            assert np.array_equal(getattr(events, name), getattr(plain, name))
        assert not np.array_equal(events.item, plain.item)


def test_shares_out_of_range_are_refused(config: Synthetic.Config) -> None:
    for change, said in (
        ({"trend": 0.6, "daytime": 0.5}, "at most 1 together"),
        ({"transition": 1.5}, "dataset.transition = 1.5: must be 0 to 1"),
        ({"transition": 0.5, "n_items": 8, "n_categories": 8}, None),
        ({"transition": 0.5, "n_items": 5, "n_categories": 5}, "above 5"),
        ({"trend": 0.5, "n_users": 10**6, "n_events": 10**8, "n_items": 1000}, "each event is ranked"),
    ):
        if said is None:
            assert replace(config, **change).shares == {"transition": 0.5}
            continue
        with pytest.raises(ConfigError, match=said):
            replace(config, **change)
