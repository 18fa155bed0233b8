import pytest
import torch
from torch import Tensor

from recexp.layer import chunk
from recexp.layer.chunk import in_chunks


def storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def test_chunks_give_the_same_values_and_gradients_and_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, kept = [], []

    def function(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.tanh((x * y) @ weight)

    x, y, weight = (torch.randn(7, 3, requires_grad=True), torch.randn(7, 3), torch.randn(3, 2, requires_grad=True))
    wanted = function(x, y, weight)
    gradients = torch.autograd.grad(wanted.square().sum(), (x, weight))
    monkeypatch.setattr(chunk, "LARGEST", 12)
    sizes.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        found = in_chunks(function, 4, (x, y), weight)
    assert sizes == [3, 3, 1]
    given = {storage(tensor) for tensor in (x, y, weight)}
    assert all(not tensor.numel() or storage(tensor) in given for tensor in kept)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), (x, weight)), gradients)
    assert sorted(sizes) == sorted([3, 3, 1] * 2)  # computed again


def test_batch_of_one_chunk_is_computed_once() -> None:
    calls = []
    x = torch.randn(7, 3, requires_grad=True)
    in_chunks(lambda x: calls.append(1) or x.exp(), 3, (x,)).sum().backward()
    assert len(calls) == 1
