"""Events drawn from a known law, so that a model's score can be compared with the best possible one.

U users, I items, N events; event n has user u, item i, label y, and a history: the user's events with an earlier
timestamp, of which the planted terms see the last WINDOW. c is an item's category.

    P(y = 1) = sigmoid(bias + sum_k strength_k * term_k)

    popularity   effect of the item: of its price, its tags and a random draw of its own
    interaction  A[segment, brand] + B[segment, device]; A and B have mean 0 over each row and each column
    triple       C[segment, brand, device]; C has mean 0 along each of its axes, so no two of the three tell anything
    interest     sign of (likes - dislikes) among the history's events of category c; 0 without any
    order        sum_s (n + 1 - 2 s) v[c_s], c_s the category of the s-th last of n events: does v[c] rise or fall?
    drift        label of the history's last event of category c, as -1 or 1; 0 without any
    recall       label of the user's last earlier event of category c, as drift, but however long ago

Terms have mean 0 and standard deviation 1 over the N events. `interest`, `drift` and `recall` depend on earlier labels,
so for them this holds approximately, and at bias 0; they are correlated, so together they count for more. Strengths
affect labels only: users, items and events are the same for all strengths. Age carries no information beyond the
segment.

Items are drawn by a Zipf law, most of them from one of the user's INTERESTS current categories, each of which is
replaced at random times; or, if one of the RULES of planted.py has a share, from the law there; or, with rounds, from
all categories in turn. A share TIED of the events has the timestamp of the user's previous event.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from recexp.config import require
from recexp.dataset.config import DatasetConfig
from recexp.dataset.raw import MULTI_SEPARATOR, Raw
from recexp.dataset.reader import planted
from recexp.dataset.reader.crossed import crossed, standardise
from recexp.dataset.reader.distant import in_rounds, last_of_category
from recexp.dataset.reader.planted import FOLLOWERS, MOST, RULES
from recexp.registry import register

VERSION = 3  # to be raised with every change of the generated data
STRENGTHS = ("popularity", "interaction", "interest", "order", "drift", "recall", "triple")
LATER = (*RULES, "recall", "rounds", "triple")  # newer options; where off, they do not change the fingerprint

MAX_ROWS = 10**8  # some gigabytes of memory
MIN_EVENTS, MAX_MEAN_EVENTS = 5, 1000  # of a user; labels are drawn in a loop over positions within users
WINDOW = 20  # events of the history that planted terms see, the default of max_history
INTERESTS = 3  # current categories of a user
EXCHANGED = 0.05  # chance that a current category is replaced at an event
ASTRAY = 0.2  # share of events whose item may be of any category
ONES = np.array([bits.bit_count() for bits in range(2 ** (WINDOW // 2))], np.int8)
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


@register("synthetic", kind="reader")
class Synthetic:
    @dataclass(kw_only=True)
    class Config(DatasetConfig):
        n_users: int
        n_items: int
        n_events: int
        n_categories: int
        generator_seed: int
        bias: float
        popularity: float
        interaction: float
        interest: float
        order: float
        drift: float
        recall: float
        rounds: bool
        triple: float
        transition: float
        second_order: float
        daytime: float
        trend: float

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("n_users", "n_items", "n_events"):
                size = getattr(self, name)
                require(1 <= size <= MAX_ROWS, f"dataset.{name}", size, f"1 to {MAX_ROWS}")
            few, many = MIN_EVENTS * self.n_users, MAX_MEAN_EVENTS * self.n_users
            require(few <= self.n_events <= many, "dataset.n_events", self.n_events,
                    f"{few} to {many}: {MIN_EVENTS} to {MAX_MEAN_EVENTS} for each of dataset.n_users")  # fmt: skip
            require(2 <= self.n_categories <= 1000, "dataset.n_categories", self.n_categories, "2 to 1000")
            require(self.n_items >= self.n_categories, "dataset.n_items", self.n_items,
                    f"{self.n_categories} (dataset.n_categories) or more")  # fmt: skip
            require(self.generator_seed >= 0, "dataset.generator_seed", self.generator_seed, "0 or more")
            for name in STRENGTHS:
                require(getattr(self, name) >= 0, f"dataset.{name}", getattr(self, name), "0 or more")
            for name in RULES:
                require(0 <= getattr(self, name) <= 1, f"dataset.{name}", getattr(self, name), "0 to 1")
            if total := sum(self.shares.values()):
                require(not self.rounds, "dataset.rounds", "true", f"false where {', '.join(self.shares)} draws items")
                require(
                    total <= 1 + 1e-9, f"dataset.{RULES[0]} + ... + {RULES[-1]}", f"{total:g}", "at most 1 together"
                )
                require(self.n_items > FOLLOWERS, "dataset.n_items", self.n_items, f"above {FOLLOWERS} for such shares")
                size = self.n_events * self.n_items
                require(size <= MOST, "dataset.n_events * n_items", size, f"at most {MOST}: each event is ranked")

        @property
        def shares(self) -> dict[str, float]:
            """The shares of the rules by which items follow; rules that are off are left out."""
            return {name: getattr(self, name) for name in RULES if getattr(self, name)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def fingerprint(self) -> str:
        options = {item.name for item in fields(self.config)} - {item.name for item in fields(DatasetConfig)}
        names = [name for name in sorted(options) if name not in LATER or getattr(self.config, name)]
        return f"synthetic {VERSION} " + " ".join(f"{name}={getattr(self.config, name)}" for name in names)

    def read(self) -> Raw:
        import pandas as pd

        world, events, label, probability = self.generate()
        tags = [MULTI_SEPARATOR.join(f"t{tag}" for tag in row) for row in world.tags]
        users = pd.DataFrame({"segment": world.segment, "age": world.age})
        items = pd.DataFrame({"category": world.category, "brand": world.brand, "tags": tags, "price": world.price})
        return Raw(origin="synthetic data", label=label, user=events.user, item=events.item,
                   timestamp=events.timestamp, context=pd.DataFrame({"device": events.device}), users=users,
                   items=items, probability=probability, true_rank=events.true_rank)  # fmt: skip

    def generate(self) -> tuple[World, Events, np.ndarray, np.ndarray]:
        """Users and items, events, and the events' labels and probabilities."""
        config = self.config
        rng = np.random.default_rng(config.generator_seed)
        world = draw_world(rng, config)
        events = draw_events(rng, config, world)
        akin = akin_events(events)
        logit = np.full(config.n_events, config.bias)
        logit += config.popularity * popularity(rng, world, events)
        logit += config.interaction * interaction(rng, world, events)
        logit += config.order * order(rng, config.n_categories, events)
        if config.triple:
            triple_rng = np.random.default_rng((config.generator_seed, 2))  # all else is drawn as without this term
            logit += config.triple * triple(triple_rng, world, events)
        label, probability = draw_labels(rng, config, events, akin, logit)
        return world, events, label, probability


def draw_world(rng: np.random.Generator, config: Synthetic.Config) -> World:
    n_users, n_items = config.n_users, config.n_items
    segment = rng.integers(N_SEGMENTS, size=n_users)
    weight = rng.permutation(np.arange(1, n_items + 1) ** -ZIPF)
    return World(
        segment=segment,
        age=np.clip(rng.normal(25 + 4 * segment, 6), 16, 90).round(),
        category=np.sort(np.arange(n_items) % config.n_categories),
        brand=rng.integers(N_BRANDS, size=n_items),
        tags=rng.integers(N_TAGS, size=(n_items, TAGS_EACH)),
        price=rng.lognormal(3, 0.5, n_items).round(2),
        frequency=weight / weight.sum(),
    )


def draw_events(rng: np.random.Generator, config: Synthetic.Config, world: World) -> Events:
    n_users, n_events = config.n_users, config.n_events
    activity = rng.lognormal(0, 0.6, n_users)
    length = MIN_EVENTS + rng.multinomial(n_events - MIN_EVENTS * n_users, activity / activity.sum())
    user = np.repeat(np.arange(n_users, dtype=np.int32), length)
    start = (np.cumsum(length) - length).astype(np.int32)[user]
    position = np.arange(n_events, dtype=np.int32)
    tied = (rng.random(n_events, dtype=np.float32) < TIED) & (position > start)
    item = draw_items(rng, config.n_categories, world, position == start)
    events = Events(
        user=user,
        item=item,
        category=world.category.astype(np.int16)[item],
        device=rng.integers(N_DEVICES, size=n_events, dtype=np.int8),
        timestamp=draw_times(rng, n_users, user, start, tied),
        start=start,
        before=np.maximum.accumulate(np.where(tied, 0, position)),
    )
    item_rng = np.random.default_rng((config.generator_seed, 1))  # all else is drawn as without rules and rounds
    if config.rounds:
        category = in_rounds(item_rng, user, start, config.n_categories)
        edge = edges(world, config.n_categories)
        item = between(item_rng, world, edge[category], edge[category + 1])
        return replace(events, item=item, category=world.category.astype(np.int16)[item])
    if not config.shares:
        return events
    law = planted.draw_law(item_rng, config.shares, world.frequency)
    item, true_rank = planted.draw_items(item_rng, law, events.timestamp, events.start, events.before)
    return replace(events, item=item, category=world.category.astype(np.int16)[item], true_rank=true_rank)


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
    rng: np.random.Generator, config: Synthetic.Config, events: Events, akin: np.ndarray, logit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) labels and probabilities from logits that lack the terms that depend on earlier labels.

    Draws all users' first events, then their second, and so on.
    """
    scale = 1 / np.sqrt(max((akin > 0).mean(), 1e-9))  # both terms are -1 or 1 where anything is akin
    last = last_of_category(events.user, events.category, events.before) if config.recall else None
    threshold = rng.random(len(logit), dtype=np.float32)
    first, length = np.unique(events.start, return_counts=True)
    first = first[np.argsort(-length, kind="stable")]
    n_active = len(length) - np.searchsorted(np.sort(length), np.arange(length.max()), side="right")
    liked = np.zeros(len(first), np.int64)  # bit s - 1: the label of the user's s-th last event, ties included
    probability = np.zeros(len(logit))
    for position, active in enumerate(n_active):
        event = first[:active] + position
        liked_akin = (liked[:active] >> (event - events.before[event])) & akin[event]
        term = config.interest * interest(liked_akin, akin[event]) + config.drift * drift(liked_akin, akin[event])
        term *= scale
        if last is not None:
            seen = last[event]
            recalled = np.where(seen < 0, 0, np.where(threshold[seen] < probability[seen], 1, -1))
            term += config.recall / np.sqrt((last >= 0).mean()) * recalled
        probability[event] = 1 / (1 + np.exp(-(logit[event] + term)))
        liked[:active] = (liked[:active] << 1) | (threshold[event] < probability[event])
    return (threshold < probability).astype(np.float32), probability


def interest(liked: np.ndarray, akin: np.ndarray) -> np.ndarray:
    """1 if most akin events were liked, -1 if most were not, else 0; bits of the liked akin events and of all."""
    return np.sign(2 * ones(liked) - ones(akin))


def drift(liked: np.ndarray, akin: np.ndarray) -> np.ndarray:
    """From the same bits: 1 if the last akin event was liked, -1 if it was not; 0 without any."""
    last = akin & -akin  # the lowest bit
    return np.sign(2 * (liked & last) - last)


def ones(bits: np.ndarray) -> np.ndarray:
    """How many of the WINDOW bits are set. np.bitwise_count came with numpy 2."""
    return ONES[bits & (len(ONES) - 1)] + ONES[bits >> (WINDOW // 2)]
