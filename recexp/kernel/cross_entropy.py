"""The cross-entropy of a softmax over a large catalogue, without ever holding all logits.

P queries, V items, D their size
    loss_p = log sum_i e^<q_p, e_i> - <q_p, e_target(p)>
Logits are computed for blocks of items with a running maximum and sum, and once more in the backward pass, so that
memory is that of one block whatever V is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.linear import times

LARGEST = 2**21  # logits of a block


def reference(query: Tensor, items: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """With all logits at once: query (P, D), items (V, D), target (P,) -> (P,)."""
    return torch.nn.functional.cross_entropy(query @ items[first:].t(), target - first, reduction="none")


def cross_entropy(query: Tensor, items: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """query (P, D), items (V, D), target (P,) rows of items -> (P,) losses, in 32 bits.

    first: the first item that counts; those before it are no candidates.
    """
    return _CrossEntropy.apply(query.float(), items.float(), target, first)


def _block(query: Tensor) -> int:
    """Items of a block."""
    return max(256, LARGEST // max(1, len(query)))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, items: Tensor, target: Tensor, first: int) -> Tensor:
        total = query.new_full((len(query),), -torch.inf)  # log of the sum so far
        for block in items[first:].split(_block(query)):
            total = torch.logaddexp(total, times(query, block).logsumexp(1))
        ctx.save_for_backward(query, items, target, total)
        ctx.first = first
        return total - (query * items[target]).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, items, target, total = ctx.saved_tensors
        dquery, ditems = torch.zeros_like(query), torch.empty_like(items)
        ditems[: ctx.first] = 0
        size = _block(query)
        for start in range(ctx.first, len(items), size):
            block = items[start : start + size]
            weight = times(query, block).sub_(total[:, None]).exp_().mul_(grad[:, None])  # (P, block)
            dquery.addmm_(weight, block)
            torch.mm(weight.t(), query, out=ditems[start : start + size])
        dquery.addcmul_(items[target], grad[:, None], value=-1)
        ditems.index_add_(0, target, query * -grad[:, None])
        return dquery, ditems, None, None
