"""Whether an operation gives the same results and gradients by kernels, by torch, and by its reference."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recexp.kernel import library

Operation = Callable[[], Tensor | tuple[Tensor, ...]]


def leaf(*shape: int, gaps: bool = False, seed: int = 0, std: float = 1.0) -> Tensor:
    """Random numbers that take a gradient, on request not side by side in memory."""
    generator, step = torch.Generator().manual_seed(sum(shape) + seed), 2 if gaps else 1
    numbers = torch.randn(*shape[:-1], step * shape[-1], generator=generator) * std
    return numbers[..., ::step].requires_grad_()


def indices(*shape: int, n: int) -> Tensor:
    return torch.randint(0, n, shape, generator=torch.Generator().manual_seed(3))


def lengths(n_rows: int, length: int) -> Tensor:
    """A mask (n_rows, length) of right-padded rows from full to empty."""
    return torch.arange(length) < torch.linspace(length, 0, n_rows).round()[:, None]


def stirred(module: nn.Module) -> nn.Module:
    """No parameter at a special value, such as a bias of 0 or a scale of 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def results(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Its results, and their gradients in the direction of fixed numbers."""
    torch.manual_seed(2)
    out = operation()
    outputs = out if isinstance(out, tuple) else (out,)
    torch.manual_seed(3)
    aim = sum((output * torch.randn(output.shape, dtype=output.dtype)).sum() for output in outputs)
    if aim.requires_grad:
        gradients = torch.autograd.grad(aim, inputs, allow_unused=True, materialize_grads=True)
    else:  # of nothing
        gradients = [torch.zeros_like(x) for x in inputs]
    return [*(output.detach() for output in outputs), *gradients]


def assert_close(mine: Iterable[Tensor], theirs: Iterable[Tensor], rtol: float = 1e-4, atol: float = 2e-5) -> None:
    for one, other in zip(mine, theirs, strict=True):
        largest = other.abs().max().item() if other.numel() else 0
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol * max(1, largest))


def agree(operation: Operation, reference: Operation, inputs: Iterable[Tensor]) -> None:
    inputs = list(inputs)
    assert_close(results(operation, inputs), results(reference, inputs))


def by_torch(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "installed", lambda: [])
        return results(operation, inputs)


def both_ways(
    operation: Operation,
    inputs: Iterable[Tensor],
    used: list[str],
    *names: str,
    reference: Operation | None = None,
    rtol: float = 1e-4,
    atol: float = 2e-5,
) -> None:
    """By kernels of these names, twice to the same bits, by torch alone, and by the reference."""
    inputs = list(inputs)
    mine = results(operation, inputs)
    assert set(used) == set(names)
    theirs = by_torch(operation, inputs)
    assert set(used) == set(names)
    assert_close(mine, theirs, rtol, atol)
    if reference is not None:
        wanted = by_torch(reference, inputs)
        assert_close(mine, wanted, rtol, atol)
        assert_close(theirs, wanted, rtol, atol)
    assert all(map(torch.equal, mine, results(operation, inputs)))


def seeds(n: int) -> list[int]:
    """The first seeds of dropout that `results` leads to."""
    torch.manual_seed(2)
    return [int(torch.randint(2**31, ())) for _ in range(n)]


def kept(seed: int, shape: tuple[int, ...], p: float) -> Tensor:
    """What dropout multiplies numbers of a shape by, from the same seed: kernel.h's hash, number by number."""
    threshold = round(p * 2**32)
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return torch.from_numpy(np.where(x >= threshold, 2**32 / (2**32 - threshold), 0)).float().view(shape)
