"""Row-wise AdaGrad. Gupta et al., Training Highly Multiclass Classifiers, JMLR 2014; Mudigere et al., ISCA 2022.

h_i a number for each row i of a table of width W, g gradient, w weight, a learning rate
    h_i <- h_i + sum_j g_ij^2 / W,  w_ij <- w_ij - a g_ij / (sqrt(h_i) + eps)
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class RowWiseAdagrad(torch.optim.Optimizer):
    """Takes dense and sparse gradients: rows that a sparse gradient lacks would not change anyway."""

    def __init__(self, tables: Iterable[Tensor], lr: float, weight_decay: float = 0.0, eps: float = 1e-10) -> None:
        """weight_decay: multiplies whole tables, and asks for dense gradients."""
        super().__init__(tables, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loss is not evaluated anew
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    grad = table.grad.add(table, alpha=group["weight_decay"]) if group["weight_decay"] else table.grad
                    self._update(table, grad, group["lr"], group["eps"])

    def _update(self, table: Tensor, grad: Tensor, lr: float, eps: float) -> None:
        state = self.state[table]
        if not state:
            state["sum"] = table.new_zeros(len(table), 1)
        if not grad.is_sparse:
            state["sum"] += grad.square().mean(1, keepdim=True)
            table.addcdiv_(grad, state["sum"].sqrt() + eps, value=-lr)
            return
        grad = grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
        total = state["sum"][rows] + values.square().mean(1, keepdim=True)
        state["sum"][rows] = total
        table.index_add_(0, rows, values / (total.sqrt() + eps), alpha=-lr)
