"""For synthetic labels that depend on events before any window: the last event of a category, and categories in turn.

N events sorted by user, then time
"""

import numpy as np


def last_of_category(user: np.ndarray, category: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(N,) the user's last event of the event's category before position `before`, -1 if there is none."""
    n = len(user)
    key = (user.astype(np.int64) * (int(category.max(initial=0)) + 1) + category) * n
    ordered = np.sort(key + np.arange(n))
    index = np.searchsorted(ordered, key + before) - 1  # the last one before, of any user and category
    position = ordered[np.maximum(index, 0)] - key
    return np.where((index >= 0) & (position >= 0), position, -1)


def in_rounds(rng: np.random.Generator, user: np.ndarray, start: np.ndarray, n_categories: int) -> np.ndarray:
    """(N,) categories in turn, from a random one of each user on: each comes back after n_categories events."""
    first = rng.integers(n_categories, size=int(user[-1]) + 1)
    return (first[user] + np.arange(len(user)) - start) % n_categories
