"""Handwritten preparation for libraries that have none: pandas, LabelEncoder, and histories with numpy.

Torch-RecHub and DeepCTR-Torch take arrays; their examples read a CSV file and encode each column in this way. The
histories here are gathered without a loop over rows.
"""

from worker import Job, work  # isort: skip  # starts the clock

import numpy as np
import pandas as pd
from sklearn.preprocessing import LabelEncoder

RATIOS = (0.8, 0.9)  # where valid and test start


def prepare(job: Job) -> list[dict[str, np.ndarray]]:
    events = pd.read_csv(job.folder / "events.csv")
    for name in job.vocabulary:
        events[name] = LabelEncoder().fit_transform(events[name]) + 1  # 0 is padding
    if job.kind == "fields":
        order = np.random.default_rng(0).permutation(len(events))
        cuts = (np.array(RATIOS) * len(events)).astype(int)
        columns = {name: events[name].to_numpy() for name in (*job.vocabulary, "label")}
        return [{name: column[rows] for name, column in columns.items()} for rows in np.split(order, cuts)]
    return sequences(events.sort_values(["user", "timestamp"], kind="stable"), job.settings["max_history"])


def sequences(events: pd.DataFrame, longest: int) -> list[dict[str, np.ndarray]]:
    """Rows with their last events strictly before; each user's last events are in valid and test."""
    by_user = events.groupby("user", sort=False)
    place = by_user.cumcount().to_numpy()
    earlier = events.groupby(["user", "timestamp"], sort=False).cumcount().to_numpy()  # with the same timestamp
    length = np.minimum(place - earlier, longest)
    step = np.arange(longest)
    position = np.arange(len(events)) - earlier - length
    item = events["item"].to_numpy()
    history = np.where(step < length[:, None], item[np.minimum(position[:, None] + step, len(item) - 1)], 0)
    columns = {name: events[name].to_numpy() for name in ("user", "item", "label")} | {"history": history}
    share = place / by_user["item"].transform("size").to_numpy()
    part = np.searchsorted(RATIOS, share, side="right")
    return [{name: column[part == index] for name, column in columns.items()} for index in range(3)]


if __name__ == "__main__":
    job = Job()
    assert job.prepare_only, "only preparation is written by hand; add --prepare-only"
    work(job, prepare, lambda job, prepared: prepared)
