"""Behavior Sequence Transformer: the encoder row by row without padding, and what positions and outputs mean."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from batches import with_catalogue
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.config import FeatureKind
from recexp.dataset.log import Dataset
from recexp.dataset.schema import Field, Schema, Side
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events
from recexp.layer.transformer import Norm, Residual, hide
from recexp.model import losses
from recexp.model.bst import Position, Reading, side_by_side

Make = Callable[..., nn.Module]
each_position = pytest.mark.parametrize("position", Position)
each_output = pytest.mark.parametrize("output", Reading)
each_norm = pytest.mark.parametrize("norm", Norm)


@pytest.fixture
def bst(make: Make) -> Make:
    """A model in evaluation whose biases and LayerNorms are drawn too: from 0 and 1 they would show nothing."""

    def bst(**options: object) -> nn.Module:
        model = make("bst", **options).eval()
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.5)
        return model

    return bst


@each_norm
@each_output
@each_position
def test_logit_equals_a_plain_loop_over_rows_heads_and_positions(
    position: Position, output: Reading, norm: Norm, bst: Make, mixed: Batch
) -> None:
    model = bst(position=position, output=output, norm=norm, n_layers=2, n_heads=4).double()
    batch = in_double(mixed)
    profile, target, history = model.embed(batch)
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        events = [*history[row, :length], target[row]]
        ages = [*mixed.history_age[row, :length].tolist(), 0.0]
        x = [plain_position(model, position, event, ages[s], length - s) for s, event in enumerate(events)]
        y = plain_encoder(model.encoder, torch.stack(x), n_heads=4, norm=norm)
        blank = [torch.zeros_like(y[0])] * (model.n_positions - len(y))
        read = {
            Reading.target: y[length],
            Reading.mean: sum(y) / (length + 1),
            Reading.mean_and_target: torch.cat([sum(y) / (length + 1), target[row]]),
            Reading.all: torch.cat([*reversed(y), *blank]),
        }
        logits.append(model.mlp(torch.cat([read[output], profile[row]])[None])[0, 0])
    torch.testing.assert_close(model(batch).logits, torch.stack(logits))


def in_double(batch: Batch) -> Batch:
    """The batch with its numeric features in double precision."""
    users, items, context = (
        replace(features, values=features.values.double())
        for features in (batch.catalogue.users, batch.catalogue.items, batch.context)
    )
    return replace(with_catalogue(batch, users=users, items=items), context=context)


def plain_position(model: nn.Module, position: Position, event: Tensor, age: float, distance: int) -> Tensor:
    """Sec. 2.1: the event with its age's vector beside it, or its distance's added."""
    if position is Position.none:
        return event
    if position is Position.age:
        bucket = min(k for k in range(40) if age < 2 ** (k + 1) - 1)
        return torch.cat([event, model.position.table.weight[bucket]])
    if position is Position.learnt:
        return event + model.position.table.weight[distance]
    dim = len(event)
    angles = [distance / 10000 ** ((j - j % 2) / dim) for j in range(dim)]
    return event + torch.tensor([(math.cos if j % 2 else math.sin)(angle) for j, angle in enumerate(angles)])


def plain_encoder(encoder: nn.Module, x: Tensor, n_heads: int, norm: Norm) -> list[Tensor]:
    """Sec. 2.2 of one sequence (n, W), in which every position sees every other."""
    for layer in encoder.layers:
        one, two, ffn = layer.attended.norm, layer.transformed.norm, layer.transform.linears
        if norm is Norm.post:
            x = plain_norm(one, x + plain_attention(layer.attend, x, n_heads))
            x = plain_norm(two, x + plain_ffn(*ffn, x))
        else:
            x = x + plain_attention(layer.attend, plain_norm(one, x), n_heads)
            x = x + plain_ffn(*ffn, plain_norm(two, x))
    return list(x if norm is Norm.post else plain_norm(encoder.norm, x))


def plain_attention(attend: nn.Module, x: Tensor, n_heads: int) -> Tensor:
    """Each query (W,) of x (n, W), head by head."""
    size = x.shape[1] // n_heads
    outputs = []
    for query in x:
        heads = []
        for head in range(n_heads):
            of = slice(head * size, (head + 1) * size)
            w_q, w_k, w_v = (getattr(attend, name).weight[of] for name in ("query", "key", "value"))
            exps = ((x @ w_k.T) @ (w_q @ query) / size**0.5).exp()  # (n,)
            heads.append(exps / exps.sum() @ (x @ w_v.T))
        outputs.append(attend.output.weight @ torch.cat(heads))
    return torch.stack(outputs)


def plain_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def plain_ffn(first: nn.Linear, second: nn.Linear, x: Tensor) -> Tensor:
    h = x @ first.weight.T + first.bias
    return torch.where(h > 0, h, 0.01 * h) @ second.weight.T + second.bias


@each_norm
@each_position
def test_without_values_the_output_at_the_target_sees_the_target_alone(
    position: Position, norm: Norm, bst: Make, mixed: Batch
) -> None:
    model = bst(position=position, norm=norm, n_layers=2)
    none = replace(mixed, mask=torch.zeros_like(mixed.mask))
    changed = (model(none).logits - model(mixed).logits).abs() > 1e-5
    assert torch.equal(changed, mixed.mask.any(1))
    for layer in model.encoder.layers:
        nn.init.zeros_(layer.attend.value.weight)
    torch.testing.assert_close(model(none).logits, model(mixed).logits, rtol=1e-5, atol=1e-6)
    other = replace(mixed, target=mixed.target.roll(2))
    changed = (model(other).logits - model(mixed).logits).abs() > 1e-5
    assert torch.equal(changed, other.target != mixed.target)


def test_equal_scores_without_layer_norm_make_it_mean_pooling(
    bst: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain_residual(self: nn.Module, x: Tensor, mask: Tensor, outer: nn.Module, inner: Callable) -> Tensor:
        return hide(x + outer(inner(x)), mask)

    monkeypatch.setattr(Residual, "forward", plain_residual)
    model = bst(position=Position.none, n_heads=1)
    (layer,) = model.encoder.layers
    nn.init.zeros_(layer.attend.query.weight)
    for same in (layer.attend.value, layer.attend.output):
        nn.init.eye_(same.weight)
    for nothing in layer.transform.linears[1].parameters():
        nn.init.zeros_(nothing)
    profile, target, history = model.embed(mixed)
    pooled = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        pooled.append(target[row] + (sum(history[row, :length]) + target[row]) / (length + 1))
    wanted = model.mlp(torch.cat([torch.stack(pooled), profile], 1))[:, 0]
    torch.testing.assert_close(model(mixed).logits, wanted, rtol=1e-5, atol=1e-5)


@each_output
@each_position
def test_every_event_counts_and_no_padding(
    position: Position, output: Reading, bst: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bst(position=position, output=output)
    events = model.embed.events_and_target(mixed).expanded().detach().requires_grad_()  # (B, L + 1, E): a vector each
    index = torch.arange(events[:, :, 0].numel()).view(events.shape[:2])
    monkeypatch.setattr(model.embed, "events_and_target", lambda batch: Events(events.flatten(0, 1), index))
    model(mixed).logits.sum().backward()
    assert torch.equal(events.grad.any(2), torch.cat([mixed.mask, torch.ones(len(index), 1, dtype=torch.bool)], 1))


@pytest.mark.parametrize("output", [Reading.target, Reading.mean])
@each_position
def test_order_of_the_history_counts_unless_there_is_no_position(
    position: Position, output: Reading, bst: Make, mixed: Batch, reverse: Callable
) -> None:
    model = bst(position=position, output=output)
    ages = 2.0 ** torch.arange(mixed.mask.shape[1], 0, -1).expand_as(mixed.history_age)  # a bucket for each event
    other, mixed = replace(reverse(mixed), history_age=ages), replace(mixed, history_age=ages)
    changed = (model(other).logits - model(mixed).logits).abs() > 1e-5
    assert torch.equal(changed, (mixed.mask.sum(1) > 1) & (position is not Position.none))


@pytest.mark.parametrize("output", [Reading.target, Reading.mean])
def test_ages_tell_the_order_wherever_an_event_stands(
    output: Reading, bst: Make, mixed: Batch, reverse: Callable
) -> None:
    model = bst(position=Position.age, output=output)
    torch.testing.assert_close(model(reverse(mixed)).logits, model(mixed).logits, rtol=1e-5, atol=1e-5)


def test_all_outputs_side_by_side_tell_the_order_by_themselves(bst: Make, mixed: Batch, reverse: Callable) -> None:
    model = bst(position=Position.none, output=Reading.all)
    changed = (model(reverse(mixed)).logits - model(mixed).logits).abs() > 1e-5
    assert torch.equal(changed, mixed.mask.sum(1) > 1)


@each_position
def test_age_of_the_events_counts_as_position_alone(position: Position, bst: Make, mixed: Batch) -> None:
    model = bst(position=position)
    older = replace(mixed, history_age=4 * mixed.history_age + 4)
    changed = (model(older).logits - model(mixed).logits).abs() > 1e-6
    assert torch.equal(changed, mixed.mask.any(1) & (position is Position.age))


def test_ages_of_one_bucket_are_the_same(bst: Make, mixed: Batch) -> None:
    model = bst(position=Position.age)
    fill = [replace(mixed, history_age=torch.full_like(mixed.history_age, age)) for age in (1023.0, 2046.0, 2047.0)]
    first, final, following = (model(batch).logits for batch in fill)
    assert torch.equal(first, final)
    assert torch.equal(first != following, mixed.mask.any(1))


def test_ages_beyond_any_history_share_the_last_bucket(bst: Make, mixed: Batch) -> None:
    model = bst(position=Position.age)
    fill = [replace(mixed, history_age=torch.full_like(mixed.history_age, age)) for age in (2.0**38, 2.0**39, 1e30)]
    before, first, final = (model(batch).logits for batch in fill)
    assert torch.equal(first, final)
    assert torch.equal(before != first, mixed.mask.any(1))


@each_norm
@each_position
def test_without_events_all_outputs_are_that_at_the_target(
    position: Position, norm: Norm, bst: Make, gather: Callable[..., Batch], mixed_rows: list[int]
) -> None:
    batch = gather(mixed_rows[:1])
    assert batch.mask.shape == (1, 0)
    models = {output: bst(position=position, norm=norm, output=output) for output in Reading}
    model = models[Reading.target]
    models[Reading.mean].load_state_dict(model.state_dict())
    wide = models[Reading.all]
    shared = {name: tensor for name, tensor in model.state_dict().items() if name != "mlp.linears.0.weight"}
    wide.load_state_dict(shared, strict=False)
    weight, n = model.mlp.first.weight.detach(), model.encoder.layers[0].attended.norm.weight.numel()
    wide_weight = torch.randn_like(wide.mlp.first.weight)  # of distances where no event is
    wide_weight[:, :n], wide_weight[:, -model.embed.profile_dim :] = weight[:, :n], weight[:, n:]
    wide.mlp.first.weight.data = wide_weight
    wanted = model(batch).logits
    for other in (models[Reading.mean], wide):
        torch.testing.assert_close(other(batch).logits, wanted, rtol=1e-5, atol=1e-5)


def test_the_same_distance_from_the_target_stands_in_the_same_place() -> None:
    encoded = torch.tensor([[1, 2, 3, 9], [4, 0, 0, 8], [0, 0, 0, 7]])[:, :, None] * torch.tensor([1.0, 10.0])
    mask = encoded[:, :, 0] > 0
    assert side_by_side(encoded, mask, 5)[:, ::2].tolist() == [[9, 3, 2, 1, 0], [8, 4, 0, 0, 0], [7, 0, 0, 0, 0]]
    assert side_by_side(encoded, mask, 5)[:, 1::2].tolist() == [[90, 30, 20, 10, 0], [80, 40, 0, 0, 0], [70] + [0] * 4]


def test_labels_of_the_history_count_if_asked(bst: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    labelled, blind = bst(), bst(history_labels=False)
    assert torch.equal(labelled(flipped).logits != labelled(mixed).logits, mixed.mask.any(1))
    assert torch.equal(blind(flipped).logits, blind(mixed).logits)


@each_output
@each_position
def test_two_deterministic_runs_are_equal_to_the_bit(
    position: Position, output: Reading, make: Make, mixed: Batch
) -> None:
    def run() -> list[Tensor]:
        model = make("bst", position=position, output=output)
        out = model(mixed)
        losses(model, out, mixed)["target"].backward()
        return [out.logits, *(each.grad for each in model.parameters())]

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, run(), run()))
    finally:
        torch.use_deterministic_algorithms(before)


def items_of(n_fields: int) -> Schema:
    """A schema whose items have some categorical fields."""
    kind = FeatureKind.categorical
    item = (Field(name=f"f{n}", kind=kind, column=n, offset=3 * n, size=3) for n in range(n_fields))
    user = Field(name="user", kind=kind, column=0, offset=0, size=3)
    return Schema(user=Side(fields=(user,)), item=Side(fields=tuple(item)), max_history=20)


@each_position
@pytest.mark.parametrize("n_fields", [3, 5], ids=["ml-100k", "synthetic"])
def test_default_heads_divide_the_width_of_both_datasets(n_fields: int, position: Position, make: Make) -> None:
    model = make("bst", schema=items_of(n_fields), position=position)
    width = 16 * (n_fields + (position is Position.age))
    assert model.encoder.layers[0].attend.heads == (8, width // 8)


def test_heads_that_do_not_divide_the_width_are_refused(make: Make) -> None:
    wrong = r"^model\.n_heads = 7: must be a divisor of the encoder's width 64: 1, 2, 4, 8, 16, 32, 64\.$"
    with pytest.raises(ConfigError, match=wrong):
        make("bst", schema=items_of(3), n_heads=7)
    with pytest.raises(ConfigError, match=r"width 48: 1, 2, 3, 4, 6, 8, 12, 16, 24, 48\.$"):
        make("bst", schema=items_of(3), position=Position.learnt, n_heads=96)


def test_feedforward_net_without_units_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.feedforward_size = 0: must be 1 to 65536 "):
        make("bst", feedforward_size=0)


@pytest.mark.parametrize("activation", [Activation.relu, Activation.dice])
def test_activation_is_that_of_encoder_and_mlp(activation: Activation, make: Make) -> None:
    model = make("bst", activation=activation)
    kinds = [type(hidden.activation) for mlp in (model.encoder.layers[0].transform, model.mlp) for hidden in mlp.hidden]
    assert len(kinds) == 3 and len(set(kinds)) == 1


def test_sizes_and_dropout_are_those_asked_for(make: Make) -> None:
    model = make("bst", n_layers=3, feedforward_size=7, hidden_sizes=[5, 4], dropout=0.3)
    assert [layer.transform.first.weight.shape for layer in model.encoder.layers] == [(7, 96)] * 3
    assert [linear.weight.shape[0] for linear in model.mlp.linears] == [5, 4, 1]
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.3] * (3 * 4 + 2)


def test_vectors_are_drawn_with_the_std(make: Make) -> None:
    aged, learnt = (make("bst", position=position, embedding_std=0.5) for position in (Position.age, Position.learnt))
    for table in (aged.embed.embed.sides["user"].table, aged.position.table, learnt.position.table):
        assert table.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = bst: needs users, items and time"):
        make("bst", schema=table.schema)
