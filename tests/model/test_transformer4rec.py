"""Joint Transformer: BST with a second task, whose predictions are recomputed one by one from what they may see."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.transformer import Norm
from recexp.model import bst, losses
from recexp.model.transformer4rec import Auxiliary, Memory, Position

Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]
TARGET_ALONE = {"target": 1.0, "auxiliary": 0.0}
TASKS = {
    "causal": {"auxiliary": Auxiliary.next, "memory": Memory.causal},
    "split": {"auxiliary": Auxiliary.next, "memory": Memory.split},
    "sampled": {"auxiliary": Auxiliary.sampled},
    "labels": {"auxiliary": Auxiliary.labels},
}
each_task = pytest.mark.parametrize("task", TASKS)
each_memory = pytest.mark.parametrize("memory", Memory)
each_position = pytest.mark.parametrize("position", Position)
each_norm = pytest.mark.parametrize("norm", Norm)


@pytest.fixture
def transformer(make: Make) -> Callable[..., nn.Module]:
    """transformer(memory=Memory.split): in evaluation mode, everything drawn wide that starts at 0 or 1."""

    def transformer(**options: object) -> nn.Module:
        model = make("transformer4rec", **{"auxiliary": Auxiliary.next, **options}).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.startswith("mlp."):
                nn.init.normal_(parameter, 0.5)
        return model

    return transformer


def true(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def vector(position: nn.Module | None, number: int) -> Tensor | float:
    """The vector of a position."""
    return 0.0 if position is None else position(torch.tensor(number))


def given(memory: Memory, length: int) -> int:
    """c: how many events of a history are not predicted."""
    return 0 if memory is Memory.causal else max(1, length // 2)


def decoded(model: nn.Module, memory: Memory, events: Tensor, c: int) -> Tensor:
    """d_s (E,) of the events 1 to s alone (s, E), of which c are given: no padding, every mask written out."""
    s = len(events)
    given = events[: s if memory is Memory.causal else c]
    placed = [event + vector(model.order, 1 + i) for i, event in enumerate(given)]
    m = torch.stack(placed)[None] if placed else events[None]
    sees = [[j <= i or memory is Memory.split for j in range(len(given))] for i in range(len(given))]
    m = model.encoder(m, true(1, len(given)), torch.tensor(sees, dtype=torch.bool).view(1, len(given), len(given)))
    inputs = [model.begin, *events[c:]]
    inputs = torch.stack([event + vector(model.order, c + i) for i, event in enumerate(inputs)])[None]
    recalls = [[j < c + i for j in range(len(given))] for i in range(len(inputs[0]))]
    seen = torch.tensor(recalls, dtype=torch.bool).view(1, len(inputs[0]), len(given))
    return model.decoder(inputs, true(1, len(inputs[0])), m, seen)[0, -1]


def changed_from(batch: Batch, step: int, item_step: int | None = None) -> Batch:
    """The batch with other labels from event number `step` on, counted from 0, and other items from `item_step` on."""
    position = torch.arange(batch.mask.shape[1])
    items = (position >= (step if item_step is None else item_step)) & batch.mask
    return replace(
        batch,
        history=torch.where(items, batch.history % 40 + 1, batch.history),
        history_label=torch.where((position >= step) & batch.mask, 1 - batch.history_label, batch.history_label),
    )


def keep(inputs: list[Tensor], forward: Callable) -> Callable:
    return lambda x, *rest: forward(inputs.append(x) or x, *rest)


# The target's label.


@each_norm
@each_position
def test_auxiliary_loss_of_weight_0_leaves_the_behaviour_sequence_transformer(
    position: Position, norm: Norm, make: Make, mixed: Batch
) -> None:
    options = {"n_layers": 2, "norm": norm, "dropout": 0.0}
    model = make("transformer4rec", position=position, loss_weights=TARGET_ALONE, **options)
    other = make("bst", position=bst.Position[position.name], output=bst.Reading.target, **options)
    other.load_state_dict(model.state_dict())
    parts, wanted = (losses(network, network(mixed), mixed) for network in (model, other))
    assert parts.keys() == {"target"}
    gradients = [
        torch.autograd.grad(returned["target"], list(m.parameters()))
        for m, returned in ((model, parts), (other, wanted))
    ]
    assert torch.equal(parts["target"], wanted["target"])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@each_norm
def test_logit_is_read_at_the_target_behind_its_history(norm: Norm, transformer: Make, mixed: Batch) -> None:
    model = transformer(norm=norm)
    theirs = nn.TransformerEncoderLayer(80, 8, 128, 0.0, F.leaky_relu, batch_first=True, norm_first=norm is Norm.pre)
    layer = model.encoder.layers[0]
    theirs.self_attn.in_proj_weight.data = torch.cat(
        [getattr(layer.attend, name).weight for name in ("query", "key", "value")]
    )
    theirs.self_attn.out_proj.weight = layer.attend.output.weight
    theirs.linear1, theirs.linear2 = layer.transform.linears
    theirs.norm1, theirs.norm2 = layer.attended.norm, layer.transformed.norm
    profile, target, history = model.embed(mixed)
    logits = []
    for row, n in enumerate(mixed.mask.sum(1).tolist()):
        events = [history[row, s] + model.position.table.weight[n - s] for s in range(n)]
        y = theirs(torch.stack([*events, target[row] + model.position.table.weight[0]])[None])
        y_t = model.encoder.norm(y[0, -1])
        logits.append(model.mlp(torch.cat([y_t, profile[row]])[None])[0, 0])
    torch.testing.assert_close(model(mixed).logits, torch.stack(logits), rtol=1e-4, atol=1e-5)


def test_without_values_the_target_sees_itself_alone(transformer: Make, mixed: Batch) -> None:
    model = transformer()
    assert (model(changed_from(mixed, 0)).logits != model(mixed).logits).tolist() == mixed.mask.any(1).tolist()
    nn.init.zeros_(model.encoder.layers[0].attend.value.weight)
    assert torch.equal(model(changed_from(mixed, 0)).logits, model(mixed).logits)


def test_order_of_the_history_counts_by_position_alone(transformer: Make, mixed: Batch, reverse: Callable) -> None:
    for position in Position:
        model = transformer(position=position)
        change = (model(reverse(mixed)).logits - model(mixed).logits).abs()
        assert bool((change > 1e-4).any()) == (position is not Position.none)


@each_task
def test_auxiliary_task_changes_no_logit(task: str, transformer: Make, mixed: Batch) -> None:
    model, alone = transformer(**TASKS[task]), transformer(loss_weights=TARGET_ALONE)
    alone.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model(mixed).logits, alone(mixed).logits)


def test_auxiliary_loss_of_weight_0_costs_no_parameters(transformer: Make, mixed: Batch) -> None:
    for task in TASKS.values():
        model = transformer(loss_weights=TARGET_ALONE, **task)
        assert [name for name, _ in model.named_children()] == ["embed", "position", "encoder", "mlp"]
        assert not hasattr(model, "begin")
        assert model(mixed).parts == {}


# The next item.


@each_norm
@each_position
@each_memory
def test_each_next_item_is_told_from_all_others_by_the_events_before_it(
    memory: Memory, position: Position, norm: Norm, transformer: Make, mixed: Batch
) -> None:
    model = transformer(memory=memory, position=position, norm=norm, n_layers=2)
    _, _, history = model.embed(mixed)
    vectors = model.embed.embed.sides["item"].table.weight[2:42]
    surprises = []
    for row, n in enumerate(mixed.mask.sum(1).tolist()):
        c = given(memory, n)
        for s in range(c, n):  # event s + 1, at index s
            d = decoded(model, memory, history[row, :s], c)
            z = vectors @ (model.next.project.weight @ d) + model.next.bias
            item = mixed.catalogue.items.ids[mixed.history[row, s], 0]
            surprises.append(F.cross_entropy(z, item - 2))
    loss = model.losses(model(mixed), mixed)["auxiliary"]
    torch.testing.assert_close(loss, torch.stack(surprises).mean(), rtol=1e-4, atol=1e-5)


@each_norm
@each_memory
def test_gradient_of_what_predicts_an_event_by_it_and_later_ones_is_0(
    memory: Memory, norm: Norm, transformer: Make, mixed: Batch
) -> None:
    model = transformer(memory=memory, norm=norm, n_layers=2)
    history = model.embed(mixed)[2].detach().requires_grad_()
    decoded = model.decode(history, mixed.mask)
    direction = torch.randn(decoded.shape[2], generator=torch.Generator().manual_seed(0))  # the sum is LayerNorm's bias
    for s in range(decoded.shape[1]):
        (gradient,) = torch.autograd.grad(
            decoded[:, s] @ direction, history, true(len(mixed)).float(), retain_graph=True
        )
        assert not gradient[:, s:].any()  # event s + 1, at index s, is the first that is not seen
        seen = gradient[-2:, :s].any(2)  # of the longest histories
        assert seen.all() if s >= given(memory, mixed.mask.shape[1]) else not seen.any()


@each_norm
@each_memory
def test_what_predicts_an_event_changes_with_earlier_ones_alone(
    memory: Memory, norm: Norm, transformer: Make, mixed: Batch
) -> None:
    model = transformer(memory=memory, norm=norm, n_layers=2)
    before = model(mixed).parts["decoded"]
    for s in (0, 1, 3, 10, 19):
        after = model(changed_from(mixed, s)).parts["decoded"]
        assert torch.equal(after[:, : s + 1], before[:, : s + 1])
        assert (after[-2:, s + 1 :] != before[-2:, s + 1 :]).any(2).all() or s < given(memory, 20)


def test_first_event_is_predicted_from_bos_alone(transformer: Make, mixed: Batch) -> None:
    model = transformer()
    first = model(mixed).parts["decoded"][:, 0]
    wanted = decoded(model, Memory.causal, torch.zeros(0, 80), 0)
    torch.testing.assert_close(first, wanted.expand_as(first), rtol=1e-5, atol=1e-5)


def test_memory_of_a_split_is_the_first_half_seen_from_both_sides(
    transformer: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer(memory=Memory.split)
    calls: list[tuple] = []
    monkeypatch.setattr(model.encoder, "forward", lambda *inputs: calls.append(inputs) or inputs[0])
    model.decode(model.embed(mixed)[2], mixed.mask)
    ((_, mask, seen),) = calls
    assert torch.equal(mask, seen)
    assert mask.sum(1).tolist() == [0, 0, 1, 1, 1, 1, 3, 3, 10, 10]
    assert (mask.cumsum(1) == mask.sum(1, keepdim=True)).sum(1).min() == 11  # the first ones


@pytest.mark.parametrize(("memory", "lengths"), [(Memory.causal, (0, 1, 2, 7, 20)), (Memory.split, (0, 0, 1, 4, 10))])
def test_predicted_are_all_events_or_those_after_the_split(
    memory: Memory, lengths: tuple[int, ...], transformer: Make, mixed: Batch
) -> None:
    assert mixed.mask.sum(1).tolist() == [0, 0, 1, 1, 2, 2, 7, 7, 20, 20]
    predicted = transformer(memory=memory).predicted(mixed).mask
    assert predicted.sum(1).tolist() == [n for n in lengths for _ in range(2)]
    assert not predicted[:, 0].any()  # BOS


@each_memory
def test_random_next_items_cannot_be_learnt(memory: Memory, make: Make, mixed: Batch) -> None:
    model = make(
        "transformer4rec", auxiliary=Auxiliary.next, memory=memory, embedding_std=0.1, dropout=0.0, history_labels=False
    )
    n_items = len(model.next.bias)
    loss = learn(model, mixed, lambda g: {"history": torch.randint(1, n_items + 1, mixed.mask.shape, generator=g)})
    torch.testing.assert_close(loss[:5].mean(), torch.tensor(n_items).log(), rtol=0.1, atol=0)
    torch.testing.assert_close(loss[-20:].mean(), torch.tensor(n_items).log(), rtol=0.05, atol=0)


def learn(model: nn.Module, batch: Batch, draw: Callable[[torch.Generator], dict[str, Tensor]]) -> Tensor:
    """The auxiliary losses of steps that each draw histories anew: whatever falls is read off the input."""
    generator = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    falling = []
    for _ in range(80):
        random = replace(batch, **{name: torch.where(batch.mask, x, 0) for name, x in draw(generator).items()})
        loss = model.losses(model(random), random)["auxiliary"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.append(loss.detach())
    return torch.stack(falling)


@each_task
def test_target_has_no_part_in_the_auxiliary_task(task: str, transformer: Make, mixed: Batch) -> None:
    model = transformer(**TASKS[task])
    elsewhere = replace(mixed, target=mixed.target % 40 + 1, label=1 - mixed.label)
    parts = []
    for batch in (elsewhere, mixed):
        torch.manual_seed(0)
        parts.append(model.losses(model(batch), batch))
    assert torch.equal(parts[0]["auxiliary"], parts[1]["auxiliary"])
    assert not torch.equal(parts[0]["target"], parts[1]["target"])


@each_memory
def test_sampled_loss_of_many_items_approaches_that_of_all(memory: Memory, make: Make, mixed: Batch) -> None:
    full = make("transformer4rec", auxiliary=Auxiliary.next, memory=memory).eval()
    sampled = make("transformer4rec", memory=memory, auxiliary=Auxiliary.sampled, n_sampled=20_000).eval()
    whole, estimate = (model.losses(model(mixed), mixed)["auxiliary"] for model in (full, sampled))
    assert not torch.equal(estimate, whole)
    torch.testing.assert_close(estimate, whole, rtol=0.02, atol=0)


# The labels.


@pytest.mark.parametrize("history_labels", [True, False])
@each_norm
@each_position
def test_each_label_is_predicted_from_its_item_and_the_events_before(
    position: Position, norm: Norm, history_labels: bool, transformer: Make, mixed: Batch
) -> None:
    options = {"position": position, "norm": norm, "history_labels": history_labels, "n_layers": 2}
    model = transformer(auxiliary=Auxiliary.labels, **options)
    items = model.embed.items(mixed, mixed.history)
    surprises = []
    for row, n in enumerate(mixed.mask.sum(1).tolist()):
        for s in range(n):
            events = [items[row, i] + vector(model.order, i + 1) for i in range(s + 1)]
            if history_labels:
                for i in range(1, s + 1):
                    events[i] = events[i] + model.embed.label.weight[1 + int(mixed.history_label[row, i - 1])]
            below = true(1, s + 1, s + 1).tril()
            m = model.encoder(torch.stack(events)[None], true(1, s + 1), below)[0, -1]
            z = model.label_score.weight[0] @ m + model.label_score.bias[0]
            y = mixed.history_label[row, s]
            surprises.append(-(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)))
    loss = model.losses(model(mixed), mixed)["auxiliary"]
    torch.testing.assert_close(loss, torch.stack(surprises).mean(), rtol=1e-4, atol=1e-5)


@each_norm
def test_what_predicts_a_label_changes_with_earlier_labels_alone(norm: Norm, transformer: Make, mixed: Batch) -> None:
    model = transformer(auxiliary=Auxiliary.labels, norm=norm, n_layers=2)
    before = model(mixed).parts["states"]
    for s in (0, 1, 3, 10, 18):
        after = model(changed_from(mixed, s, s + 1)).parts["states"]  # the label at s and all after it
        assert torch.equal(after[:, : s + 1], before[:, : s + 1])
        assert (after[-2:, s + 1 :] != before[-2:, s + 1 :]).any(2).all()


def test_gradient_of_what_predicts_a_label_by_later_events_is_0(
    transformer: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer(auxiliary=Auxiliary.labels, n_layers=2)
    inputs: list[Tensor] = []
    monkeypatch.setattr(model.encoder, "forward", keep(inputs, model.encoder.forward))
    logits = model.label_score(model.before_labels(mixed))[:, :, 0]
    for s in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, s].sum(), inputs, retain_graph=True)
        assert gradient[-2:, : s + 1].any(2).all()
        assert not gradient[:, s + 1 :].any()


def test_random_labels_cannot_be_learnt(make: Make, mixed: Batch) -> None:
    model = make("transformer4rec", auxiliary=Auxiliary.labels, dropout=0.0)
    loss = learn(model, mixed, lambda g: {"history_label": torch.randint(2, mixed.mask.shape, generator=g).float()})
    assert loss[-20:].mean() > 0.66  # log 2 = 0.69 and no less, but for chance


# All tasks.


@each_task
@each_position
@each_norm
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_parameter_is_trained(
    task: str, position: Position, norm: Norm, weight: float, make: Make, mixed: Batch
) -> None:
    options = {"position": position, "norm": norm, "n_layers": 2, **TASKS[task]}
    model = make("transformer4rec", loss_weights={"target": 1.0, "auxiliary": weight}, **options)
    torch.stack(list(model.losses(model(mixed), mixed).values())).sum().backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


@each_task
def test_auxiliary_loss_alone_teaches_the_encoder_of_the_logit(task: str, make: Make, mixed: Batch) -> None:
    model = make("transformer4rec", **TASKS[task])
    model.losses(model(mixed), mixed)["auxiliary"].backward()
    reached = [name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()]
    own = {"label_score"} if task == "labels" else {"begin", "decoder", "next"}
    assert {name.split(".")[0] for name in reached} == {"embed", "encoder", "order", *own}
    assert {"embed.embed.sides.item.direction", "embed.label.weight"} <= set(reached)  # not as a label's vector alone
    assert all(each.grad.any() for each in model.encoder.parameters())


@each_task
def test_auxiliary_loss_is_0_where_nothing_is_to_be_predicted(
    task: str, make: Make, gather: Gather, mixed_rows: list[int]
) -> None:
    for rows, counts in ((mixed_rows[:2], False), (mixed_rows[:4], task != "split")):  # lengths 0; 0 and 1
        model, batch = make("transformer4rec", **TASKS[task]), gather(rows)
        loss = model.losses(model(batch), batch)["auxiliary"]
        loss.backward()
        assert bool(loss > 0) == counts
        assert any(each.grad.any() for each in model.parameters() if each.grad is not None) == counts


@each_task
def test_states_are_one_an_event(task: str, transformer: Make, mixed: Batch) -> None:
    states = transformer(**TASKS[task])(mixed).parts["states"]
    assert states.shape == (*mixed.mask.shape, 80)
    assert not states[~mixed.mask].any()


@pytest.mark.parametrize("task", ["causal", "labels"])
def test_states_are_those_of_the_history_up_to_the_event(task: str, transformer: Make, mixed: Batch) -> None:
    model = transformer(**TASKS[task])
    upto = replace(mixed, mask=mixed.mask & (torch.arange(mixed.mask.shape[1]) < 5))
    whole, cut = model(mixed).parts["states"], model(upto).parts["states"]
    torch.testing.assert_close(cut[:, :5], whole[:, :5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", ["causal", "split", "sampled"])
def test_next_items_need_no_labels(task: str, transformer: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    for history_labels, same in ((False, True), (True, False)):
        model = transformer(history_labels=history_labels, **TASKS[task])
        auxiliary = []
        for batch in (flipped, mixed):
            torch.manual_seed(0)
            auxiliary.append(model.losses(model(batch), batch)["auxiliary"])
        assert torch.equal(*auxiliary) == same


@each_task
def test_training_repeats_itself_to_the_bit_in_deterministic_mode(task: str, make: Make, mixed: Batch) -> None:
    def run() -> list[Tensor]:
        model = make("transformer4rec", **TASKS[task])
        parts = model.losses(model(mixed), mixed)
        return [*parts.values(), *torch.autograd.grad(sum(parts.values()), list(model.parameters()))]

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, run(), run()))
    finally:
        torch.use_deterministic_algorithms(before)


@each_task
def test_statistics_of_dice_are_those_of_one_task(task: str, make: Make, mixed: Batch) -> None:
    options = {"activation": Activation.dice, "dropout": 0.0, **TASKS[task]}
    model, alone = (make("transformer4rec", **options, **weights) for weights in ({}, {"loss_weights": TARGET_ALONE}))
    alone.load_state_dict(model.state_dict(), strict=False)
    for network in (model, alone):
        network.train()(mixed)
    assert torch.equal(model.eval()(mixed).logits, alone.eval()(mixed).logits)


# Mistakes.


def test_heads_that_do_not_divide_the_width_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.n_heads = 7: must be a divisor of .* width 80: 1, 2, 4, 5, 8, 10"):
        make("transformer4rec", n_heads=7)


@pytest.mark.parametrize("option", ["feedforward_size", "n_sampled"])
def test_sizes_of_0_are_refused(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{option} = 0: must be 1 to "):
        make("transformer4rec", **{option: 0})


def test_labels_that_do_not_vary_are_refused(compose: Callable) -> None:
    implicit = ("model=transformer4rec", "dataset.label=implicit", "model.history_labels=false")
    assert compose(*implicit, "model.auxiliary=next").model.auxiliary is Auxiliary.next
    with pytest.raises(ConfigError, match=r"^model\.auxiliary = labels: needs labels that vary within histories"):
        compose(*implicit)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = transformer4rec: needs users, items and time"):
        make("transformer4rec", schema=table.schema)
