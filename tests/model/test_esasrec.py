"""eSASRec: a LiGR layer by its equations, and what it is with open gates."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.window import packed
from recexp.layer.packed import Layout
from recexp.model import sasrec
from recexp.model.esasrec import Block

Make = Callable[..., nn.Module]
LENGTHS = torch.tensor([5, 3, 1])


def ligr(block: Block, x: Tensor) -> Tensor:
    """One sequence (L, D), from the equations."""
    length, dim = x.shape
    y = block.norms[0](x)
    k, v = block.attention.key_value(y).chunk(2, 1)
    scores = (block.attention.query(y) @ k.t()) / dim**0.5
    scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
    x = x + block.attention.output(scores.softmax(1) @ v) * block.gates[0](x).sigmoid()
    a, b = block.up(block.norms[1](x)).chunk(2, 1)
    return x + block.down(a * a.sigmoid() * b) * block.gates[1](x).sigmoid()


def test_layer_is_that_of_the_equations_for_all_and_for_the_last_event() -> None:
    torch.manual_seed(0)
    block, x, layout = Block(16, 1, 24, 0.0).eval(), torch.randn(9, 16), Layout(LENGTHS)
    expected = torch.cat([ligr(block, part) for part in x.split(LENGTHS.tolist())])
    torch.testing.assert_close(block(x, layout, last=False), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x, layout, last=True), expected[layout.last], rtol=1e-4, atol=1e-5)


def test_open_gates_and_a_relu_are_sasrec(make: Make, mixed: Batch, monkeypatch) -> None:
    monkeypatch.setattr(F, "silu", torch.relu)
    mine, theirs = make("esasrec", hidden_size=48).eval(), make("sasrec", hidden_size=48).eval()
    ours, block = theirs.encoder.blocks[0], mine.encoder.blocks[0]
    assert isinstance(ours, sasrec.Block)
    with torch.no_grad():
        for gate in block.gates:
            gate.weight.zero_()
            gate.bias.fill_(100)
        first, second = ours.transform.linears
        block.up.weight[:48], block.up.bias[:48] = first.weight, first.bias
        block.up.weight[48:], block.up.bias[48:] = 0, 1
        block.down.load_state_dict(second.state_dict())
        block.attention.load_state_dict(ours.attention.state_dict())
        block.norms.load_state_dict(ours.norms.state_dict())
        for name in ("item", "encoder.position", "encoder.norm"):
            mine.get_submodule(name).load_state_dict(theirs.get_submodule(name).state_dict())
    events, _ = packed(mixed)
    torch.testing.assert_close(mine.states(events), theirs.states(events), rtol=1e-4, atol=1e-4)
