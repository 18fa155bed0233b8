"""FTRL-Proximal. McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013, algorithm 1.

w weight, g gradient, n sum of g^2, alpha learning rate; all per coordinate
    1 / eta_t = (beta + sqrt(n_t)) / alpha_t,  sigma_t = 1 / eta_t - 1 / eta_{t-1}
    z_t = z_{t-1} + g_t - sigma_t w_t
    w_{t+1} = 0 if |z_t| <= l1, else -(z_t - sgn(z_t) l1) / (1 / eta_t + l2)

A schedule changes alpha, and z depends on the alpha of its last step. r_t = z_t + w_{t+1} / eta_t does not, so r is
stored. With y_t = w_t - eta_t (g_t + r_{t-1}), which is -eta_t z_t, the same algorithm reads
    w_{t+1} = (y_t - clamp(y_t, -eta_t l1, eta_t l1)) / (1 + eta_t l2)
    r_t = -clamp(y_t, -eta_t l1, eta_t l1) / eta_t - l2 w_{t+1}
A weight whose gradient is 0 stays, however alpha changes. The paper starts at w_1 = 0; r_0 = -(l1 sgn(w_1) + l2 w_1),
from z_0 = -(w_1 (beta / alpha + l2) + l1 sgn(w_1)), keeps any other start until there are gradients. Without l1 and l2,
r is 0 and the update is plain SGD with learning rate eta_t.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FTRL(torch.optim.Optimizer):
    """Takes dense and row-wise gradients: rows that a sparse gradient lacks would not change anyway."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, beta: float, l1: float, l2: float) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "l1": l1, "l2": l2})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loss is not evaluated anew
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        alpha, beta, l1, l2 = (group[name] for name in ("lr", "beta", "l1", "l2"))
        state = self.state[parameter]
        if not state:
            state["n"] = torch.zeros_like(parameter)
            state["r"] = -(l1 * parameter.sign() + l2 * parameter)
        rows: Any = ...  # all of them
        if grad.is_sparse:
            grad = grad.coalesce()
            grad, rows = grad.values(), grad.indices()[0]
        kept = (parameter, state["n"], state["r"])
        weight, n, r = (tensor[rows] for tensor in kept)
        for tensor, new in zip(kept, ftrl(grad, weight, n, r, alpha, beta, l1, l2), strict=True):
            tensor[rows] = new


def ftrl(
    grad: Tensor, weight: Tensor, n: Tensor, r: Tensor, alpha: float, beta: float, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The next weight, n and r."""
    n = n + grad.square()
    eta = alpha / (beta + n.sqrt())
    y = weight - eta * (grad + r)
    reach = eta * l1
    clamped = y.clamp(-reach, reach)
    updated = (y - clamped) / (1 + eta * l2)
    unchanged = grad == 0  # bit for bit; the sums above would round
    return torch.where(unchanged, weight, updated), n, torch.where(unchanged, r, -clamped / eta - l2 * updated)
