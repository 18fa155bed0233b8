"""Adam of embedding tables at the cost of the rows that batches hold, equal to Adam of whole tables up to rounding.

A row that a batch lacks moves too, by its fading moments and by decay. These moves are put off until the row is read.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recexp.kernel.adam import COLUMNS, Rows, Step, fading, missed, powers, remember, update
from recexp.kernel.pages import in_large_pages
from recexp.kernel.unique import coalesced

KEPT = 2**14  # steps that may be put off; then all rows are brought up to date
# Of a weight in a step, in learning rates: m^2 <= v (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2)) by Cauchy and Schwarz.
LARGEST_MOVE = 7.3


class DeferredAdam(torch.optim.Optimizer):
    """Takes sparse gradients of tables; `catch_up` must be called with rows before they are read.

    The state of a table holds what is still to be done, so training goes on from it to the bit. After a dense gradient
    nothing is, as it updates all rows.
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
        self._powers, self._fading = powers(KEPT, betas), fading(betas)
        self._past = {table: torch.zeros(KEPT, len(COLUMNS), dtype=torch.float64) for table in self.tables}

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
        if len(state["past"]) == KEPT:
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
        state["reach"] += LARGEST_MOVE * lr * table.numel() ** 0.5

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
        """Takes the steps that rows at an index (n,) of unique rows have missed; None is all rows."""
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
        """The norm of the L2 term's gradient over all rows that have no other: (). 0 if it is at most `allowed`.

        All rows are brought up to date where a bound does not answer that.
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
        """As given: torch's own turns all numbers into the type of the weights. What rows have moves to large pages."""
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
    """A new tensor of this shape, its numbers not yet set."""
    return in_large_pages(torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device))


def _norm(x: Tensor) -> Tensor:
    """In doubles, some rows at a time: torch makes a copy in doubles of what it is given."""
    parts = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in x.detach().split(2**16)]
    return torch.linalg.vector_norm(torch.stack(parts))
