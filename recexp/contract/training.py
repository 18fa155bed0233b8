"""Checks that train a model for longer: it learns rows by heart, and nothing where there is nothing to learn."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recexp import model as models
from recexp.contract.case import Case, Skip
from recexp.contract.measure import in_closed_form, without_draws
from recexp.dataset.batch import Batches
from recexp.dataset.log import Log
from recexp.layer.task import label_losses
from recexp.metric.table import of_label
from recexp.model import Train, search_of, stages
from recexp.trainer.default import Trainer
from recexp.trainer.loop import set_mode
from recexp.trainer.loss import joint
from recexp.trainer.recorder import NullRecorder

OVERFITTED, STEPS = 32, 300  # rows, and steps of Adam at learning rate 1e-2
MAX_SEARCHED = 5000  # training rows among which those to overfit are sought
# With fewer rows to learn by heart, or fewer test rows of either label, a good model fails as a broken one would.
MIN_OVERFITTED, MIN_CLASS = 8, 20


def different_rows(case: Case, needs_events: bool) -> torch.Tensor:
    """Up to OVERFITTED training rows, each with a user and an item that none before it has; of a table, with a value.

    Any labels of such rows can be learnt by heart, by a model that reads no more than these too. needs_events: only
    rows with a history, as of a model that knows a user by it alone.
    """
    log, rows = case.dataset.log, case.batches.rows["train"].cpu().numpy()
    columns = np.stack([log.user, log.item], 1) if isinstance(log, Log) else log.context.ids
    enough = columns.shape[1] if isinstance(log, Log) else 1
    seen: list[set[int]] = [set() for _ in range(columns.shape[1])]
    chosen = []
    tried = np.random.default_rng(0).permutation(len(rows))[:MAX_SEARCHED]  # with histories of any length
    if needs_events:
        tried = tried[case.rows(torch.from_numpy(tried)).mask.any(1).cpu().numpy()]
    for number in tried:
        ids = [int(value) for value in columns[rows[number]]]
        if sum(value not in before for value, before in zip(ids, seen, strict=True)) >= enough:
            chosen.append(int(number))
            for value, before in zip(ids, seen, strict=True):
                before.add(value)
        if len(chosen) == OVERFITTED:
            break
    return torch.tensor(chosen, dtype=torch.long)


def overfits(case: Case) -> str | None:
    """32 rows are learnt by heart"""
    model = in_closed_form(without_draws(case.make()), case.batches)
    last = stages(model)[-1]
    if not isinstance(last, Train):
        raise Skip("the model is fitted in closed form")
    rows = different_rows(case, needs_events=hasattr(model, "states"))
    if len(rows) < MIN_OVERFITTED:
        raise Skip(f"only {len(rows)} training rows differ enough to tell")
    batch = case.rows(rows)
    set_mode(last)
    weights = {name: float(weight > 0) for name, weight in case.config.loss_weights.items()}
    is_on = [weights.get(name) != 0 for name in case.dataset.schema.tasks or [""]]
    trained = [parameter for name, parameter in last.model.named_parameters() if name.startswith(last.trained)]
    adam = torch.optim.Adam(trained, 1e-2)
    for _ in range(STEPS):
        adam.zero_grad()
        output = last.model(batch)
        losses = zip(label_losses(output.by_task, batch)[0].tolist(), is_on, strict=True)
        loss = max((loss for loss, on in losses if on), default=math.inf)
        if loss < 0.3:
            return None
        joint(models.losses(last.model, output, batch), weights).backward()
        adam.step()
    advice = "a sigmoid may squash the logits, or the input not reach them"
    return f"after {STEPS} steps their loss is {loss:.2f}, not below 0.3; {advice}"


def shuffled_labels(case: Case) -> str | None:
    """with labels shuffled there is nothing to learn: the test AUC is 0.5"""
    label = case.dataset.log.label
    if label.min() == label.max() and not case.dataset.schema.tasks:
        raise Skip("all labels are equal")
    if not case.batches.size("test"):
        raise Skip("the data have no test rows")
    log, order = case.dataset.log, np.random.default_rng(0).permutation(len(label))
    tasks = None if log.tasks is None else log.tasks[order]
    dataset = replace(case.dataset, log=replace(log, label=label[order], tasks=tasks))
    config = replace(case.config.trainer, epochs=1, batch_size=min(256, case.config.trainer.batch_size))
    model = case.make()
    trainer = Trainer(config, case.batches.device, case.config.seed)
    options = case.config.model
    with tempfile.TemporaryDirectory() as folder:
        batches = Batches(dataset, case.config.dataset, case.batches.device, search=search_of(model))
        recorder = NullRecorder(Path(folder))
        result = trainer.fit(
            model, batches, case.config.loss_weights, options.embedding_l2, recorder, options.optimizers
        )
    assert result.test and result.test_scores  # nothing stops this training early
    labels = {name: scores.labels for name, scores in result.test_scores.by_label().items()}
    n_of_class = {name: (int(label.sum()), int((1 - label).sum())) for name, label in labels.items()}
    enough = {name: n for name, n in n_of_class.items() if min(n) >= MIN_CLASS}
    if not enough:
        n_positive, n_negative = next(iter(n_of_class.values()))
        raise Skip(f"the test rows have {n_positive} and {n_negative} of either label, too few to tell")
    for name, (n_positive, n_negative) in enough.items():
        auc = result.test.values[of_label("auc", name)]
        # Four standard deviations of the AUC of random scores.
        margin = 4 * math.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))
        if auc is not None and abs(auc - 0.5) >= margin:
            advice = "the model or a feature sees the label it is to predict"
            of = f" of {name}" if name else ""
            return f"it is {auc:.3f}{of} (0.5 ± {margin:.3f} is chance); {advice}"
    return None
