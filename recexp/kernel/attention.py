"""Attention: a target's interaction with the events of a history (DIN), and multi-head attention (Transformer).

B batch, L length of the memory, M of the queries, N and D size of vectors, H hidden units, n unique vectors
Zhou et al., KDD 2018, authors' code   W [t, h, t - h, t * h] + b = (W1 + W3) t + (W2 - W3) h + W4 (t * h) + b
Vaswani et al., NeurIPS 2017, eq. 1    Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V,  heads of size d = D / n_heads
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu, waits
from recexp.kernel.dropout import dropped
from recexp.kernel.library import NARROWEST, Library, library
from recexp.kernel.linear import product
from recexp.kernel.lookup import lookup, require_rows, scattered, total
from recexp.kernel.sublayer import hide

SHORT = 64  # longest sequence whose score matrix a CPU keeps whole

Source = tuple[Tensor, Tensor]  # vectors (n, D) and an index (B, L) into them


def interaction_reference(
    vectors: Tensor, index: Tensor, target: Tensor, row: Tensor, key: Tensor, query: Tensor, weight: Tensor
) -> Tensor:
    """key_i + query_r + W (v_i * t_r) of events with indices i and rows r (N,) -> (N, H)."""
    products = product(lookup(vectors, index) * lookup(target, row), weight)
    return lookup(key, index) + lookup(query, row) + products


def target_interaction(
    target: Tensor,
    vectors: Tensor,
    index: Tensor,
    rows: Callable[[], Tensor],
    mask: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    bias: Tensor,
) -> tuple[Tensor, bool]:
    """A t + C h + E (t * h) + b for each event h, and whether the result is packed.

    target t (B, D), vectors (n, D) that an index (B, L) expands to events, weights A, C and E (H, D), bias b (H,).
    Packed, it has only the N events where the mask (B, L) is true: (N, H), with C h computed once per vector. If not:
    (B, L, H). rows: returns vectors[index].
    """
    of_target, of_event, of_product = weights
    if not on_cpu(target):
        history = rows()
        x = product(history, of_event) + product(target[:, None] * history, of_product)  # (B, L, H)
        return x + product(target, of_target, bias)[:, None], False
    row, index = mask.nonzero()[:, 0], index[mask]  # (N,) each
    key, query = product(vectors, of_event), product(target, of_target, bias)  # (n, H), (B, H)
    kernels = library(key, *of_product.shape)
    if kernels is None:
        return interaction_reference(vectors, index, target, row, key, query, of_product), True
    return _TargetInteraction.apply(kernels, vectors, index, target, row, key, query, of_product), True


class _TargetInteraction(torch.autograd.Function):
    """`interaction_reference` by a kernel, block by block, so that looked-up rows stay in the cache."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, vectors, index, target, row, key, query, weight) -> Tensor:
        width, dim = weight.shape
        x = key.new_empty(len(index), width)
        ctx.kernels, ctx.sizes = kernels, {"n": len(index), "dim": dim, "width": width}
        ctx.save_for_backward(vectors, index, target, row, weight)
        given = {"vectors": vectors, "index": index, "target": target, "row": row, "key": key, "query": query}
        out_of_range = kernels["target_interaction"](
            **given, weight=weight.t(), x=x, n_vectors=len(vectors), **ctx.sizes
        )
        require_rows(out_of_range, index, len(vectors))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        vectors, index, target, row, weight = ctx.saved_tensors
        dproduct, dweight = dx.new_empty(len(dx), vectors.shape[1]), dx.new_empty(weight.shape)
        dvectors, dtarget = vectors.new_zeros(vectors.shape), target.new_zeros(target.shape)
        dkey, dquery = dx.new_zeros(len(vectors), dx.shape[1]), dx.new_zeros(len(target), dx.shape[1])
        given = {"vectors": vectors, "index": index, "target": target, "row": row, "dx": dx, "dproduct": dproduct}
        sums = {"dvectors": dvectors, "dtarget": dtarget, "dkey": dkey, "dquery": dquery}
        ctx.kernels["target_interaction_back"](**given, weight=weight, dweight=dweight, **ctx.sizes)
        ctx.kernels["target_interaction_add"](**given, **sums, **ctx.sizes)
        return None, dvectors, None, dtarget, None, dkey, dquery, dweight


def attend(
    query: Tensor,
    memory: Tensor,
    weights: Sequence[Tensor],
    seen: Tensor,
    n_heads: int,
    p: float = 0.0,
    sources: Sequence[Source] = (),
) -> Tensor:
    """The heads Attention(x W_i^Q, y W_i^K, y W_i^V) side by side: (B, M, D). A query that sees nothing gets 0.

    query x (B, M, N), which may be the memory itself, memory y (B, L, N), weights W^Q, W^K, W^V (D, N), p the
    dropout probability of the softmax. seen: true where all queries (B, L), or each query (B, M, L), may attend; the
    rest of the memory may hold anything.
    sources: events whose sum is the memory, if the caller knows them, finite even where not seen. A CPU then computes
    products once per vector; the output at a query position that is not seen has no meaning.
    """
    sources = sources if on_cpu(memory) else ()
    size = len(weights[0]) // n_heads
    n_zeros = -size % NARROWEST  # heads are filled up
    kernels = library(memory, size + n_zeros) if on_cpu(memory) and len(sources) <= 2 else None
    if kernels is None:
        return reference(*_products(query, memory, weights, seen, sources), seen, n_heads, p)
    if n_zeros:
        heads = attend(query, memory, _filled(weights, n_heads, n_zeros), seen, n_heads, p, sources)
        return heads.unflatten(2, (n_heads, -1))[..., :size].flatten(2)
    w_q, w_k, w_v = weights
    q, indices = None, [index for _, index in sources]
    if not sources:
        memory = hide_unseen(memory, seen)
        tables = [product(memory, torch.cat([w_k, w_v])).flatten(0, 1)]
        q = product(query, w_q)
    elif query is memory:
        tables = [product(vectors, torch.cat([w_q, w_k, w_v])) for vectors, _ in sources]
    else:
        q = product(query, w_q)
        tables = [product(vectors, torch.cat([w_k, w_v])) for vectors, _ in sources]
    return _Attend.apply(kernels, q, seen if seen.dim() == 3 else seen[:, None], n_heads, dropped(p), indices, *tables)


def _filled(weights: Sequence[Tensor], n_heads: int, n_zeros: int) -> list[Tensor]:
    """W^Q, W^K and W^V with n_zeros rows of 0 below each head's, such that its scores stay as they are."""
    w_q, w_k, w_v = (F.pad(weight.unflatten(0, (n_heads, -1)), (0, 0, 0, n_zeros)) for weight in weights)
    size = w_q.shape[1]
    return [weight.flatten(0, 1) for weight in (w_q * (size / (size - n_zeros)) ** 0.5, w_k, w_v)]


def hide_unseen(memory: Tensor, seen: Tensor) -> Tensor:
    """The memory (B, L, D) with zeros where no query sees it: a weight of 0 is not enough, 0 times infinity is NaN."""
    return hide(memory, seen if seen.dim() == 2 else seen.any(1))


def _products(
    query: Tensor, memory: Tensor, weights: Sequence[Tensor], seen: Tensor, sources: Sequence[Source]
) -> tuple[Tensor, Tensor, Tensor]:
    """q (B, M, D), k and v (B, L, D)."""
    w_q, w_k, w_v = weights
    if not sources:
        memory = hide_unseen(memory, seen)
        return product(query, w_q), product(memory, w_k), product(memory, w_v)
    q = looked_up(sources, w_q) if query is memory else product(query, w_q)
    return q, looked_up(sources, w_k), looked_up(sources, w_v)


def looked_up(sources: Sequence[Source], weight: Tensor) -> Tensor:
    """The product (B, L, D) of the sum of the sources with a weight, computed once per vector."""
    tables, indices = [product(vectors, weight) for vectors, _ in sources], [index for _, index in sources]
    return total(tables, indices, [partial(lookup, *pair) for pair in zip(tables, indices, strict=True)])


def reference(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, n_heads: int, p: float = 0.0) -> Tensor:
    """Eq. 1 of heads side by side: q (B, M, D), k and v (B, L, D), finite also where not seen -> (B, M, D)."""
    seen = seen if seen.dim() == 3 else seen[:, None]  # (B, M or 1, L)
    blind = ~seen.any(2, keepdim=True)  # (B, M or 1, 1)
    q, k, v = (x.unflatten(2, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, M or L, d)
    # Kernels disagree on a row that is all masked, so it sees everything and is set to 0 afterwards.
    heads = softmax_attention(q, k, v, (seen | blind)[:, None], p)
    heads = heads.masked_fill(blind[:, None], 0)  # (B, h, M, d)
    return heads.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, p: float) -> Tensor:
    """Eq. 1: q (B, h, M, d), k and v (B, h, L, d), seen (B, 1, M or 1, L), some true in each row -> (B, h, M, d)."""
    rows, length, size = (*q.shape[:3], k.shape[2]), k.shape[2], q.shape[3]
    if waits(q) or length > SHORT:
        return F.scaled_dot_product_attention(q, k, v, seen, p)
    # For short sequences torch's kernel takes three times as long as these products (docs/performance.md).
    hidden = q.new_zeros(seen.shape).masked_fill(~seen, torch.finfo(q.dtype).min).expand(rows).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B h, M or L, d)
    weights = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=size**-0.5).softmax(2)  # (B h, M, L)
    return torch.bmm(F.dropout(weights, p), v).unflatten(0, rows[:2])


class _Attend(torch.autograd.Function):
    """By a kernel: q (B, M, D), seen (B, M or 1, L), and positions, each the sum of rows of one or two tables (n, W) at
    indices (B, L), or without indices a row of a table (B L, W).

    Positions hold [k, v], or [q, k, v] if q is None.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Library, q, seen, n_heads: int, dropout: tuple[int, ...], indices, *tables
    ) -> Tensor:
        length, width = seen.shape[2], tables[0].shape[1]
        dim, n_queries = (width // 3, length) if q is None else (q.shape[2], q.shape[1])
        ctx.kernels, ctx.indices = kernels, indices
        ctx.sizes = {"n_rows": len(seen), "n_queries": n_queries, "length": length, "dim": dim, "n_heads": n_heads}
        ctx.sizes |= {"width": width, "by_query": int(seen.shape[1] != 1), "dropped": dropout[0], "seed": dropout[1]}
        ctx.save_for_backward(q, seen, *tables)
        out = tables[0].new_empty(len(seen), n_queries, dim)
        ctx.given = {"index": indices} if indices else {}
        kernels["attend"](q=q, table=tables, seen=seen, out=out, **ctx.given, **ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, seen, *tables = ctx.saved_tensors
        dq, shapes = None if q is None else q.new_empty(q.shape), [table.shape for table in tables]
        dpositions = dout.new_empty(seen.shape[2] * len(seen), tables[0].shape[1])
        given = {"q": q, "table": tables, "seen": seen, "dout": dout, **ctx.given}
        ctx.kernels["attend_back"](**given, dq=dq, dpositions=dpositions, **ctx.sizes)
        dtables = scattered(ctx.kernels, dpositions, ctx.indices, shapes) if ctx.indices else [dpositions]
        return None, dq, None, None, None, None, *dtables
