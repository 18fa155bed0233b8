"""The terms of synthetic data's logits, as synthetic.py defines them, and the labels drawn from them.

N events
"""

import numpy as np

from recexp.dataset.reader.crossed import crossed, standardise
from recexp.dataset.reader.distant import last_of_category
from recexp.dataset.reader.world import N_BRANDS, N_DEVICES, N_SEGMENTS, N_TAGS, Events, World

WINDOW = 20  # events of the history that planted terms see, the default of max_history
ONES = np.array([bits.bit_count() for bits in range(2 ** (WINDOW // 2))], np.int8)


def popularity(rng: np.random.Generator, world: World, events: Events) -> np.ndarray:
    tag_effect = rng.standard_normal(N_TAGS)
    effect = (
        standardise(np.log(world.price))
        + standardise(tag_effect[world.tags].sum(1))
        + rng.standard_normal(len(world.price))
    )
    return standardise(effect[events.item])


def interaction(rng: np.random.Generator, world: World, events: Events) -> np.ndarray:
    segment = world.segment[events.user]
    brands = crossed(rng, (segment, world.brand[events.item]), (N_SEGMENTS, N_BRANDS))
    return standardise(brands + crossed(rng, (segment, events.device), (N_SEGMENTS, N_DEVICES)))


def triple(rng: np.random.Generator, world: World, events: Events) -> np.ndarray:
    columns = world.segment[events.user], world.brand[events.item], events.device
    return crossed(rng, columns, (N_SEGMENTS, N_BRANDS, N_DEVICES))


def category_before(events: Events, lag: int) -> np.ndarray:
    """(N,) category of the lag-th last event of the history, -1 if there is none."""
    index = events.before - np.int32(lag)
    return np.where(index >= events.start, events.category[np.maximum(index, 0)], np.int16(-1))


def order(rng: np.random.Generator, n_categories: int, events: Events) -> np.ndarray:
    """Changes sign when the history is reversed, so the set of events carries no information about it."""
    value = np.append(rng.standard_normal(n_categories), 0).astype(np.float32)  # no event: 0
    length = np.minimum(events.before - events.start, WINDOW)
    trend = np.zeros(len(length), np.float32)
    for lag in range(1, WINDOW + 1):
        trend += (length + 1 - 2 * lag) * value[category_before(events, lag)]
    return standardise(trend)


def akin_events(events: Events) -> np.ndarray:
    """(N,) bit s - 1: the s-th last event of the history, s = 1 to WINDOW, is of the target's category."""
    akin = np.zeros(len(events.item), np.int32)
    for lag in range(1, WINDOW + 1):
        akin |= (category_before(events, lag) == events.category).astype(np.int32) << (lag - 1)
    return akin


def draw_labels(
    rng: np.random.Generator, events: Events, logit: np.ndarray, interest: float, drift: float, recall: float
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) labels and probabilities from logits that lack the terms that depend on earlier labels.

    Draws all users' first events, then their second, and so on. interest, drift, recall: the strengths of these terms.
    """
    akin = akin_events(events)
    scale = 1 / np.sqrt(max((akin > 0).mean(), 1e-9))  # both terms are -1 or 1 where anything is akin
    last = last_of_category(events.user, events.category, events.before) if recall else None
    size = 1.0 if last is None else np.sqrt(max((last >= 0).mean(), 1e-9))  # of recall's term, on average
    threshold = rng.random(len(logit), dtype=np.float32)
    first, length = np.unique(events.start, return_counts=True)
    first = first[np.argsort(-length, kind="stable")]
    n_active = len(length) - np.searchsorted(np.sort(length), np.arange(length.max()), side="right")
    liked = np.zeros(len(first), np.int64)  # bit s - 1: the label of the user's s-th last event, ties included
    probability = np.zeros(len(logit))
    for position, active in enumerate(n_active):
        event = first[:active] + position
        liked_akin = (liked[:active] >> (event - events.before[event])) & akin[event]
        term = interest * mostly_liked(liked_akin, akin[event]) + drift * last_liked(liked_akin, akin[event])
        term *= scale
        if last is not None:
            seen = last[event]
            recalled = np.where(seen < 0, 0, np.where(threshold[seen] < probability[seen], 1, -1))
            term += recall / size * recalled
        probability[event] = 1 / (1 + np.exp(-(logit[event] + term)))
        liked[:active] = (liked[:active] << 1) | (threshold[event] < probability[event])
    return (threshold < probability).astype(np.float32), probability


def mostly_liked(liked: np.ndarray, akin: np.ndarray) -> np.ndarray:
    """Interest: 1 if most akin events were liked, -1 if most were not, else 0. Bits of the liked ones and of all."""
    return np.sign(2 * ones(liked) - ones(akin))


def last_liked(liked: np.ndarray, akin: np.ndarray) -> np.ndarray:
    """Drift, from the same bits: 1 if the last akin event was liked, -1 if it was not; 0 without any."""
    last = akin & -akin  # the lowest bit
    return np.sign(2 * (liked & last) - last)


def ones(bits: np.ndarray) -> np.ndarray:
    """How many of the WINDOW bits are set. np.bitwise_count came with numpy 2."""
    return ONES[bits & (len(ONES) - 1)] + ONES[bits >> (WINDOW // 2)]
