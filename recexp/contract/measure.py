"""What the checks look at: one training step of a model, and how far apart two results are."""

import torch
from torch import Tensor, nn

from recexp import model as models
from recexp.contract.case import Case
from recexp.contract.variant import one_sampled
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.schema import FIRST
from recexp.layer.lookup import Table
from recexp.model import Fit, stages
from recexp.trainer.loss import joint


def step(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, named losses and gradients of one training step; random draws are the same in each call."""
    torch.manual_seed(0)
    model.train()
    model.zero_grad(set_to_none=True)
    output = model(batch)
    if output.logits.shape != (len(batch),):
        raise ValueError(f"logits have shape {tuple(output.logits.shape)}, not ({len(batch)},)")
    if batch.tasks.shape[1] and output.all_logits.shape != batch.tasks.shape:
        raise ValueError(f"tasks have shape {tuple(output.all_logits.shape)}, not {tuple(batch.tasks.shape)}")
    losses = models.losses(model, output, batch)
    loss = joint(losses, dict.fromkeys(losses, 1.0))
    if loss.requires_grad:  # a model fitted in closed form has no gradient
        loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return output.all_logits.detach(), losses, gradients


def unsound(result: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]) -> str | None:
    """What in the result of a step is not finite, or not one number."""
    logits, losses, gradients = result
    if not logits.isfinite().all():
        return "logits are not finite"
    for name, loss in losses.items():
        if loss.shape != () or not loss.isfinite():
            return f"loss '{name}' is {loss.detach().tolist()}, not one finite number"
    broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    return f"the gradient of {', '.join(broken)} is not finite" if broken else None


def batch_differs(case: Case, batch: Batch, advice: str) -> str | None:
    """How logits or gradients on a batch differ from those on the mixed one."""
    batch = one_sampled(batch)  # every sampled item is the same one, however many are drawn
    mixed = one_sampled(case.mixed)
    logits, _, gradients = step(without_draws(case.make()), batch)
    expected_logits, _, expected_gradients = step(without_draws(case.make()), mixed)
    if fault := differs(logits, expected_logits, advice):
        return fault
    for name, expected in expected_gradients.items():
        if fault := differs(gradients[name], expected, advice, what=f"the gradient of {name}"):
            return fault
    return None


def differs(actual: Tensor, expected: Tensor, advice: str, exact: bool = False, what: str = "the logits") -> str | None:
    """By how much one tensor differs from another, or None if it does not."""
    actual, expected = actual.detach().double(), expected.detach().double()
    if not expected.numel():
        return None
    distance = float((actual - expected).abs().max())
    tolerance = 0.0 if exact else 1e-5 + 1e-3 * float(expected.abs().max())
    return None if distance <= tolerance else f"{what} change by up to {distance:.2g}; {advice}"


def fitted(case: Case) -> nn.Module:
    """The model after its stages in closed form and one training step, in evaluation mode."""
    model = in_closed_form(case.make(), case.batches)
    step(model, case.mixed)  # changes running statistics from their initial values
    return model.eval()


def tables_of_numbers(model: nn.Module) -> set[str]:
    """The parameters that only padding and unknown ids would read: tables of fields that are all numbers."""
    tables = ((name, module) for name, module in model.named_modules() if isinstance(module, Table))
    return {f"{name}.weight" for name, module in tables if len(module.weight) <= FIRST}


def in_closed_form(model: nn.Module, batches: Batches) -> nn.Module:
    """The model after its stages in closed form: without them its buffers hold nothing to compare."""
    for stage in stages(model):
        if isinstance(stage, Fit):
            stage.fit(batches.training())
    return model


def without_draws(model: nn.Module) -> nn.Module:
    """The model without the random draws in training that depend on the shape or content of padding."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.RReLU):
            module.lower = module.upper
    return model
