"""The bootstrap against drawing rows one by one, and where there is nothing to draw from."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recexp.metric.table import HEADLINE
from recexp.report.bootstrap import MIN_UNITS, compare, metrics, prepare, weights


def drawn(seed: int, n: int = 200, n_users: int = 25, ties: bool = False) -> tuple[np.ndarray, ...]:
    """label, scores of two models, user. Some users have one class alone."""
    random = np.random.default_rng(seed)
    user = random.integers(n_users, size=n)
    label = (random.random(n) < np.where(user < 5, 1.0, 0.4)).astype(np.int8)
    scores = [np.clip(0.3 * label + strength * random.random(n), 0.01, 0.99) for strength in (0.5, 0.7)]
    return label, *(np.round(score, 1) if ties else score for score in scores), user


def by_rows(label: np.ndarray, score: np.ndarray, user: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """The metrics of rows that are really repeated, each copy of a user a user of its own."""
    copies = [(u, copy) for u, times in enumerate(weight.astype(int)) for copy in range(times)]
    rows = [np.flatnonzero(user == u) for u, _ in copies]
    chosen = np.concatenate(rows)
    both = [row for row in rows if 0 < label[row].sum() < len(row)]
    own = [roc_auc_score(label[row], score[row]) for row in both]
    return {
        "auc": roc_auc_score(label[chosen], score[chosen]),
        "gauc": np.average(own, weights=[len(row) for row in both]),
        "logloss": log_loss(label[chosen], score[chosen]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_weighted_users_are_those_of_rows_repeated_as_often(seed, ties):
    label, score, _, user = drawn(seed, ties=ties)
    sample = prepare(label, score, user)
    for weight in weights(25, 20, seed):
        assert metrics(sample, weight) == pytest.approx(by_rows(label, score, user, weight), abs=1e-12)


@pytest.mark.slow
def test_a_comparison_is_that_of_a_loop_over_draws():
    label, first, second, user = drawn(1, n=150, n_users=18)
    changes = compare(label, first, second, user, n_draws=60, seed=3)
    once, *draws = (
        [by_rows(label, score, user, weight) for score in (first, second)]
        for weight in (np.ones(18), *weights(18, 60, seed=3))
    )
    assert tuple(changes) == HEADLINE
    for name, change in changes.items():
        values = np.array([b[name] - a[name] for a, b in draws])
        assert change.difference == pytest.approx(once[1][name] - once[0][name], abs=1e-12)
        assert (change.low, change.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
        assert change.p == pytest.approx(min(1, 2 * (1 + min((values <= 0).sum(), (values >= 0).sum())) / 61))


def test_every_draw_is_of_as_many_users_as_there_are():
    assert all(weight.shape == (30,) and weight.sum() == 30 for weight in weights(30, 50, seed=0))


def test_the_same_seed_draws_the_same():
    label, first, second, user = drawn(2)
    assert compare(label, first, second, user, 100) == compare(label, first, second, user, 100)


def test_equal_predictions_do_not_differ():
    label, first, _, user = drawn(4)
    for change in compare(label, first, first, user, 100).values():
        assert (change.difference, change.low, change.high, change.p) == (0, 0, 0, 1)


def test_a_much_better_model_is_called_better_but_p_is_never_0():
    label, first, _, user = drawn(5, n=2000)
    change = compare(label, first, np.where(label == 1, 0.9, 0.1), user, 200)["auc"]
    assert change.low > 0 and change.p == pytest.approx(2 / 201)


def test_without_users_each_row_is_drawn_and_there_is_no_gauc():
    label, first, second, _ = drawn(6)
    changes = compare(label, first, second, None, 100)
    assert list(changes) == ["auc", "logloss"]
    alone = compare(label, first, second, np.arange(200), 100)
    assert changes == {name: alone[name] for name in changes}


def test_ids_may_be_words():
    label, first, second, user = drawn(7)
    words = np.array([f"u{u:02}" for u in user])
    assert compare(label, first, second, words, 100) == compare(label, first, second, user, 100)


def test_what_cannot_be_computed_or_rests_on_too_few_is_left_out():
    label, first, second, user = drawn(8)
    assert list(compare(np.ones(200, int), first, second, user, 100)) == ["logloss"]
    assert compare(label, first, second, user % (MIN_UNITS - 1), 100) == {}
    one_user_with_both = np.where(user == 7, label, user % 2)
    assert "gauc" not in compare(one_user_with_both, first, second, user, 100)


def test_a_score_of_0_or_1_has_a_finite_loss():
    label, first, _, user = drawn(9)
    change = compare(label, first, (1 - label).astype(float), user, 100)["logloss"]
    assert np.isfinite([change.difference, change.low, change.high]).all()
