"""Entire Space Multi-Task Model: labels that can only follow one another, as a click and then a purchase.

Ma et al., SIGIR 2018. B batch, T labels in their order, x (B, n) the encoded sample
eq. 1   p(y_t = 1 | x) = p(y_{t-1} = 1 | x) p(y_t = 1 | y_{t-1} = 1, x),  p(y_1 = 1 | x) = sigmoid(MLP_1(x))
        p(y_t = 1 | y_{t-1} = 1, x) = sigmoid(MLP_t(x)); every loss is over all rows
        logit = log(p / (1 - p)),  p = prod_{s<=t} sigmoid(MLP_s(x))      of label t
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.encoder import Encoding, encoder
from recexp.layer.task import TaskLosses, Towers, Weighting, task_names
from recexp.model import Inputs, Needs, Output, chosen_history, task_output
from recexp.option import above, at_least, fraction, layer_sizes, read_if, size
from recexp.registry import register


@register("esmm")
class ESMM(nn.Module):
    needs = Needs(Inputs.chosen, n_fields=2, tasks=True, ordered=True)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        encoder: Encoding
        attention_hidden_sizes: list[int] = read_if("model.encoder", "interest", allowed=layer_sizes())
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()
        weighting: Weighting

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        interested = config.encoder is Encoding.interest
        self.reads_history = chosen_history(interested, "model.encoder = interest", schema)
        self.encode = encoder(config, schema)
        n_tasks = len(task_names(schema))
        self.towers = Towers(n_tasks, self.encode.n_out, config.hidden_sizes, config.activation, config.dropout)
        self.task_losses = TaskLosses(schema, config.weighting, config.loss_weights)

    def forward(self, batch: Batch) -> Output:
        """Logits of each label, and in parts["conditional"] those given the label before it, (B, T)."""
        x = self.encode(batch)  # (B, n)
        conditional = self.towers([x] * len(self.towers.of)).float()  # (B, T)
        logits = [conditional[:, 0]]
        for logit in conditional.T[1:]:
            logits.append(logit_of_product(logits[-1], logit))
        return task_output(torch.stack(logits, 1), {"shared": x, "conditional": conditional})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return self.task_losses(output.by_task, batch, output.parts["shared"])


def logit_of_product(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) sigmoid(b), (B,), without rounding a probability.

    p / (1 - p) = 1 / ((1 + e^-a) (1 + e^-b) - 1) = 1 / (e^-a + e^-b + e^-(a + b)).
    """
    return -torch.stack([-a, -b, -a - b]).logsumexp(0)
