"""Products by kernels and by oneDNN: against torch in 64 bits, on both sides of thresholds, to the same bits twice."""

from collections.abc import Callable

import pytest
import torch
from both_ways import both_ways, leaf
from torch import Tensor

from recexp.kernel import library as kernel
from recexp.kernel import linear as module
from recexp.kernel.linear import LARGE, SMALL, product, reference, times, weight_gradient

KERNELS = ["linear", "linear_back"]
SIZES = {"small": (5, 3, 2), "middle": (700, 64, 64), "large": (2048, 64, 64), "odd": (4099, 67, 71)}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
each_way = pytest.mark.usefixtures("way", "threads")
needs_onednn = pytest.mark.skipif(not module.ONEDNN, reason="this torch has no oneDNN")


@pytest.fixture(params=["kernels", "no kernels"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no kernels":
        monkeypatch.setattr(kernel, "installed", lambda: [])
    return request.param


def draw(size: tuple[int, int, int]) -> list[Tensor]:
    """draw((5, 3, 2)): x (5, 3), weight (2, 3), bias (2,) and a gradient (5, 2)."""
    n_rows, n_in, n_out = size
    generator = torch.Generator().manual_seed(n_rows)
    return [
        torch.randn(shape, generator=generator) for shape in ((n_rows, n_in), (n_out, n_in), (n_out,), (n_rows, n_out))
    ]


def close(result: Tensor, wanted: Tensor) -> None:
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.detach().abs().max()))


@pytest.mark.parametrize("n_out", [1, 16, 80])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("gaps", [False, True])
def test_product_by_a_kernel(gaps, biased, n_out, library, threads, used):
    x, weight = leaf(SMALL // 32 // n_out + 5, 32, gaps=gaps), leaf(n_out, 32, gaps=gaps)
    bias = leaf(n_out, gaps=gaps) if biased else None
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    alone = lambda: reference(x, weight, bias)  # noqa: E731
    both_ways(lambda: product(x, weight, bias), inputs, used, *KERNELS, reference=alone, atol=1e-4)


@pytest.mark.parametrize("n_rows", [0, 1, 49])
def test_a_kernel_takes_any_number_of_rows(n_rows, library, threads, used, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)
    x, weight, bias = leaf(n_rows, 32), leaf(16, 32), leaf(16)
    alone = lambda: reference(x, weight, bias)  # noqa: E731
    both_ways(lambda: product(x, weight, bias), [x, weight, bias], used, *KERNELS, reference=alone)


@each_way
@each_size
@pytest.mark.parametrize("biased", [True, False])
def test_product_and_its_gradients_are_those_of_64_bits(size, biased):
    x, weight, bias, grad = draw(size)
    leaves = [x, weight, *([bias] if biased else [])]
    wide = [tensor.double().requires_grad_() for tensor in leaves]
    leaves = [tensor.requires_grad_() for tensor in leaves]
    out, wanted = product(*leaves), reference(*wide)
    close(out, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(out, leaves, grad), torch.autograd.grad(wanted, wide, grad.double()), strict=True
    ):
        close(mine, theirs)


@each_way
@each_size
def test_arrays_with_gaps_are_multiplied_alike(size):
    x, weight, bias, grad = draw(size)
    x_gaps, weight_gaps, grad_gaps = (torch.stack([tensor, tensor], -1)[..., 0] for tensor in (x, weight, grad))
    close(product(x_gaps, weight_gaps, bias), reference(x.double(), weight.double(), bias.double()))
    close(times(x_gaps, weight_gaps), x.double() @ weight.double().t())
    close(weight_gradient(grad_gaps, x_gaps), grad.double().t() @ x.double())


@each_way
def test_leading_axes_stay():
    x, weight, bias, _ = draw(SIZES["large"])
    out = product(x.view(8, 256, 64), weight, bias)
    assert out.shape == (8, 256, 64)
    close(out.view(2048, 64), reference(x.double(), weight.double(), bias.double()))
    assert product(x[:0].view(0, 4, 64), weight).shape == (0, 4, 64)


@each_size
def test_the_same_bits_twice(size, threads):
    x, weight, _, grad = draw(size)
    assert torch.equal(times(x, weight), times(x.clone(), weight.clone()))
    assert torch.equal(weight_gradient(grad, x), weight_gradient(grad.clone(), x.clone()))


@each_way
def test_what_needs_no_gradient_gets_none():
    x, weight, bias, grad = draw(SIZES["large"])
    product(x, weight.requires_grad_(), bias).backward(grad)
    assert x.grad is None and bias.grad is None and weight.grad is not None
    weight.grad = None
    product(x.requires_grad_(), weight.detach(), bias).backward(grad)
    assert weight.grad is None and x.grad is not None


def by_onednn(run: Callable[[], object]) -> bool:
    with torch.profiler.profile() as profile:
        run()
    return any("mkldnn::_linear" in event.key for event in profile.key_averages())


@needs_onednn
@each_way
def test_large_products_go_to_onednn_and_others_do_not(way, monkeypatch):
    x, weight, *_ = draw(SIZES["large"])
    assert x.numel() * len(weight) == LARGE
    assert by_onednn(lambda: product(x, weight)) is not (way == "kernels" and bool(kernel.installed()))
    monkeypatch.setattr(kernel, "installed", lambda: [])
    assert by_onednn(lambda: product(x, weight)) and not by_onednn(lambda: product(x[1:], weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(lambda: product(x, weight))
    assert not by_onednn(lambda: product(x.double(), weight.double()))
    monkeypatch.setattr(module, "ONEDNN", False)
    assert not by_onednn(lambda: product(x, weight))
