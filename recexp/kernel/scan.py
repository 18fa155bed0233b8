"""A recurrence as one operation, for export: the number of its steps stays open.

L steps
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

State = tuple[Tensor, ...]


def scanned(step: Callable[..., State], start: State, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The first tensor of the state after each of L steps (L, ...), and after the last.

    step(state, *inputs at a step) returns the next state; inputs (L, ...).
    """
    from torch._higher_order_ops.scan import scan  # a prototype of torch's, which training can do without

    def combine(state: State, at_step: Any) -> tuple[State, Tensor]:
        state = step(state, *at_step)
        return state, state[0].clone()

    state, states = scan(combine, start, tuple(inputs), dim=0)
    return states, state[0]
