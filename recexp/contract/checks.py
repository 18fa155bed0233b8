"""The checks. A check's first line says what must hold; it returns in words what does not, or None.

Checks of a single step are here, those that train for longer in training.py.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from recexp.contract.case import Case, Skip
from recexp.contract.measure import batch_differs, differs, fitted, step, tables_of_numbers, unsound
from recexp.contract.training import overfits, shuffled_labels
from recexp.contract.variant import all_unknown, longer, single_row, with_garbage, without_histories
from recexp.dataset.batch import Samples
from recexp.dataset.log import Log
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.dataset.window import packed
from recexp.metric.item_scores import ItemScores
from recexp.model import Fit, reads_history, stages

MIN_HISTORY = 3  # events of the longest history: with fewer, a good model fails, as attention over one has no gradient
RANKED_ROWS, RANKED_ITEMS = 4, 50
Check = Callable[[Case], str | None]


def verdict(check: Check, case: Case) -> tuple[str, str]:
    """ok, skipped or FAILED, and the reason."""
    try:
        fault = check(case)
    except Skip as reason:
        return "skipped", str(reason)
    except Exception as error:
        return "FAILED", f"raises {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return ("FAILED", fault) if fault else ("ok", "")


def one_row(case: Case) -> str | None:
    """one row alone trains, with and without a history"""
    for row in (0, len(case.mixed) - 1):
        if fault := unsound(step(case.make(), single_row(case.mixed, row))):
            return f"{fault} (history of {int(case.mixed.mask[row].sum())} events)"
    return None


def every_length(case: Case) -> str | None:
    """histories of every length train in one batch, and a batch without any does"""
    empty = without_histories(case.mixed)
    for batch, words in ((case.mixed, "histories of every length"), (empty, "no history at all")):
        if fault := unsound(step(case.make(), batch)):
            return f"{fault} ({words})"
    return None


def named_losses(case: Case) -> str | None:
    """each named loss has a weight, and each loss of weight above 0 is there"""
    returned = step(case.make(), case.mixed)[1].keys()
    weights = case.config.loss_weights
    if unweighted := returned - weights.keys():
        return f"losses() returns {', '.join(sorted(unweighted))}, which model.loss_weights does not name"
    if absent := {name for name, weight in weights.items() if weight} - returned:
        return f"model.loss_weights has {', '.join(sorted(absent))}, which losses() does not return"
    return None


def all_trained(case: Case) -> str | None:
    """the gradient reaches every parameter that a stage trains"""
    model = case.make()
    batch = case.rows(torch.arange(min(4096, case.batches.size("train") // (1 + case.batches.negatives))))
    for stage in stages(model):
        if isinstance(stage, Fit):
            stage.fit(case.batches.training())
            continue
        gradients = step(stage.model, batch)[2]
        idle = tables_of_numbers(stage.model)
        without = [
            name
            for name, gradient in gradients.items()
            if name.startswith(stage.trained) and not gradient.any() and name not in idle
        ]
        longest = int(batch.mask.sum(1).max()) if batch.mask.numel() else 0
        if without and reads_history(stage.model) and longest < MIN_HISTORY:
            raise Skip(f"the longest history has {longest} events, too few to tell")
        absent = (batch.tasks < 0).all(0).tolist()
        if without and any(absent):
            raise Skip(f"no row has a label {case.dataset.schema.tasks[absent.index(True)]}, so nothing to tell")
        if without:
            return f"none for {', '.join(without)} in stage {stage.name}: remove what is not used"
    return None


def padding_content(case: Case) -> str | None:
    """what stands on padding changes nothing"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    advice = "use batch.mask wherever events are summed, normalised or compared"
    return batch_differs(case, with_garbage(case.mixed), advice)


def padding_length(case: Case) -> str | None:
    """more padding changes nothing"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    advice = "divide by the number of events, and read the last valid state"
    return batch_differs(case, longer(case.mixed, 5), advice)


def label_unseen(case: Case) -> str | None:
    """the logits do not see the label they are to predict"""
    model = fitted(case)
    flipped = replace(case.mixed, label=1 - case.mixed.label, tasks=1 - case.mixed.tasks)
    return differs(model(flipped).all_logits, model(case.mixed).all_logits, "forward() may not read batch.label")


def strictly_before(case: Case) -> str | None:
    """every event of a history is older than its row"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    for split in ("train", "valid", "test"):
        for batch in case.batches.epoch(split, 2048):
            late = int((batch.mask & (batch.history_age <= 0)).sum())
            if batch.found:
                late += int((batch.found.mask & (batch.found.age <= 0)).sum())
            if late:
                return f"{late} events of the {split} split are not"
    return None


def causal_states(case: Case) -> str | None:
    """a state sees no later event"""
    model = fitted(case)
    states = model(case.mixed).parts.get("states")
    if states is None or states.shape[1] < 2:
        raise Skip("the model hands out no states")
    middle = states.shape[1] // 2
    history = case.mixed.history.clone()
    history[:, middle:] = history[:, middle:].roll(1, 0)
    label = case.mixed.history_label.clone()
    label[:, middle:] = 1 - label[:, middle:]
    after = model(replace(case.mixed, history=history, history_label=label)).parts["states"]
    mask = case.mixed.mask[:, :middle]
    advice = "mask later positions, in attention and in memory"
    return differs(after[:, :middle][mask], states[:, :middle][mask], advice)


def ranker_states(case: Case) -> str | None:
    """a ranker's state sees no later event, and the last one is its query"""
    model: Any = fitted(case)
    if not hasattr(model, "states") or not case.mixed.mask.numel():
        raise Skip("the model has no states of next items")
    events, order = packed(case.mixed)
    item, length, number = events.item.flatten(), events.length, torch.arange(len(order), device=order.device)
    padded = events.item.dim() == 2  # on a GPU
    start = number * events.item.shape[1] if padded else length.cumsum(0) - length
    user = number.repeat_interleave(events.item.shape[1] if padded else length)  # of each event, as its number here
    position, middle = torch.arange(len(item), device=item.device) - start[user], int(length.max()) // 2
    states, has_events = model.states(events), length > 0
    last = states[(start + length - 1)[has_events]]
    query = model.query(case.mixed)[order[has_events]]
    if fault := differs(last, query, "query() is the state after the last event"):
        return fault
    changed = torch.where(position >= middle, item.roll(1), item).view_as(events.item)
    after, earlier = model.states(replace(events, item=changed)), position < length.clamp(max=middle)[user]
    return differs(after[earlier], states[earlier], "mask later positions in attention")


def ranked(case: Case) -> str | None:
    """items are ranked by the logits of pairs"""
    if not isinstance(case.dataset.log, Log):
        raise Skip("a table has no items to rank")
    model, ids = fitted(case), case.batches.catalogue.items.ids[:, 0]
    known, unknown = (ids >= FIRST).nonzero()[:, 0], (ids == UNKNOWN).nonzero()[:, 0]
    items = torch.cat([known[:RANKED_ITEMS], unknown[:RANKED_ITEMS]])
    rows = case.batches.rows["train"][:: max(1, case.batches.size("train") // RANKED_ROWS)][:RANKED_ROWS]
    pairs = Samples(rows.repeat_interleave(len(items)), item=items.repeat(len(rows)))
    logits = model(case.batches.gather(pairs, "train")).logits.view(len(rows), len(items))
    if hasattr(model, "item_vectors"):
        vectors: Any = model.item_vectors
        advice = "item_vectors(ids) gives other vectors than item_vectors()[ids]"
        if fault := differs(vectors(ids[items]), vectors()[ids[items]], advice):
            return fault
    scores = ItemScores(model, case.batches, "train", items, len(items)).of(rows)
    return differs(
        scores, logits, "score(batch, items), or query() and item_vectors(), give other numbers than forward()"
    )


def evaluation(case: Case) -> str | None:
    """evaluation repeats itself, and scores a row the same in any batch"""
    model = fitted(case)
    at_once = model(case.mixed).all_logits
    if fault := differs(model(case.mixed).all_logits, at_once, "something is drawn in evaluation mode", exact=True):
        return fault
    alone = torch.cat([model(single_row(case.mixed, row)).all_logits for row in range(len(case.mixed))])
    return differs(alone, at_once, "batch statistics belong to training alone")


def unknown_ids(case: Case) -> str | None:
    """users, items and values that training never met get a finite score"""
    logits = fitted(case)(all_unknown(case.mixed)).all_logits
    return None if logits.isfinite().all() else "the logits are not finite"


def whole_state(case: Case) -> str | None:
    """the state dict carries the whole model"""
    model = fitted(case)
    other = case.make(1)
    other.load_state_dict(model.state_dict())
    advice = "register tensors as parameters or buffers"
    return differs(other.eval()(case.mixed).all_logits, model(case.mixed).all_logits, advice, exact=True)


def bfloat16(case: Case) -> str | None:
    """trainer.precision=bf16 trains"""
    with torch.autocast(case.batches.device.type, torch.bfloat16):
        return unsound(step(case.make(), case.mixed))


CHECKS = (
    one_row, every_length, named_losses, all_trained, padding_content, padding_length, label_unseen, strictly_before,
    causal_states, ranker_states, ranked, evaluation, unknown_ids, whole_state, bfloat16, overfits, shuffled_labels,
)  # fmt: skip
