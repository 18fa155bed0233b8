import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel import attention as kernel
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events
from recexp.layer.position import AgePosition, LearntPosition, distance
from recexp.layer.transformer import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    MultiHeadAttention,
    Norm,
    causal,
    hide,
)

B, L, M, D, HEADS, HIDDEN, LAYERS = 4, 6, 5, 8, 2, 7, 2
LENGTH = torch.tensor([6, 1, 0, 3])
MASK = torch.arange(L) < LENGTH[:, None]  # of the memory, or of the encoder's input
QUERY_MASK = torch.arange(M) < torch.tensor([5, 2, 3, 0])[:, None]  # of the decoder's input
each_norm = pytest.mark.parametrize("norm", Norm)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def attention(dropout: float = 0.0) -> MultiHeadAttention:
    return MultiHeadAttention(D, HEADS, dropout)


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(B, M, D, dtype=dtype), torch.randn(B, L, D, dtype=dtype)


def some_seen() -> Tensor:
    """(B, M, L): row 0 sees all, some queries of row 1 see nothing, row 2 sees nothing, row 3 at random."""
    seen = torch.rand(B, M, L) < 0.5
    seen[0], seen[2] = True, False
    seen[1, [0, 3]] = False
    seen[:, :, -1] &= torch.tensor([True, False, False, False])[:, None]  # unseen by all in rows 1 to 3
    return seen


def stir(module: nn.Module) -> nn.Module:
    """The module with its biases and LayerNorms drawn too: from their start at 0 and 1 they would show nothing."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5)
    return module


def encoder(norm: Norm, dropout: float = 0.0, activation: Activation = Activation.leaky_relu) -> nn.Module:
    return stir(Encoder(LAYERS, D, HEADS, HIDDEN, activation, dropout, norm))


def decoder(norm: Norm, dropout: float = 0.0, activation: Activation = Activation.leaky_relu) -> nn.Module:
    return stir(Decoder(LAYERS, D, HEADS, HIDDEN, activation, dropout, norm))


def plain_attention(module: MultiHeadAttention, query: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
    """Eq. 1 of each row, head and query, over the events that it sees, in numpy."""
    weights = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    w_q, w_k, w_v, w_o = (weights[f"{name}.weight"] for name in ("query", "key", "value", "output"))
    n_heads, size = HEADS, D // HEADS
    found = np.zeros(query.shape)
    for b in range(len(query)):
        events = memory[b].detach().double().numpy()
        for m in range(query.shape[1]):
            x = query[b, m].detach().double().numpy()
            visible = [s for s in range(memory.shape[1]) if seen[b, m, s]]
            heads = []
            for head in range(n_heads):
                of = slice(head * size, (head + 1) * size)
                exps = [math.exp((w_q[of] @ x) @ (w_k[of] @ events[s]) / math.sqrt(size)) for s in visible]
                terms = [e / sum(exps) * (w_v[of] @ events[s]) for e, s in zip(exps, visible, strict=True)]
                heads.append(sum(terms, np.zeros(size)))
            found[b, m] = w_o @ np.concatenate(heads)
    return torch.from_numpy(found)


def plain_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + layer.eps).sqrt() * layer.weight + layer.bias


def plain_ffn(mlp: nn.Module, x: Tensor) -> Tensor:
    first, second = mlp.linears
    h = x @ first.weight.T + first.bias
    return torch.where(h > 0, h, 0.01 * h) @ second.weight.T + second.bias


def plain_encoder_layer(layer: EncoderLayer, x: Tensor, seen: Tensor, norm: Norm) -> Tensor:
    one, two = layer.attended.norm, layer.transformed.norm
    if norm is Norm.pre:
        y = plain_norm(one, x)
        x = x + plain_attention(layer.attend, y, y, seen)
        return x + plain_ffn(layer.transform, plain_norm(two, x))
    x = plain_norm(one, x + plain_attention(layer.attend, x, x, seen))
    return plain_norm(two, x + plain_ffn(layer.transform, x))


def plain_decoder_layer(layer: DecoderLayer, x: Tensor, own: Tensor, memory: Tensor, seen: Tensor, norm: Norm):
    one, two, three = layer.attended.norm, layer.recalled.norm, layer.transformed.norm
    if norm is Norm.pre:
        y = plain_norm(one, x)
        x = x + plain_attention(layer.attend, y, y, own)
        x = x + plain_attention(layer.recall, plain_norm(two, x), memory, seen)
        return x + plain_ffn(layer.transform, plain_norm(three, x))
    x = plain_norm(one, x + plain_attention(layer.attend, x, x, own))
    x = plain_norm(two, x + plain_attention(layer.recall, x, memory, seen))
    return plain_norm(three, x + plain_ffn(layer.transform, x))


def plain_causal(mask: Tensor) -> Tensor:
    rows, length = mask.shape
    values = [[[bool(mask[b, s]) and s <= q for s in range(length)] for q in range(length)] for b in range(rows)]
    return torch.tensor(values)


def test_attention_equals_a_plain_loop_over_rows_heads_and_queries():
    module, (query, memory), seen = attention().double(), draw(torch.float64), some_seen()
    torch.testing.assert_close(module(query, memory, seen), plain_attention(module, query, memory, seen))


def test_a_mask_of_the_memory_is_the_same_for_all_queries():
    module, (query, memory) = attention(), draw()
    each = MASK[:, None].expand(B, M, L)
    torch.testing.assert_close(module(query, memory, MASK), module(query, memory, each))
    torch.testing.assert_close(
        module(query, memory, MASK), plain_attention(module, query, memory, each), check_dtype=False
    )


def test_a_memory_of_one_event_is_its_value_to_any_query():
    module, (query, memory) = attention(), draw()
    expected = module.output(module.value(memory[:, :1])).expand(B, M, D)
    torch.testing.assert_close(module(query, memory[:, :1], torch.ones(B, 1, dtype=torch.bool)), expected)


def test_equal_keys_are_the_mean_of_the_values():
    module, (query, memory) = attention(), draw()
    nn.init.zeros_(module.key.weight)
    mean = hide(memory, MASK).sum(1) / MASK.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(module(query, memory, MASK)[:, 0], module.output(module.value(mean)))


def test_queries_that_see_nothing_are_exactly_0_with_a_gradient_of_0():
    module, (query, memory), seen = attention(), draw(), some_seen()
    query.requires_grad_()
    out = module(query, memory, seen)
    blind = ~seen.any(2)
    assert blind.any() and torch.equal(out == 0, blind[:, :, None].expand_as(out))
    out.square().sum().backward()
    assert (query.grad[blind] == 0).all() and (query.grad[~blind] != 0).any()
    (nothing,) = torch.autograd.grad(module(query, memory.requires_grad_(), seen)[blind].sum(), [memory])
    assert (nothing == 0).all()


def test_no_kernel_is_asked_what_it_makes_of_a_row_all_masked(monkeypatch):
    def textbook(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, dropout: float) -> Tensor:
        scores = q @ k.transpose(2, 3) / math.sqrt(D // HEADS)
        return scores.masked_fill(~seen, -torch.inf).softmax(3) @ v  # NaN in such a row, and in its gradient

    module, (query, memory), seen = attention(), draw(), some_seen()
    expected = module(query, memory, seen)
    monkeypatch.setattr(kernel, "SHORT", 0)
    monkeypatch.setattr(F, "scaled_dot_product_attention", textbook)
    found = module(query.requires_grad_(), memory, seen)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert query.grad.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_short_sequences_are_attended_to_as_long_ones(monkeypatch, dropout):
    (query, memory), seen = draw(), some_seen()
    module = MultiHeadAttention(D, HEADS, dropout).eval()
    expected = module(query, memory, seen)
    monkeypatch.setattr(kernel, "SHORT", 0)
    torch.testing.assert_close(module(query, memory, seen), expected)


@pytest.mark.parametrize("content", [1e30, torch.inf, torch.nan])
def test_what_no_query_sees_may_hold_anything(content):
    module, (query, memory), seen = attention(), draw(), some_seen()
    hidden = ~seen.any(1)
    found = []
    for dirty in (memory.clone(), memory.masked_fill(hidden[:, :, None], content)):
        leaves = [query.requires_grad_(), dirty.requires_grad_(), *module.parameters()]
        out = module(query, dirty, seen)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
        assert (found[-1][2][hidden] == 0).all()
    assert all(map(torch.equal, *found))


def test_what_one_query_does_not_see_changes_nothing_for_it():
    module, (query, memory) = attention(), draw()
    seen = torch.ones(B, M, L, dtype=torch.bool)
    seen[:, 2, 3] = False
    memory.requires_grad_()
    out = module(query, memory, seen)
    other = memory.detach().clone()
    other[:, 3] += 100
    changed = (module(query, other, seen) != out).any(-1)
    assert torch.equal(changed, (torch.arange(M) != 2).expand(B, M))
    (gradient,) = torch.autograd.grad(out[:, 2].sum(), [memory])
    assert (gradient[:, 3] == 0).all() and (gradient[:, 4] != 0).any()


@pytest.mark.parametrize(("queries", "length"), [(0, L), (M, 0), (0, 0)])
def test_attention_of_or_to_nothing_is_0(queries, length):
    module, (query, memory) = attention(), draw()
    out = module(query[:, :queries], memory[:, :length], torch.ones(B, length, dtype=torch.bool))
    assert torch.equal(out, torch.zeros(B, queries, D))
    out.sum().backward()
    assert all((p.grad == 0).all() for p in module.parameters())


def test_attention_weights_are_dropped_in_training_alone():
    module, (query, memory) = attention(0.5), draw()
    out = module(query, memory, MASK)
    assert not torch.equal(out, module(query, memory, MASK)) and (out[2] == 0).all()
    plain = attention()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(query, memory, MASK), plain(query, memory, MASK))


def test_a_size_that_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="dim = 8 is not a multiple of n_heads = 3"):
        MultiHeadAttention(8, 3, 0.0)


@each_norm
@pytest.mark.parametrize("causally", [False, True])
def test_encoder_equals_a_plain_recomputation(norm, causally):
    module, (_, x) = encoder(norm).double(), draw(torch.float64)
    seen = plain_causal(MASK) if causally else MASK[:, None].expand(B, L, L)
    expected = x
    assert len(module.layers) == LAYERS
    for layer in module.layers:
        expected = plain_encoder_layer(layer, expected, seen, norm)
    if norm is Norm.pre:
        expected = plain_norm(module.norm, expected)
    found = module(x, MASK, causal(MASK) if causally else MASK)
    torch.testing.assert_close(found[MASK], expected[MASK])
    assert (found[~MASK] == 0).all()


@each_norm
def test_decoder_equals_a_plain_recomputation(norm):
    module, (x, memory), seen = decoder(norm).double(), draw(torch.float64), some_seen()
    expected = x
    assert len(module.layers) == LAYERS
    for layer in module.layers:
        expected = plain_decoder_layer(layer, expected, plain_causal(QUERY_MASK), memory, seen, norm)
    if norm is Norm.pre:
        expected = plain_norm(module.norm, expected)
    found = module(x, QUERY_MASK, memory, seen)
    torch.testing.assert_close(found[QUERY_MASK], expected[QUERY_MASK])
    assert (found[~QUERY_MASK] == 0).all()


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    """Their biases are 0 at the start, as ours always are."""
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]).detach()
    theirs.out_proj.load_state_dict({**theirs.out_proj.state_dict(), "weight": ours.output.weight})
    assert (theirs.in_proj_bias == 0).all() and (theirs.out_proj.bias == 0).all()


@each_norm
def test_encoder_layer_equals_torch_with_the_same_weights(norm):
    ours, (_, x) = stir(EncoderLayer(D, HEADS, HIDDEN, Activation.relu, 0.0, norm)), draw()
    theirs = nn.TransformerEncoderLayer(D, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=norm is Norm.pre)
    copy_attention(theirs.self_attn, ours.attend)
    for one, other in zip((theirs.linear1, theirs.linear2), ours.transform.linears, strict=True):
        one.load_state_dict(other.state_dict())
    theirs.norm1.load_state_dict(ours.attended.norm.state_dict())
    theirs.norm2.load_state_dict(ours.transformed.norm.state_dict())
    expected = theirs(x, src_key_padding_mask=~MASK)
    torch.testing.assert_close(ours(x, MASK, MASK)[MASK], expected[MASK], rtol=1e-5, atol=1e-5)


@each_norm
def test_decoder_layer_equals_torch_with_the_same_weights(norm):
    ours, (x, memory) = stir(DecoderLayer(D, HEADS, HIDDEN, Activation.relu, 0.0, norm)), draw()
    theirs = nn.TransformerDecoderLayer(D, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=norm is Norm.pre)
    copy_attention(theirs.self_attn, ours.attend)
    copy_attention(theirs.multihead_attn, ours.recall)
    for one, other in zip((theirs.linear1, theirs.linear2), ours.transform.linears, strict=True):
        one.load_state_dict(other.state_dict())
    for one, other in zip(
        (theirs.norm1, theirs.norm2, theirs.norm3),
        (ours.attended.norm, ours.recalled.norm, ours.transformed.norm),
        strict=True,
    ):
        one.load_state_dict(other.state_dict())
    valid = QUERY_MASK & MASK.any(1, keepdim=True)  # torch gives NaN to an empty memory
    later = torch.ones(M, M, dtype=torch.bool).triu(1)
    expected = theirs(x, memory, later, None, ~QUERY_MASK, ~MASK)
    torch.testing.assert_close(ours(x, QUERY_MASK, memory, MASK)[valid], expected[valid], rtol=1e-5, atol=1e-5)


@each_norm
def test_without_dropout_evaluation_equals_training(norm):
    x, memory = draw()
    for module, inputs in ((encoder(norm), (memory, MASK, MASK)), (decoder(norm), (x, QUERY_MASK, memory, MASK))):
        assert torch.equal(module(*inputs), module.eval()(*inputs))
    for module, inputs in (
        (encoder(norm, 0.5), (memory, MASK, MASK)),
        (decoder(norm, 0.5), (x, QUERY_MASK, memory, MASK)),
    ):
        assert not torch.equal(module(*inputs), module(*inputs))
        assert torch.equal(module.eval()(*inputs), module(*inputs))


@pytest.mark.parametrize(("make", "places"), [(encoder, 4), (decoder, 6)])
def test_dropout_reaches_weights_hidden_units_and_sublayers(make, places):
    dropouts = [module.p for module in make(Norm.post, 0.3).modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.3] * places * LAYERS


@each_norm
def test_each_sublayer_drops_its_output(norm):
    layer, (x, memory) = DecoderLayer(D, HEADS, HIDDEN, Activation.relu, 0.0, norm), draw()
    inputs = (x, QUERY_MASK, memory, MASK)
    for residual in (layer.attended, layer.recalled, layer.transformed):
        clean = layer(*inputs)
        residual.dropout.p = 0.9
        assert not torch.equal(layer(*inputs), clean)
        residual.dropout.p = 0.0


def test_pre_norm_at_0_weights_is_the_residual_alone():
    layer, (x, memory) = DecoderLayer(D, HEADS, HIDDEN, Activation.relu, 0.0, Norm.pre), draw()
    for module in (layer.attend.output, layer.recall.output, layer.transform.linears[1]):
        nn.init.zeros_(module.weight)
    assert torch.equal(layer(x, QUERY_MASK, memory, MASK)[QUERY_MASK], x[QUERY_MASK])


def test_pre_norm_stacks_end_in_a_layer_norm():
    x, memory = draw()
    valid = torch.ones(B, M, dtype=torch.bool)
    encoded = Encoder(LAYERS, D, HEADS, HIDDEN, Activation.relu, 0.0, Norm.pre)(100 * x, valid, valid)
    decoded = Decoder(LAYERS, D, HEADS, HIDDEN, Activation.relu, 0.0, Norm.pre)(100 * x, valid, memory, MASK)
    for out in (encoded, decoded):
        torch.testing.assert_close(out.mean(-1), torch.zeros(B, M), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(B, M), rtol=0, atol=1e-3)


def test_causal_equals_a_plain_loop():
    holes = MASK.clone()
    holes[0, 2] = False
    assert torch.equal(causal(holes), plain_causal(holes))
    assert causal(MASK[:, :0]).shape == (B, 0, 0)


@each_norm
def test_a_causal_encoder_sees_nothing_of_later_events(norm):
    module, (_, x) = encoder(norm), draw()
    mask = torch.ones(B, L, dtype=torch.bool)
    x.requires_grad_()
    out = module(x, mask, causal(mask))
    for s in range(L):
        (gradient,) = torch.autograd.grad((out[:, s] * torch.randn(D)).sum(), [x], retain_graph=True)
        assert torch.equal((gradient != 0).any(2), (torch.arange(L) <= s).expand(B, L))
        later = x.detach().clone()
        later[:, s + 1 :] = 100 * torch.randn(B, L - s - 1, D)
        assert torch.equal(module(later, mask, causal(mask))[:, : s + 1], out[:, : s + 1])


@each_norm
def test_a_causal_encoder_equals_its_run_on_each_prefix(norm):
    module, (_, x) = encoder(norm), draw()
    mask = torch.ones(B, L, dtype=torch.bool)
    out = module(x, mask, causal(mask))
    for s in range(1, L + 1):
        torch.testing.assert_close(module(x[:, :s], mask[:, :s], causal(mask[:, :s])), out[:, :s])


@each_norm
def test_a_decoder_over_a_causal_memory_sees_nothing_later_in_either(norm):
    module, x, memory = decoder(norm), torch.randn(B, L, D), torch.randn(B, L, D)
    mask = torch.ones(B, L, dtype=torch.bool)
    x.requires_grad_(), memory.requires_grad_()
    out = module(x, mask, memory, causal(mask))
    for s in range(L):
        gradients = torch.autograd.grad((out[:, s] * torch.randn(D)).sum(), [x, memory], retain_graph=True)
        for gradient in gradients:
            assert torch.equal((gradient != 0).any(2), (torch.arange(L) <= s).expand(B, L))
        later = [each.detach().clone() for each in (x, memory)]
        for each in later:
            each[:, s + 1 :] = 100 * torch.randn(B, L - s - 1, D)
        assert torch.equal(module(later[0], mask, later[1], causal(mask))[:, : s + 1], out[:, : s + 1])


@each_norm
@pytest.mark.parametrize("activation", [Activation.leaky_relu, Activation.dice, Activation.prelu])
@pytest.mark.parametrize("content", [0.0, 1e30, torch.nan])
@pytest.mark.parametrize("more", [0, 3])
def test_padding_of_any_content_and_length_changes_nothing(norm, activation, content, more):
    x, memory = draw(torch.float64)

    def run(content: float, more: int) -> list[Tensor]:
        torch.manual_seed(1)
        encode = encoder(norm, activation=activation).double()
        decode = decoder(norm, activation=activation).double()
        mask, query_mask = F.pad(MASK, (0, more)), F.pad(QUERY_MASK, (0, more))
        source = F.pad(memory, (0, 0, 0, more)).masked_fill(~mask[:, :, None], content).requires_grad_()
        given = F.pad(x, (0, 0, 0, more)).masked_fill(~query_mask[:, :, None], content).requires_grad_()
        encoded = encode(source, mask, mask)
        out = decode(given, query_mask, encoded, mask) + decode(given, query_mask, source, mask)
        (out * torch.linspace(-1, 1, D)).square().sum().backward()
        assert (source.grad[~mask] == 0).all() and (given.grad[~query_mask] == 0).all()
        assert (encoded[~mask] == 0).all() and (out[~query_mask] == 0).all()
        gradients = [p.grad for module in (encode, decode) for p in module.parameters()]
        statistics = [buffer for module in (encode, decode) for buffer in module.buffers()]
        return [encoded[:, :L], out[:, :M], source.grad[:, :L], given.grad[:, :M], *gradients, *statistics]

    for clean, dirty in zip(run(1.0, 0), run(content, more), strict=True):
        torch.testing.assert_close(clean, dirty)


@each_norm
def test_the_batch_equals_its_rows_one_by_one(norm):
    x, memory = draw()
    encode, decode = encoder(norm), decoder(norm)
    encoded = encode(memory, MASK, MASK)
    decoded = decode(x, QUERY_MASK, encoded, MASK)
    for i, n in enumerate(LENGTH.tolist()):
        ones = torch.ones(1, n, dtype=torch.bool)
        alone = encode(memory[i : i + 1, :n], ones, ones)
        torch.testing.assert_close(alone, encoded[i : i + 1, :n])
        torch.testing.assert_close(decode(x[i : i + 1], QUERY_MASK[i : i + 1], alone, ones), decoded[i : i + 1])


@each_norm
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("length", [0, L], ids=["no length", "all masked"])
def test_a_batch_without_events_is_0_with_a_finite_gradient(norm, activation, length):
    mask = torch.zeros(B, length, dtype=torch.bool)
    encode, decode = encoder(norm, 0.2, activation), decoder(norm, 0.2, activation)
    for training in (False, True):
        encoded = encode.train(training)(torch.randn(B, length, D), mask, causal(mask))
        decoded = decode.train(training)(torch.randn(B, length, D), mask, encoded, mask)
        assert torch.equal(encoded, torch.zeros(B, length, D)) and torch.equal(decoded, encoded)
        (encoded + decoded).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in [*encode.parameters(), *decode.parameters()])


@each_norm
def test_without_positions_the_encoder_follows_any_order_of_its_events(norm):
    module, (_, x), order = encoder(norm), draw(), torch.randperm(L)
    permuted = module(x[:, order], MASK[:, order], MASK[:, order])
    torch.testing.assert_close(permuted, module(x, MASK, MASK)[:, order])


def test_without_positions_the_decoder_does_not_see_the_order_of_its_memory():
    module, (x, memory), order = decoder(Norm.post), draw(), torch.randperm(L)
    permuted = module(x, QUERY_MASK, memory[:, order], MASK[:, order])
    torch.testing.assert_close(permuted, module(x, QUERY_MASK, memory, MASK))


@each_norm
def test_without_values_each_position_sees_itself_alone(norm):
    x, memory = draw()
    encode, decode = encoder(norm), decoder(norm)
    for layer in [*encode.layers, *decode.layers]:
        nn.init.zeros_(layer.attend.value.weight)
    for layer in decode.layers:
        nn.init.zeros_(layer.recall.value.weight)
    others = memory.clone()
    others[:, 1:] = torch.randn(B, L - 1, D)
    assert torch.equal(encode(others, MASK, MASK)[:, 0], encode(memory, MASK, MASK)[:, 0])
    moved = x.clone()
    moved[:, 1:] = torch.randn(B, M - 1, D)
    one, other = decode(x, QUERY_MASK, memory, MASK), decode(moved, QUERY_MASK, others, MASK)
    assert torch.equal(one[:, 0], other[:, 0]) and not torch.equal(one[:, 1], other[:, 1])


@each_norm
def test_gradient_reaches_every_parameter_and_input(norm):
    x, memory = (each.requires_grad_() for each in draw())
    encode, decode = encoder(norm), decoder(norm)
    out = decode(x, QUERY_MASK, encode(memory, MASK, MASK), MASK)
    (out * torch.randn(D)).sum().backward()
    assert all((p.grad != 0).any() for p in [*encode.parameters(), *decode.parameters(), x, memory])


@each_norm
def test_gradients_equal_finite_differences(norm):
    module = stir(DecoderLayer(4, 2, 3, Activation.tanh, 0.0, norm)).double()
    x, memory = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 3, 4).double().requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    seen = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.autograd.gradcheck(lambda x, memory: hide(module(x, mask, memory, seen), mask), (x, memory))


@each_norm
@pytest.mark.parametrize("activation", [Activation.leaky_relu, Activation.dice])
def test_stacks_run_under_bfloat16_autocast(norm, activation):
    x, memory = draw()
    encode, decode = encoder(norm, activation=activation), decoder(norm, activation=activation)
    exact = decode.eval()(x, QUERY_MASK, encode.eval()(memory, MASK, MASK), MASK)
    with torch.autocast("cpu", torch.bfloat16):
        out = decode(x, QUERY_MASK, encode(memory, MASK, MASK), MASK)
    torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        out = decode.train()(x, QUERY_MASK, encode.train()(memory.bfloat16(), MASK, causal(MASK)), MASK)
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [*encode.parameters(), *decode.parameters()])


def test_two_deterministic_runs_are_equal_to_the_bit():
    def run() -> list[Tensor]:
        torch.manual_seed(1)
        x = torch.randn(B, L, D, requires_grad=True)
        encode, decode = encoder(Norm.pre, 0.2, Activation.dice), decoder(Norm.post, 0.2)
        places = LearntPosition(L, D, 0.1)(distance(MASK)) + AgePosition(4, D, 0.1)(torch.rand(B, L) * 20)
        out = decode(x + places, MASK, encode(x + places, MASK, MASK), causal(MASK))
        out.square().sum().backward()
        return [out, x.grad, *(p.grad for module in (encode, decode) for p in module.parameters())]

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, run(), run()))
    finally:
        torch.use_deterministic_algorithms(before)


@each_norm
@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_position_alone_equals_that_of_the_whole_output(norm, layers):
    encoder = stir(Encoder(layers, D, HEADS, HIDDEN, Activation.relu, 0.0, norm))
    x = torch.randn(B, L, D, requires_grad=True)
    mask = MASK.clone()
    mask[:, -1] = True  # behind padding, as a target is
    whole, alone = encoder(x, mask, mask)[:, -1], encoder.last(x, mask)
    torch.testing.assert_close(alone, whole)
    aim = torch.randn(B, D)
    gradients = [torch.autograd.grad((each * aim).sum(), x)[0] for each in (alone, whole)]
    torch.testing.assert_close(*gradients)


def sources() -> list[Events]:
    """Few unique vectors, and vectors of positions that are counted from the end."""
    vectors, positions = torch.randn(3, D, requires_grad=True), torch.randn(L, D, requires_grad=True)
    return [Events(vectors, torch.randint(3, (B, L))), Events(positions, distance(torch.ones(B, L)).long())]


@each_norm
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("read", ["all", "causal", "last"])
def test_products_of_unique_vectors_are_those_of_each_position(norm, layers, read):
    encoder = stir(Encoder(layers, D, HEADS, HIDDEN, Activation.relu, 0.0, norm))
    parts, mask = sources(), MASK.clone()
    x = sum(each.expanded() for each in parts)
    if read == "last":
        mask[:, -1] = True
        found, wanted = encoder.last(parts, mask), encoder.last(x, mask)
    else:
        seen = causal(mask) if read == "causal" else mask
        found, wanted = encoder(parts, mask, seen), encoder(x, mask, seen)
    torch.testing.assert_close(found, wanted)
    aim = torch.randn_like(found)
    inputs = [*encoder.parameters(), *(each.vectors for each in parts)]
    gradients = [
        torch.autograd.grad((each * aim).sum(), inputs, retain_graph=True, materialize_grads=True)
        for each in (found, wanted)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("read", ["all", "last"])
def test_the_first_layer_multiplies_each_unique_vector_once(read, monkeypatch):
    encoder, parts, mask = Encoder(2, D, D // 8, HIDDEN, Activation.relu, 0.0, Norm.post), sources(), MASK.clone()
    mask[:, -1] = True
    rows = []
    keys = [layer.attend.key.weight for layer in encoder.layers]

    def spy(x, weight, bias=None):
        if any(weight is key or len(weight) > D for key in keys):  # alone, or above the values
            rows.append(x.shape[:-1].numel())
        return product(x, weight, bias)

    product = kernel.product
    monkeypatch.setattr(kernel, "product", spy)
    if read == "last":
        encoder.last(parts, mask)
    else:
        encoder(parts, mask, mask)
    assert rows == [3, L, B * L]
