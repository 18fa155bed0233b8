"""A compressed interaction network by a kernel equals torch's, whatever its sizes and wherever its maps go."""

import pytest
import torch
from both_ways import both_ways, leaf
from torch import Tensor

from recexp.kernel.cin import MOST, Part, interactions, reference

KERNELS = ["cin", "cin_back"]
# By name: n, F, D; of each part the number of maps, whether it is kept, and whether it is summed.
NETWORKS = {
    "one layer": ((50, 8, 16), [(16, False, True)]),
    "two layers": ((101, 8, 16), [(16, True, True), (16, False, True)]),
    "odd sizes": ((3, 7, 5), [(9, True, True), (1, True, True), (6, False, True)]),
    "split": ((49, 5, 10), [(3, False, True), (4, True, False), (2, False, True), (2, True, False), (7, False, True)]),
    "more fields than rows of products at a time": ((20, 100, 3), [(5, True, True), (4, False, True)]),
    "more maps than fields": ((60, 2, 1), [(120, True, True), (70, True, True), (40, False, True)]),
    "one field": ((1, 1, 1), [(1, True, True), (1, False, True)]),
    "no rows": ((0, 3, 4), [(4, True, True), (3, False, True)]),
}


def missing() -> Tensor:
    raise AssertionError("no kernel took these")


def parts_of(n_fields: int, sizes: list[tuple[int, bool, bool]], gaps: bool = False) -> list[Part]:
    n_in, parts = n_fields, []
    for size, kept, summed in sizes:
        parts.append(Part(leaf(size, n_in * n_fields, gaps=gaps, std=n_in**-0.5), kept, summed))
        n_in = size if kept else n_in
    return parts


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("gaps", [False, True])
def test_sums_and_gradients_are_those_of_torch(gaps, network, library, threads, used):
    (n, n_fields, dim), sizes = network
    e, parts = leaf(n, n_fields, dim, gaps=gaps), parts_of(n_fields, sizes, gaps)
    inputs = [e, *(part.weight for part in parts)]
    both_ways(lambda: interactions(e, parts, lambda: reference(e, parts)), inputs, used, *KERNELS, atol=1e-4)


def test_what_needs_no_gradient_gets_none(library, used):
    e, parts = leaf(4, 3, 2), parts_of(3, [(2, True, True), (5, False, True)])
    interactions(e.detach(), parts, missing).sum().backward()
    assert e.grad is None and all(part.weight.grad is not None for part in parts)
    interactions(e, [part._replace(weight=part.weight.detach()) for part in parts], missing).sum().backward()
    assert e.grad is not None
    assert set(used) == set(KERNELS)


def test_what_no_kernel_takes_is_left_to_torch(library, used):
    found = torch.zeros(2, 1)
    e, parts = leaf(2, 3, 4), parts_of(3, [(3, True, True)] * MOST + [(2, False, True)])
    assert interactions(e, parts, lambda: found) is found
    assert interactions(e.double(), parts[-1:], lambda: found) is found
    assert not used
