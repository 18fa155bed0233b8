"""Scoring a model over a split."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batches
from recexp.dataset.log import Dataset
from recexp.metric.binary import best_threshold, evaluate
from recexp.metric.scoring import evaluate_split, score, undefined

Make = Callable[..., nn.Module]


def test_evaluation_batch_size_changes_no_metric(make: Make, compose: Callable[..., Config], batches: Batches) -> None:
    model = make("dien")
    found = []
    for size in (1, 7, 5000):
        scores = score(model, batches, "test", size)
        found.append((scores, evaluate(scores.labels, scores.logits, scores.users, 0.0).values))
    for scores, metrics in found[1:]:
        np.testing.assert_allclose(scores.logits, found[0][0].logits, rtol=0, atol=1e-5)  # float32 sums of order 1
        assert np.array_equal(scores.users, found[0][0].users) and np.array_equal(scores.items, found[0][0].items)
        assert metrics == pytest.approx(found[0][1], rel=1e-5)


def test_scores_stand_in_the_order_of_the_log(make: Make, compose: Callable[..., Config], dataset: Dataset) -> None:
    scores = score(make("fm"), Batches(dataset, compose().dataset), "valid", 512)
    rows = dataset.log.rows("valid")
    assert np.array_equal(scores.labels, dataset.log.label[rows])
    assert np.array_equal(scores.users, dataset.log.user[rows])
    assert np.array_equal(scores.items, dataset.log.item[rows])


def test_model_is_scored_in_evaluation_mode(make: Make, batches: Batches) -> None:
    model = make("deepfm", dropout=0.5).train()
    first, second = (score(model, batches, "valid", 512) for _ in range(2))
    assert np.array_equal(first.logits, second.logits) and not model.training


def test_split_is_evaluated_at_the_threshold_that_is_best_on_it(make: Make, batches: Batches) -> None:
    model = make("fm")
    metrics, threshold = evaluate_split(model, batches, "valid", 512)
    scores = score(model, batches, "valid", 512)
    assert threshold == {"": best_threshold(scores.labels, scores.logits)}
    assert metrics == evaluate(scores.labels, scores.logits, scores.users, threshold[""])


def test_split_without_rows_has_no_metrics(make: Make, compose: Callable[..., Config], dataset: Dataset) -> None:
    split = np.where(dataset.log.split == 1, 0, dataset.log.split).astype(np.int8)
    empty = Batches(replace(dataset, log=replace(dataset.log, split=split)), compose().dataset)
    assert evaluate_split(make("fm"), empty, "valid", 512) == (None, {})


def test_scores_that_are_not_finite_are_counted(make: Make, batches: Batches) -> None:
    model = make("fm")
    with torch.no_grad():
        model.linear.bias.fill_(torch.nan)
    n = batches.size("valid")
    with pytest.raises(FloatingPointError, match=f"^{n} of {n} scores of valid are not finite$"):
        score(model, batches, "valid", 512)


def test_what_no_model_can_change_about_a_metric_is_known_beforehand(dataset: Dataset, table: Dataset) -> None:
    assert undefined("auc", dataset, sampled=False) is undefined("gauc", dataset, sampled=False) is None
    positive = replace(dataset, log=replace(dataset.log, label=np.ones_like(dataset.log.label)))
    assert undefined("auc", positive, sampled=False) == "one class only: every label is 1"
    assert undefined("gauc", positive, sampled=False) == "no user has both classes"
    assert undefined("auc", positive, sampled=True) is undefined("f1@best", positive, sampled=False) is None
    assert undefined("gauc", table, sampled=False) == "no users"
