"""The leaderboard calls no difference between equal models more often than it says it may.

benchmarks/calibration.py does the same on real runs and on other figures.
"""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "calibration.py"
N = 1500


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("calibration", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("baseline", [None, "model=0"], ids=["against the best", "against a named row"])
@pytest.mark.parametrize("law", ["normal", "heavy tails (t, 3 df)"])
@pytest.mark.parametrize("family", ["2 rows, 5 common seeds", "2 rows, 3 and 10 other seeds", "5 rows, 5 common seeds"])
def test_false_calls_are_no_more_than_5_in_100(benchmark, family, law, baseline):
    called, _ = benchmark.rates(benchmark.DRAWN[law], benchmark.FAMILIES[family], baseline, "test.auc", N)
    assert called <= 0.05 + 2 * (0.05 * 0.95 / N) ** 0.5  # two standard errors of a rate of 5 %


def test_a_best_row_that_is_compared_as_if_named_beforehand_is_called_too_often(benchmark):
    family = benchmark.FAMILIES["5 rows, 5 common seeds"]
    called, naive = benchmark.rates(benchmark.DRAWN["normal"], family, None, "test.auc", N)
    assert called <= 0.05 < 0.065 < naive
