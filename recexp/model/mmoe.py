"""Multi-gate Mixture-of-Experts. Ma et al., KDD 2018.

B batch, T labels, K experts, x (B, n) the encoded sample
eq. 6   logit = tower_t(f_t(x)),  f_t(x) = sum_k g_t(x)_k E_k(x)      of label t
eq. 7   g_t(x) = softmax(G_t x)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.encoder import Encoding, encoder
from recexp.layer.expert import Experts, Gate
from recexp.layer.task import TaskLosses, Towers, Weighting, task_names
from recexp.model import Inputs, Needs, Output, chosen_history, task_output
from recexp.option import above, at_least, between, fraction, layer_sizes, read_if, size
from recexp.registry import register


@register("mmoe")
class MMoE(nn.Module):
    needs = Needs(Inputs.chosen, n_fields=2, tasks=True)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        encoder: Encoding
        attention_hidden_sizes: list[int] = read_if("model.encoder", "interest", allowed=layer_sizes())
        n_experts: int = between(1, 1024, "each is an MLP of its own")
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
        n_in, n_tasks = self.encode.n_out, len(task_names(schema))
        self.experts = Experts(config.n_experts, n_in, config.hidden_sizes, config.activation, config.dropout)
        self.gates = nn.ModuleList(Gate(n_in, config.n_experts) for _ in range(n_tasks))
        self.towers = Towers(n_tasks, self.experts.n_out, config.tower_sizes, config.activation, config.dropout)
        self.task_losses = TaskLosses(schema, config.weighting, config.loss_weights)

    def forward(self, batch: Batch) -> Output:
        """Logits, and in parts["gates"] how much each label takes of each expert, (B, T, K)."""
        x = self.encode(batch)  # (B, n)
        experts = self.experts(x)  # (B, K, H)
        gates = torch.stack([gate(x) for gate in self.gates], 1)  # (B, T, K), eq. 7
        mixed = gates.to(experts.dtype) @ experts  # (B, T, H), eq. 6
        return task_output(self.towers(mixed.unbind(1)), {"shared": x, "gates": gates})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return self.task_losses(output.by_task, batch, output.parts["shared"])
