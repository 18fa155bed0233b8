"""Progressive Layered Extraction. Tang et al., RecSys 2020.

B batch, T labels, x_t = x_s = x (B, n) the encoded sample before the first level
eq. 3   x_t <- sum_k softmax(G_t x_t)_k S_k, S the label's own experts E_t(x_t) and the shared ones E_s(x_s)
eq. 5   x_s <- likewise over all experts, gated by G_s x_s; none after the last level
        logit = tower_t(x_t)      of label t
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


@register("ple")
class PLE(nn.Module):
    needs = Needs(Inputs.chosen, n_fields=2, tasks=True)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        encoder: Encoding
        attention_hidden_sizes: list[int] = read_if("model.encoder", "interest", allowed=layer_sizes())
        n_levels: int = between(1, 64, "each takes its own memory and time")
        n_experts: int = between(1, 1024, "each is an MLP of its own")
        own_experts: int = between(0, 1024, "each is an MLP of its own")
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
        n_tasks, n_in = len(task_names(schema)), self.encode.n_out
        self.levels = nn.ModuleList()
        for level in range(config.n_levels):
            self.levels.append(Level(config, n_tasks, n_in, last=level == config.n_levels - 1))
            n_in = config.hidden_sizes[-1] if config.hidden_sizes else n_in
        self.towers = Towers(n_tasks, n_in, config.tower_sizes, config.activation, config.dropout)
        self.task_losses = TaskLosses(schema, config.weighting, config.loss_weights)

    def forward(self, batch: Batch) -> Output:
        x = self.encode(batch)  # (B, n)
        own, shared = [x] * len(self.towers.of), x
        for level in self.levels:
            own, shared = level(own, shared)
        return task_output(self.towers(own), {"shared": x})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return self.task_losses(output.by_task, batch, output.parts["shared"])


class Level(nn.Module):
    def __init__(self, config: PLE.Config, n_tasks: int, n_in: int, last: bool) -> None:
        super().__init__()
        sizes = n_in, config.hidden_sizes, config.activation, config.dropout
        self.shared = Experts(config.n_experts, *sizes)
        self.own = nn.ModuleList(
            Experts(config.own_experts, *sizes) for _ in range(n_tasks if config.own_experts else 0)
        )
        self.gates = nn.ModuleList(Gate(n_in, config.n_experts + config.own_experts) for _ in range(n_tasks))
        n_all = config.n_experts + n_tasks * config.own_experts
        self.shared_gate = None if last else Gate(n_in, n_all)

    def forward(self, own: list[Tensor], shared: Tensor) -> tuple[list[Tensor], Tensor]:
        """The inputs x_t and x_s (B, n) of the level -> those of the next; x_s stays as it is after the last."""
        of_all = self.shared(shared)  # (B, K, H)
        of_task = [experts(x) for experts, x in zip(self.own, own, strict=bool(self.own))]
        sources = [torch.cat([experts, of_all], 1) for experts in of_task] or [of_all] * len(own)
        mixed = [mix(gate(x), experts) for gate, x, experts in zip(self.gates, own, sources, strict=True)]  # eq. 3
        if self.shared_gate is None:
            return mixed, shared
        return mixed, mix(self.shared_gate(shared), torch.cat([*of_task, of_all], 1))  # eq. 5


def mix(gate: Tensor, experts: Tensor) -> Tensor:
    """sum_k gate_k expert_k: (B, K), (B, K, H) -> (B, H)."""
    return (gate.to(experts.dtype)[:, None] @ experts)[:, 0]
