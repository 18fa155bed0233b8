"""Attention by kernels, by torch, and as the papers write it."""

import pytest
import torch
from both_ways import both_ways, indices, leaf, lengths, stirred
from torch import Tensor

from recexp.kernel.attention import attend, target_interaction
from recexp.layer.activation import Activation, Dice
from recexp.layer.attention import Interaction
from recexp.layer.lookup import Events
from recexp.layer.mlp import MLP
from recexp.layer.transformer import MultiHeadAttention, causal

B, L, D, H, N_ITEMS = 61, 21, 32, 48, 90
LINEAR = ["linear", "linear_back"]
MASK = lengths(B, L)
KERNELS = ["attend", "attend_back"]
INTERACTION = ["target_interaction", "target_interaction_back", "target_interaction_add"]


@pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (4, 0), (1, 1), (49, 5), (61, 21)])
@pytest.mark.parametrize("gaps", [False, True])
def test_interaction_equals_the_product_of_what_is_joined(gaps, n_rows, length, library, threads, used):
    target, vectors, bias = leaf(n_rows, 16, gaps=gaps), leaf(N_ITEMS, 16, gaps=gaps), leaf(48)
    weights = tuple(leaf(48, 16, gaps=gaps, seed=seed) for seed in range(3))
    index, mask = indices(n_rows, length, n=N_ITEMS), lengths(n_rows, length)

    def packed() -> Tensor:
        x, is_packed = target_interaction(target, vectors, index, lambda: vectors[index], mask, weights, bias)
        assert is_packed
        return x

    def joined() -> Tensor:
        history, row = vectors[index[mask]], mask.nonzero()[:, 0]
        t, c, e = weights
        return target[row] @ t.t() + history @ c.t() + (target[row] * history) @ e.t() + bias

    inputs = [target, vectors, *weights, bias]
    names = [*INTERACTION, "gather", "scatter"]
    both_ways(packed, inputs, used, *INTERACTION, reference=joined, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        x, is_packed = target_interaction(target, vectors, index, lambda: vectors[index], mask, weights, bias)
    assert not is_packed and x.shape == (n_rows, length, 48) and set(used) <= set(names)
    torch.testing.assert_close(x[mask].float(), joined(), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("n_hidden", [1, 2])
def test_interaction_of_target_and_events_through_dice(n_hidden, library, threads, used):
    scorer = stirred(Interaction(MLP(4 * D, [H, 16][:n_hidden], Activation.dice, n_out=1)))
    target, vectors = leaf(B, D), leaf(N_ITEMS, D)
    events = Events(vectors, indices(B, L, n=N_ITEMS))
    names = [*INTERACTION, "moments", "dice", "dice_back"]

    def score():
        for module in scorer.modules():
            if isinstance(module, Dice):
                module.norm.running_mean.zero_()
        return scorer(target, events, MASK)

    both_ways(score, [target, vectors, *scorer.parameters()], used, *names, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [-1, N_ITEMS])
def test_an_index_out_of_range_is_an_error(bad, library):
    index, scorer = indices(B, L, n=N_ITEMS), Interaction(MLP(4 * D, [H], Activation.dice, n_out=1))
    index[3, 4] = bad
    with pytest.raises(IndexError, match=rf"{bad}.* {N_ITEMS} rows"):
        scorer(leaf(B, D), Events(leaf(N_ITEMS, D), index), torch.ones_like(MASK))


def eq_1(query: Tensor, memory: Tensor, weights: list[Tensor], seen: Tensor, n_heads: int) -> Tensor:
    """Attention of each head, over what is seen alone."""
    q, k, v = (x @ w.t() for x, w in zip((query, memory, memory), weights, strict=True))
    size, heads = q.shape[2] // n_heads, []
    seen = seen if seen.dim() == 3 else seen[:, None]
    for start in range(0, q.shape[2], size):
        scores = q[..., start : start + size] @ k[..., start : start + size].transpose(1, 2) / size**0.5
        weight = torch.where(seen, scores.exp(), 0)
        weight = weight / weight.sum(2, keepdim=True).clamp(min=1e-30)
        heads.append(weight @ v[..., start : start + size])
    return torch.cat(heads, 2)


@pytest.mark.parametrize("seen", ["events", "by query", "nothing"])
@pytest.mark.parametrize(("n_rows", "n_queries", "length"), [(0, 2, 3), (3, 0, 4), (3, 2, 0), (1, 1, 1), (49, 3, 17)])
@pytest.mark.parametrize("gaps", [False, True])
def test_attention_equals_eq_1(gaps, n_rows, n_queries, length, seen, library, threads, used):
    query, memory = leaf(n_rows, n_queries, 32, gaps=gaps), leaf(n_rows, length, 32, gaps=gaps)
    weights = [leaf(32, 32, gaps=gaps, seed=seed, std=0.2) for seed in range(3)]
    mask = lengths(n_rows, length)
    visible = {
        "events": mask,
        "by query": torch.rand(n_rows, n_queries, length, generator=torch.Generator().manual_seed(0)) < 0.5,
        "nothing": torch.zeros_like(mask),
    }[seen]
    both_ways(
        lambda: attend(query, memory, weights, visible, 2),
        [query, memory, *weights],
        used,
        *KERNELS,
        reference=lambda: eq_1(query, memory, weights, visible, 2),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("by_sources", [True, False])
def test_heads_of_any_size_are_filled_up_with_zeros(by_sources, itself, library, threads, used):
    table, index, mask = leaf(9, 24), indices(49, 5, n=9), lengths(49, 5)
    weights = [leaf(36, 24, seed=seed, std=0.2) for seed in range(3)]  # three heads of 12

    def heads(operation, **options) -> Tensor:
        memory = table[index]
        found = operation(memory if itself else memory[:, -1:], memory, weights, mask, 3, **options)
        return found * mask[:, :, None] if itself else found

    sources = {"sources": [(table, index)]} if by_sources else {}
    names = [*KERNELS, "scatter"] if by_sources else KERNELS
    mine = lambda: heads(attend, **sources)  # noqa: E731
    both_ways(mine, [table, *weights], used, *names, reference=lambda: heads(eq_1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("n_sources", [1, 2])
@pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (1, 1), (49, 5)])
def test_attention_to_a_sum_of_looked_up_vectors_equals_that_to_the_sum(
    n_rows, length, n_sources, itself, library, threads, used
):
    vectors = [leaf(9, 32), leaf(6, 32, gaps=True)][:n_sources]
    places = [indices(n_rows, length, n=len(table)) for table in vectors]
    weights = [leaf(32, 32, seed=seed, std=0.2) for seed in range(3)]
    mask = lengths(n_rows, length)

    def memory() -> Tensor:
        return sum(table[index] for table, index in zip(vectors, places, strict=True))

    def by_sources() -> Tensor:
        x = memory()
        heads = attend(x if itself else x[:, -1:], x, weights, mask, 2, 0.0, list(zip(vectors, places, strict=True)))
        return heads * mask[:, :, None] if itself else heads

    def by_sum() -> Tensor:
        x = memory()
        heads = eq_1(x if itself else x[:, -1:], x, weights, mask, 2)
        return heads * mask[:, :, None] if itself else heads

    inputs = [*vectors, *weights]
    both_ways(by_sources, inputs, used, "scatter", *KERNELS, reference=by_sum, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seen", ["events", "causal", "nothing"])
@pytest.mark.parametrize("n_queries", [1, L, 3])
def test_multi_head_attention(n_queries, seen, library, threads, used):
    attention, query, memory = stirred(MultiHeadAttention(D, 2, 0.0)), leaf(B, n_queries, D), leaf(B, L, D)
    visible = {"events": MASK, "causal": causal(MASK)[:, :n_queries], "nothing": torch.zeros_like(MASK)}[seen]
    inputs = [query, memory, *attention.parameters()]
    both_ways(lambda: attention(query, memory, visible), inputs, used, *LINEAR, *KERNELS)


def test_dropout_of_attention_is_right_on_average(library, used):
    attention, x = MultiHeadAttention(D, 2, 0.4), leaf(B, L, D).detach()
    with torch.no_grad():
        torch.manual_seed(8)
        draws = torch.stack([attention(x, x, MASK) for _ in range(400)])
        expected = attention.eval()(x, x, MASK)
    error = (draws.mean(0) - expected) / (draws.std(0) / 20).clamp(min=1e-6)  # in standard errors
    assert set(used) == {"linear", "attend"} and draws.std(0)[MASK].mean() > 0.01
    assert error[MASK].std().item() == pytest.approx(1, abs=0.1) and error.abs().max() < 6
