"""The joint loss, and what is added to the gradient beside it."""

import torch
from torch import Tensor

from recexp.config import L2Rows
from recexp.error import ConfigError
from recexp.layer.embedding import SideEmbedding


def joint(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The weighted sum of a model's named losses, those of weight 0 left out.

    Raises ConfigError for a loss without a weight, or where no weight is above 0.
    """
    names = ", ".join(sorted(parts))
    if unweighted := sorted(parts.keys() - weights.keys()):
        raise ConfigError(f"model.loss_weights lacks {', '.join(unweighted)}; the model returns {names}.")
    weighted = [weights[name] * part for name, part in parts.items() if weights[name]]
    if not weighted:
        raise ConfigError(f"model.loss_weights: of {names} one must be above 0, or there is nothing to train.")
    return torch.stack(weighted).sum()


@torch.no_grad()
def add_l2(table: SideEmbedding, strength: float, rows: L2Rows, counts: Tensor | None) -> None:
    """Adds the gradient of the L2 term to an embedding table's.

    all: (l/2)|E|^2 over the whole table. batch: (l/2)|e_j|^2 / n_j for the rows j of the batch, n_j the number of
    training rows that hold j (Zhou et al. 2018, eq. 6 to 8): what a table of millions of rows can afford.
    """
    weight, grad = table.table.weight, table.table.weight.grad
    if grad is None or not strength:
        return
    if rows is L2Rows.all:
        grad.add_(weight, alpha=strength)
        return
    assert counts is not None
    if grad.is_sparse:
        present = grad.indices()[0]
        grad.values().add_(weight[present] * (strength / counts[present])[:, None])
    else:
        present = (grad != 0).any(1)
        grad.add_(weight * (present * strength / counts)[:, None])


@torch.no_grad()
def clip(gradients: list[Tensor], longest: float) -> None:
    """Scales all gradients together so that their norm is at most `longest`."""
    values = [grad.values() if grad.is_sparse else grad for grad in gradients]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    torch._foreach_mul_(values, (longest / (norm + 1e-6)).clamp(max=1.0))
