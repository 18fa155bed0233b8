"""Adam of a table's rows: those that a batch holds, and the steps that a row has missed since it was last read.

n rows of W weights w with moments m and v; step t, learning rate a_t; r = b1 / sqrt(b2)
    m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,  w <- w - c_t m / (sqrt(v) + e_t)
    c_t = a_t sqrt(1 - b2^t) / (1 - b1^t),  e_t = eps sqrt(1 - b2^t)
In the j-th step without a gradient, w moves by c_t r^j m / (sqrt(v) + q_t), q_t = e_t b2^(-j/2), with m and v of its
last step with one. With S = sum c_t r^j, and q and s^2 the mean and variance of q_t weighted by c_t r^j, that is
    w <- w - S m / (sqrt(v) + q) (1 + s^2 / (sqrt(v) + q)^2)
up to terms in s^3, which is why steps are taken one by one where sqrt(v) + q < 200 s. With an L2 term on the whole
table g is not 0, and they always are: for each row in one pass over memory.

Row-wise Adam has one v for each row, of the mean of g^2 over its weights; the rest is the same.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recexp.kernel.library import library

REACH = 170  # steps after which r^j leaves nothing of a float: 2e-8
# What is kept of a step: c_t, e_t, the factor of w in g, that of decoupled weight decay; and for a row whose last
# gradient was in the step before, S and the weighted sums of q_t and q_t^2 over all steps since.
COLUMNS = RATE, EPS, DECAY, SHRINK, SUM, MOMENT, SQUARE = range(7)


@dataclass(frozen=True)
class Step:
    """The numbers of a step t, counted from 1."""

    step: int
    rate: float  # c_t
    eps: float  # e_t
    decay: float = 0.0  # the part of the gradient that is proportional to the weight
    shrink: float = 1.0  # decoupled weight decay multiplies weights by it

    @classmethod
    def of(cls, step: int, lr: float, betas: tuple[float, float], eps: float, decay: float, shrink: float) -> "Step":
        root = math.sqrt(1 - betas[1] ** step)
        return cls(step, lr * root / (1 - betas[0] ** step), eps * root, decay, shrink)


@dataclass(frozen=True)
class Rows:
    """A table's weights and moments (n, W), and the step up to which each row is updated: (n,) int32.

    That is 0 before a row's first gradient. The second moments of row-wise Adam are (n, 1).
    """

    weight: Tensor
    mean: Tensor
    square: Tensor
    last: Tensor
    betas: tuple[float, float]


def available(weight: Tensor) -> bool:
    """Whether kernels do the work; without them, missed steps take about as long as if none had been put off."""
    return library(weight) is not None


def powers(n: int, betas: tuple[float, float]) -> Tensor:
    """b1^j and b2^j of j = 0 to n: (n + 1, 2) float64."""
    return torch.tensor(betas, dtype=torch.float64) ** torch.arange(n + 1)[:, None]


def fading(betas: tuple[float, float]) -> Tensor:
    """r^j, r^j b2^(-j/2) and r^j b2^-j of j = REACH down to 1: (REACH, 3) float64."""
    power = powers(REACH, betas)[1:].flip(0)
    root = power[:, 1].sqrt()
    share = power[:, 0] / root
    return torch.stack([share, share / root, share / power[:, 1]], 1)


def remember(past: Tensor, n: int, step: Step, fading: Tensor) -> None:
    """Writes a step as row n of the past ones (steps, 7) float64, and adds it to the sums of those before."""
    past[n] = torch.tensor([step.rate, step.eps, step.decay, step.shrink, 0, 0, 0], dtype=torch.float64)
    reach = min(n + 1, REACH)
    factors = torch.tensor([step.rate, step.rate * step.eps, step.rate * step.eps**2], dtype=torch.float64)
    past[n + 1 - reach : n + 1, SUM:].addcmul_(fading[REACH - reach :], factors)


def missed_reference(rows: Rows, index: Tensor, past: Tensor, step: int, decays: bool) -> None:
    """Takes, one by one, the steps up to `step` that rows at an index (m,) have missed; `past` ends with that step."""
    last = rows.last[index].long()
    index = index[(last < step) & (decays | (last > 0))]
    if not len(index):
        return
    index = index[rows.last[index].argsort(stable=True)]
    past = past[len(past) - step + int(rows.last[index[0]]) :]
    n_behind = torch.searchsorted(
        rows.last[index], torch.arange(step - len(past), step, device=index.device), right=True
    )
    w, m, v = (tensor[index] for tensor in (rows.weight, rows.mean, rows.square))
    for numbers, n in zip(past.tolist(), n_behind.tolist(), strict=True):
        taken = Step(step, *numbers[:SUM])
        w[:n], m[:n], v[:n] = _adam(w[:n], m[:n], v[:n], torch.zeros_like(w[:n]), taken, rows.betas)
    rows.weight[index], rows.mean[index], rows.square[index], rows.last[index] = w, m, v, step


def update_reference(rows: Rows, index: Tensor | None, grad: Tensor, step: Step) -> None:
    """A step of rows at an index (m,) that have missed none, with gradients (m, W). An index of None is all rows."""
    at = slice(None) if index is None else index
    kept = (rows.weight, rows.mean, rows.square)
    w, m, v = (tensor[at] for tensor in kept)
    for tensor, new in zip(kept, _adam(w, m, v, grad, step, rows.betas), strict=True):
        tensor[at] = new
    rows.last[at] = step.step


def _adam(
    w: Tensor, m: Tensor, v: Tensor, grad: Tensor, step: Step, betas: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad + step.decay * w
    squares = grad.square() if v.shape == grad.shape else grad.square().mean(1, keepdim=True)
    m, v = betas[0] * m + (1 - betas[0]) * grad, betas[1] * v + (1 - betas[1]) * squares
    return step.shrink * w - step.rate * m / (v.sqrt() + step.eps), m, v


def missed(rows: Rows, index: Tensor | None, past: Tensor, step: int, powers: Tensor, decays: bool) -> None:
    """`missed_reference`; an index of None is all rows. decays: whether gradients of absent rows are not 0."""
    kernels = library(rows.weight)
    if kernels is None or (decays and _per_row(rows)):
        index = torch.arange(len(rows.last), device=rows.last.device) if index is None else index
        missed_reference(rows, index, past, step, decays)
        return
    n = len(rows.last) if index is None else len(index)
    kernels["adam_missed"](
        **_members(rows), rows=index, past=past, powers=powers, n=n, step=step, n_past=len(past), decays=int(decays),
        n_left=REACH, beta1=rows.betas[0], beta2=rows.betas[1],
    )  # fmt: skip


def update(rows: Rows, index: Tensor | None, grad: Tensor, step: Step) -> None:
    """`update_reference`."""
    kernels = library(rows.weight)
    if kernels is None:
        update_reference(rows, index, grad, step)
        return
    kernels["adam_update"](
        **_members(rows), rows=index, grad=grad, n=len(grad), beta1=rows.betas[0], beta2=rows.betas[1], **vars(step),
    )  # fmt: skip


def _members(rows: Rows) -> dict[str, Tensor | int]:
    tensors = {"weight": rows.weight, "mean": rows.mean, "square": rows.square, "last": rows.last}
    return {**tensors, "width": rows.weight.shape[1], "per_row": int(_per_row(rows))}


def _per_row(rows: Rows) -> bool:
    return rows.square.shape != rows.weight.shape
