"""Tiny logs and configurations, made without a reader."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.config import (
    DatasetConfig,
    DerivedConfig,
    Duplicates,
    FeatureKind,
    FeaturesConfig,
    HistoryKind,
    HistoryUntil,
    LabelKind,
    SplitConfig,
    SplitKind,
    TimePart,
)
from recexp.dataset.raw import Raw

FEATURES = {
    "user": {"city": FeatureKind.categorical, "age": FeatureKind.numeric},
    "item": {"brand": FeatureKind.categorical, "tags": FeatureKind.multi, "price": FeatureKind.binned},
    "context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric},
}
DEFAULTS: dict[str, Any] = {
    "name": "tiny",
    "reader": "tiny",
    "label": LabelKind.explicit,
    "label_threshold": None,
    "negatives": 1,
    "max_history": 4,
    "history": HistoryKind.all,
    "history_until": HistoryUntil.target,
    "n_bins": 3,
    "n_buckets": 4,
    "n_quotients": 1,
    "min_count": 1,
    "duplicates": Duplicates.keep,
    "k_core": 0,
    "cache_dir": None,
}


@pytest.fixture
def tiny_config() -> Callable[..., DatasetConfig]:
    return make_config


@pytest.fixture
def tiny_log() -> Callable[..., Raw]:
    return make_log


@pytest.fixture
def tiny_table() -> Callable[..., Raw]:
    return make_table


def make_config(
    split: SplitKind = SplitKind.user_time,
    ratios: tuple[float, float, float] = (0.6, 0.2, 0.2),
    features: dict[str, dict[str, FeatureKind]] | None = None,
    last_items: int = 0,
    most_liked: Sequence[str] = (),
    time: Sequence[TimePart] = (),
    **options: Any,
) -> DatasetConfig:
    """All features of make_log, unless others are given."""
    derived = DerivedConfig(last_items=last_items, most_liked=list(most_liked), time=list(time))
    chosen = {"user": {}, "item": {}, "context": {}} | (FEATURES if features is None else features)
    return DatasetConfig(
        features=FeaturesConfig(**chosen, derived=derived),
        split=SplitConfig(kind=split, ratios=list(ratios), column="part" if split is SplitKind.given else None),
        **(DEFAULTS | options),
    )


def make_log(seed: int = 0, n_rows: int = 160, n_users: int = 14, n_items: int = 12, n_times: int = 40) -> Raw:
    """Busy and idle users in random file order, many ties, missing features; one user has one event, one a lone tie."""
    rng = np.random.default_rng(seed)
    weight = np.arange(1, n_users + 1) ** -1.2
    user = np.append(rng.choice(n_users, n_rows - 3, p=weight / weight.sum()), [n_users, n_users + 1, n_users + 1])
    item = rng.choice(n_items, n_rows)
    time = np.append(rng.integers(n_times, size=n_rows - 3), [n_times // 2, n_times // 3, n_times // 3])
    return Raw(
        origin="tiny",
        label=rng.integers(2, size=n_rows),
        user=np.array([f"u{number:02}" for number in user], object),
        item=item * 10,
        timestamp=time,
        context=pd.DataFrame({
            "device": rng.choice(["phone", "web", None], n_rows),
            "hour": np.where(rng.random(n_rows) < 0.1, np.nan, rng.integers(24, size=n_rows)),
        }),
        users=pd.DataFrame(
            {
                "city": rng.choice(["A", "B", "C", None], n_users + 2),
                "age": rng.integers(18, 80, n_users + 2).astype(float),
            },
            index=[f"u{number:02}" for number in range(n_users + 2)],
        ),
        items=pd.DataFrame(
            {
                "brand": rng.choice(list("pqrs"), n_items),
                "tags": ["|".join(rng.choice(list("vwxyz"), rng.integers(4), replace=False)) for _ in range(n_items)],
                "price": rng.random(n_items),
            },
            index=np.arange(n_items) * 10,
        ),
        split=rng.choice(["train", "valid", "test"], n_rows, p=[0.6, 0.2, 0.2]).astype(object),
    )  # fmt: skip


def make_table(seed: int = 0, n_rows: int = 40) -> Raw:
    rng = np.random.default_rng(seed)
    return Raw(
        origin="tiny table",
        label=rng.integers(2, size=n_rows),
        context=pd.DataFrame({"device": rng.choice(list("abc"), n_rows), "hour": rng.random(n_rows)}),
        split=rng.choice(["train", "valid", "test"], n_rows).astype(object),
    )
