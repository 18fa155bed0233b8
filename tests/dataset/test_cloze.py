"""Masks: what they hide, how often, and that they give nothing of it away."""

import pytest
import torch
from torch import Tensor

from recexp.dataset.cloze import MASK, Cloze, masked
from recexp.dataset.window import WholeWindows

WINDOWS = {0: [1, 1, 2, 3, 3], 1: [4, 5], 2: [6, 7, 7, 7], 3: [8, 9, 10, 11, 12, 13]}  # timestamps of events


def sequences(cloze: Cloze) -> list[tuple[Tensor, int]]:
    """The items of each sequence, and where among the events it begins."""
    starts = (cloze.length.cumsum(0) - cloze.length).tolist()
    return list(zip(cloze.item.split(cloze.length.tolist()), starts, strict=True))


def restore(cloze: Cloze, item: Tensor, start: int) -> list[tuple[list[int], bool]]:
    """For each event of a sequence, the rows of items that stand there or are hidden there, and which of both."""
    hidden = [cloze.target[cloze.query == start + place].tolist() for place in range(len(item))]
    assert [bool(rows) for rows in hidden] == (item == MASK).tolist()
    return [(rows or [row], bool(rows)) for rows, row in zip(hidden, item.tolist(), strict=True)]


def whole(windows: dict[int, list[int]]) -> WholeWindows:
    """Windows of events of these timestamps, whose items are numbered from 1."""
    times = [time for own in windows.values() for time in own]
    of = [window for window, own in windows.items() for _ in own]
    return WholeWindows(item=torch.arange(1, len(times) + 1), time=torch.tensor(times), window=torch.tensor(of))


@pytest.mark.parametrize(("mask_rate", "last_rate"), [(0.4, 0.3), (0.0, 0.0), (0.999, 0.0)])
def test_masks_hide_whole_timestamps_and_targets_are_what_they_hide(mask_rate: float, last_rate: float) -> None:
    given, ever_hidden = whole(WINDOWS), set()
    times = {tuple(given.item[given.window == window].tolist()): own for window, own in WINDOWS.items()}
    for seed in range(20):
        torch.manual_seed(seed)
        cloze = masked(given, len(WINDOWS), mask_rate, last_rate)
        assert (cloze.length[1:] <= cloze.length[:-1]).all() and cloze.length.sum() == len(cloze.item)
        restored = [restore(cloze, item, start) for item, start in sequences(cloze)]
        assert {tuple(row for rows, _ in parts for row in rows) for parts in restored} == set(times)
        for parts in restored:
            window = [row for rows, _ in parts for row in rows]
            time = dict(zip(window, times[tuple(window)], strict=True))
            for rows, hidden in parts:
                mates = [row for row in window if time[row] == time[rows[0]]]
                assert rows == mates if hidden else len(rows) == 1
            hidden = [hidden for _, hidden in parts]
            assert any(hidden) and (mask_rate or hidden == [False] * (len(hidden) - 1) + [True])
        ever_hidden |= set(cloze.target.tolist())
    assert not mask_rate or ever_hidden == set(given.item.tolist())


def test_masks_are_as_frequent_as_configured() -> None:
    n = 4000
    given = whole({window: list(range(5 * window, 5 * window + 5)) for window in range(n)})
    torch.manual_seed(0)
    cloze = masked(given, n, 0.3, 0.5)
    expected = 0.5 * (0.3 + 0.7**5 / 5) + 0.5 / 5  # a window is never without a mask
    assert len(cloze.target) / (5 * n) == pytest.approx(expected, abs=4 * (0.25 / (5 * n)) ** 0.5)
