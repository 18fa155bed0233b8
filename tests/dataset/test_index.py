"""The order of a log against a plain sort."""

import numpy as np
import pytest

from recexp.dataset.index import by_user_then_time

WIDE = np.iinfo(np.int64)
TIMES = {
    "ascending": np.arange(500),
    "few": np.random.default_rng(1).integers(5, size=500),
    "seconds": np.random.default_rng(2).integers(10**9, 2 * 10**9, size=500),
    "before 1970": np.random.default_rng(3).integers(-(10**12), 10**12, size=500),
    "from end to end": np.append(np.random.default_rng(4).integers(WIDE.min, WIDE.max, 498), [WIDE.min, WIDE.max]),
    "fractions": np.random.default_rng(5).random(500),
}


@pytest.mark.parametrize("n_users", [1, 7, 100_000])
@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
def test_events_are_ordered_by_user_then_time_then_position(time: np.ndarray, n_users: int) -> None:
    user = np.random.default_rng(n_users).integers(n_users, size=len(time)).astype(np.int32)
    for given in (user, np.sort(user)):
        expected = sorted(range(len(time)), key=lambda place: (given[place], time[place], place))
        assert by_user_then_time(given, time).tolist() == expected
