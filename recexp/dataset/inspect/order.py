"""Whether the order of events carries information: a next-item baseline on the log, and on the log shuffled.

The baseline predicts each user's last item by first-order transitions: the items that followed the one before most
often, among all other events. A shuffle keeps each user's items and loses their order.
"""

from dataclasses import dataclass

import numpy as np

TOP = 10
MAX_EVENTS = 2_000_000  # of larger logs we take all events of some users


@dataclass(frozen=True, kw_only=True)
class Order:
    users: int  # with three events or more
    hit_rate: float  # share of users whose last item is among the TOP items
    shuffled: float  # the same after a shuffle within each user

    @property
    def carries(self) -> bool:
        """True if the difference is more than twice its standard error."""
        rates = np.array([self.hit_rate, self.shuffled])
        error = np.sqrt((rates * (1 - rates)).sum() / max(1, self.users))
        return bool(rates[0] - rates[1] > 2 * error)


def order_of(user: np.ndarray, item: np.ndarray, n_items: int) -> Order | None:
    """user, item: (N,) numbers of events sorted by user, then time. None if no user has three events."""
    if len(user) > MAX_EVENTS:
        kept = user % -(-len(user) // MAX_EVENTS) == 0
        user, item = user[kept], item[kept]
    counts = np.bincount(user)[user] if len(user) else user
    user, item = user[counts > 2], item[counts > 2].astype(np.int64)
    if not len(user):
        return None
    mixed = np.lexsort((np.random.default_rng(0).random(len(user)), user))
    rates = [hit_rate(user, items, n_items) for items in (item, item[mixed])]
    return Order(users=len(np.unique(user)), hit_rate=rates[0], shuffled=rates[1])


def hit_rate(user: np.ndarray, item: np.ndarray, n_items: int, top: int = TOP) -> float:
    """The share of users whose last item is among the `top` most frequent followers of the item before."""
    same = user[1:] == user[:-1]
    last = same & np.append(user[2:] != user[1:-1], True)
    step = item[:-1] * (n_items + 1) + item[1:]  # (N - 1,) one number for a pair of items
    pairs, counts = np.unique(step[same & ~last], return_counts=True)
    source = pairs // (n_items + 1)
    order = np.lexsort((-counts, source))
    start = np.searchsorted(source, source)  # pairs are sorted by their first item
    rank = np.arange(len(order)) - start[order]
    return float(np.isin(step[last], pairs[order[rank < top]]).mean())
