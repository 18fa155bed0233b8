"""Rows by index, their sums and their gradients: by kernels, by torch, and as the formula says."""

import pytest
import torch
from both_ways import both_ways, indices, leaf, lengths, results
from torch import Tensor

from recexp.kernel.lookup import lookup, lookup_concat, reference, total, weighted_reference, weighted_sum

N, W = 90, 32  # rows of a table, and its width, which every library takes
each_size = pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (5, 0), (1, 1), (7, 7), (61, 21)])  # 7 x 7: 49 rows
each_layout = pytest.mark.parametrize("gaps", [False, True])


def nobody() -> Tensor:
    raise AssertionError("a kernel needs no rows")


@each_size
@each_layout
def test_rows_of_a_table(gaps, n_rows, length, library, threads, used):
    table, index = leaf(N, W, gaps=gaps), indices(n_rows, length, n=N)
    alone = lambda: reference([table], [index])  # noqa: E731
    both_ways(lambda: lookup(table, index), [table], used, "gather", "scatter", reference=alone)


@each_size
@each_layout
def test_sum_of_rows_of_two_tables(gaps, n_rows, length, library, threads, used):
    tables, places = [leaf(N, W, gaps=gaps), leaf(7, W)], [indices(n_rows, length, n=N), indices(n_rows, length, n=7)]
    rows = [lambda: lookup(tables[0], places[0]), lambda: lookup(tables[1], places[1])]
    names = ["gather", "scatter"]
    both_ways(lambda: total(tables, places, rows), tables, used, *names, reference=lambda: reference(tables, places))


def test_a_padding_row_gets_no_gradient(library, used):
    table, index = leaf(N, W), indices(61, 21, n=N)
    _, plain = results(lambda: lookup(table, index), [table])
    _, padded = results(lambda: lookup(table, index, padding=3), [table])
    assert plain[3].any() and not padded[3].any()
    plain[3] = 0
    assert torch.equal(plain, padded)


def test_indices_of_32_bits_and_of_any_strides(library, used):
    table, index = leaf(N, W), indices(21, 61, n=N)
    both_ways(lambda: lookup(table, index.t().int()), [table], used, "gather", "scatter")
    assert torch.equal(lookup(table, index.t()), table[index.t()])


def test_sums_of_rows_that_differ_in_shape_are_left_to_torch(library, used):
    tables, places = [leaf(N, W), leaf(7, W)], [indices(5, 3, n=N), indices(1, 3, n=7)]
    out = total(tables, places, [lambda: tables[0][places[0]], lambda: tables[1][places[1]]])
    assert torch.equal(out, reference(tables, places)) and not used


def test_widths_that_no_kernel_takes_are_left_to_torch(library, used):
    table, index = leaf(N, 7), indices(5, 3, n=N)
    both_ways(lambda: lookup(table, index), [table], used, reference=lambda: reference([table], [index]))


@each_size
@each_layout
def test_weighted_sum_of_rows(gaps, n_rows, length, library, threads, used):
    weights, table, index = leaf(n_rows, length, gaps=gaps), leaf(N, W, gaps=gaps), indices(n_rows, length, n=N)
    mask = lengths(n_rows, length)
    both_ways(
        lambda: weighted_sum(weights * mask, table, index, lambda: table[index]),
        [weights, table],
        used,
        "weighted_sum",
        "weighted_sum_back",
        reference=lambda: weighted_reference(weights * mask, table[index]),
    )


def test_a_weight_of_0_passes_over_what_is_not_finite(library):
    table, index = leaf(N, W).detach(), indices(61, 21, n=N)
    table[7] = float("nan")
    assert weighted_sum((index != 7).float(), table, index, nobody).isfinite().all()


@pytest.mark.parametrize("bad", [-1, N])
def test_an_index_out_of_range_is_an_error(bad, library, threads):
    index = indices(61, 21, n=N)
    index[3, 4] = bad
    tables, places = [leaf(21, W), leaf(N, W)], [indices(61, 21, n=21), index]
    for look_up in (
        lambda: lookup(tables[1], index),
        lambda: total(tables, places, [nobody, nobody]),
        lambda: weighted_sum(torch.ones(61, 21), tables[1], index, nobody),
    ):
        with pytest.raises(IndexError, match=rf"{bad}.* {N} rows"):
            look_up()


@pytest.mark.parametrize("widths", [[16], [16, 48], [32, 16, 16]])
@pytest.mark.parametrize("n_rows", [0, 1, 49, 150])
@pytest.mark.parametrize("gaps", [False, True])
def test_rows_side_by_side(gaps, n_rows, widths, library, threads, used):
    tables = [leaf(5 + i, width, gaps=gaps) for i, width in enumerate(widths)]
    places = [indices(n_rows, n=5).int() for _ in widths]

    def one_by_one():
        return torch.cat([table[place.long()] for table, place in zip(tables, places, strict=True)], 1)

    names = ["gather_beside", "scatter_beside"]
    both_ways(lambda: lookup_concat(tables, places), tables, used, *names, reference=one_by_one)


def test_rows_side_by_side_refuse_an_index_out_of_range(library):
    with pytest.raises(IndexError, match="none of the 5 rows"):
        lookup_concat([leaf(6, 16), leaf(5, 16)], [torch.tensor([5]), torch.tensor([5])])


def test_rows_of_a_width_that_no_kernel_takes_are_put_side_by_side_by_torch(library, used):
    assert lookup_concat([leaf(5, 16), leaf(5, 7)], [indices(9, n=5)] * 2).shape == (9, 23)
    assert "gather_beside" not in used
