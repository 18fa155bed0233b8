"""Permutation importance: how much worse a metric becomes where a feature is that of another row (Breiman, 2001).

A row gets the feature of a random row of the same split; all else stays. Features with the same information replace
each other, so each of them may show little. A history is one feature, with its labels and times.

B rows of a batch, n rows of the split
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recexp.dataset.batch import Batch, Features, Samples
from recexp.dataset.schema import Schema
from recexp.error import RunError
from recexp.metric.binary import Predictions
from recexp.metric.scoring import Scores, best_thresholds, scores_of
from recexp.metric.table import PREDICTION_METRICS, format_value
from recexp.model import reads_history
from recexp.run.picture import COLOURS, INK, MUTED, PAPER
from recexp.run.trained import Trained
from recexp.storage import replacing
from recexp.trainer.loop import numerics, progress_bar
from recexp.trainer.step import autocast

HISTORY = "history"


@dataclass(frozen=True)
class Feature:
    """A field of one side of the data, or the history."""

    name: str
    side: str  # user, item, context or history
    first: int = 0  # of its columns, among the side's ids, or its values if it is numeric, or its lists if it is wide
    width: int = 1
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Importance:
    """What a metric loses by each feature, of each permutation."""

    split: str
    metric: str
    value: float  # of the metric as it is
    lost: dict[str, list[float]]  # by feature, the greatest mean first

    def rows(self) -> list[tuple[str, float, float]]:
        """(feature, mean, standard deviation)."""
        return [(name, float(np.mean(lost)), float(np.std(lost, ddof=1))) for name, lost in self.lost.items()]

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


def importance(trained: Trained, split: str, metric: str, repeats: int) -> Importance:
    """Raises RunError if the metric cannot be computed. The permutations are the same each time."""
    base, _, label = metric.partition("/")
    scores = trained.split_scores(split)
    threshold = None
    if PREDICTION_METRICS[base].at_best and trained.held_out.size("valid"):
        threshold = best_thresholds(trained.split_scores("valid")).get(label)
    value = _computed(metric, scores, threshold)
    if isinstance(value, str):
        raise RunError(f"{trained.path}: {split} {metric} cannot be computed: {value}.")
    sign = PREDICTION_METRICS[base].sign
    lost: dict[str, list[float]] = {}
    with numerics(trained.config.trainer), progress_bar(0, repeats * len(scores.labels), "importance") as bar:
        for seed in range(repeats):
            pieces: dict[str, list[np.ndarray]] = {}
            for name, logits in _permuted(trained, split, seed):
                pieces.setdefault(name, []).append(logits)
                bar.update(len(logits) if len(pieces) == 1 else 0)
            for name, parts in pieces.items():
                permuted = _computed(metric, permuted_scores(scores, np.concatenate(parts)), threshold)
                lost.setdefault(name, []).append(sign * (value - float(permuted)))
    return Importance(split, metric, value, dict(sorted(lost.items(), key=lambda item: -float(np.mean(item[1])))))


def features(schema: Schema, history: bool) -> list[Feature]:
    """All fields, named as in environment.json, and the history if the model reads it."""
    all_features = [Feature(HISTORY, HISTORY)] if history else []
    for side in ("user", "item", "context"):
        for field in getattr(schema, side).fields:
            name = field.name if field.name == side else f"{side}.{field.name}"
            all_features.append(Feature(name, side, field.column, field.width, field.numeric, field.wide))
    return all_features


def mixed(batch: Batch, other: Batch, feature: Feature) -> Batch:
    """The batch with one feature taken from the same row of the other batch."""
    if feature.side == HISTORY:
        names = ("history", "history_label", "history_age", "mask", "found")
        return replace(batch, **{name: getattr(other, name) for name in names})
    if feature.side == "context":
        return replace(batch, context=_mixed(batch.context, other.context, feature))
    catalogue, rows = batch.catalogue, torch.arange(len(batch), device=batch.label.device)
    if feature.side == "user":
        mixed_users = _mixed(catalogue.users.at(batch.user), catalogue.users.at(other.user), feature)
        users, user = _appended(catalogue.users, mixed_users), len(catalogue.users.ids) + rows
        return replace(batch, user=user, catalogue=replace(catalogue, users=users))
    mixed_items = _mixed(catalogue.items.at(batch.target), catalogue.items.at(other.target), feature)
    items, target = _appended(catalogue.items, mixed_items), len(catalogue.items.ids) + rows
    return replace(batch, target=target, catalogue=replace(catalogue, items=items))


def _appended(table: Features, rows: Features) -> Features:
    """A table with further rows, whose lists are the table's."""
    lists = None
    if table.lists and rows.lists:
        start = torch.cat([table.lists.start, rows.lists.start])
        lists = replace(table.lists, start=start, count=torch.cat([table.lists.count, rows.lists.count]))
    return Features(torch.cat([table.ids, rows.ids]), torch.cat([table.values, rows.values]), lists)


def draw(result: Importance, path: Path) -> None:
    """A bar for each feature, with its standard deviation over the permutations."""
    from matplotlib.figure import Figure

    rows = result.rows()[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(rows)), facecolor=PAPER, layout="constrained")
    axis = figure.subplots()
    names, means, deviations = zip(*rows, strict=True)
    axis.barh(names, means, xerr=deviations, color=COLOURS[0], ecolor=MUTED, height=0.65)
    axis.axvline(0, color=MUTED, linewidth=0.8)
    value = format_value(f"{result.split}.{result.metric}", result.value)
    axis.set_title(f"{result.split} {result.metric} {value}: worse by, if permuted", loc="left", color=INK, fontsize=10)
    axis.tick_params(colors=INK, labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _permuted(trained: Trained, split: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Logits of each batch in order, for each feature permuted over the whole split."""
    batches, trainer = trained.held_out, trained.config.trainer
    longest = None if reads_history(trained.model) else 0
    samples: Samples = next(batches.samples(split, batches.size(split)))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).to(batches.device)
    chosen = features(trained.dataset.schema, history=longest is None)
    trained.model.eval()
    for start in range(0, len(samples), trainer.eval_batch_size):
        at = slice(start, start + trainer.eval_batch_size)
        with torch.inference_mode(), autocast(trainer, batches.device):
            batch = batches.gather(samples.take(at), split, longest)
            other = batches.gather(samples.take(order[at]), split, longest)
            for feature in chosen:
                yield feature.name, trained.model(mixed(batch, other, feature)).all_logits.double().cpu().numpy()


def _mixed(rows: Features, other: Features, feature: Feature) -> Features:
    """The rows with the columns of one feature taken from other rows."""
    if feature.wide:
        assert rows.lists is not None and other.lists is not None
        start, count = rows.lists.start.clone(), rows.lists.count.clone()
        start[:, feature.first] = other.lists.start[:, feature.first]
        count[:, feature.first] = other.lists.count[:, feature.first]
        return replace(rows, lists=replace(rows.lists, start=start, count=count))
    columns = slice(feature.first, feature.first + feature.width)
    ids, values = rows.ids.clone(), rows.values.clone()
    if feature.numeric:
        values[:, columns] = other.values[:, columns]
    else:
        ids[:, columns] = other.ids[:, columns]
    return replace(rows, ids=ids, values=values)


def permuted_scores(scores: Scores, logits: np.ndarray) -> Scores:
    """The scores with other logits: (n,), or (n, T) of several labels."""
    names = list(scores.tasks)
    labels = np.stack([task.labels for task in scores.tasks.values()], 1) if names else None
    return scores_of(scores.labels, logits, scores.users, scores.items, names, labels)


def _computed(name: str, scores: Scores, threshold: float | None) -> float | str:
    """The value of a metric, such as auc or auc/like, or the reason why it has none."""
    base, _, label = name.partition("/")
    metric, part = PREDICTION_METRICS[base], scores.by_label()[label]
    predictions = Predictions(part.labels == 1, part.logits, part.users, threshold if metric.at_best else 0.0)
    return metric.compute(predictions)
