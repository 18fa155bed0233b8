"""A Transformer's sublayers by the kernel are LayerNorm(x + F(z)), and so are the layers made of them."""

import pytest
import torch
import torch.nn.functional as F
from both_ways import agree, both_ways, indices, kept, leaf, lengths, seeds, stirred

from recexp.kernel.sublayer import hide, sublayer
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events, total
from recexp.layer.transformer import DecoderLayer, EncoderLayer, Norm, causal

B, L, D, H, N_ITEMS = 61, 21, 32, 48, 90
LINEAR = ["linear", "linear_back"]
MASK = lengths(B, L)
KERNELS = ["sublayer", "sublayer_back"]


@pytest.mark.parametrize("shape", ["linear", "hidden", "hidden, of x"])
@pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (4, 0), (1, 1), (7, 7), (61, 5)])
@pytest.mark.parametrize("gaps", [False, True])
def test_sublayer_equals_the_layer_norm_of_a_sum(gaps, n_rows, length, shape, library, threads, used):
    x, scale, shift = leaf(n_rows, length, 16, gaps=gaps), leaf(16), leaf(16, gaps=gaps)
    z = x if shape == "hidden, of x" else leaf(n_rows, length, 32, gaps=gaps)
    n_in, mask = z.shape[2], lengths(n_rows, length)
    second = (leaf(16, n_in, gaps=gaps), None)
    linears = [second] if shape == "linear" else [(leaf(48, n_in, gaps=gaps), leaf(48)), (leaf(16, 48), leaf(16))]

    def sum_of_both():
        out = F.linear(z, *linears[0])
        if len(linears) == 2:
            out = F.linear(torch.where(out > 0, out, 0.1 * out), *linears[1])
        out = x + out
        out = out - out.mean(2, keepdim=True)
        out = out / (out.square().mean(2, keepdim=True) + 1e-5).sqrt()
        return torch.where(mask[:, :, None], out * scale + shift, 0)

    parameters = [parameter for linear in linears for parameter in linear if parameter is not None]
    both_ways(
        lambda: sublayer(x, z, mask, linears, (scale, shift, 1e-5), slope=0.1),
        [x, *([] if z is x else [z]), *parameters, scale, shift],
        used,
        *KERNELS,
        reference=sum_of_both,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("content", [1e30, torch.nan])
def test_rows_that_are_hidden_may_hold_anything(content, library, used):
    x = leaf(5, 4, 16).detach()
    mask, scale, shift = lengths(5, 4), torch.ones(16), torch.zeros(16)
    dirty = x.masked_fill(~mask[:, :, None], content)
    clean, found = (
        sublayer(rows, rows, mask, [(leaf(16, 16), leaf(16)), (leaf(16, 16), leaf(16))], (scale, shift, 1e-5))
        for rows in (x, dirty)
    )
    assert torch.equal(clean, found) and set(used) == {"sublayer"}
    assert torch.equal(hide(dirty, mask), hide(x, mask))


@pytest.mark.parametrize("activation", [Activation.relu, Activation.leaky_relu])
def test_encoder_layer(activation, library, threads, used):
    layer, x = stirred(EncoderLayer(D, 2, H, activation, 0.0, Norm.post)), leaf(B, L, D)
    names = [*LINEAR, "attend", "attend_back", *KERNELS]
    both_ways(lambda: layer(x, MASK, causal(MASK)), [x, *layer.parameters()], used, *names)
    assert not layer(x, MASK, causal(MASK))[~MASK].any()


@pytest.mark.parametrize("last", [False, True])
def test_encoder_layer_of_looked_up_vectors(last, library, threads, used):
    layer = stirred(EncoderLayer(D, 2, H, Activation.relu, 0.0, Norm.post))
    vectors, positions = leaf(N_ITEMS, D), leaf(L, D)
    sources = [Events(vectors, indices(B, L, n=N_ITEMS)), Events(positions, indices(B, L, n=L))]
    mask = MASK.clone()
    mask[:, -1] = True

    def encoded():
        x = total(sources)
        return layer.last(x, mask, sources) if last else layer(x, mask, mask, sources)

    names = ["gather", "scatter", "attend", "attend_back", *KERNELS]
    both_ways(encoded, [vectors, positions, *layer.parameters()], used, *names)


def test_decoder_layer(library, threads, used):
    layer = stirred(DecoderLayer(D, 2, H, Activation.relu, 0.0, Norm.post))
    x, memory = leaf(B, 5, D), leaf(B, L, D)
    names = [*LINEAR, "attend", "attend_back", *KERNELS]
    both_ways(lambda: layer(x, MASK[:, :5], memory, MASK), [x, memory, *layer.parameters()], used, *names)


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "whole"])
def test_gradient_through_dropout_in_an_encoder_layer(mask, library):
    layer, x = stirred(EncoderLayer(D, 2, H, Activation.leaky_relu, 0.3, Norm.post)), leaf(B, L, D)
    of_weights, of_heads, of_feed = seeds(3)
    attend, (first, second) = layer.attend, layer.transform.linears
    padded = -(-L // library.lanes) * library.lanes
    held = kept(of_weights, (B, D, L, padded), 0.3)  # a head is numbered by its first column

    def by_torch():
        q, k, v = (f(x).unflatten(2, (2, -1)).transpose(1, 2) for f in (attend.query, attend.key, attend.value))
        scores = (q @ k.transpose(2, 3) / 4).masked_fill(~causal(mask)[:, None], -1e9)  # (B, 2, L, L)
        heads = (scores.softmax(3) * held[:, :: D // 2, :, :L]) @ v * causal(mask).any(2)[:, None, :, None]
        change = attend.output(heads.transpose(1, 2).flatten(2)) * kept(of_heads + 1, (B, L, D), 0.3)
        y = layer.attended.norm(x + change)
        hidden = F.leaky_relu(first(y)) * kept(of_feed, (B, L, H), 0.3)
        return layer.transformed.norm(y + second(hidden) * kept(of_feed + 1, (B, L, D), 0.3)) * mask[:, :, None]

    agree(lambda: layer(x, mask, causal(mask)), by_torch, [x, *layer.parameters()])
