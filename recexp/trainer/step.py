"""One optimizer step: losses, gradient, what is added to it, and the move."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from recexp.config import L2Rows, Optimizer, Precision, TrainerConfig
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.layer.embedding import SideEmbedding
from recexp.layer.poly2 import Poly2
from recexp.model import Train, losses, reads_history
from recexp.trainer.loss import add_l2, clip, joint
from recexp.trainer.optimizer import optimizer, rate_factor


class Step:
    """The optimizer steps of a stage.

    own: the optimizer of each parameter that has not the trainer's. A table that a model gives to FTRL has ftrl.l2 in
    place of the L2 term, so that only rows of the batch have a gradient, and is always updated by row.
    """

    def __init__(
        self,
        stage: Train,
        weights: dict[str, float],
        l2: float,
        config: TrainerConfig,
        batches: Batches,
        epochs: int,
        own: Mapping[Tensor, Optimizer] = MappingProxyType({}),
    ) -> None:
        self.model, self.weights, self.l2, self.config = stage.model, weights, l2, config
        self.steps = epochs * batches.steps("train", config.batch_size)
        self.batches, self.longest = batches, None if reads_history(stage.model) else 0
        named = list(stage.model.named_parameters())
        for name, parameter in named:
            parameter.requires_grad_(name.startswith(stage.trained))
            parameter.grad = None  # of an earlier stage
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.trained = [parameter for _, parameter in trained]
        modules = [module for module in stage.model.modules() if isinstance(module, SideEmbedding | Poly2)]
        modules = [module for module in modules if module.table.weight.requires_grad]
        by_ftrl = {module for module in modules if own.get(module.table.weight) is Optimizer.ftrl}
        for module in modules:
            module.table.sparse = config.sparse or module in by_ftrl
        self.tables = [each for each in modules if isinstance(each, SideEmbedding) and each not in by_ftrl]
        self.counts = [self._counts(side, batches) for side in self.tables]
        self.optimizers = optimizer(config, trained, [module.table for module in modules], own)
        self.rates = [float(each.defaults["lr"]) for each in self.optimizers]

    def take(self, samples: Samples, index: int, rate: float) -> dict[str, Tensor]:
        """Step `index` of all, on the batch of some training samples, at `rate` times the learning rates."""
        return self(self.gather(samples), index, rate)

    def __call__(self, batch: Batch, index: int, rate: float) -> dict[str, Tensor]:
        self.set_rates(index, rate)
        return self.move(batch)

    def gather(self, samples: Samples) -> Batch:
        return self.batches.gather(samples, "train", self.longest)

    def set_rates(self, index: int, rate: float) -> None:
        """The learning rates of step `index`: `rate` times what the schedule says."""
        factor = rate * rate_factor(self.config.schedule, index, self.steps, self.config.warmup_steps)
        for each, base in zip(self.optimizers, self.rates, strict=True):
            for group in each.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(base * factor)
                else:
                    group["lr"] = base * factor

    def move(self, batch: Batch) -> dict[str, Tensor]:
        """Moves the parameters; returns the named losses of weight above 0, unweighted."""
        for each in self.optimizers:
            each.zero_grad()
        with autocast(self.config, batch.label.device):
            parts = losses(self.model, self.model(batch), batch)
            loss = joint(parts, self.weights)
        loss.backward()
        self._finish_gradients()
        for each in self.optimizers:
            each.step()
        return {name: part.detach() for name, part in parts.items() if self.weights[name]}

    def _finish_gradients(self) -> None:
        """Adds the L2 term's, and clips them all."""
        for parameter in self.trained:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()  # one row for each value, however often it was looked up
        for side, counts in zip(self.tables, self.counts, strict=True):
            add_l2(side, self.l2, self.config.l2_rows, counts)
        if self.config.clip_norm:
            clip([parameter.grad for parameter in self.trained if parameter.grad is not None], self.config.clip_norm)

    def _counts(self, side: SideEmbedding, batches: Batches) -> Tensor | None:
        """How often the training rows hold each row of the table, where the L2 term asks for it."""
        return None if self.config.l2_rows is L2Rows.all or not self.l2 else batches.counts(side.name)[side.source()]


def autocast(config: TrainerConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the configured precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision is Precision.bf16)
