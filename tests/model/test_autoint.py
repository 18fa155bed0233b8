"""AutoInt: attention over fields against a loop, and what it is with special weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def attended(layer: nn.Module, e: Tensor, scale: bool) -> Tensor:
    """Eq. 5 to 8 a head and a field at a time: e (F, N) -> (F, A)."""
    size = len(layer.query.weight) // layer.n_heads
    out = []
    for i in range(len(e)):
        heads = []
        for rows in (slice(size * head, size * (head + 1)) for head in range(layer.n_heads)):
            query, key, value = (x.weight[rows] for x in (layer.query, layer.key, layer.value))
            scores = torch.stack([(query @ e[i]) @ (key @ e[j]) for j in range(len(e))])
            weights = (scores / size**0.5 if scale else scores).softmax(0)
            heads.append(sum(weights[j] * (value @ e[j]) for j in range(len(e))))
        residual = e[i] if isinstance(layer.residual, nn.Identity) else layer.residual.weight @ e[i]
        out.append(torch.relu(layer.norm(torch.cat(heads) + residual)))
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(("layer_norm", "hidden_sizes"), [(False, []), (True, [8])])
def test_logit_is_a_linear_layer_of_attended_fields_and_the_deep_part(
    scale: bool, layer_norm: bool, hidden_sizes: list[int], make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    options = {"scale": scale, "layer_norm": layer_norm, "hidden_sizes": hidden_sizes}
    model = make("autoint", **options).eval()
    logits = []
    for row in range(len(mixed)):
        x = e = torch.stack(field_vectors(model.embed, mixed, row))
        for layer in model.layers:
            x = attended(layer, x, scale)
        logit = model.output.weight @ x.flatten() + model.output.bias
        if hidden_sizes:
            first, last = model.deep.linears
            logit = logit + last.weight @ torch.relu(first.weight @ e.flatten() + first.bias) + last.bias
        logits.append(logit)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_queries_of_0_attend_to_all_fields_alike(make: Make) -> None:
    layer = make("autoint").layers[0]
    e = torch.randn(3, 5, layer.query.in_features)
    nn.init.zeros_(layer.query.weight)
    wanted = torch.relu(layer.value(e).mean(1, keepdim=True) + layer.residual(e))
    torch.testing.assert_close(layer(e), wanted)


@torch.no_grad()
def test_permuted_fields_give_permuted_fields(make: Make) -> None:
    layer, order = make("autoint").layers[0], torch.tensor([3, 0, 4, 1, 2])
    e = torch.randn(3, 5, layer.query.in_features)
    torch.testing.assert_close(layer(e[:, order]), layer(e)[:, order])


def test_dropout_of_the_attention_is_its_own(make: Make, mixed: Batch) -> None:
    model = make("autoint", attention_dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(model(mixed).logits, model(mixed).logits)


def test_heads_that_do_not_divide_the_attention_size_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.attention_size = 32: must be a multiple of n_heads = 3\.$"):
        make("autoint", n_heads=3)
