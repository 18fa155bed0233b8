"""A linear layer is torch's but for its product."""

import torch

from recexp.kernel.linear import product
from recexp.layer.product import Linear


def test_linear_is_torchs_but_for_its_product() -> None:
    x, weight, bias = torch.randn(2048, 64), torch.randn(64, 64), torch.randn(64)
    layer = Linear(64, 64)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.load_state_dict({"weight": weight, "bias": bias})
    assert torch.equal(layer(x), product(x, weight, bias))
