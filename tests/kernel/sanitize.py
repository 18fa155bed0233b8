"""Runs every kernel of a library by its Python face, gradients included: `sanitize.py LIBRARY` prints which have run.

test_sanitize.py runs it on a library that stops at the first access out of bounds or operation without a definition.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from recexp.kernel import adam, candidates, linear
from recexp.kernel import library as module
from recexp.kernel.attention import attend, target_interaction
from recexp.kernel.bilinear import linear_of_products
from recexp.kernel.cin import Part, interactions
from recexp.kernel.cross import crosses
from recexp.kernel.cross_entropy import cross_entropy, sampled_cross_entropy, summed_cross_entropy
from recexp.kernel.dice import Running, dice, dice_in_evaluation
from recexp.kernel.dropout import dropout
from recexp.kernel.field_attention import attend_fields
from recexp.kernel.fields import field_sums, split_sums
from recexp.kernel.gated_linear import gated_linear
from recexp.kernel.gru import attention_gru, gru
from recexp.kernel.inner_product import inner_products_linear
from recexp.kernel.linear import product
from recexp.kernel.lookup import lookup, lookup_concat, total, weighted_sum
from recexp.kernel.mlp import tail
from recexp.kernel.packed import attend_packed
from recexp.kernel.pair_attention import attend_pairs
from recexp.kernel.pointwise import attend_pointwise
from recexp.kernel.rank import at_least
from recexp.kernel.sublayer import sublayer
from recexp.kernel.unique import grouped, lookup_grouped

WIDTH, N = 32, 7  # a width that every library takes, also for each of 2 heads; rows of tables
Operation = Callable[[], Tensor | tuple[Tensor, ...]]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def operations(n: int, length: int) -> Iterator[Operation]:
    """Operations on n rows of a length: an entry for each way through each kernel."""
    tables, indices = [leaf(N, WIDTH), leaf(N, WIDTH)], [torch.randint(N, (n, length)) for _ in range(2)]
    sources = list(zip(tables, indices, strict=True))
    rows = [lambda: tables[0][indices[0]], lambda: tables[1][indices[1]]]
    mask, weights = torch.rand(n, length) < 0.7, leaf(n, length)
    x, history, square = leaf(n, WIDTH), leaf(n, length, WIDTH), [leaf(WIDTH, WIDTH) for _ in range(3)]
    bias, gates = leaf(WIDTH), (leaf(3 * WIDTH, WIDTH), leaf(3 * WIDTH, WIDTH), leaf(3 * WIDTH), leaf(3 * WIDTH))
    single, running = leaf(1, WIDTH), Running(torch.zeros(WIDTH), torch.ones(WIDTH), 1e-8, 0.1)
    norm = (leaf(WIDTH), leaf(WIDTH), 1e-5)

    yield lambda: lookup(tables[0], indices[0])
    for table in (tables[0], leaf(N, 3)):
        yield lambda table=table: lookup_grouped(table, indices[0], grouped(indices[0], table), 0)
        yield lambda table=table: adam_steps(table, indices[0])
    yield lambda: candidates.scores(x, tables[0], indices[0])
    yield lambda: cross_entropy(x, leaf(50, WIDTH), torch.randint(2, 50, (n,)), 2)
    yield lambda: summed_cross_entropy(x, leaf(50, WIDTH), torch.randint(2, 50, (n,)), 2)
    yield lambda: sampled_cross_entropy(
        x, leaf(50, WIDTH), leaf(50), leaf(n), torch.randint(9, (n,)), torch.randint(9, (50,))
    )
    yield lambda: at_least(torch.randn(N, length), torch.randint(N, (n,)), torch.randn(n)).float()
    yield lambda: dropout(history, 0.3)
    yield lambda: attend_pairs(leaf(n, length + 2, 10), leaf(WIDTH, 10), bias, single[0], 0.3)[0]
    yield lambda: total(tables, indices, rows)
    yield lambda: weighted_sum(weights * mask, tables[0], indices[0], rows[0])
    for weight in (square[0], single):
        yield lambda weight=weight: product(x, weight)
        yield lambda weight=weight: dice(x, None, bias, running, weight, leaf(len(weight)))
        yield lambda weight=weight: tail(x, [square[0], weight], [bias, leaf(len(weight))], 0.01, 0.3)
    yield lambda: dice(x, None, bias, running)
    yield lambda: evaluated(x, bias, running)
    n_pairs = length * (length - 1) // 2
    for n_matrices, by in ((1, (False, False)), (length, (True, False)), (n_pairs, (False, True))) if n_pairs else ():
        of_pairs = leaf(n_matrices, WIDTH, WIDTH), leaf(WIDTH, n_pairs * WIDTH)
        yield lambda of_pairs=of_pairs, by=by: linear_of_products(history, weights, *of_pairs, *by, none)
        yield lambda of_pairs=of_pairs, by=by: linear_of_products(history, None, *of_pairs, *by, none)
    if length:
        maps = [Part(leaf(5, length**2), True, True), Part(leaf(3, 5 * length), False, True)]
        yield lambda: interactions(history, maps, none)
        yield lambda: interactions(
            leaf(n, length, 3), [Part(leaf(2, length**2), True, False), Part(leaf(20, 2 * length), False, True)], none
        )
    yield lambda: split_sums(field_sums(history))
    yield lambda: lookup_concat(tables, [indices[0].flatten(), indices[1].flatten()])
    for last in (None, leaf(1, WIDTH)):
        yield lambda last=last: crosses(x, square[:2], [bias, bias], last)
    for residual, drop in ((None, 0.0), (leaf(WIDTH, WIDTH), 0.3)):
        yield lambda residual=residual, drop=drop: attend_fields(history, square[:3], residual, 2, 0.5, True, drop)
    n_inputs = length * WIDTH + length * (length - 1) // 2
    if length:
        yield lambda: inner_products_linear(history, leaf(WIDTH, n_inputs), bias)
    shares = [(table, torch.randint(N, (n,))) for table in tables]
    yield lambda: gated_linear(x, shares, [(square[0], bias), (square[1], bias)])
    yield lambda: split_sums(field_sums(history, leaf(WIDTH, length * WIDTH)), bias)
    yield lambda: target_interaction(x, tables[0], indices[0], rows[0], mask, tuple(square), bias)[0]
    for seen in (mask, mask[:, None].expand(n, length, length)):
        yield lambda seen=seen: attend(history, history, square, seen, 2, 0.3)
    for given in (sources, sources[:1]):
        yield lambda given=given: attend(history, history, square, mask, 2, sources=given)
        yield lambda given=given: attend(x[:, None], history, square, mask, 2, sources=given)
    start, sizes = torch.arange(n) * length, torch.full((n,), length)
    for causal in (True, False):
        yield lambda causal=causal: attend_packed(None, leaf(n * length, 3 * WIDTH), start, sizes, 2, causal, 0.3, none)
    yield lambda: attend_packed(x, leaf(n * length, 2 * WIDTH), start, sizes, 2, False, 0.3, none)
    timed = leaf(n * length, 3 * WIDTH), torch.arange(float(n * length)).flip(0), leaf(length, 1), leaf(4, 1)
    for last in (False, True):
        yield lambda last=last: attend_pointwise(*timed, start, sizes, 2, 9, last, none)
    yield lambda: sublayer(history, history, mask, [(square[0], bias), (square[1], bias)], norm, 0.01, 0.3, 0.3)
    yield lambda: sublayer(history, history + 1, mask, [(square[0], None)], norm)
    if n and length:
        right_padded = torch.arange(length) < torch.randint(length + 1, (n, 1))
        yield lambda: gru(history, gates)
        yield lambda: gru(tables[0], gates, right_padded, indices[0])
        for update in (True, False):
            yield lambda update=update: attention_gru(history, weights * right_padded, right_padded, gates, update)


def none() -> Tensor:
    raise AssertionError("no kernel took these")


def evaluated(x: Tensor, alpha: Tensor, running: Running) -> Tensor:
    with torch.no_grad():
        return dice_in_evaluation(x, alpha, running)


def adam_steps(table: Tensor, index: Tensor) -> Tensor:
    """Steps of all ways: of a batch's rows, of those missed at once or one by one, and of all rows."""
    betas, past, present = (0.9, 0.999), torch.zeros(4, len(adam.COLUMNS), dtype=torch.float64), index.unique()
    rows = adam.Rows(*(table.detach().abs() for _ in range(3)), torch.zeros(N, dtype=torch.int32), betas)
    powers, grad = adam.powers(4, betas), torch.ones(len(present), table.shape[1])
    for n in range(4):
        step = adam.Step.of(n + 1, 0.1, betas, (1e-8, 1e3)[n % 2], 0.1, 0.9)
        adam.missed(rows, present, past[:n], n, powers, decays=n == 2)
        adam.update(rows, present, grad, step)
        adam.remember(past, n, step, adam.fading(betas))
    adam.missed(rows, None, past, 4, powers, decays=True)
    return rows.weight


def main(path: str) -> None:
    pool = module._pool()
    assert pool is not None
    library = module.Library(Path(path), pool)
    module.installed = lambda: [library]  # type: ignore[assignment]
    linear.SMALL = 0  # every product by a kernel
    torch.manual_seed(1)
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        for n, length in ((0, 3), (2, 0), (1, 1), (49, 5), (100, 19), (3, 30)):
            for operation in operations(n, length):
                out = operation()
                loss = sum(result.square().sum() for result in (out if isinstance(out, tuple) else (out,)))
                if loss.requires_grad:
                    loss.backward()
    print(*sorted(library._kernels))


if __name__ == "__main__":
    main(sys.argv[1])
