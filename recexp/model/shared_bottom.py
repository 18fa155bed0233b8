"""Shared bottom: hard parameter sharing. Caruana, Multitask Learning, 1997.

B batch, T labels, x (B, n) the encoded sample
    logit = tower_t(MLP(x))      of label t
"""

from dataclasses import dataclass

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.encoder import Encoding, encoder
from recexp.layer.mlp import MLP
from recexp.layer.task import TaskLosses, Towers, Weighting, task_names
from recexp.model import Inputs, Needs, Output, chosen_history, task_output
from recexp.option import above, at_least, fraction, layer_sizes, read_if, size
from recexp.registry import register


@register("shared_bottom")
class SharedBottom(nn.Module):
    needs = Needs(Inputs.chosen, n_fields=2, tasks=True)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        encoder: Encoding
        attention_hidden_sizes: list[int] = read_if("model.encoder", "interest", allowed=layer_sizes())
        hidden_sizes: list[int] = layer_sizes()
        tower_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()
        weighting: Weighting

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        interested = config.encoder is Encoding.interest
        self.reads_history = chosen_history(interested, "model.encoder = interest", schema)
        self.encode = encoder(config, schema)
        self.bottom = MLP(self.encode.n_out, config.hidden_sizes, config.activation, config.dropout)
        n_tasks = len(task_names(schema))
        self.towers = Towers(n_tasks, self.bottom.n_out, config.tower_sizes, config.activation, config.dropout)
        self.task_losses = TaskLosses(schema, config.weighting, config.loss_weights)

    def forward(self, batch: Batch) -> Output:
        x = self.encode(batch)  # (B, n)
        return task_output(self.towers([self.bottom(x)] * len(self.towers.of)), {"shared": x})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return self.task_losses(output.by_task, batch, output.parts["shared"])
