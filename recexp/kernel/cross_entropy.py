"""The cross-entropy of a softmax over a large catalogue, without ever holding all logits.

P queries, V items, D their size
    loss_p = log sum_i e^<q_p, e_i> - <q_p, e_target(p)>
Logits are computed for blocks of items with a running maximum and sum, and once more in the backward pass, so that
memory is that of one block whatever V is. A kernel's block stays in the cache. For the sum of the losses a kernel
computes the gradients in the forward pass: a thread keeps the logits of one block of queries with all items. So it does
for S sampled items, with which each query's target competes:
    loss_p = -log(e^own_p / (e^own_p + sum_j e^(<q_p, e_j> + b_j)))    over the samples j that are not target(p)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, filled, library
from recexp.kernel.linear import product, times
from recexp.kernel.lookup import require_rows

LARGEST = 2**21  # logits of a block, without a kernel
LARGEST_KEPT = 2**21  # logits that a thread of summed_cross_entropy keeps; more no longer stay in a cache
BLOCK = 48  # queries whose logits it keeps


def reference(query: Tensor, items: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """With all logits at once: query (P, D), items (V, D), target (P,) -> (P,)."""
    return F.cross_entropy(query @ items[first:].t(), target - first, reduction="none")


def cross_entropy(query: Tensor, items: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """query (P, D), items (V, D), target (P,) rows of items -> (P,) losses, in 32 bits.

    first: the first item that counts; those before it are no candidates.
    """
    query, items, kernels = _with_kernels(query, items)
    if kernels is None:
        return _InBlocks.apply(query, items, target, first)
    return _ByKernel.apply(kernels, query, items, target, first)


def summed_cross_entropy(query: Tensor, items: Tensor, target: Tensor, first: int = 0) -> Tensor:
    """The sum of all losses: (). Up to 1.4 times as fast as `cross_entropy` and its gradients, if these are needed."""
    query, items, kernels = _with_kernels(query, items)
    is_trained = torch.is_grad_enabled() and (query.requires_grad or items.requires_grad)
    if kernels is None or not is_trained or BLOCK * (len(items) - first) > LARGEST_KEPT:
        return cross_entropy(query, items, target, first).sum()
    return _Summed.apply(kernels, query, items, target, first)


def sampled_cross_entropy(
    query: Tensor, items: Tensor, bias: Tensor, own: Tensor, target: Tensor, sampled: Tensor
) -> Tensor:
    """The sum over the queries (P, D) of their losses with sampled items (S, D), bias (S,): ().

    own (P,): the targets' logits. target (P,), sampled (S,): which items these are; a target below 0 has no loss.
    """
    if on_cpu(query) and torch.is_grad_enabled() and BLOCK * len(items) <= LARGEST_KEPT:
        wide_query, wide_items, kernels = _with_kernels(*with_bias(query, items, bias))
        if kernels is not None:
            return _Sampled.apply(kernels, wide_query, wide_items, own, target, sampled)
    return sampled_reference(query, items, bias, own, target, sampled)


def with_bias(query: Tensor, items: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (P, D) and items (V, D) with one more column, so that their products are <q, e> + b: bias (V,)."""
    return torch.cat([query, query.new_ones(len(query), 1)], 1), torch.cat([items, bias[:, None]], 1)


def sampled_reference(
    query: Tensor, items: Tensor, bias: Tensor, own: Tensor, target: Tensor, sampled: Tensor
) -> Tensor:
    others = (product(query, items).float() + bias).masked_fill(sampled == target[:, None], -torch.inf)  # (P, S)
    logits = torch.cat([own[:, None], others], 1)
    return F.cross_entropy(logits, torch.where(target < 0, -1, 0), reduction="sum", ignore_index=-1)


def _with_kernels(query: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Library | None]:
    """Both in 32 bits, of a width that the kernels take, if there are kernels."""
    query, items = query.float(), items.float()
    if not on_cpu(query):
        return query, items, None
    query, items = filled(query, items)
    return query, items, library(query, query.shape[1])


def _block(query: Tensor) -> int:
    """Items of a block."""
    return max(256, LARGEST // max(1, len(query)))


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, items: Tensor, target: Tensor, first: int) -> Tensor:
        total = query.new_full((len(query),), -torch.inf)  # log of the sum so far
        for block in items[first:].split(_block(query)):
            total = torch.logaddexp(total, times(query, block).float().logsumexp(1))
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
            weight = times(query, block).float().sub_(total[:, None]).exp_().mul_(grad[:, None])  # (P, block)
            dquery.addmm_(weight, block)
            torch.mm(weight.t(), query, out=ditems[start : start + size])
        dquery.addcmul_(items[target], grad[:, None], value=-1)
        ditems.index_add_(0, target, query * -grad[:, None])
        return dquery, ditems, None, None


class _ByKernel(torch.autograd.Function):
    """The same by a kernel. Queries of 0 are added until they fill whole registers."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, query: Tensor, items: Tensor, target: Tensor, first: int) -> Tensor:
        n, added = len(query), -len(query) % kernels.lanes
        query, target = F.pad(query, (0, 0, 0, added)), F.pad(target - first, (0, added))
        ctx.sizes = {"n": len(query), "n_items": len(items) - first, "dim": query.shape[1]}
        peak, total = query.new_empty(2, torch.get_num_threads(), len(query))
        own = query.new_empty(len(query))
        arrays = {"query": query, "items": items[first:], "target": target, "peak": peak, "sum": total, "own": own}
        out_of_range = kernels["cross_entropy"](**arrays, **ctx.sizes)
        require_rows(out_of_range, target, len(items) - first)
        highest = peak.amax(0)
        log_sum = (total * (peak - highest).exp()).sum(0).log()  # over the threads; of e^(logit - highest)
        ctx.kernels, ctx.n, ctx.first = kernels, n, first
        ctx.save_for_backward(query, items, target, highest + log_sum)
        return (highest - own + log_sum)[:n]  # a difference of equals first: a loss may be far smaller than its logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, items, target, total = ctx.saved_tensors
        dquery, ditems = torch.empty_like(query), torch.zeros_like(items)
        given = {"query": query, "items": items[ctx.first :], "target": target, "total": total}
        dout = F.pad(grad, (0, len(query) - ctx.n))
        gradients = {"dquery": dquery, "ditems": ditems[ctx.first :]}
        ctx.kernels["cross_entropy_back"](**given, dout=dout, **gradients, **ctx.sizes)
        return None, dquery[: ctx.n], ditems, None, None


class _Summed(torch.autograd.Function):
    """The sum of the losses by a kernel, which computes its gradients in the same pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, query: Tensor, items: Tensor, target: Tensor, first: int) -> Tensor:
        n_items, target = len(items) - first, target - first
        loss, dquery, ditems = query.new_empty(len(query)), torch.empty_like(query), torch.empty_like(items)
        ditems[:first] = 0
        out_of_range = kernels["summed_cross_entropy"](
            query=query, items=items[first:], target=target, loss=loss, dquery=dquery, ditems=ditems[first:],
            n=len(query), n_items=n_items, dim=query.shape[1],
        )  # fmt: skip
        require_rows(out_of_range, target, n_items)
        ctx.save_for_backward(dquery, ditems)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dquery, ditems = ctx.saved_tensors
        return None, dquery * grad, ditems * grad, None, None


class _Sampled(torch.autograd.Function):
    """The same over sampled items, for the gradients of the targets' logits too."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Library, query: Tensor, items: Tensor, own: Tensor, target: Tensor, sampled: Tensor
    ) -> Tensor:
        loss, down, dquery, ditems = *own.new_empty(2, len(own)), torch.empty_like(query), torch.empty_like(items)
        kernels["sampled_cross_entropy"](
            query=query, items=items, target=target, id=sampled, own=own, loss=loss, dquery=dquery, down=down,
            ditems=ditems, n=len(query), n_items=len(items), dim=query.shape[1],
        )  # fmt: skip
        ctx.save_for_backward(dquery, ditems, down)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dquery, ditems, down = ctx.saved_tensors
        return None, dquery * grad, ditems * grad, down * grad, None, None
