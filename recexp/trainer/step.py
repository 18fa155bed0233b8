"""An optimizer step: losses and gradients, then the update."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from types import MappingProxyType

import torch
from torch import Tensor, nn

from recexp import model as models
from recexp.config import L2Rows, Optimizer, Precision, TrainerConfig
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.kernel.unique import coalesced
from recexp.layer.lookup import Table
from recexp.model import Train, reads_history
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.loss import add_l2, clip, joint
from recexp.trainer.optimizer import (
    by_ftrl,
    ids_of_batch,
    learning_rate_factor,
    make_optimizers,
    rowwise_tables,
    table_by_row,
    whole_l2,
)
from recexp.trainer.state import Progress

logger = logging.getLogger(__name__)
MANY = 2**24  # numbers of tables updated by row, from which on decaying all rows takes most of a step


class Step:
    """The optimizer steps of a stage.

    overrides: per-parameter optimizer overrides. A table overridden with FTRL is always updated by row, and has ftrl.l2
    instead of the L2 term of embeddings: only rows of the batch have a gradient.
    """

    def __init__(
        self,
        stage: Train,
        weights: dict[str, float],
        l2: float,
        config: TrainerConfig,
        batches: Batches,
        epochs: int,
        overrides: Mapping[Tensor, Optimizer] = MappingProxyType({}),
    ) -> None:
        self.model, self.weights, self.l2, self.config = stage.model, weights, l2, config
        self.n_steps = epochs * batches.steps("train", config.batch_size)
        self.batches, self.max_history = batches, None if reads_history(stage.model) else 0
        self.trained = trained_parameters(stage)
        tables = [table for table in rowwise_tables(stage.model) if table.weight.requires_grad]
        strengths = {table.weight: whole_l2(config, table, overrides, l2) for table in tables}
        decayed = [table for table in tables if table.decayed and not by_ftrl(table, overrides)] if l2 else []
        for table in tables:
            n_ids = ids_of_batch(config, stage.model, table, batches.n_events)
            table.sparse = table_by_row(config, table, overrides, l2, n_ids)
        _log_cost_of_decay([table for table in tables if table.sparse and table.decayed and strengths[table.weight]])
        self.counts: dict[str, Tensor] = {}  # how often the rows of each side occur, where the L2 term needs it
        self.decayed = [(table.weight, self._counts(table)) for table in decayed]
        embeddings = {table.weight for table in stage.model.modules() if isinstance(table, Table) and table.decayed}
        self.network = [parameter for parameter in self.trained if parameter not in embeddings]
        self.optimizers = make_optimizers(config, self.trained, tables, overrides, strengths)
        self.deferred = [optimizer for optimizer in self.optimizers if isinstance(optimizer, DeferredAdam)]
        self.tables = tables
        for optimizer, table in product(self.deferred, tables):
            if table.weight in optimizer.tables:
                table.before_read = partial(optimizer.catch_up, table.weight)
        self.learning_rates = [float(optimizer.defaults["lr"]) for optimizer in self.optimizers]

    def take(self, samples: Samples, progress: Progress) -> dict[str, Tensor]:
        """A step on the batch of some training samples; returns the named losses."""
        return self(self.gather(samples), progress)

    def __call__(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        self.set_learning_rates(progress)
        return self.optimize(batch)

    def gather(self, samples: Samples) -> Batch:
        return self.batches.gather(samples, "train", self.max_history)

    def set_learning_rates(self, progress: Progress) -> None:
        """Sets the learning rates of the next step, from the schedule and past plateaus."""
        config = self.config
        factor = learning_rate_factor(config.schedule, progress.step, self.n_steps, config.warmup_steps)
        factor = progress.learning_rate_scale * factor
        self.use_learning_rates([learning_rate * factor for learning_rate in self.learning_rates])

    def use_learning_rates(self, learning_rates: Sequence[float]) -> None:
        """Sets the learning rate of each optimizer."""
        for optimizer, learning_rate in zip(self.optimizers, learning_rates, strict=True):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def optimize(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients and update; returns the named losses. A CUDA graph can record it: nothing waits for the device."""
        losses = self.gradients(batch)
        self.update(self.gradient_norm() if self.config.clip_norm else None)
        return losses

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Sets the gradients, before clipping; returns the named losses whose weight is above 0, unweighted."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with autocast(self.config, self.batches.device):
            losses = models.losses(self.model, self.model(batch), batch)
            total = joint(losses, self.weights)
        total.backward()
        for parameter in self.trained:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)  # one value per row, however often it was looked up
        for weight, counts in self.decayed:
            add_l2(weight, self.l2, self.config.l2_rows, counts)
        if self.config.network_l2:
            self._add_network_l2()
        return {name: loss.detach() for name, loss in losses.items() if self.weights[name]}

    def _add_network_l2(self) -> None:
        """Adds the gradient of trainer.network_l2 to the parameters that are no embeddings of the data."""
        strength = self.config.network_l2
        weights, gradients = [], []  # of dense gradients
        for weight in self.network:
            if weight.grad is None:
                continue
            if weight.grad.is_sparse:
                add_l2(weight, strength, L2Rows.all, None)
            else:
                weights.append(weight.detach())
                gradients.append(weight.grad)
        if gradients:  # bpr_mf has no such parameters
            torch._foreach_add_(gradients, weights, alpha=strength)

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together: ().

        What the L2 term adds to rows absent from the batch is left out where it cannot lead to clipping.
        """
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients())))
        for optimizer in self.deferred:
            if self.config.clip_norm:
                norm = torch.hypot(norm, optimizer.absent_norm(self.config.clip_norm - float(norm)))
        return norm

    def update(self, norm: Tensor | None) -> None:
        """Clips the gradients, given their norm, if so configured; then updates the parameters."""
        if self.config.clip_norm:
            assert norm is not None
            factor = clip(self._gradients(), norm, self.config.clip_norm)
            for deferred in self.deferred:
                deferred.clipping = float(factor)
        for optimizer in self.optimizers:
            optimizer.step()

    def catch_up(self) -> None:
        """Applies the deferred updates of rows that the last batches lacked."""
        for optimizer in self.deferred:
            optimizer.catch_up_all()

    def release(self) -> None:
        """Leaves the tables as before training: they no longer refer to an optimizer."""
        for table in self.tables:
            table.sparse, table.before_read = False, None

    def _gradients(self) -> list[Tensor]:
        """All gradients; sparse ones hold only the rows of the batch."""
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        return [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]

    def _counts(self, table: Table) -> Tensor | None:
        """How often each row of a table occurs in the training rows: (n,); None if the L2 term does not need it."""
        if self.config.l2_rows is L2Rows.all:
            return None
        assert table.origin is not None
        side = table.origin.side
        if side not in self.counts:
            self.counts[side] = self.batches.counts(side)
        return self.counts[side][table.origin.ids.to(self.counts[side].device)]


def _log_cost_of_decay(tables: list[Table]) -> None:
    """Tells that an L2 term on whole tables takes most of a step where a batch holds few of their rows."""
    if sum(table.weight.numel() for table in tables) >= MANY:
        n_rows = sum(len(table.weight) for table in tables)
        logger.info(
            "model.embedding_l2 decays all %s rows of embeddings in every step, which takes most of its time; "
            "trainer.l2_rows=batch decays those of the batch alone.", f"{n_rows:,}"
        )  # fmt: skip


def trained_parameters(stage: Train) -> list[nn.Parameter]:
    """The parameters that a stage trains; all others stop requiring gradients."""
    trained = []
    for name, parameter in stage.model.named_parameters():
        parameter.requires_grad_(name.startswith(stage.trained))
        parameter.grad = None  # of an earlier stage
        if parameter.requires_grad:
            trained.append(parameter)
    return trained


def autocast(config: TrainerConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the configured precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision is Precision.bf16)
