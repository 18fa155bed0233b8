"""Several labels of a sample, each a task: their towers, and their losses with weights that may be learnt.

B batch, T labels, H size of a tower's input, L_t loss of label t over the rows that have it
fixed          L_t
uncertainty    exp(-s_t) L_t + s_t / 2                                  Kendall, Gal & Cipolla, CVPR 2018
gradnorm       w_t L_t, w = T softmax(v); v lowers sum_t |w_t g_t - mean_i(w_i g_i) r_t^ALPHA|
               g_t = |dL_t / dx|, r_t = L_t / mean_i L_i                Chen et al., ICML 2018
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.loss import masked_bce
from recexp.layer.mlp import MLP

ALL_ON = MappingProxyType({"target": 1.0})
ALPHA = 1.5  # how strongly slower labels are pulled along; the paper's choice where tasks differ


class Weighting(Enum):
    fixed = "as model.loss_weights says"
    uncertainty = "divided by a learnt variance of each label, whose logarithm is added (Kendall 2018)"
    gradnorm = "learnt, so that labels of like training speed have gradients of like size (Chen 2018)"


class Towers(nn.Module):
    """An MLP of its own for each label."""

    def __init__(self, n_tasks: int, n_in: int, hidden_sizes: Sequence[int], activation: Activation, dropout: float):
        super().__init__()
        self.of = nn.ModuleList(MLP(n_in, hidden_sizes, activation, dropout, n_out=1) for _ in range(n_tasks))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """An input (B, H) for each label -> logits (B, T)."""
        return torch.cat([tower(x) for tower, x in zip(self.of, inputs, strict=True)], 1)


class TaskLosses(nn.Module):
    """The named losses of all labels: `target` if there is one label, else one per label with its name."""

    def __init__(self, schema: Schema, weighting: Weighting, loss_weights: Mapping[str, float] = ALL_ON) -> None:
        super().__init__()
        self.names, self.weighting = task_names(schema), weighting
        # A label of weight 0 is off: it has no part in the weights of the others.
        on = [t for t, name in enumerate(self.names) if loss_weights.get(name, loss_weights.get("target"))]
        self.on: Tensor  # (T',)
        self.register_buffer("on", torch.tensor(on, dtype=torch.long), persistent=False)
        learnt = weighting is not Weighting.fixed
        self.weight = nn.Parameter(torch.zeros(len(self.names))) if learnt else None  # s or v

    def forward(self, logits: Tensor, batch: Batch, shared: Tensor) -> dict[str, Tensor]:
        """logits (B, T); shared: x (B, .), which all labels are computed from."""
        losses, known = label_losses(logits, batch)
        return dict(zip(self.names, self.weighted(losses, known, shared), strict=True))

    def weighted(self, losses: Tensor, known: Tensor, shared: Tensor) -> Tensor:
        """Losses (T,) -> weighted losses (T,), which are minimised instead.

        known (T,): which labels a row of the batch has. The others give their weights no gradient.
        """
        if self.weight is None or not len(self.on):
            return losses
        if self.weighting is Weighting.uncertainty:
            return torch.where(known, torch.exp(-self.weight) * losses + self.weight / 2, 0.0)
        on = losses[self.on]  # (T',)
        v = self.weight[self.on]
        # A label without rows gets no gradient through the softmax of the others either.
        weight = len(on) * torch.where(known[self.on], v, v.detach()).softmax(0)
        weighted = weight.detach() * on
        if self.training and on.requires_grad:
            balance = imbalance(weight, gradient_sizes(on, shared), on.detach(), known[self.on])
            weighted = weighted + (balance - balance.detach())  # only its gradient counts
        return losses.index_put((self.on,), weighted)


def label_losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The binary cross-entropy of each label, one or several, over the rows that have it, and whether any has: (T,)."""
    label = batch.tasks if batch.tasks.shape[1] else batch.label[:, None]  # (B, T)
    known = label >= 0
    columns = zip(logits.T, label.T, known.T, strict=True)
    return torch.stack([masked_bce(logit, y, mask) for logit, y, mask in columns]), known.any(0)


def imbalance(weight: Tensor, size: Tensor, losses: Tensor, known: Tensor) -> Tensor:
    """How far the weighted gradient of each label is from the size that it should have, 0 of an unknown label: (T,).

    The losses and gradients of unknown labels are 0, so means over the known ones are sums by their number.
    """
    weighted, n_known = weight * size, known.sum().clamp(min=1)
    speed = losses / (losses.sum() / n_known).clamp(min=1e-12)  # all labels start at log 2, which cancels
    return torch.where(known, (weighted - (weighted.sum() / n_known * speed**ALPHA).detach()).abs(), 0.0)


def gradient_sizes(losses: Tensor, shared: Tensor) -> Tensor:
    """|dL_t / dx| of each loss (T,), with respect to the input x that all labels share, not to the weights after it."""
    gradients = [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses]
    return torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])


def task_names(schema: Schema) -> tuple[str, ...]:
    """The names of the labels' losses."""
    return schema.tasks or ("target",)
