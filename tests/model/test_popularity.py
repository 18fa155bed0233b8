"""The popularity baseline against counts by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import with_catalogue
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Features
from recexp.dataset.config import LabelKind
from recexp.dataset.log import Dataset
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.error import ConfigError
from recexp.model import Fit, stages

Make = Callable[..., nn.Module]


def fit(model: nn.Module, batches: Batches) -> nn.Module:
    (stage,) = stages(model)
    assert isinstance(stage, Fit)
    stage.fit(batches.training())
    return model


def counts(dataset: Dataset) -> dict[int, list[float]]:
    """The training labels of each item."""
    labels: dict[int, list[float]] = {item: [] for item in range(1, len(dataset.log.items.ids))}
    for row in dataset.log.rows("train"):
        labels[int(dataset.log.item[row])].append(float(dataset.log.label[row]))
    return labels


def logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def test_logit_is_the_smoothed_rate_of_the_item(make: Make, dataset: Dataset, batches: Batches, mixed: Batch) -> None:
    model = fit(make("popularity", smoothing=3.0), batches)
    labels = counts(dataset)
    everything = [label for of_item in labels.values() for label in of_item]
    rate = sum(everything) / len(everything)
    wanted = [logit((sum(labels[item]) + 3 * rate) / (len(labels[item]) + 3)) for item in mixed.target.tolist()]
    torch.testing.assert_close(model(mixed).logits, torch.tensor(wanted))


def test_unknown_item_gets_the_rate_of_all(make: Make, dataset: Dataset, batches: Batches, mixed: Batch) -> None:
    model = fit(make("popularity"), batches)
    unknown = with_catalogue(
        mixed, items=Features(torch.full_like(mixed.catalogue.items.ids, UNKNOWN), mixed.catalogue.items.values)
    )
    rate = float(dataset.log.label[dataset.log.rows("train")].mean())
    torch.testing.assert_close(model(unknown).logits, torch.full((len(mixed),), logit(rate)))


def test_large_smoothing_leaves_one_score_for_all(make: Make, batches: Batches, mixed: Batch) -> None:
    logits = fit(make("popularity", smoothing=1e9), batches)(mixed).logits
    torch.testing.assert_close(logits, logits[:1].expand(len(mixed)), rtol=0, atol=1e-5)


def test_valid_and_test_rows_are_not_counted(compose: Callable[..., Config], make: Make, dataset: Dataset) -> None:
    label = dataset.log.label.copy()
    label[dataset.log.split != 0] = 1
    other = replace(dataset, log=replace(dataset.log, label=label))
    scores = [fit(make("popularity"), Batches(data, compose().dataset)).score for data in (dataset, other)]
    assert torch.equal(*scores)


def test_implicit_labels_are_ranked_by_their_share_of_events(
    compose: Callable[..., Config], make: Make, dataset: Dataset, mixed: Batch
) -> None:
    config = replace(compose().dataset, label=LabelKind.implicit)
    ones = replace(dataset, log=replace(dataset.log, label=dataset.log.label * 0 + 1))
    model = fit(make("popularity", smoothing=2.0), Batches(ones, config))
    n = {item: len(labels) for item, labels in counts(dataset).items()}
    total = sum(n.values()) + 2 * dataset.schema.n_items
    wanted = [math.log((n[item] + 2) / total) for item in mixed.target.tolist()]
    torch.testing.assert_close(model(mixed).logits, torch.tensor(wanted))


@pytest.mark.parametrize("recent", [0.001, 0.1, 0.5, 1.0])
def test_the_latest_share_of_events_alone_is_counted(
    recent: float, compose: Callable[..., Config], make: Make, dataset: Dataset
) -> None:
    log, rows = dataset.log, dataset.log.rows("train")
    ordered = sorted((log.timestamp[row] for row in rows), reverse=True)
    first = ordered[max(1, round(recent * len(rows))) - 1]
    old = np.isin(np.arange(len(log)), [row for row in rows if log.timestamp[row] < first])
    assert old.sum() <= len(rows) - round(recent * len(rows)) and old.any() == (recent < 1)
    without = replace(dataset, log=replace(log, split=np.where(old, 1, log.split)))  # no part of training
    model, expected = make("popularity", recent=recent), make("popularity")
    fit(model, Batches(dataset, compose().dataset))
    fit(expected, Batches(without, compose().dataset))
    assert torch.equal(model.score, expected.score)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_of_events_is_above_0_and_at_most_1(share: float, make: Make) -> None:
    with pytest.raises(ConfigError, match=r"model\.recent = .*: must be above 0, at most 1"):
        make("popularity", recent=share)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_gives_finite_scores(
    label: float, compose: Callable[..., Config], make: Make, dataset: Dataset
) -> None:
    same = replace(dataset, log=replace(dataset.log, label=dataset.log.label * 0 + label))
    assert fit(make("popularity"), Batches(same, compose().dataset)).score.isfinite().all()


def test_smoothing_of_0_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"model\.smoothing = 0.*above 0"):
        make("popularity", smoothing=0.0)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match="this dataset is a table"):
        make("popularity", schema=table.schema)


def test_every_user_is_recommended_the_most_frequent_items(make, mixed, batches):
    model = fit(make("popularity"), batches)
    ranked = (model.query(mixed) @ model.item_vectors().t())[:, FIRST:]
    assert torch.equal(ranked, model.score[FIRST:].expand(len(mixed), -1))
