"""The next items of synthetic data, drawn from a known law, and each item's rank by its true probability.

U users, I items, N events; a rule gives a user's situation FOLLOWERS items, each equally likely.

    P(i) = rest * frequency_i + sum_rules share_rule * [i follows] / FOLLOWERS,  rest = 1 - the shares that apply

    transition    of the last item
    second_order  of the sum of the kinds of the last two items, modulo N_KINDS: one of them alone says nothing
    daytime       of the quarter of the day, when the event happens
    trend         of the period, one of N_PERIODS of the whole time, in which the event happens

Last items are those with an earlier timestamp; a rule does not apply as long as there are too few.
"""

from dataclasses import dataclass

import numpy as np

RULES = ("transition", "second_order", "daytime", "trend")
FOLLOWERS = 5
N_KINDS, N_PERIODS, DAY = 8, 12, 24 * 3600
LARGEST = 2**22  # probabilities held at once
MOST = 10**10  # events times items: every event is ranked against every item


@dataclass(frozen=True, kw_only=True)
class Law:
    shares: dict[str, float]  # of RULES; no more than 1 together
    frequency: np.ndarray  # (I,) sums to 1
    follower: dict[str, np.ndarray]  # (situations, FOLLOWERS) items, different in a row
    kind: np.ndarray  # (I,) 0 to N_KINDS - 1


def draw_law(rng: np.random.Generator, shares: dict[str, float], frequency: np.ndarray) -> Law:
    n_items = len(frequency)
    situations = {"transition": n_items, "second_order": N_KINDS, "daytime": 4, "trend": N_PERIODS}
    follower = {
        rule: rng.random((n, n_items)).argpartition(FOLLOWERS, axis=1)[:, :FOLLOWERS] for rule, n in situations.items()
    }
    return Law(shares=shares, frequency=frequency, follower=follower, kind=rng.integers(N_KINDS, size=n_items))


def draw_items(
    rng: np.random.Generator, law: Law, timestamp: np.ndarray, start: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Items (N,) int32, and the rank of each (N,) int32 by its true probability; a tie counts against it.

    start, before (N,): the user's first event, and the first of the same user and timestamp, where the history ends.
    Draws all users' first events, then their second, and so on.
    """
    item, rank = np.zeros(len(start), np.int32), np.zeros(len(start), np.int32)
    period = (timestamp - timestamp.min()) * N_PERIODS // (np.ptp(timestamp) + 1)
    position = np.arange(len(start)) - start
    by_position = np.argsort(position, kind="stable")
    n_users = max(1, LARGEST // len(law.frequency))
    for events in np.split(by_position, np.cumsum(np.bincount(position))[:-1]):
        for first in range(0, len(events), n_users):
            event = events[first : first + n_users]
            situation = {"daytime": timestamp[event] % DAY * 4 // DAY, "trend": period[event]}
            situation |= _of_last(law, item, start[event], before[event])
            item[event] = _draw(rng, law, situation)
            probability = _probability(law, situation, len(event))
            rank[event] = (probability >= probability[np.arange(len(event)), item[event], None]).sum(1)
    return item, rank


def _of_last(law: Law, item: np.ndarray, start: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
    """The situations of the rules on last items, -1 where there are too few."""
    last, second = (item[np.maximum(before - lag, 0)] for lag in (1, 2))
    return {
        "transition": np.where(before - 1 >= start, last, -1),
        "second_order": np.where(before - 2 >= start, (law.kind[last] + law.kind[second]) % N_KINDS, -1),
    }


def _draw(rng: np.random.Generator, law: Law, situation: dict[str, np.ndarray]) -> np.ndarray:
    chance, follower = rng.random(len(situation["trend"])), rng.integers(FOLLOWERS, size=len(situation["trend"]))
    drawn = np.searchsorted(np.cumsum(law.frequency), rng.random(len(chance))).clip(max=len(law.frequency) - 1)
    low = 0.0
    for rule, share in law.shares.items():
        follows = (chance >= low) & (chance < low + share) & (situation[rule] >= 0)
        drawn[follows] = law.follower[rule][situation[rule][follows], follower[follows]]
        low += share
    return drawn


def _probability(law: Law, situation: dict[str, np.ndarray], n: int) -> np.ndarray:
    """(n, I)."""
    rest, rows = np.ones(n), np.arange(n)
    for rule, share in law.shares.items():
        rest -= share * (situation[rule] >= 0)
    probability = rest[:, None] * law.frequency
    for rule, share in law.shares.items():
        applies = rows[situation[rule] >= 0]
        probability[applies[:, None], law.follower[rule][situation[rule][applies]]] += share / FOLLOWERS
    return probability
