"""Products by kernels and by oneDNN: against torch in 64 bits, on both sides of thresholds, to the same bits twice."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recexp.kernel import library as kernel
from recexp.layer import product as module
from recexp.layer.product import LARGE, Linear, product, times, weight_gradient

SIZES = {"small": (5, 3, 2), "middle": (700, 64, 64), "large": (2048, 64, 64), "odd": (4099, 67, 71)}
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
needs_onednn = pytest.mark.skipif(not module.ONEDNN, reason="this torch has no oneDNN")


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["kernels", "no kernels"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(kernel, "installed", lambda: [])
    return request.param


@pytest.fixture
def draw() -> Callable[..., list[Tensor]]:
    """draw((5, 3, 2)): x (5, 3), weight (2, 3), bias (2,) and a gradient (5, 2)."""

    def draw(size: tuple[int, int, int]) -> list[Tensor]:
        n_rows, n_in, n_out = size
        generator = torch.Generator().manual_seed(n_rows)
        shapes = ((n_rows, n_in), (n_out, n_in), (n_out,), (n_rows, n_out))
        return [torch.randn(shape, generator=generator) for shape in shapes]

    return draw


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.detach().abs().max()))


@each_size
@pytest.mark.parametrize("biased", [True, False])
def test_product_and_its_gradients_are_those_of_64_bits(size: tuple, biased: bool, draw: Callable) -> None:
    x, weight, bias, grad = draw(size)
    leaves = [x, weight, *([bias] if biased else [])]
    wide = [each.double().requires_grad_() for each in leaves]
    leaves = [each.requires_grad_() for each in leaves]
    found, wanted = product(*leaves), F.linear(*wide)
    close(found, wanted)
    for left, right in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(wanted, wide, grad.double()), strict=True
    ):
        close(left, right)


@each_size
def test_arrays_with_gaps_are_multiplied_alike(size: tuple, draw: Callable) -> None:
    x, weight, bias, grad = draw(size)
    gapped = [torch.stack([each, each], -1)[..., 0] for each in (x, weight, grad)]
    close(product(gapped[0], gapped[1], bias), F.linear(x.double(), weight.double(), bias.double()))
    close(times(gapped[0], gapped[1]), x.double() @ weight.double().t())
    close(weight_gradient(gapped[2], gapped[0]), grad.double().t() @ x.double())


def test_leading_axes_stay(draw: Callable) -> None:
    x, weight, bias, _ = draw(SIZES["large"])
    found = product(x.view(8, 256, 64), weight, bias)
    assert found.shape == (8, 256, 64)
    close(found.view(2048, 64), F.linear(x.double(), weight.double(), bias.double()))
    assert product(x[:0].view(0, 4, 64), weight).shape == (0, 4, 64)


@each_size
def test_the_same_bits_twice(size: tuple, draw: Callable) -> None:
    x, weight, _, grad = draw(size)
    assert torch.equal(times(x, weight), times(x.clone(), weight.clone()))
    assert torch.equal(weight_gradient(grad, x), weight_gradient(grad.clone(), x.clone()))


def test_what_needs_no_gradient_gets_none(draw: Callable) -> None:
    x, weight, bias, grad = draw(SIZES["large"])
    product(x, weight.requires_grad_(), bias).backward(grad)
    assert x.grad is None and bias.grad is None and weight.grad is not None
    weight.grad = None
    product(x.requires_grad_(), weight.detach(), bias).backward(grad)
    assert weight.grad is None and x.grad is not None


@needs_onednn
def test_large_products_go_to_onednn_and_others_do_not(
    kernels: bool, draw: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_onednn(run: Callable[[], object]) -> bool:
        with torch.profiler.profile() as profile:
            run()
        return any("mkldnn::_linear" in event.key for event in profile.key_averages())

    x, weight, *_ = draw(SIZES["large"])
    assert x.numel() * len(weight) == LARGE
    assert by_onednn(lambda: product(x, weight)) is not (kernels and bool(kernel.installed()))
    monkeypatch.setattr(kernel, "installed", lambda: [])
    assert by_onednn(lambda: product(x, weight)) and not by_onednn(lambda: product(x[1:], weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(lambda: product(x, weight))
    assert not by_onednn(lambda: product(x.double(), weight.double()))
    monkeypatch.setattr(module, "ONEDNN", False)
    assert not by_onednn(lambda: product(x, weight))


def test_linear_is_torchs_but_for_its_product(draw: Callable) -> None:
    x, weight, bias, _ = draw(SIZES["large"])
    layer = Linear(64, 64)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.load_state_dict({"weight": weight, "bias": bias})
    assert torch.equal(layer(x), product(x, weight, bias))
