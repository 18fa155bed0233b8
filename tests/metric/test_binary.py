import math

import numpy as np
import pytest
from sklearn import metrics as sk

from recexp.metric.binary import best_threshold, evaluate
from recexp.metric.table import PREDICTION_METRICS

NAMES = set(PREDICTION_METRICS)


def sample(seed: int, n: int = 200, n_users: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits of few unique values, users of whom some have one class only."""
    draw = np.random.default_rng(seed)
    user = draw.integers(0, n_users, n)
    label = np.where(user < 3, user % 2, draw.integers(0, 2, n))
    return label, draw.integers(-8, 9, n) / 4 + label / 4, user


def brute_auc(label: np.ndarray, score: np.ndarray) -> float | None:
    won = [(p > q) + (p == q) / 2 for p in score[label == 1] for q in score[label == 0]]
    return sum(won) / len(won) if won else None


def brute_f1(label: np.ndarray, score: np.ndarray, threshold: float) -> float:
    hit = sum(y and s >= threshold for y, s in zip(label, score, strict=True))
    return 2 * hit / (label.sum() + (score >= threshold).sum())


def test_four_rows_computed_by_hand():
    p = [0.9, 0.6, 0.6, 0.2]
    metrics = evaluate([1, 0, 1, 0], np.log(p) - np.log1p(np.negative(p)), [7, 7, 7, 3], threshold=1.0)
    expected = {
        "auc": 3.5 / 4,  # of four pairs three are won, one is a tie
        "gauc": 1.5 / 2,  # user 7 alone has both classes
        "gauc_users": 1 / 2,
        "logloss": -(math.log(0.9) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4,
        "accuracy": 3 / 4,
        "precision": 2 / 3,
        "recall": 1.0,
        "f1": 4 / 5,
        "accuracy@best": 3 / 4,  # logits of 1 and more: the first row alone
        "precision@best": 1.0,
        "recall@best": 1 / 2,
        "f1@best": 2 / 3,
        "ece": (0.1 + 0.2 + 0.2) / 4,
        "predicted_observed": 2.3 / 2,
    }
    assert metrics.values == pytest.approx(expected, abs=1e-12)
    assert metrics.reasons == {}


def test_gauc_weights_users_by_their_rows():
    label, score, user = [1, 0, 1, 0, 0, 0], [1, 0, 0, 1, -1, -1], ["a", "a", "b", "b", "b", "b"]
    assert evaluate(label, score, user).values["gauc"] == pytest.approx((2 * 1 + 4 * 2 / 3) / 6)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn_under_ties(seed):
    label, score, user = sample(seed)
    threshold = 0.75
    metrics = evaluate(label, score, user, threshold).values
    p = 1 / (1 + np.exp(-score))
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(label, score), abs=1e-12)
    assert metrics["logloss"] == pytest.approx(sk.log_loss(label, p), abs=1e-12)
    for suffix, predicted in (("", score >= 0), ("@best", score >= threshold)):
        assert metrics[f"accuracy{suffix}"] == pytest.approx(sk.accuracy_score(label, predicted))
        assert metrics[f"precision{suffix}"] == pytest.approx(sk.precision_score(label, predicted))
        assert metrics[f"recall{suffix}"] == pytest.approx(sk.recall_score(label, predicted))
        assert metrics[f"f1{suffix}"] == pytest.approx(sk.f1_score(label, predicted))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_plain_loops(seed):
    label, score, user = sample(seed)
    metrics = evaluate(label, score, user).values
    assert metrics["auc"] == pytest.approx(brute_auc(label, score), abs=1e-12)
    rows = [(user == u) for u in np.unique(user)]
    aucs = [brute_auc(label[own], score[own]) for own in rows]
    covered = [(auc, own.sum()) for auc, own in zip(aucs, rows, strict=True) if auc is not None]
    assert 0 < len(covered) < len(rows)
    assert metrics["gauc"] == pytest.approx(sum(a * n for a, n in covered) / sum(n for _, n in covered), abs=1e-12)
    assert metrics["gauc_users"] == pytest.approx(len(covered) / len(rows))
    p = 1 / (1 + np.exp(-score))
    bins = [(p >= k / 10) & ((p < (k + 1) / 10) | (k == 9)) for k in range(10)]
    assert metrics["ece"] == pytest.approx(sum(abs(label[own].sum() - p[own].sum()) for own in bins) / len(p))


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_beats_every_cut(seed):
    label, score, _ = sample(seed, n=60)
    threshold = best_threshold(label, score)
    best = max(brute_f1(label, score, cut) for cut in score)
    assert brute_f1(label, score, threshold) == best
    assert threshold == max(cut for cut in score if brute_f1(label, score, cut) == best)
    assert evaluate(label, score, threshold=threshold).values["f1@best"] == pytest.approx(best)


def test_best_threshold_tells_saturated_logits_apart():
    assert best_threshold([1, 0, 0], [61.0, 60.0, 59.0]) == 61.0  # all have probability 1.0


def test_best_threshold_needs_a_positive():
    assert best_threshold([0, 0], [1.0, 2.0]) is None
    assert best_threshold([], []) is None


def test_metrics_do_not_depend_on_the_order_of_rows():
    label, score, user = sample(0)
    shuffled = np.random.default_rng(1).permutation(len(label))
    metrics = evaluate(label, score, user, 0.5).values
    again = evaluate(label[shuffled], score[shuffled], user[shuffled], 0.5).values
    assert again == pytest.approx(metrics, abs=1e-12)
    for name in ("auc", "gauc"):  # counted in integers
        assert again[name] == metrics[name]
    assert best_threshold(label, score) == best_threshold(label[shuffled], score[shuffled])


def test_auc_of_a_constant_score_is_one_half():
    metrics = evaluate([1, 0, 0, 1, 0], [0.3] * 5, [1, 1, 1, 2, 2]).values
    assert metrics["auc"] == metrics["gauc"] == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_but_a_logloss(label):
    metrics = evaluate([label] * 3, [0.0, 1.0, -2.0], [1, 1, 2], 0.0)
    assert metrics.values["auc"] is None and metrics.values["gauc"] is None
    assert metrics.values["gauc_users"] == 0.0
    assert metrics.reasons["auc"] == f"one class only: every label is {label}"
    assert metrics.reasons["gauc"] == "no user has both classes"
    assert metrics.values["logloss"] > 0 and metrics.values["ece"] > 0


def test_what_needs_a_positive_is_null_without_one():
    metrics = evaluate([0, 0], [-1.0, 1.0])
    for name in ("recall", "f1", "predicted_observed"):
        assert metrics.values[name] is None and metrics.reasons[name] == "no label is 1"
    assert metrics.values["precision"] == 0.0


def test_precision_is_null_when_nothing_is_predicted_positive():
    metrics = evaluate([0, 1], [-1.0, -2.0])
    assert metrics.values["precision"] is None
    assert metrics.reasons["precision"] == "no row is predicted positive"
    assert metrics.values["recall"] == metrics.values["f1"] == 0.0


def test_no_rows_leave_every_metric_null_with_a_reason():
    metrics = evaluate([], [], [], 0.0)
    assert set(metrics.values) == NAMES == set(metrics.reasons)
    assert set(metrics.values.values()) == {None}


def test_without_users_or_threshold_their_metrics_alone_are_null():
    metrics = evaluate([0, 1], [0.0, 1.0])
    best = {f"{name}@best" for name in ("accuracy", "precision", "recall", "f1")}
    assert set(metrics.reasons) == {"gauc", "gauc_users"} | best
    assert metrics.reasons["gauc"] == "no users"


def test_one_row():
    metrics = evaluate([1], [2.0], [5], 2.0)
    assert metrics.values["logloss"] == pytest.approx(math.log1p(math.exp(-2)))
    assert metrics.values["f1@best"] == 1.0
    assert set(metrics.reasons) == {"auc", "gauc"}


def test_huge_logits_stay_finite():
    metrics = evaluate([1, 0, 1, 0], [1e30, -1e30, -800.0, 800.0], [0, 0, 1, 1], 0.0).values
    assert metrics["logloss"] == 400.0
    assert metrics["auc"] == 0.75
    assert all(np.isfinite(value) for value in metrics.values())


def test_values_are_plain_floats():
    metrics = evaluate(np.array([1, 0], np.float32), np.array([1, 0], np.float32), [0, 0], 0.5)
    assert {type(value) for value in metrics.values.values()} == {float}


def test_scores_that_are_not_finite_are_counted():
    with pytest.raises(ValueError, match="2 of 3 scores are not finite"):
        evaluate([0, 1, 1], [np.nan, np.inf, 0.0])


def test_labels_other_than_0_and_1_are_counted():
    with pytest.raises(ValueError, match="2 of 3 labels are neither 0 nor 1"):
        best_threshold([0, 5, np.nan], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("score", [[0.0], [[0.0, 1.0]]])
def test_lengths_that_differ_are_refused(score):
    with pytest.raises(ValueError, match=r"label and score must be \(N,\)"):
        evaluate([0, 1], score)
    with pytest.raises(ValueError, match="user must be"):
        evaluate([0, 1], [0.0, 1.0], [1])
