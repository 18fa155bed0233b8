"""Attentional factorization machine: the weight of each pair, and the factorization machine without weights."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.dataset.schema import Schema
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


@pytest.fixture
def afm(make: Make) -> Make:
    """An afm in evaluation whose b, h and q are drawn wide, so that no two pairs weigh the same."""

    def afm(**options: object) -> nn.Module:
        model = make("afm", embedding_std=0.8, **options).eval()
        for parameter in (model.hidden.bias, model.attention_score.weight, model.predict.weight, model.linear.bias):
            nn.init.normal_(parameter)
        return model

    return afm


@torch.no_grad()
def by_pairs(model: nn.Module, batch: Batch, field_vectors: Vectors) -> tuple[Tensor, Tensor]:
    """Logits (B,) and weights (B, P), a sample and a pair at a time."""
    logits, attention = [], []
    W, b, h, q = model.hidden.weight, model.hidden.bias, model.attention_score.weight[0], model.predict.weight[0]
    for row in range(len(batch)):
        e = field_vectors(model.embed, batch, row)
        products = [e[i] * e[j] for i in range(len(e)) for j in range(i + 1, len(e))]
        raw = [torch.exp(h @ torch.relu(W @ p + b)) for p in products]  # eq. 5
        a = [weight / sum(raw) for weight in raw]
        pooled = sum(weight * p for weight, p in zip(a, products, strict=True))
        linear = model.linear.bias + sum(field_vectors(model.linear.weights, batch, row))
        logits.append(linear + q @ pooled)  # eq. 6
        attention.append(torch.stack(a))
    return torch.cat(logits), torch.stack(attention)


def test_logit_weighs_the_product_of_each_pair(afm: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = afm()
    output = model(mixed)
    logits, attention = by_pairs(model, mixed, field_vectors)
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.parts["attention"], attention, rtol=1e-5, atol=1e-6)
    assert (attention.std(1) > 0.01).all()  # the pairs differ


def test_pairs_of_a_table_are_weighed_too(
    compose: Callable[..., Config], afm: Make, table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = afm(schema=table.schema)
    torch.testing.assert_close(model(batch).logits, by_pairs(model, batch, field_vectors)[0], rtol=1e-5, atol=1e-5)
    assert model.pairs == [
        ("context.site", "context.tags"), ("context.site", "context.hour"), ("context.tags", "context.hour"),
    ]  # fmt: skip


def test_weights_of_a_sample_sum_to_1_over_its_pairs(afm: Make, mixed: Batch) -> None:
    model = afm()
    attention = model(mixed).parts["attention"]
    assert attention.shape == (len(mixed), len(model.pairs))
    assert (attention > 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(len(mixed)))


def test_pairs_are_named_in_the_order_of_the_weights(afm: Make, mixed: Batch) -> None:
    model = afm()
    fields = ["user", "user.segment", "user.age", "item", "item.category", "item.brand", "item.tags", "item.price",
              "context.device"]  # fmt: skip
    assert model.pairs == list(combinations(fields, 2))
    nn.init.zeros_(model.embed.sides["item"].direction)  # of item.price, the one number among the item's fields
    attention = model(mixed).parts["attention"]
    named = torch.tensor(["item.price" in pair for pair in model.pairs])
    silent = attention[:, named]  # products of 0 score the same
    torch.testing.assert_close(silent, silent[:, :1].expand_as(silent))
    assert (attention[:, ~named] != silent[:, :1]).all()


def test_h_of_0_leaves_the_mean_of_pairs(afm: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = afm()
    nn.init.zeros_(model.attention_score.weight)
    q = model.predict.weight[0]
    means = []
    for row in range(len(mixed)):
        e = field_vectors(model.embed, mixed, row)
        means.append(q @ torch.stack([a * b for a, b in combinations(e, 2)]).mean(0))
    interactions = model(mixed).logits - model.linear(mixed)
    torch.testing.assert_close(interactions, torch.stack(means), rtol=1e-5, atol=1e-5)


def test_h_of_0_and_q_of_ones_make_it_fm_over_the_number_of_pairs(afm: Make, make: Make, mixed: Batch) -> None:
    model, machine = afm(), make("fm")
    nn.init.zeros_(model.attention_score.weight)
    nn.init.ones_(model.predict.weight)
    assert not machine.load_state_dict(model.state_dict(), strict=False).missing_keys
    linear = model.linear(mixed)
    summed = linear + len(model.pairs) * (model(mixed).logits - linear)
    torch.testing.assert_close(summed, machine(mixed).logits, rtol=1e-5, atol=1e-5)


def test_new_model_starts_at_the_number_of_pairs_in_place_of_their_mean(make: Make) -> None:
    model = make("afm")
    assert torch.equal(model.predict.weight, torch.full((1, 16), float(len(model.pairs))))


def test_embeddings_of_0_leave_the_linear_model(afm: Make, mixed: Batch) -> None:
    model = afm()
    for side in model.embed.sides.values():
        nn.init.zeros_(side.table.weight)
        if side.side.value_columns:
            nn.init.zeros_(side.direction)
    assert torch.equal(model(mixed).logits, model.linear(mixed))


def test_dropout_hides_parts_of_the_weighted_sum_and_no_weight(afm: Make, mixed: Batch) -> None:
    model = afm(embedding_dim=1, dropout=0.5)
    whole, linear = model(mixed), model.linear(mixed)
    kept = 2 * (whole.logits - linear)
    model.train()
    torch.manual_seed(0)
    output = model(mixed)
    assert torch.equal(output.parts["attention"], whole.parts["attention"])
    hidden = output.logits == linear
    assert hidden.any() and not hidden.all()
    torch.testing.assert_close((output.logits - linear)[~hidden], kept[~hidden], rtol=1e-4, atol=1e-5)


def test_attention_l2_is_half_the_square_of_w_alone(afm: Make, mixed: Batch) -> None:
    model = afm()
    loss = model.losses(model(mixed), mixed)["attention_l2"]
    w = model.hidden.weight
    assert loss.item() == pytest.approx(sum(x**2 for x in w.flatten().tolist()) / 2)
    loss.backward()
    reached = {name for name, each in model.named_parameters() if each.grad is not None}
    assert reached == {"hidden.weight"}
    torch.testing.assert_close(w.grad, w.detach())


def test_weights_under_bfloat16_are_normalised_in_fp32(afm: Make, mixed: Batch) -> None:
    model = afm()
    with torch.autocast("cpu", torch.bfloat16):
        attention = model(mixed).parts["attention"]
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(1), torch.ones(len(mixed)), rtol=1e-6, atol=1e-6)


def test_one_field_is_refused(make: Make, table: Dataset) -> None:
    schema: Schema = table.schema.select(["site"], "fields")
    with pytest.raises(ConfigError, match=r"^model = afm: needs 2 fields or more, ids included; this table has 1\.$"):
        make("afm", schema=schema)


def test_attention_size_of_0_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.attention_size = 0: must be 1 to 65536 "):
        make("afm", attention_size=0)


def test_q_can_be_drawn_as_other_layers(make: Make) -> None:
    model = make("afm", start="drawn", weight_init="xavier_normal", embedding_dim=512)
    assert model.predict.weight.std().item() == pytest.approx((2 / 513) ** 0.5, rel=0.15)
