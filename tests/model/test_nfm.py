"""Neural Factorization Machine against a loop over all pairs, and the factorization machine it holds."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


@torch.no_grad()
def test_logit_is_the_linear_part_and_an_mlp_of_the_normalised_pairs(
    make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = make("nfm", hidden_sizes=[8], batch_norm=True).eval()
    nn.init.constant_(model.linear.bias, -0.4)
    mean = nn.init.normal_(model.norm.running_mean)
    first, last = model.mlp.linears
    scale = (1 + model.norm.eps) ** -0.5  # running variances start at 1
    logits = []
    for row in range(len(mixed)):
        products = sum(e * other for e, other in combinations(field_vectors(model.embed, mixed, row), 2))
        hidden = torch.relu(scale * (first.weight @ (scale * (products - mean)) + first.bias))
        linear = model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row))
        logits.append(linear + last.weight @ hidden + last.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_sum_of_the_pairs_leaves_the_factorization_machine(make: Make, mixed: Batch) -> None:
    model, fm = make("nfm", hidden_sizes=[]).eval(), make("fm", seed=1)
    nn.init.ones_(model.mlp.first.weight)
    assert not fm.load_state_dict(model.state_dict(), strict=False).missing_keys
    torch.testing.assert_close(model(mixed).logits, fm(mixed).logits)


def test_dropout_of_the_pairs_comes_after_their_norm(make: Make, mixed: Batch) -> None:
    model, seen = make("nfm", batch_norm=True, interaction_dropout=0.5), []
    model.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(mixed)
    assert 0.3 < (seen[0] == 0).float().mean() < 0.7  # the norm would have moved them off 0


def test_dropout_of_the_pairs_is_its_own(make: Make, mixed: Batch) -> None:
    model = make("nfm", interaction_dropout=0.5, dropout=0.0)
    torch.manual_seed(0)
    assert not torch.equal(model(mixed).logits, model(mixed).logits)
    assert torch.equal(model.eval()(mixed).logits, model(mixed).logits)
