"""Estimates and differences by hand, against scipy's own tests, and in the cases without an answer."""

import numpy as np
import pytest
from scipy import stats

from recexp.report.statistics import EXACT, PAIRED, UNTESTED, WELCH, difference, estimate, holm


def test_the_interval_of_three_numbers_by_hand():
    result = estimate([1.0, 2.0, 6.0])
    assert result.mean == 3.0 and result.n == 3
    assert result.deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    margin = 4.302653 * (7 / 3) ** 0.5  # Student's t with 2 degrees of freedom, 97.5 %
    assert (result.low, result.high) == pytest.approx((3 - margin, 3 + margin), abs=1e-5)


def test_one_number_has_neither_deviation_nor_interval():
    result = estimate([0.5])
    assert (result.mean, result.deviation, result.n, result.low, result.high) == (0.5, None, 1, None, None)


def test_equal_numbers_have_an_interval_of_no_width():
    result = estimate([0.25] * 4)
    assert (result.mean, result.deviation, result.low, result.high) == (0.25, 0.0, 0.25, 0.25)


def test_rows_of_the_same_seeds_are_paired_whatever_their_order():
    row, baseline = {2: 0.76, 0: 0.82, 1: 0.79}, {0: 0.80, 1: 0.78, 2: 0.73}
    result = difference(row, baseline)  # 0.02, 0.01, 0.03: mean 0.02, deviation 0.01
    assert result.mean == pytest.approx(0.02) and result.n == 3 and result.pairing == PAIRED
    assert (result.low, result.high) == pytest.approx((0.02 - 0.0248414, 0.02 + 0.0248414), abs=1e-6)
    expected = stats.ttest_rel([0.82, 0.79, 0.76], [0.80, 0.78, 0.73])
    assert result.p == pytest.approx(expected.pvalue) and result.p_corrected is None


def test_a_missing_seed_leaves_the_pairs_that_are_there():
    row, baseline = {0: 0.9, 1: 0.5, 2: 0.8}, {0: 0.7, 2: 0.7, 3: 0.1}
    result = difference(row, baseline)
    assert result.pairing == PAIRED and result.n == 2 and result.mean == pytest.approx(0.15)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 9), (12, 6)])
def test_rows_of_other_seeds_are_compared_as_welch_does(n, m):
    random = np.random.default_rng(n + m)
    a, b = random.normal(0, 1, n), random.normal(0.5, 3, m)
    result = difference(dict(enumerate(a.tolist())), {100 + i: value for i, value in enumerate(b.tolist())})
    expected = stats.ttest_ind(a, b, equal_var=False)
    low, high = expected.confidence_interval()
    assert result.pairing == WELCH and result.n == min(n, m)
    assert (result.mean, result.low, result.high, result.p) == pytest.approx(
        (a.mean() - b.mean(), low, high, expected.pvalue)
    )


def test_few_common_seeds_among_many_are_not_all_that_counts():
    row, baseline = {seed: seed / 10 for seed in range(10)}, {seed: seed / 9 for seed in range(8, 18)}
    assert difference(row, baseline).pairing == WELCH  # 2 of 10 are common


def test_below_five_seeds_the_degrees_of_freedom_are_those_of_the_smaller_row():
    row, baseline = (
        {0: 1.0, 1: 3.0},
        dict(enumerate([5.0, 6, 7, 8, 9], 10)),
    )
    result = difference(row, baseline)
    error = (2 / 2 + 2.5 / 5) ** 0.5
    assert result.p == pytest.approx(2 * stats.t.sf(5 / error, df=1))
    assert result.high - result.mean == pytest.approx(stats.t.ppf(0.975, df=1) * error)


def test_one_seed_has_a_difference_but_no_interval_and_no_p():
    for row, baseline in (({0: 0.8}, {1: 0.7, 2: 0.7}), ({0: 0.8}, {0: 0.7}), ({0: 0.8, 1: 0.8}, {0: 0.7})):
        result = difference(row, baseline)
        assert result.mean == pytest.approx(0.1) and result.n == 1
        assert (result.low, result.high, result.p, result.pairing) == (None, None, None, UNTESTED)


@pytest.mark.parametrize(
    ("row", "baseline"),
    [
        ({0: 0.8, 1: 0.8}, {0: 0.7, 1: 0.7}),  # neither varies
        ({0: 0.1 + 0.2, 1: 0.4}, {0: 0.2, 1: 0.3}),  # they vary alike, rounding apart
        ({0: 0.8, 1: 0.8}, {2: 0.7, 3: 0.7}),
    ],
)
def test_a_difference_that_no_seed_changes_is_exact(row, baseline):
    result = difference(row, baseline)
    assert result.pairing == EXACT and result.p is None
    assert result.mean == result.low == result.high == pytest.approx(0.1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 4, 3, 2, 1 times, rising
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.5]) == [1.0, 1.0]


def test_holm_among_more_tests_than_are_shown():
    assert holm([0.02, 0.001], n_tests=10) == pytest.approx([0.18, 0.01])


def test_holm_never_corrects_more_than_bonferroni_and_keeps_the_order():
    p = np.random.default_rng(0).random(50) ** 3
    corrected = np.array(holm(p.tolist()))
    assert (corrected >= p).all() and (corrected <= np.minimum(1, 50 * p)).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
