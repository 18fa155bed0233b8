"""Every kernel does what torch does in its place: results and gradients, of each library, by any number of threads."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel import library as kernel
from recexp.layer.activation import Activation, Dice
from recexp.layer.attention import Interaction
from recexp.layer.interaction import apart, terms
from recexp.layer.lookup import Events, lookup, total, weighted_sum
from recexp.layer.mlp import MLP
from recexp.layer.product import SMALL, product
from recexp.layer.recurrent import AttentionGRU, Cell, GRUType, Recurrent
from recexp.layer.transformer import DecoderLayer, EncoderLayer, MultiHeadAttention, Norm, causal

pytestmark = pytest.mark.skipif(not kernel.installed(), reason="no kernels are compiled for this machine")

# Widths that both libraries take; more rows than a block has, and no multiple of it; histories of all lengths.
B, L, D, H, N_ITEMS = 61, 21, 32, 48, 90
LINEAR = ["linear", "linear_back"]
MASK = torch.arange(L) < torch.linspace(L, 0, B).round()[:, None]


@pytest.fixture(params=[each.name for each in kernel.installed()])
def library(request, monkeypatch):
    chosen = [each for each in kernel.installed() if each.name == request.param]
    monkeypatch.setattr(kernel, "installed", lambda: chosen)
    return chosen[0]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch):
    """The names of kernels that have run."""
    names = []
    run = kernel.Kernels.__call__
    monkeypatch.setattr(
        kernel.Kernels,
        "__call__",
        lambda self, name, *rest, **more: (names.append(name), run(self, name, *rest, **more))[1],
    )
    return names


def stirred(module: nn.Module) -> nn.Module:
    """No parameter at a special value, such as a bias of 0 or a scale of 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def found(function, parameters) -> list[Tensor]:
    """A function's result, and its gradients in the direction of fixed numbers."""
    torch.manual_seed(2)
    result = function()
    results = result if isinstance(result, tuple) else (result,)
    torch.manual_seed(3)
    aim = sum((each * torch.randn_like(each)).sum() for each in results)
    return [*(each.detach() for each in results), *torch.autograd.grad(aim, parameters)]


def compare(function, parameters, used, *names, rtol=1e-4, atol=2e-5):
    """The function by kernels of these names, and by torch alone."""
    parameters = list(parameters)
    mine = found(function, parameters)
    assert set(used) == set(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "installed", lambda: [])
        theirs = found(function, parameters)
    assert set(used) == set(names)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol * max(1, other.abs().max().item()))
    again = found(function, parameters)
    assert all(map(torch.equal, mine, again))  # to the bit


def leaf(*shape) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def places(*shape, n=N_ITEMS) -> Tensor:
    return torch.randint(0, n, shape, generator=torch.Generator().manual_seed(3))


def test_look_up(library, threads, used):
    table = leaf(N_ITEMS, D)
    compare(lambda: lookup(table, places(B, L), padding=0), [table], used, "gather", "scatter")


def test_look_up_of_32_bit_ids_and_of_none(library, used):
    table = leaf(N_ITEMS, D)
    compare(lambda: lookup(table, places(B, 1).int()), [table], used, "gather", "scatter")
    assert lookup(table, places(0, L)).shape == (0, L, D)


@pytest.mark.parametrize("bad", [-1, N_ITEMS])
def test_an_id_beyond_the_table_is_an_error(bad, library):
    ids = places(B, L)
    ids[3, 4] = bad
    with pytest.raises(IndexError, match=rf"{bad}.* {N_ITEMS} rows"):
        lookup(leaf(N_ITEMS, D), ids)
    sources = [Events(leaf(L, D), places(B, L, n=L)), Events(leaf(N_ITEMS, D), ids)]
    with pytest.raises(IndexError, match=rf"{bad}.* {N_ITEMS} rows"):
        total(sources)


def test_sum_of_look_ups(library, threads, used):
    one, two = leaf(N_ITEMS, D), leaf(L, D)
    sources = [Events(one, places(B, L)), Events(two, places(B, L, n=L))]
    compare(lambda: total(sources), [one, two], used, "gather", "scatter")


@pytest.mark.parametrize("bad", [-1, N_ITEMS])
def test_an_id_beyond_what_other_kernels_look_up_is_an_error(bad, library):
    place, scorer = places(B, L), Interaction(MLP(4 * D, [H], Activation.dice, n_out=1))
    place[3, 4] = bad
    events, found = Events(leaf(N_ITEMS, D), place), rf"{bad}.* {N_ITEMS} rows"
    with pytest.raises(IndexError, match=found):
        weighted_sum(torch.ones(B, L), events)
    with pytest.raises(IndexError, match=found):
        scorer.over(leaf(B, D), events, torch.ones_like(MASK))
    with pytest.raises(IndexError, match=found):
        Recurrent(Cell.gru, D, H).over(events, torch.ones_like(MASK))


def test_sums_of_look_ups_that_differ_in_shape_are_left_to_torch(library, used):
    one, two = Events(leaf(N_ITEMS, D), places(B, L)), Events(leaf(L, D), places(1, L, n=L))
    torch.testing.assert_close(total([one, two]), one.embedded() + two.embedded())


def test_weighted_sum_of_look_ups(library, threads, used):
    weights, table = leaf(B, L), leaf(N_ITEMS, D)
    events = Events(table, places(B, L))
    compare(lambda: weighted_sum(weights * MASK, events), [weights, table], used, "weighted_sum", "weighted_sum_back")


def test_a_weight_of_0_passes_over_what_is_not_finite(library):
    table = leaf(N_ITEMS, D).detach()
    table[7] = float("nan")
    place = places(B, L)
    assert weighted_sum((place != 7).float(), Events(table, place)).isfinite().all()


@pytest.mark.parametrize("n_out", [1, 16, D + H])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, n_out, library, threads, used):
    x, weight, bias = leaf(SMALL // D // n_out + 5, D), leaf(n_out, D), leaf(n_out) if bias else None
    parameters = [each for each in (x, weight, bias) if each is not None]
    compare(lambda: product(x, weight, bias), parameters, used, *LINEAR, atol=1e-4)


@pytest.mark.parametrize("n_hidden", [1, 2])
def test_interaction_of_target_and_events_through_dice(n_hidden, library, threads, used):
    scorer = stirred(Interaction(MLP(4 * D, [H, 16][:n_hidden], Activation.dice, n_out=1)))
    target, vectors = leaf(B, D), leaf(N_ITEMS, D)
    events = Events(vectors, places(B, L))
    names = ["meet", "meet_back", "meet_add", "moments", "dice", "dice_back"]
    parameters = [target, vectors, *scorer.parameters()]

    def score():
        for module in scorer.modules():
            if isinstance(module, Dice):
                module.norm.running_mean.zero_()
        return scorer.over(target, events, MASK)

    compare(score, parameters, used, *names, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_out", [None, 1, 16])
def test_dice_and_the_linear_after_it(n_out, library, threads, used):
    dice, linear = stirred(Dice(H)), None if n_out is None else stirred(nn.Linear(H, n_out))
    x = leaf(500, H)
    parameters = [x, dice.alpha, *([] if linear is None else linear.parameters())]
    compare(lambda: dice.then(3 + 2 * x, None, linear), parameters, used, "moments", "dice", "dice_back")


def test_running_statistics_of_dice(library, threads, used, monkeypatch):
    mine, theirs, x = Dice(H), Dice(H), 3 + 2 * leaf(500, H).detach()
    mine(x), mine(x[:1]), mine(x[:0])
    assert set(used) == {"moments", "dice"}
    monkeypatch.setattr(kernel, "installed", lambda: [])
    theirs(x), theirs(x[:1]), theirs(x[:0])
    for one, other in zip(mine.norm.buffers(), theirs.norm.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_arrays_with_gaps(library):
    x, weight, table = leaf(SMALL // D // H + 5, D), leaf(D, H), leaf(D, N_ITEMS)
    agree(lambda: product(x, weight.t()), lambda: x @ weight, [x, weight])
    events = Events(table.t(), places(B, L))
    agree(lambda: weighted_sum(torch.ones(B, L), events), lambda: table.t()[events.place].sum(1), [table])


def test_dice_and_a_linear_without_bias(library, threads, used):
    dice, linear, x = stirred(Dice(H)), nn.Linear(H, 16, bias=False), leaf(500, H)
    parameters = [x, dice.alpha, linear.weight]
    compare(lambda: dice.then(x, None, linear), parameters, used, "moments", "dice", "dice_back")


def test_dice_of_rows_that_are_not_side_by_side(library, used):
    dice, x = stirred(Dice(H)), leaf(H, 50)
    compare(lambda: dice.then(x.t(), None, None), [x, dice.alpha], used, "moments", "dice", "dice_back")


def test_dice_in_evaluation(library, used):
    dice, x = stirred(Dice(H)), 3 + leaf(3, 70, H).detach()
    dice(x)
    used.clear()
    with torch.no_grad():
        mine = dice.eval()(x)
    assert used == ["dice"]
    torch.testing.assert_close(mine, dice(x))  # with a gradient torch does it
    assert used == ["dice"]


@pytest.mark.parametrize("rows", [0, 1])
def test_dice_of_few_rows(rows, library):
    x = leaf(rows, H)
    out = stirred(Dice(H)).then(x, None, None)
    out.sum().backward()
    assert out.shape == x.grad.shape == (rows, H) and out.isfinite().all()


def test_gru(library, threads, used):
    cell, vectors = stirred(Recurrent(Cell.gru, D, H)), leaf(N_ITEMS, D)
    events, valid = Events(vectors, places(B, L)), MASK[:, :, None]
    parameters = [vectors, *cell.parameters()]
    names = ["scatter", "recurrence", "recurrence_back"]
    compare(lambda: cell.over(events, MASK) * valid, parameters, used, *names)


def test_gru_of_inputs_of_a_width_that_no_kernel_takes(library, threads, used):
    cell, x = stirred(Recurrent(Cell.gru, 7, H)), leaf(B, L, 7)
    compare(lambda: cell(x), [x, *cell.parameters()], used, "recurrence", "recurrence_back")


@pytest.mark.parametrize("length", [0, 5])
def test_attention_gru_without_events(length, library, used):
    cell, x = stirred(AttentionGRU(GRUType.augru, D, H)), leaf(B, length, D)
    weights = torch.rand(B, length).requires_grad_()
    nothing = torch.zeros(B, length, dtype=torch.bool)
    with torch.no_grad():
        x[:] = 1e30  # padding may hold anything
    state = cell(x, weights, nothing)
    assert not state.any() and used == ["recurrence"]
    for grad in torch.autograd.grad(state.sum(), [x, weights, *cell.parameters()]):
        assert not grad.any()


def test_gradients_twice(library):
    cell, x = stirred(Recurrent(Cell.gru, D, H)), leaf(B, L, D)
    aim = cell(x).square().sum()
    first = torch.autograd.grad(aim, [x, *cell.parameters()], retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(aim, [x, *cell.parameters()])))


def test_recurrence_under_autocast_is_in_32_bits(library):
    cell, x, weights = stirred(AttentionGRU(GRUType.augru, D, H)), leaf(B, L, D), leaf(B, L).sigmoid()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cell(x, weights, MASK)
    assert torch.equal(rounded, cell(x, weights, MASK))


def test_gru_of_what_no_mask_ends(library, threads, used):
    cell, x = stirred(Recurrent(Cell.gru, D, H)), leaf(B, L, D)
    compare(lambda: cell(x), [x, *cell.parameters()], used, "recurrence", "recurrence_back")
    torch.testing.assert_close(cell(x), cell.cell(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GRUType)
def test_attention_gru(kind, library, threads, used):
    cell, x, weights = stirred(AttentionGRU(kind, D, H)), leaf(B, L, D), leaf(B, L)
    parameters = [x, weights, *(each for name, each in cell.named_parameters())]
    compare(lambda: cell(x, weights.sigmoid(), MASK), parameters, used, "recurrence", "recurrence_back")


@pytest.mark.parametrize("seen", ["events", "causal", "nothing"])
@pytest.mark.parametrize("n_queries", [1, L, 3])
def test_attention(n_queries, seen, library, threads, used):
    attend, query, memory = stirred(MultiHeadAttention(D, 2, 0.0)), leaf(B, n_queries, D), leaf(B, L, D)
    visible = {"events": MASK, "causal": causal(MASK)[:, :n_queries], "nothing": torch.zeros_like(MASK)}[seen]
    parameters = [query, memory, *attend.parameters()]
    compare(lambda: attend(query, memory, visible), parameters, used, *LINEAR, "attend", "attend_back")


@pytest.mark.parametrize("activation", [Activation.relu, Activation.leaky_relu])
def test_encoder_layer(activation, library, threads, used):
    layer, x = stirred(EncoderLayer(D, 2, H, activation, 0.0, Norm.post)), leaf(B, L, D)
    names = [*LINEAR, "attend", "attend_back", "sublayer", "sublayer_back"]
    compare(lambda: layer(x, MASK, causal(MASK)), [x, *layer.parameters()], used, *names)
    assert not layer(x, MASK, causal(MASK))[~MASK].any()


@pytest.mark.parametrize("last", [False, True])
def test_encoder_layer_of_looked_up_vectors(last, library, threads, used):
    layer, vectors, positions = (
        stirred(EncoderLayer(D, 2, H, Activation.relu, 0.0, Norm.post)),
        leaf(N_ITEMS, D),
        leaf(L, D),
    )
    sources = [Events(vectors, places(B, L)), Events(positions, places(B, L, n=L))]
    mask = MASK.clone()
    mask[:, -1] = True

    def encoded():
        x = total(sources)
        return layer.last(x, mask, sources) if last else layer(x, mask, mask, sources)

    names = ["gather", "scatter", "attend", "attend_back", "sublayer", "sublayer_back"]
    compare(encoded, [vectors, positions, *layer.parameters()], used, *names)


def test_decoder_layer(library, threads, used):
    layer = stirred(DecoderLayer(D, 2, H, Activation.relu, 0.0, Norm.post))
    x, memory = leaf(B, 5, D), leaf(B, L, D)
    names = [*LINEAR, "attend", "attend_back", "sublayer", "sublayer_back"]
    compare(lambda: layer(x, MASK[:, :5], memory, MASK), [x, memory, *layer.parameters()], used, *names)


@pytest.mark.parametrize("activation", [Activation.relu, Activation.leaky_relu])
@pytest.mark.parametrize("sizes", [[H], [H, 16], [H, 16, 32, 48]])
@pytest.mark.parametrize("n_out", [1, 16])
def test_tail_of_an_mlp(n_out, sizes, activation, library, threads, used):
    mlp, x = stirred(MLP(D, sizes, activation, n_out=n_out)), leaf(3, 70, H)
    parameters = [x, *(each for layer in mlp.linears[1:] for each in layer.parameters())]
    compare(lambda: mlp.after_first(x), parameters, used, "tail", "tail_back")


@pytest.mark.parametrize("hidden", [None, H])
def test_terms_of_fields_and_what_becomes_of_their_sums(hidden, library, threads, used):
    e, weight, bias = leaf(B, 3, 16), None if hidden is None else leaf(hidden, 48), None if hidden is None else leaf(H)
    parameters = [each for each in (e, weight, bias) if each is not None]

    def products():
        pairs, rest = apart(terms(e, weight), bias)
        return pairs if hidden is None else (pairs, rest)

    compare(products, parameters, used, "terms", "terms_back", "apart", "apart_back")


def test_dropout_hits_its_share_and_follows_the_seed():
    mlp, x = stirred(MLP(D, [H], Activation.relu, 0.3, n_out=16)), torch.ones(4000, H)
    with torch.no_grad():
        mlp.linears[1].weight.copy_(torch.eye(16, H))
        mlp.linears[1].bias.zero_()
    torch.manual_seed(5)
    first, second = mlp.after_first(x), mlp.after_first(x)
    torch.manual_seed(5)
    assert torch.equal(first, mlp.after_first(x)) and not torch.equal(first, second)
    values = first.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7]))
    kept = (first > 0).double()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.006)  # 64,000 of them: 3 standard deviations
    assert kept.mean(0).sub(0.7).abs().max() < 0.03 and kept.T.corrcoef().fill_diagonal_(0).abs().max() < 0.07
    assert (kept[1:] * kept[:-1]).mean().item() == pytest.approx(0.49, abs=0.01)  # of neighbours too


def kept(seed: int, shape: tuple[int, ...], p: float) -> Tensor:
    """What dropout multiplies numbers of a shape by, from the same seed: kernel.c's hash, number by number."""
    share = round(p * 2**32)
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return torch.from_numpy(np.where(x >= share, 2**32 / (2**32 - share), 0)).float().view(shape)


def seeds(n: int) -> list[int]:
    torch.manual_seed(2)
    return [int(torch.randint(2**31, ())) for _ in range(n)]


def agree(function, reference, parameters):
    for one, other in zip(found(function, parameters), found(reference, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * max(1, other.abs().max().item()))


def test_gradient_through_dropout_in_an_mlp(library):
    mlp, x = stirred(MLP(D, [H, 32], Activation.leaky_relu, 0.4, n_out=16)), leaf(150, H)
    (seed,) = seeds(1)
    first, second = mlp.linears[1:]

    def by_torch():
        hidden = first(F.leaky_relu(x) * kept(seed, (150, H), 0.4))
        return second(F.leaky_relu(hidden) * kept(seed + 1, (150, 32), 0.4))

    agree(lambda: mlp.after_first(x), by_torch, [x, *first.parameters(), *second.parameters()])


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "whole"])
def test_gradient_through_dropout_in_an_encoder_layer(mask, library):
    layer, x = stirred(EncoderLayer(D, 2, H, Activation.leaky_relu, 0.3, Norm.post)), leaf(B, L, D)
    of_weights, of_heads, of_feed = seeds(3)
    attend, (first, second) = layer.attend, layer.transform.linears
    padded = -(-L // library.lanes) * library.lanes
    held = kept(of_weights, (B, D, L, padded), 0.3)  # a head is numbered by its first column

    def by_torch():
        q, k, v = (each(x).unflatten(2, (2, -1)).transpose(1, 2) for each in (attend.query, attend.key, attend.value))
        scores = (q @ k.transpose(2, 3) / 4).masked_fill(~causal(mask)[:, None], -1e9)  # (B, 2, L, L)
        heads = (scores.softmax(3) * held[:, :: D // 2, :, :L]) @ v * causal(mask).any(2)[:, None, :, None]
        change = attend.output(heads.transpose(1, 2).flatten(2)) * kept(of_heads + 1, (B, L, D), 0.3)
        y = layer.attended.norm(x + change)
        hidden = F.leaky_relu(first(y)) * kept(of_feed, (B, L, H), 0.3)
        return layer.transformed.norm(y + second(hidden) * kept(of_feed + 1, (B, L, D), 0.3)) * mask[:, :, None]

    agree(lambda: layer(x, mask, causal(mask)), by_torch, [x, *layer.parameters()])


def test_dropout_of_attention_is_right_on_average(library, used):
    attend, x = MultiHeadAttention(D, 2, 0.4), leaf(B, L, D).detach()
    with torch.no_grad():
        torch.manual_seed(8)
        draws = torch.stack([attend(x, x, MASK) for _ in range(400)])
        expected = attend.eval()(x, x, MASK)
    error = (draws.mean(0) - expected) / (draws.std(0) / 20).clamp(min=1e-6)  # in standard errors
    assert set(used) == {"linear", "attend"} and draws.std(0)[MASK].mean() > 0.01
    assert error[MASK].std().item() == pytest.approx(1, abs=0.1) and error.abs().max() < 6


def test_functions_of_large_and_of_broken_numbers(library):
    mlp, x = stirred(Dice(H)), torch.randn(60, H)
    x[3] *= 1e15
    assert mlp.then(x, None, None).isfinite().all()
    x[4, 5] = float("nan")
    assert mlp.then(x, None, None).isnan().any()


def test_widths_that_no_kernel_takes_are_left_to_torch(used):
    table = leaf(N_ITEMS, 7)
    lookup(table, places(B, L)).sum().backward()
    assert not used and table.grad.abs().sum() > 0


def test_other_types_are_left_to_torch(used):
    assert kernel.kernels(torch.zeros(2, 16, dtype=torch.float64), 16) is None
    assert kernel.kernels(torch.zeros(2, 16, device="meta"), 16) is None


def test_a_tensor_of_another_type_is_refused():
    with pytest.raises(AssertionError, match="float64"):
        kernel.installed()[0]("scatter", torch.zeros(2, 16, dtype=torch.float64), None, None, 0, 16)


def test_threads_are_those_of_torch():
    """A second pool of threads would fight with torch's for the cores."""
    code = (
        "import threading, torch; from recexp.layer.lookup import lookup; torch.set_num_threads(2);"
        "x = torch.randn(500000, 16); x.exp();"
        "count = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('Threads'));"
        "before = count(); lookup(x, torch.arange(500000)); print(count() - before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"
