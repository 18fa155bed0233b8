"""Users and items of synthetic data, and who meets what, when.

U users, I items, N events
"""

from dataclasses import dataclass, replace

import numpy as np

from recexp.dataset.reader import planted
from recexp.dataset.reader.distant import in_rounds

MIN_EVENTS = 5  # of a user
INTERESTS = 3  # current categories of a user
EXCHANGED = 0.05  # chance that a current category is replaced at an event
ASTRAY = 0.2  # share of events whose item may be of any category
ZIPF = 0.8  # item frequency ~ rank^-ZIPF; at 1 the first of 1,000 items would take 13 % of all events
TIED = 0.1
N_SEGMENTS, N_BRANDS, N_DEVICES, N_TAGS, TAGS_EACH = 8, 20, 4, 15, 2
MEAN_GAP, JOINED_WITHIN = 12 * 3600, 90 * 24 * 3600  # seconds


@dataclass(frozen=True, kw_only=True)
class World:
    """Users and items, numbered from 0."""

    segment: np.ndarray  # (U,)
    age: np.ndarray  # (U,)
    category: np.ndarray  # (I,) ascending
    brand: np.ndarray  # (I,)
    tags: np.ndarray  # (I, TAGS_EACH)
    price: np.ndarray  # (I,)
    frequency: np.ndarray  # (I,) sums to 1


@dataclass(frozen=True, kw_only=True)
class Events:
    """N events sorted by user, then time."""

    user: np.ndarray  # (N,) int32
    item: np.ndarray  # (N,) int32
    category: np.ndarray  # (N,) int16, the item's
    device: np.ndarray  # (N,) int8
    timestamp: np.ndarray  # (N,) int64
    start: np.ndarray  # (N,) int32, the user's first event
    before: np.ndarray  # (N,) int32, the first event with this user and timestamp; the history ends there
    true_rank: np.ndarray | None = None  # (N,) int32, of the item by its probability, if a rule drew it


def draw_world(rng: np.random.Generator, n_users: int, n_items: int, n_categories: int) -> World:
    segment = rng.integers(N_SEGMENTS, size=n_users)
    weight = rng.permutation(np.arange(1, n_items + 1) ** -ZIPF)
    return World(
        segment=segment,
        age=np.clip(rng.normal(25 + 4 * segment, 6), 16, 90).round(),
        category=np.sort(np.arange(n_items) % n_categories),
        brand=rng.integers(N_BRANDS, size=n_items),
        tags=rng.integers(N_TAGS, size=(n_items, TAGS_EACH)),
        price=rng.lognormal(3, 0.5, n_items).round(2),
        frequency=weight / weight.sum(),
    )


def draw_events(rng: np.random.Generator, n_events: int, n_categories: int, world: World) -> Events:
    n_users = len(world.segment)
    activity = rng.lognormal(0, 0.6, n_users)
    length = MIN_EVENTS + rng.multinomial(n_events - MIN_EVENTS * n_users, activity / activity.sum())
    user = np.repeat(np.arange(n_users, dtype=np.int32), length)
    start = (np.cumsum(length) - length).astype(np.int32)[user]
    position = np.arange(n_events, dtype=np.int32)
    tied = (rng.random(n_events, dtype=np.float32) < TIED) & (position > start)
    item = draw_items(rng, n_categories, world, position == start)
    return Events(
        user=user,
        item=item,
        category=world.category.astype(np.int16)[item],
        device=rng.integers(N_DEVICES, size=n_events, dtype=np.int8),
        timestamp=draw_times(rng, n_users, user, start, tied),
        start=start,
        before=np.maximum.accumulate(np.where(tied, 0, position)),
    )


def with_items_in_rounds(rng: np.random.Generator, n_categories: int, world: World, events: Events) -> Events:
    """The events with other items, of all categories in turn."""
    category = in_rounds(rng, events.user, events.start, n_categories)
    edge = edges(world, n_categories)
    return _with_items(events, world, between(rng, world, edge[category], edge[category + 1]))


def with_planted_items(rng: np.random.Generator, shares: dict[str, float], world: World, events: Events) -> Events:
    """The events with other items, some of which follow from the user's earlier ones by the rules of planted.py."""
    law = planted.draw_law(rng, shares, world.frequency)
    item, true_rank = planted.draw_items(rng, law, events.timestamp, events.start, events.before)
    return replace(_with_items(events, world, item), true_rank=true_rank)


def _with_items(events: Events, world: World, item: np.ndarray) -> Events:
    return replace(events, item=item, category=world.category.astype(np.int16)[item])


def draw_items(rng: np.random.Generator, n_categories: int, world: World, first: np.ndarray) -> np.ndarray:
    """(N,) items: of one of the user's current categories or, if astray, of any."""
    n_events = len(first)
    chosen = rng.integers(INTERESTS, size=n_events, dtype=np.int8)
    category = np.empty(n_events, np.int16)
    for interest in range(INTERESTS):
        spell = np.cumsum(first | (rng.random(n_events, dtype=np.float32) < EXCHANGED), dtype=np.int32) - 1
        category_of = rng.integers(n_categories, size=spell[-1] + 1, dtype=np.int16)
        np.copyto(category, category_of[spell], where=chosen == interest)
    edge = edges(world, n_categories)
    astray = rng.random(n_events, dtype=np.float32) < ASTRAY
    return between(rng, world, np.where(astray, 0, edge[category]), np.where(astray, 1, edge[category + 1]))


def edges(world: World, n_categories: int) -> np.ndarray:
    """(n_categories + 1,) the share of items in lower categories, by their frequency."""
    below = np.concatenate([[0], np.cumsum(world.frequency)])
    return below[np.searchsorted(world.category, np.arange(n_categories + 1))]  # items are sorted by category


def between(rng: np.random.Generator, world: World, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N,) items by their frequency, each from a range of shares."""
    below = np.concatenate([[0], np.cumsum(world.frequency)])
    item = np.searchsorted(below, low + rng.random(len(low)) * (high - low), side="right") - 1
    return np.minimum(item, len(world.frequency) - 1).astype(np.int32)  # rounding may reach the upper edge


def draw_times(
    rng: np.random.Generator, n_users: int, user: np.ndarray, start: np.ndarray, tied: np.ndarray
) -> np.ndarray:
    gap = 1 + (MEAN_GAP * rng.standard_exponential(len(user), dtype=np.float32)).astype(np.int64)
    time = np.cumsum(np.where(tied, 0, gap))
    return time - time[start] + rng.integers(JOINED_WITHIN, size=n_users)[user]
