"""Warnings about faults of the data that make metrics misleading, one line each."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recexp.dataset.config import DatasetConfig, LabelKind, SplitKind
from recexp.dataset.label import MISSING
from recexp.dataset.leak import leaks
from recexp.dataset.log import SPLITS, Dataset, Log, Table
from recexp.dataset.schema import UNKNOWN, Side

TWINS = 0.01  # share of test rows that are also in train
UNSEEN = 0.5  # share of test rows whose user, or item, is unseen in training
EARLIER = 0.1  # share of test rows earlier than a training event of their user
UNCERTAIN = 0.02  # standard error of AUC from which a test set is small
TYPICAL_AUC = 0.75
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of the hash in _keys


def warnings(
    log: Table,
    sides: Mapping[str, Side],
    label: np.ndarray,
    config: DatasetConfig,
    tasks: Sequence[str],
    joined: Mapping[str, np.ndarray],
) -> list[str]:
    """One line for each fault.

    label: as given, before it is cut at a threshold, in the order of the source. tasks: the names of several labels.
    joined: the user or item (N,) of each row of a table, where a file of these has joined it.
    """
    lines = [*leaks(log, sides, label[log.row], tasks, joined), *_twins(log, config)]
    lines += [*_labels(log, config, tasks), *_small(log, config, tasks)]
    if isinstance(log, Log):
        lines += [*_unseen(log), *_earlier(log, config)]
    return lines


def warnings_of_run(dataset: Dataset, config: DatasetConfig, auc: bool) -> list[str]:
    """The warnings that concern a run's metrics. auc: whether it computes AUC, which a pure ranking run does not."""
    of_auc = [] if auc else [*_small(dataset.log, config, dataset.schema.tasks)]
    return [line for line in dataset.facts["warnings"] if line not in of_auc]


def auc_error(positive: int, negative: int) -> float:
    """The standard error of a typical AUC over rows drawn independently (Hanley & McNeil 1982)."""
    auc = TYPICAL_AUC
    both_above, both_below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (positive - 1) * (both_above - auc**2) + (negative - 1) * (both_below - auc**2)
    return float(np.sqrt((auc * (1 - auc) + spread) / (positive * negative)))


def _twins(log: Table, config: DatasetConfig) -> Iterator[str]:
    """Test rows that are also in train, with the same label. A split by time keeps equal times of a user together.

    Where few features tell rows apart, many rows are equal anyway, with either label. So we check the rarer label only:
    by chance, its rows would equal more rows of the other label.
    """
    if config.split.kind not in (SplitKind.given, SplitKind.random):
        return
    key, train, test = _keys(log), log.split == 0, log.split == SPLITS.index("test")
    n_negative, n_positive = np.bincount(log.label[test], minlength=2)
    label = int(n_negative == 0 or 0 < n_positive <= n_negative)
    test_keys = key[test & (log.label == label)]
    same, other = (np.isin(test_keys, key[train & (log.label == value)]).mean() for value in (label, 1 - label))
    if same >= TWINS and other < same / 10:
        alike = "user, item and time" if isinstance(log, Log) else "fields"
        yield f"{same:.0%} of test rows with label {label} stand in train too: the same {alike}, the same label."


def _keys(log: Table) -> np.ndarray:
    """(N,) uint64, equal for rows of the same user, item and time, or in a table of the same fields."""
    columns = [*log.context.ids.T, *log.context.values.T.view(np.uint32)]
    if (lists := log.context.lists) is not None:  # equal cells begin at the same id
        columns += [*np.where(lists.count, lists.start, -1).T]
    if isinstance(log, Log):
        columns = [log.user, log.item, np.unique(log.timestamp, return_inverse=True)[1]]
    keys = np.zeros(len(log), np.uint64)
    for column in columns:
        keys = keys * MULTIPLIER + column.astype(np.uint64)  # modulo 2^64
    return keys


def _labels(log: Table, config: DatasetConfig, tasks: Sequence[str]) -> Iterator[str]:
    for split in SPLITS:
        rows = log.rows(split)
        if not len(rows):
            yield f"{split} has no rows: no epoch and no threshold can be chosen on it."
            continue
        for of_task, label in _by_task(log, rows, tasks):
            if not len(label):
                yield f"no row of {split} has a label{of_task}: nothing is learnt or measured of it there."
            elif config.label is LabelKind.explicit and label.min() == label.max():
                yield f"every label{of_task} of {split} is {label[0]}: auc and gauc have no value there."


def _small(log: Table, config: DatasetConfig, tasks: Sequence[str]) -> Iterator[str]:
    for of_task, label in _by_task(log, log.rows("test"), tasks):
        positive = int(label.sum())
        negative = positive if config.label is LabelKind.implicit else len(label) - positive
        if positive and negative and (error := auc_error(positive, negative)) > UNCERTAIN:
            labelled = f" with a label{of_task}" if of_task else ""
            yield (
                f"test has {len(label):,} rows{labelled}: the standard error of auc is about {error:.3f}, "
                f"so differences below {2 * error:.2f} may be chance."
            )


def _by_task(log: Table, rows: np.ndarray, tasks: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each label's name for a sentence, and its values in the rows that have it; '' if there is only one label."""
    if log.tasks is None:
        yield "", log.label[rows]
        return
    for name, label in zip(tasks, log.tasks[rows].T, strict=True):
        yield f" {name}", label[label != MISSING]


def _unseen(log: Log) -> Iterator[str]:
    test = log.rows("test")
    for name, ids in (("users", log.users.ids[log.user[test], 0]), ("items", log.items.ids[log.item[test], 0])):
        if (share := (ids == UNKNOWN).mean()) > UNSEEN:
            yield f"{share:.0%} of test rows are of {name} that no training row has: all but their features is unknown."


def _earlier(log: Log, config: DatasetConfig) -> Iterator[str]:
    """Test rows before training events of their user, or before training altogether."""
    if config.split.kind not in (SplitKind.given, SplitKind.random):
        return
    train, test = log.split == 0, log.rows("test")
    latest = np.full(len(log.users.raw), -np.inf)
    np.maximum.at(latest, log.user[train], log.timestamp[train])
    share = (log.timestamp[test] < latest[log.user[test]]).mean()
    kind = f"split.kind = {config.split.kind.name}"
    if share > EARLIER or config.split.kind is SplitKind.random:
        yield f"{kind}: {share:.0%} of test rows are earlier than a training event of their user."
    elif np.quantile(log.timestamp[test], 0.95) < np.quantile(log.timestamp[train], 0.05):
        yield f"{kind}: test lies before train in time."
