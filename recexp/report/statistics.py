"""Estimates over seeds and differences between settings. docs/statistics.md says which test, and why.

The unit is the seed: a metric of a setting is a mapping from seed to value.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# scipy serves Student's t only: with the fractional degrees of freedom of Welch's test, its distribution and quantile
# need the incomplete beta function and its inverse, which are hard to write short and exact. Imported where used.

CONFIDENCE = 0.95
WELCH_SEEDS = 5  # from here on Welch's degrees of freedom are accurate enough
PAIRED, WELCH, EXACT, UNTESTED = "paired by seed", "Welch", "exact", "one seed"


@dataclass(frozen=True)
class Estimate:
    """A metric over n seeds: mean, standard deviation and 95 % interval of the mean, both None for one seed."""

    mean: float
    deviation: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """A row's mean minus the baseline's, with its 95 % interval.

    n counts pairs, or the seeds of the row with fewer. pairing: "paired by seed", "Welch", "exact" (seeds change
    nothing, so there is nothing to test) or "one seed"; p is None for the last two.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    p_corrected: float | None
    pairing: str


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, deviation and interval over one value per seed, for one seed or more."""
    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return Estimate(mean, None, 1, None, None)
    deviation = _deviation(values, mean)
    margin = _quantile(n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, deviation, n, mean - margin, mean + margin)


def difference(row: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Row minus baseline, from values by seed; paired if they share at least two seeds and half of each one's seeds."""
    common = sorted(row.keys() & baseline.keys())
    if len(common) >= 2 and 2 * len(common) >= max(len(row), len(baseline)):
        return _paired([row[seed] - baseline[seed] for seed in common], scale=abs(baseline[common[0]]))
    return _welch(list(row.values()), list(baseline.values()))


def holm(p: Sequence[float], n_tests: int | None = None) -> list[float]:
    """p values corrected so that any false positive in the family has a probability of 5 % at most (Holm 1979).

    n_tests: the size of the family, if `p` holds only some of its tests.
    """
    n_tests = len(p) if n_tests is None else n_tests
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (n_tests - rank) * p[index]))
        corrected[index] = largest
    return corrected


def _paired(differences: list[float], scale: float) -> Difference:
    pairs = estimate(differences)
    assert pairs.deviation is not None
    error = pairs.deviation / math.sqrt(pairs.n)
    return _tested(pairs.mean, error, pairs.n - 1, pairs.n, PAIRED, scale)


def _welch(row: list[float], baseline: list[float]) -> Difference:
    """Unequal variances, unequal numbers of seeds (Welch 1947)."""
    one, other = estimate(row), estimate(baseline)
    mean, n = one.mean - other.mean, min(one.n, other.n)
    if one.deviation is None or other.deviation is None:
        return Difference(mean, None, None, n, None, None, UNTESTED)
    a, b = one.deviation**2 / one.n, other.deviation**2 / other.n
    freedom: float = n - 1  # a bound that holds for any variances; Welch's own is wrong below five seeds
    if n >= WELCH_SEEDS and a + b > 0:
        freedom = (a + b) ** 2 / (a**2 / (one.n - 1) + b**2 / (other.n - 1))
    return _tested(mean, math.sqrt(a + b), freedom, n, WELCH, scale=abs(other.mean))


def _tested(mean: float, error: float, freedom: float, n: int, pairing: str, scale: float) -> Difference:
    """The t test of a mean difference with its standard error.

    scale: size of the values themselves; an error within its rounding counts as zero.
    """
    if error <= 1e-12 * scale:
        return Difference(mean, mean, mean, n, None, None, EXACT)
    from scipy.special import stdtr

    margin = _quantile(freedom) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - margin, mean + margin, n, p, None, pairing)


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@functools.lru_cache(maxsize=1024)
def _quantile(freedom: float) -> float:
    """The quantile of Student's t above which (1 - CONFIDENCE) / 2 lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
