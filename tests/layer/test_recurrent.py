import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel import gru as kernel
from recexp.kernel.gru import active
from recexp.layer.lookup import Events
from recexp.layer.recurrent import AttentionGRU, Cell, GRUType, Recurrent, last

B, L, N, H = 5, 6, 3, 4
LENGTH = torch.tensor([6, 1, 0, 3, 2])
MASK = torch.arange(L) < LENGTH[:, None]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def rows_are_passed_over_in_small_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "active", functools.partial(active, multiple=1))


def naive(gru: AttentionGRU, inputs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """The recurrences as the paper writes them, one row and one event at a time, through autograd."""
    states = []
    for x, a, valid in zip(inputs, weights, mask, strict=True):
        h = x.new_zeros(len(gru.weight_hh[0]))
        for s in range(int(valid.sum())):
            x_s = x[s] * a[s] if gru.kind is GRUType.aigru else x[s]
            xr, xz, xn = F.linear(x_s, gru.weight_ih, gru.bias_ih).chunk(3)
            hr, hz, hn = F.linear(h, gru.weight_hh, gru.bias_hh).chunk(3)
            u, n = 1 - torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            k = {GRUType.augru: a[s] * u, GRUType.agru: a[s], GRUType.aigru: u}[gru.kind]
            h = (1 - k) * h + k * n
        states.append(h)
    return torch.stack(states)


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(B, L, N, dtype=dtype).requires_grad_(), torch.rand(B, L, dtype=dtype).requires_grad_()


def plain_gru(gru: AttentionGRU) -> nn.GRU:
    plain = nn.GRU(N, H, batch_first=True)
    plain.load_state_dict({f"{name}_l0": value for name, value in gru.state_dict().items()})
    return plain


@pytest.mark.parametrize("kind", GRUType)
def test_state_and_gradients_equal_the_plain_loop(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    leaves = [inputs, weights, *gru.parameters()]
    found, expected = gru(inputs, weights, MASK), naive(gru, inputs, weights, MASK)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(B, H)
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", GRUType)
def test_gradients_equal_finite_differences(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H).double(), draw(torch.float64)
    names = [name for name, _ in gru.named_parameters()]

    def state(inputs: Tensor, weights: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(gru, dict(zip(names, values, strict=True)), (inputs, weights, MASK))

    assert torch.autograd.gradcheck(state, (inputs, weights, *gru.parameters()))


@pytest.mark.parametrize("kind", [GRUType.augru, GRUType.aigru])
def test_full_attention_is_a_gru(kind):
    gru, (inputs, _) = AttentionGRU(kind, N, H), draw()
    expected = last(plain_gru(gru)(inputs)[0], MASK)
    torch.testing.assert_close(gru(inputs, torch.ones(B, L), MASK), expected)


def test_full_attention_of_agru_is_the_candidate():
    gru, (inputs, _) = AttentionGRU(GRUType.agru, N, H), draw()
    gru.weight_hh.data.zero_()
    gru.bias_hh.data.zero_()
    candidate = torch.tanh(inputs @ gru.weight_ih[2 * H :].T + gru.bias_ih[2 * H :])
    torch.testing.assert_close(gru(inputs, torch.ones(B, L), MASK), last(candidate, MASK))


@pytest.mark.parametrize("kind", [GRUType.augru, GRUType.agru])
def test_without_attention_the_state_stays_0(kind):
    gru, (inputs, _) = AttentionGRU(kind, N, H), draw()
    assert torch.equal(gru(inputs, torch.zeros(B, L), MASK), torch.zeros(B, H))


@pytest.mark.parametrize("kind", [GRUType.augru, GRUType.agru])
def test_an_event_without_attention_leaves_the_state_as_it_is(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    keep = [0, 2, 3, 5]
    skipped = weights.detach().clone()
    skipped[:, [1, 4]] = 0
    full = torch.ones(B, L, dtype=torch.bool)
    torch.testing.assert_close(gru(inputs, skipped, full), gru(inputs[:, keep], weights[:, keep], full[:, keep]))


def test_aigru_without_attention_still_moves():
    gru, (inputs, _) = AttentionGRU(GRUType.aigru, N, H), draw()
    expected = last(plain_gru(gru)(torch.zeros(B, L, N))[0], MASK)
    torch.testing.assert_close(gru(inputs, torch.zeros(B, L), MASK), expected)
    assert (expected[0] != 0).all()


@pytest.mark.parametrize("kind", GRUType)
@pytest.mark.parametrize("content", [0.0, 1e30])
def test_padding_of_any_content_and_length_changes_nothing(kind, content):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    longer = torch.cat([inputs, torch.zeros(B, 3, N)], 1).detach()
    mask = F.pad(MASK, (0, 3))
    longer = torch.where(mask[:, :, None], longer, content).requires_grad_()
    found = gru(longer, F.pad(weights, (0, 3), value=0.5), mask)
    torch.testing.assert_close(found, gru(inputs, weights, MASK))
    found.sum().backward()
    assert (longer.grad[~mask] == 0).all() and longer.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in gru.parameters())


@pytest.mark.parametrize("kind", GRUType)
def test_the_batch_equals_its_rows_one_by_one(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    rows = [
        gru(inputs[i : i + 1, :n], weights[i : i + 1, :n], MASK[i : i + 1, :n]) for i, n in enumerate(LENGTH.tolist())
    ]
    torch.testing.assert_close(gru(inputs, weights, MASK), torch.cat(rows))


@pytest.mark.parametrize("kind", GRUType)
def test_an_empty_row_is_exactly_0(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    state = gru(inputs, weights, MASK)
    assert (state[2] == 0).all() and (state[0] != 0).all()
    state.sum().backward()
    assert (inputs.grad[2] == 0).all() and (weights.grad[2] == 0).all()


@pytest.mark.parametrize("kind", GRUType)
@pytest.mark.parametrize("length", [0, L], ids=["no length", "all masked"])
def test_empty_batches_give_0_and_gradients_of_0(kind, length):
    gru, mask = AttentionGRU(kind, N, H), torch.zeros(B, length, dtype=torch.bool)
    state = gru(torch.randn(B, length, N), torch.rand(B, length), mask)
    state.sum().backward()
    assert torch.equal(state, torch.zeros(B, H))
    assert all((parameter.grad == 0).all() for parameter in gru.parameters())


@pytest.mark.parametrize("kind", GRUType)
def test_two_runs_are_equal_to_the_bit(kind):
    def run() -> list[Tensor]:
        torch.manual_seed(1)
        gru, inputs = AttentionGRU(kind, 32, 32), torch.randn(64, 10, 32, requires_grad=True)
        state = gru(inputs, torch.rand(64, 10), torch.arange(10) < torch.randint(0, 11, (64, 1)))
        state.square().sum().backward()
        return [state, inputs.grad, *(parameter.grad for parameter in gru.parameters())]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", GRUType)
def test_backward_twice_gives_the_same_gradient(kind):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    loss = gru(inputs, weights, MASK).sum()
    once, twice = (torch.autograd.grad(loss, list(gru.parameters()), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, once, twice))


@pytest.mark.parametrize("kind", GRUType)
@pytest.mark.parametrize("inside", [True, False])
def test_under_bfloat16_autocast_products_are_rounded_and_states_are_not(kind, inside):
    gru, (inputs, weights) = AttentionGRU(kind, N, H), draw()
    exact = torch.autograd.grad(gru(inputs, weights, MASK).sum(), [inputs, *gru.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        state = gru(inputs, weights, MASK)
        if inside:
            found = torch.autograd.grad(state.sum(), [inputs, *gru.parameters()])
    if not inside:
        found = torch.autograd.grad(state.sum(), [inputs, *gru.parameters()])
    assert state.dtype == torch.float32 and not torch.equal(state, state.bfloat16().float())
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        gru(inputs.bfloat16(), weights.bfloat16(), MASK).sum().backward()
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 3, 4, 1, 2]], ids=["any order", "longest first"])
@pytest.mark.parametrize("cell", Cell)
def test_states_over_unique_events_equal_those_of_each_event(cell, order):
    module, mask, index = Recurrent(cell, N, H), MASK[order], torch.randint(7, (B, L))
    vectors = torch.randn(7, N, requires_grad=True)
    leaves = [vectors, *module.parameters()]
    found, expected = module.over(Events(vectors, index), mask)[mask], module.cell(vectors[index])[0][mask]
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_rows_after_the_last_event_of_a_step_are_passed_over():
    assert active(MASK[[0, 3, 4, 1, 2]], multiple=1) == [4, 3, 2, 1, 1, 1]
    assert active(MASK, multiple=1) == [5, 5, 4, 1, 1, 1]
    assert active(MASK, multiple=2) == [5, 5, 4, 2, 2, 2]
    assert active(torch.zeros(B, L, dtype=torch.bool)) == active(MASK[:0]) == [0] * L


def test_parameters_are_named_shaped_and_drawn_as_those_of_a_gru_cell():
    ours, theirs = AttentionGRU(GRUType.augru, 30, 100), nn.GRUCell(30, 100)
    assert [(name, p.shape) for name, p in ours.named_parameters()] == [
        (name, p.shape) for name, p in theirs.named_parameters()
    ]
    for parameter in ours.parameters():
        assert parameter.abs().max() <= 0.1 and parameter.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("kind", GRUType)
def test_huge_inputs_stay_finite(kind):
    gru = AttentionGRU(kind, N, H)
    inputs = (1e15 * torch.randn(B, L, N)).requires_grad_()
    state = gru(inputs, torch.ones(B, L), MASK)
    state.sum().backward()
    assert (state.abs() <= 1).all() and inputs.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in gru.parameters())


@pytest.mark.parametrize("cell", Cell)
def test_last_state_equals_each_row_run_alone(cell):
    module, inputs = Recurrent(cell, N, H), torch.randn(B, L, N)
    state = last(module(inputs), MASK)
    for i, n in enumerate(LENGTH.tolist()):
        alone = module(inputs[i : i + 1, :n])[0, -1] if n else torch.zeros(H)
        torch.testing.assert_close(state[i], alone)
    assert (state[2] == 0).all()


def test_rnn_states_equal_a_plain_loop():
    module, inputs = Recurrent(Cell.rnn, N, H), torch.randn(B, L, N)
    w_ih, w_hh, b_ih, b_hh = module.cell.parameters()
    h, states = torch.zeros(B, H), module(inputs)
    for s in range(L):
        h = torch.tanh(inputs[:, s] @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        torch.testing.assert_close(states[:, s], h)


@pytest.mark.parametrize("cell", Cell)
@pytest.mark.parametrize(("rows", "length"), [(B, 0), (1, 1), (B, L)], ids=["no length", "one", "all masked"])
def test_recurrent_states_of_nothing_are_0_with_finite_gradients(cell, rows, length):
    module, inputs = Recurrent(cell, N, H), torch.randn(rows, length, N, requires_grad=True)
    state = last(module(inputs), torch.zeros(rows, length, dtype=torch.bool))
    assert torch.equal(state, torch.zeros(rows, H))
    if state.requires_grad:
        state.sum().backward()
        assert (inputs.grad == 0).all()


@pytest.mark.parametrize("cell", Cell)
def test_recurrent_runs_under_bfloat16_autocast(cell):
    module, inputs = Recurrent(cell, N, H), torch.randn(B, L, N, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        state = last(module(inputs), MASK)
    state.float().sum().backward()
    assert state.isfinite().all() and inputs.grad.isfinite().all()


def test_lstm_under_bfloat16_autocast_is_in_32_bits():
    module, inputs = Recurrent(Cell.lstm, N, H), torch.randn(B, L, N, requires_grad=True)
    gradients = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states = module(inputs)
        assert states.dtype == torch.float32
        gradients.append([states, *torch.autograd.grad(states.square().sum(), [inputs, *module.parameters()])])
    assert all(map(torch.equal, *gradients))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(inputs.bfloat16()).isfinite().all()


def test_last_gathers_what_stands_before_the_padding():
    states = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert last(states, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]
