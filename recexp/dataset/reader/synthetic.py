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

from dataclasses import dataclass, fields

import numpy as np

from recexp.dataset.config import DatasetConfig
from recexp.dataset.raw import MULTI_SEPARATOR, Raw
from recexp.dataset.reader.planted import FOLLOWERS, MOST, RULES
from recexp.dataset.reader.term import draw_labels, interaction, order, popularity, triple
from recexp.dataset.reader.world import (
    MIN_EVENTS,
    Events,
    World,
    draw_events,
    draw_world,
    with_items_in_rounds,
    with_planted_items,
)
from recexp.option import require
from recexp.registry import register

VERSION = 3  # to be raised with every change of the generated data
STRENGTHS = ("popularity", "interaction", "interest", "order", "drift", "recall", "triple")
LATER = (*RULES, "recall", "rounds", "triple")  # newer options; where off, they do not change the fingerprint
MAX_ROWS = 10**8  # some gigabytes of memory
MAX_MEAN_EVENTS = 1000  # of a user; labels are drawn in a loop over positions within users


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
        config, seed = self.config, self.config.generator_seed
        rng, item_rng, triple_rng = (np.random.default_rng(key) for key in (seed, (seed, 1), (seed, 2)))
        world = draw_world(rng, config.n_users, config.n_items, config.n_categories)
        events = draw_events(rng, config.n_events, config.n_categories, world)
        if config.rounds:  # drawn from a generator of its own, as the rules are: all else is drawn as without
            events = with_items_in_rounds(item_rng, config.n_categories, world, events)
        elif config.shares:
            events = with_planted_items(item_rng, config.shares, world, events)
        logit = np.full(config.n_events, config.bias)
        logit += config.popularity * popularity(rng, world, events)
        logit += config.interaction * interaction(rng, world, events)
        logit += config.order * order(rng, config.n_categories, events)
        if config.triple:
            logit += config.triple * triple(triple_rng, world, events)
        strengths = {name: getattr(config, name) for name in ("interest", "drift", "recall")}
        label, probability = draw_labels(rng, events, logit, **strengths)
        return world, events, label, probability
