"""Adam for embedding tables, at the cost of only a batch's rows; up to rounding it equals Adam on whole tables.

In Adam a row absent from the batch changes too, by its fading moments and by decay. Here these updates are deferred
until the row is read.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recexp.kernel.adam import COLUMNS, Rows, Step, fading, missed, powers, remember, update
from recexp.kernel.pages import in_large_pages
from recexp.kernel.unique import coalesced

MAX_DEFERRED = 2**14  # steps that may be deferred; then all rows are brought up to date
# The most that a step changes a weight, in learning rates:
# m^2 <= v (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2)) by Cauchy and Schwarz.
LARGEST_UPDATE = 7.3


class DeferredAdam(torch.optim.Optimizer):
    """Takes sparse gradients of tables; `catch_up` must be called with rows before they are read.

    The state of a table includes its deferred updates, so training resumes from it to the bit. A dense gradient updates
    all rows and leaves nothing deferred.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        row_wise: bool = False,
    ) -> None:
        """groups: parameters with their `l2`, the strength of an L2 term on the whole table. decoupled: as in AdamW.

        row_wise: the second moment is one number for each row, of the mean of its squared gradients.
        """
        defaults = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay, "decoupled": decoupled}
        super().__init__(groups, defaults | {"l2": 0.0})
        self.row_wise = row_wise
        self.clipping = 1.0  # what the gradients of the next step have been multiplied by
        betas: tuple[float, float] = defaults["betas"]  # type: ignore[assignment]
        self._powers, self._fading = powers(MAX_DEFERRED, betas), fading(betas)
        self._past = {table: torch.zeros(MAX_DEFERRED, len(COLUMNS), dtype=torch.float64) for table in self.tables}

    @property
    def tables(self) -> dict[Tensor, dict[str, Any]]:
        """The tables, each with its group."""
        return {parameter: group for group in self.param_groups for parameter in group["params"]}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: the loss is not evaluated anew
        for table, group in self.tables.items():
            if table.grad is not None:
                self._update(table, coalesced(table.grad) if table.grad.is_sparse else table.grad, group)

    def _update(self, table: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table] or self._start(table)
        if len(state["past"]) == MAX_DEFERRED:
            self.catch_up(table)
        state["step"] += 1
        lr, decay = float(group["lr"]), group["weight_decay"]
        coupled, shrink = (0.0, 1 - lr * decay) if group["decoupled"] else (decay, 1.0)
        step = Step.of(int(state["step"]), lr, group["betas"], group["eps"], coupled, shrink)
        if not grad.is_sparse:
            update(_rows(table, state, group), None, grad, step)
            return
        update(_rows(table, state, group), grad.indices()[0], grad.values(), step)
        n, past = len(state["past"]), self._past[table]
        absent = Step(step.step, step.rate, step.eps, coupled + self.clipping * group["l2"], shrink)
        remember(past, n, absent, self._fading)
        state["past"] = past[: n + 1]
        state["reach"] += LARGEST_UPDATE * lr * table.numel() ** 0.5

    def _start(self, table: Tensor) -> dict[str, Any]:
        self.state[table] = {
            "step": torch.zeros((), dtype=torch.float64),
            "exp_avg": _like(table).zero_(),
            "exp_avg_sq": _like(table[:, :1] if self.row_wise else table).zero_(),
            "last": _like(table[:, 0], torch.int32).zero_(),
            "past": self._past[table][:0],
            "reach": _norm(table),  # the norm of the table is at most this
        }
        return self.state[table]

    @torch.no_grad()
    def catch_up(self, table: Tensor, index: Tensor | None = None) -> None:
        """Applies the deferred updates of some unique rows (n,); None is all rows."""
        state, group = self.state[table], self.tables[table]
        if not state or not len(state["past"]):
            return
        decays = bool(group["l2"] or group["weight_decay"])
        rows, step = _rows(table, state, group), int(state["step"])
        missed(rows, index, state["past"], step, self._powers, decays)
        if index is None:
            state["past"], state["reach"] = self._past[table][:0], _norm(table)

    def catch_up_all(self) -> None:
        for table in self.tables:
            self.catch_up(table)

    def absent_norm(self, allowed: float) -> Tensor:
        """The norm (), over rows absent from the batch, of the L2 term's gradient; 0 if it is at most `allowed`.

        All rows are brought up to date if an upper bound of the norm exceeds `allowed`.
        """
        with_grad = {table: group["l2"] for table, group in self.tables.items() if table.grad is not None}
        decayed = {table: l2 for table, l2 in with_grad.items() if l2}
        for table in decayed:
            if not self.state[table]:
                self._start(table)
        bound = sum(l2 * float(self.state[table]["reach"]) for table, l2 in decayed.items())
        if not decayed or bound <= allowed:  # which is below 0 if the other gradients alone lead to clipping
            return torch.zeros(())
        norms = []
        for table, l2 in decayed.items():
            self.catch_up(table)
            assert table.grad is not None
            present = table.detach()[table.grad.indices()[0]]
            squares = self.state[table]["reach"].square() - _norm(present).square()
            norms.append(l2 * squares.clamp(min=0).sqrt())
        return torch.linalg.vector_norm(torch.stack(norms)).float()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state as given; torch's own would cast it to the weights' dtype. Moments move to large pages."""
        self.state.clear()
        for index, table in enumerate(self.tables):
            if state := state_dict["state"].get(index):
                past = self._past[table][: len(state["past"])]
                past.copy_(state["past"])
                by_row = {name: _like(state[name]).copy_(state[name]) for name in ("exp_avg", "exp_avg_sq", "last")}
                self.state[table] = {**state, **by_row, "past": past}


def _rows(table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Rows:
    return Rows(table.detach(), state["exp_avg"], state["exp_avg_sq"], state["last"], group["betas"])


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A new uninitialised tensor of this shape."""
    return in_large_pages(torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device))


def _norm(x: Tensor) -> Tensor:
    """The norm in doubles, computed some rows at a time, since torch copies its input to doubles."""
    parts = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in x.detach().split(2**16)]
    return torch.linalg.vector_norm(torch.stack(parts))
