"""What must hold for any model. Each check says in its first line what holds, and returns in words what does not."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Features, Samples
from recexp.dataset.log import Dataset
from recexp.dataset.schema import PADDING, UNKNOWN
from recexp.layer.loss import bce
from recexp.model import Fit, Train, stages
from recexp.trainer.default import Trainer
from recexp.trainer.loop import set_mode
from recexp.trainer.loss import joint
from recexp.trainer.recorder import NullRecorder

OVERFITTED, STEPS = 32, 300  # rows, and steps of Adam at rate 1e-2
HISTORIES = ("history", "history_label", "history_age", "mask")


class Skip(Exception):
    """A check that says nothing about this model or these data, and why."""


@dataclass(frozen=True)
class Case:
    """What is checked. `make()` gives a new model, of the same initial weights each time, `make(1)` of others."""

    config: Config
    dataset: Dataset
    batches: Batches
    mixed: Batch  # training rows with histories of every kind of length
    make: Callable[..., nn.Module]

    def rows(self, rows: Tensor) -> Batch:
        """The batch of some training rows, counted from 0 in the order of the log."""
        return self.batches.gather(Samples(self.batches.rows["train"][rows]), "train")


def one_row(case: Case) -> str | None:
    """one row alone trains, with and without a history"""
    for row in (0, len(case.mixed) - 1):
        if fault := unsound(step(case.make(), part_of(case.mixed, row))):
            return f"{fault} (history of {int(case.mixed.mask[row].sum())} events)"
    return None


def every_length(case: Case) -> str | None:
    """histories of every length train in one batch, and a batch without any does"""
    empty = replace(case.mixed, **{name: getattr(case.mixed, name)[:, :0] for name in HISTORIES})
    for batch, words in ((case.mixed, "histories of every length"), (empty, "no history at all")):
        if fault := unsound(step(case.make(), batch)):
            return f"{fault} ({words})"
    return None


def named_losses(case: Case) -> str | None:
    """each named loss has a weight, and each loss of weight above 0 is there"""
    returned = step(case.make(), case.mixed)[1].keys()
    weights = case.config.model.loss_weights
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
        still = [name for name, each in gradients.items() if name.startswith(stage.trained) and not each.any()]
        if still:
            return f"none for {', '.join(still)} in stage {stage.name}: remove what is not used"
    return None


def padding_content(case: Case) -> str | None:
    """what stands on padding changes nothing"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    advice = "use batch.mask wherever events are summed, normalised or compared"
    return differs(case, with_garbage(case.mixed), advice)


def padding_length(case: Case) -> str | None:
    """more padding changes nothing"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    advice = "divide by the number of events, and read the last valid state"
    return differs(case, longer(case.mixed, 5), advice)


def label_unseen(case: Case) -> str | None:
    """the logits do not see the label they are to predict"""
    model = fitted(case)
    flipped = replace(case.mixed, label=1 - case.mixed.label)
    return moved(model(flipped).logits, model(case.mixed).logits, "forward() may not read batch.label")


def strictly_before(case: Case) -> str | None:
    """every event of a history is older than its row"""
    if not case.mixed.mask.numel():
        raise Skip("the data have no histories")
    for part in ("train", "valid", "test"):
        for batch in case.batches.epoch(part, 2048):
            if late := int((batch.mask & (batch.history_age <= 0)).sum()):
                return f"{late} events of the {part} part are not"
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
    seen = case.mixed.mask[:, :middle]
    advice = "mask later positions, in attention and in memory"
    return moved(after[:, :middle][seen], states[:, :middle][seen], advice)


def evaluation(case: Case) -> str | None:
    """evaluation repeats itself, and scores a row the same in any batch"""
    model = fitted(case)
    together = model(case.mixed).logits
    if fault := moved(model(case.mixed).logits, together, "something is drawn in evaluation mode", exact=True):
        return fault
    alone = torch.cat([model(part_of(case.mixed, row)).logits for row in range(len(case.mixed))])
    return moved(alone, together, "batch statistics belong to training alone")


def unknown_ids(case: Case) -> str | None:
    """users, items and values that training never met get a finite score"""
    logits = fitted(case)(all_unknown(case.mixed)).logits
    return None if logits.isfinite().all() else "the logits are not finite"


def whole_state(case: Case) -> str | None:
    """the state dict carries the whole model"""
    model = fitted(case)
    other = case.make(1)
    other.load_state_dict(model.state_dict())
    advice = "register tensors as parameters or buffers"
    return moved(other.eval()(case.mixed).logits, model(case.mixed).logits, advice, exact=True)


def bfloat16(case: Case) -> str | None:
    """trainer.precision=bf16 trains"""
    with torch.autocast(case.batches.device.type, torch.bfloat16):
        return unsound(step(case.make(), case.mixed))


def overfits(case: Case) -> str | None:
    """32 rows are learnt by heart"""
    model = in_closed_form(without_draws(case.make()), case.batches)
    last = stages(model)[-1]
    if not isinstance(last, Train):
        raise Skip("the model is fitted in closed form")
    batch = case.rows(apart(case, OVERFITTED))
    set_mode(last)
    weights = {name: float(weight > 0) for name, weight in case.config.model.loss_weights.items()}
    trained = [each for name, each in last.model.named_parameters() if name.startswith(last.trained)]
    adam = torch.optim.Adam(trained, 1e-2)
    for _ in range(STEPS):
        adam.zero_grad()
        parts = last.model.losses(last.model(batch), batch)  # type: ignore[operator]
        joint(parts, weights).backward()
        adam.step()
    loss = bce(last.model(batch).logits, batch.label).item()
    advice = "a sigmoid may squash the logits, or the input not reach them"
    return None if loss < 0.3 else f"after {STEPS} steps their loss is {loss:.2f}, not below 0.3; {advice}"


def shuffled_labels(case: Case) -> str | None:
    """with labels shuffled there is nothing to learn: the test AUC is 0.5"""
    label = case.dataset.log.label
    if label.min() == label.max():
        raise Skip("all labels are equal")
    shuffled = np.random.default_rng(0).permutation(label)
    dataset = replace(case.dataset, log=replace(case.dataset.log, label=shuffled))
    config = replace(case.config.trainer, epochs=1, batch_size=min(256, case.config.trainer.batch_size))
    model = case.make()
    trainer = Trainer(config, case.batches.device, case.config.seed)
    options = case.config.model
    with tempfile.TemporaryDirectory() as folder:
        batches = Batches(dataset, case.config.dataset, case.batches.device)
        recorder = NullRecorder(Path(folder))
        result = trainer.fit(model, batches, options.loss_weights, options.embedding_l2, recorder, options.optimizers)
    assert result.test and result.test_scores  # nothing stops it before its time
    auc, n_positive = result.test.values["auc"], int(result.test_scores.labels.sum())
    n_negative = len(result.test_scores.labels) - n_positive
    if auc is None:
        raise Skip("the test rows have one label")
    # The deviation of an AUC under no effect, doubled and doubled again.
    margin = 4 * math.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))
    advice = "the model or a feature sees the label it is to predict"
    return None if abs(auc - 0.5) < margin else f"it is {auc:.3f} (0.5 ± {margin:.3f} is chance); {advice}"


CHECKS = (
    one_row, every_length, named_losses, all_trained, padding_content, padding_length, label_unseen, strictly_before,
    causal_states, evaluation, unknown_ids, whole_state, bfloat16, overfits, shuffled_labels,
)  # fmt: skip


def step(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, named losses and gradients of one training step; random draws are the same in each call."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad(set_to_none=True)
    output = model(batch)
    if output.logits.shape != (len(batch),):
        raise ValueError(f"logits have shape {tuple(output.logits.shape)}, not ({len(batch)},)")
    parts = model.losses(output, batch)  # type: ignore[operator]
    loss = joint(parts, dict.fromkeys(parts, 1.0))
    if loss.requires_grad:  # a model fitted in closed form has no gradient
        loss.backward()
    named = model.named_parameters()
    gradients = {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in named}
    return output.logits.detach(), parts, gradients


def unsound(found: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]) -> str | None:
    """What is not finite or not a number."""
    logits, parts, gradients = found
    if not logits.isfinite().all():
        return "logits are not finite"
    for name, each in parts.items():
        if each.shape != () or not each.isfinite():
            return f"loss '{name}' is {each.detach().tolist()}, not one finite number"
    broken = [name for name, each in gradients.items() if not each.isfinite().all()]
    return f"the gradient of {', '.join(broken)} is not finite" if broken else None


def differs(case: Case, other: Batch, advice: str) -> str | None:
    """How logits or gradients on another batch differ from those on the mixed one."""
    other = one_sampled(other)  # sampled items are all this one, however many are drawn
    mixed = one_sampled(case.mixed)
    left, right = step(without_draws(case.make()), other), step(without_draws(case.make()), mixed)
    if fault := moved(left[0], right[0], advice):
        return fault
    for name in right[2]:
        if fault := moved(left[2][name], right[2][name], advice, what=f"the gradient of {name}"):
            return fault
    return None


def moved(found: Tensor, wanted: Tensor, advice: str, exact: bool = False, what: str = "the logits") -> str | None:
    """By how much one tensor differs from another, where it does."""
    found, wanted = found.detach().double(), wanted.detach().double()
    far = float((found - wanted).abs().max()) if wanted.numel() else 0.0
    near = 0.0 if exact else 1e-5 + 1e-3 * float(wanted.abs().max()) if wanted.numel() else 0.0
    return None if far <= near else f"{what} change by up to {far:.2g}; {advice}"


def fitted(case: Case) -> nn.Module:
    """The model after its stages in closed form and one training step, in evaluation mode."""
    model = in_closed_form(case.make(), case.batches)
    step(model, case.mixed)  # moves running statistics away from their start
    return model.eval()


def in_closed_form(model: nn.Module, batches: Batches) -> nn.Module:
    """The model after its stages in closed form: without them its buffers hold nothing to compare."""
    for stage in stages(model):
        if isinstance(stage, Fit):
            stage.fit(batches.training())
    return model


def without_draws(model: nn.Module) -> nn.Module:
    """The model in which nothing that training draws depends on the shape or content of padding."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.RReLU):
            module.lower = module.upper
    return model


def with_garbage(batch: Batch) -> Batch:
    """The batch with random events on padding."""
    mask = batch.mask
    noise = torch.randint(1, len(batch.catalogue.items.ids), mask.shape, generator=torch.Generator().manual_seed(1))
    return replace(
        batch,
        history=torch.where(mask, batch.history, noise.to(mask.device)),
        history_label=torch.where(mask, batch.history_label, 1.0),
        history_age=torch.where(mask, batch.history_age, 1e6),
    )


def longer(batch: Batch, n: int) -> Batch:
    """The batch with n columns of padding more."""

    def widen(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), n)], 1)

    columns: dict[str, Any] = {name: widen(getattr(batch, name)) for name in HISTORIES}
    return replace(batch, **columns)


def all_unknown(batch: Batch) -> Batch:
    """The batch in which training has met no user, no item and no value."""

    def unknown(features: Features) -> Features:
        return Features(torch.where(features.ids == PADDING, PADDING, UNKNOWN), features.values)

    catalogue = batch.catalogue
    unknowns = replace(catalogue, users=unknown(catalogue.users), items=unknown(catalogue.items))
    return replace(batch, catalogue=unknowns, context=unknown(batch.context))


def one_sampled(batch: Batch) -> Batch:
    """The batch whose sampled items are all the same one, however many are drawn."""
    return replace(batch, catalogue=replace(batch.catalogue, sampling_pool=batch.catalogue.sampling_pool[:1]))


def apart(case: Case, n: int) -> Tensor:
    """n training rows, evenly over the log: of different users, mostly."""
    return torch.linspace(0, len(case.batches.rows["train"]) - 1, n).long()


def part_of(batch: Batch, row: int) -> Batch:
    """One row of a batch, without the padding that it needs only beside longer ones."""
    length = int(batch.mask[row].sum())
    columns: dict[str, Any] = {name: getattr(batch, name)[row : row + 1] for name in ("label", "user", "target")}
    columns |= {name: getattr(batch, name)[row : row + 1, :length] for name in HISTORIES}
    context = Features(batch.context.ids[row : row + 1], batch.context.values[row : row + 1])
    return replace(batch, **columns, context=context)
