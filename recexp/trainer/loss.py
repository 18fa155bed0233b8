"""The joint loss, and what is done to its gradients: the L2 term of embeddings, clipping."""

import torch
from torch import Tensor

from recexp.config import L2Rows
from recexp.error import ConfigError
from recexp.kernel.device import waits


def joint(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The weighted sum of a model's named losses; those of weight 0 are left out.

    Raises ConfigError for a loss without a weight, or if no weight is above 0.
    """
    names = ", ".join(sorted(losses))
    if unweighted := sorted(losses.keys() - weights.keys()):
        lacking = ", ".join(unweighted)
        raise ConfigError(
            f"model.loss_weights lacks {lacking}; the model returns {names}. Weight 0 switches a loss off."
        )
    weighted = [weights[name] * loss for name, loss in losses.items() if weights[name]]
    if not weighted:
        raise ConfigError(f"model.loss_weights: one of {names} must be above 0, or there is nothing to train.")
    return torch.stack(weighted).sum()


@torch.no_grad()
def add_l2(weight: Tensor, strength: float, rows: L2Rows, counts: Tensor | None) -> None:
    """Adds the gradient of the L2 term to that of an embedding table's weight (n, D), if it has one.

    all: (l/2)|E|^2 over the whole table. batch: (l/2)|e_j|^2 / n_j for the rows j of the batch, where counts (n,) holds
    n_j, the number of training rows with j (Zhou et al. 2018, eq. 6 to 8); tables of millions of rows can afford it.
    """
    grad = weight.grad
    if grad is None:
        return
    if rows is L2Rows.all:
        if grad.is_sparse:  # the optimizer knows the term for all other rows
            grad.values().add_(weight.index_select(0, grad.indices()[0]), alpha=strength)
        else:
            grad.add_(weight, alpha=strength)
        return
    assert counts is not None
    if grad.is_sparse:
        present = grad.indices()[0]
        grad.values().add_(weight.index_select(0, present) * (strength / counts[present])[:, None])
    else:
        present = (grad != 0).any(1)
        grad.add_(weight * (present * strength / counts)[:, None])


@torch.no_grad()
def clip(gradients: list[Tensor], norm: Tensor, max_norm: float) -> Tensor:
    """Scales all gradients together, of a norm (), so that it is at most `max_norm`; returns the factor ()."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if waits(factor) or factor != 1:  # a factor of 1 changes nothing, but takes a pass over all gradients
        torch._foreach_mul_(gradients, factor)
    return factor
