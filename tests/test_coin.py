"""Of labels that depend on nothing, gauc alone leaves chance, and only if histories hold earlier test labels.

benchmarks/coin.py does the same on more events.
"""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "coin.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("coin", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(benchmark):
    return benchmark.by_length(10_000, lengths=(10, 50), n_tosses=15)


def test_gauc_until_the_target_rewards_a_bet_against_the_labels_so_far(found):
    """Two test rows of both classes: the second is right about the first's label three times in four."""
    gauc = {
        name: found[name, "target", 10]["gauc"].value
        for name in ("repeats the last label", "bets against the last label")
    }
    assert gauc == pytest.approx({"repeats the last label": 0.25, "bets against the last label": 0.75}, abs=0.04)
    assert found["mean of the labels so far", "target", 50]["gauc"].value < 0.3
    assert found["against the mean of the labels so far", "target", 50]["gauc"].value > 0.7


def test_every_other_metric_is_at_chance_and_so_is_gauc_until_the_split(found, benchmark):
    off = {
        (metric, until)
        for (_, until, _), metrics in found.items()
        for metric, measured in metrics.items()
        if measured.errors > benchmark.N_ERRORS
    }
    assert off == {("gauc", "target")}


def test_pairs_within_a_user_show_in_auc_where_there_are_few_users(benchmark):
    auc, error = benchmark.few_users(5, 50_000)
    assert auc < 0.5 - 3 * error
