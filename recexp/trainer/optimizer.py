"""Optimizers by name and by module of a model, and learning rate schedules."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from recexp.config import (
    EXACT,
    ROW_WISE,
    L2Rows,
    NextItemConfig,
    NextItemLoss,
    Optimizer,
    Schedule,
    TrainerConfig,
    require_rowwise,
)
from recexp.error import ConfigError, choices
from recexp.kernel.adam import available
from recexp.layer.lookup import Table
from recexp.model import reads_history
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.ftrl import FTRL
from recexp.trainer.row_wise import RowWiseAdagrad

LARGE = 2**18  # numbers of a table that no longer fits the cache
LARGE_OF_WINDOWS = 2**20  # the same for windows, whose ids are counted on average
REGISTER_WIDTH = 8  # numbers of a row that fills a register
ROWS_PER_ID, NARROW_ROWS_PER_ID = 4, 16  # from which on updates by row cost less; narrow rows fill no register


def optimizer_overrides(
    config: TrainerConfig, model: nn.Module, optimizers: Mapping[str, Optimizer]
) -> dict[Tensor, Optimizer]:
    """Per-parameter optimizer overrides, from optimizers by module name.

    A name may also be that of a parameter; if two names match, the longer one wins.
    Raises ConfigError for a name without parameters, and for an optimizer that does not go with trainer.sparse.
    """
    named = list(model.named_parameters())
    overrides: dict[Tensor, Optimizer] = {}
    for module in sorted(optimizers, key=len):
        inside: list[Tensor] = [parameter for name, parameter in named if f"{name}.".startswith(f"{module}.")]
        if not inside:
            allowed = {name.partition(".")[0] for name, _ in named}
            raise ConfigError(f"model.optimizers.{module}: no such part of the model. {choices(module, allowed)}")
        require_rowwise(f"model.optimizers.{module}", optimizers[module], config.sparse)
        overrides |= dict.fromkeys(inside, optimizers[module])
    return overrides


def rowwise_tables(model: nn.Module) -> list[Table]:
    """The embedding tables that may be updated by row."""
    return [module for module in model.modules() if getattr(module, "rowwise", False)]  # type: ignore[misc]


def of_items(table: Table) -> bool:
    """Whether a table's rows stand for items, or for values of their fields."""
    return table.origin is not None and table.origin.side == "item"


def ids_of_batch(config: TrainerConfig, model: nn.Module, table: Table, n_events: int) -> int:
    """How many ids a batch looks up in a table; 0 if that is not known, or if all rows are read.

    n_events: of a sample, at most; of a window, on average.
    """
    if of_items(table) and isinstance(config, NextItemConfig):
        return table.n_ids * _ids_of_windows(config, n_events)
    return config.batch_size * table.n_ids * (1 + n_events if of_items(table) and reads_history(model) else 1)


def _ids_of_windows(config: NextItemConfig, n_events: int) -> int:
    """Items of a batch of windows: events, as many targets, and negatives; 0 if the loss is over all items."""
    if config.loss is NextItemLoss.cross_entropy:
        return 0
    n_targets, negatives = config.batch_size * n_events, config.negatives
    return 2 * n_targets + negatives.n * (1 if negatives.shared else n_targets)


def whole_l2(config: TrainerConfig, table: Table, overrides: Mapping[Tensor, Optimizer], l2: float) -> float:
    """The strength of the L2 term over all rows of a table; 0 with FTRL. l2: strength of the L2 term of embeddings."""
    if not table.decayed:
        return config.network_l2
    return l2 if config.l2_rows is L2Rows.all and not by_ftrl(table, overrides) else 0.0


def table_by_row(
    config: TrainerConfig, table: Table, overrides: Mapping[Tensor, Optimizer], l2: float, n_ids: int
) -> bool:
    """True if a table is updated by row: always with FTRL, else as `updated_by_row` says. l2: as in `whole_l2`."""
    kind, strength = overrides.get(table.weight, config.optimizer), whole_l2(config, table, overrides, l2)
    return by_ftrl(table, overrides) or updated_by_row(config, kind, table, n_ids, strength)


def by_ftrl(table: Table, overrides: Mapping[Tensor, Optimizer]) -> bool:
    return overrides.get(table.weight) is Optimizer.ftrl


def updated_by_row(config: TrainerConfig, kind: Optimizer, table: Table, n_ids: int, l2: float) -> bool:
    """True if a table's optimizer updates only the rows of a batch. Apart from lazy Adam, the result is the same.

    n_ids: as `ids_of_batch` counts them. l2: strength of an L2 term on the whole table.
    Updating one row per id costs as much as updating a few rows of a whole table, whatever their width, and small
    tables stay in the cache. With a term that changes every row, SGD, AdaGrad and FTRL cannot be exact by row. Adam
    can: it makes up for the missed steps of a row one by one in registers, which narrow rows do not fill.
    """
    decay = bool(l2 or config.weight_decay)
    if kind is Optimizer.lazy_adam:
        return True
    if decay and kind not in EXACT:
        return False
    if config.sparse is not None:
        return config.sparse
    narrow = table.embedding_dim < REGISTER_WIDTH
    if not available(table.weight) or (decay and narrow):
        return False
    large = LARGE_OF_WINDOWS if isinstance(config, NextItemConfig) else LARGE
    rows_per_id = NARROW_ROWS_PER_ID if narrow else ROWS_PER_ID
    return table.weight.numel() >= large and 0 < rows_per_id * n_ids <= len(table.weight)


def make_optimizers(
    config: TrainerConfig,
    parameters: Sequence[nn.Parameter],
    tables: Iterable[Table],
    overrides: Mapping[Tensor, Optimizer] = MappingProxyType({}),
    l2: Mapping[Tensor, float] = MappingProxyType({}),
) -> list[torch.optim.Optimizer]:
    """One optimizer for each kind in use, and a second one of that kind for tables that are updated by row.

    overrides: per-parameter optimizer overrides. l2: strengths of L2 terms on whole tables.
    By row, SGD, AdaGrad and FTRL are exact: without momentum or decay, a row whose gradient is 0 does not change. Adam
    and AdamW are exact too: they update rows absent from a batch later. Lazy Adam is not Adam: absent rows keep their
    moments and values. Row-wise kinds keep one number per row of a table; other parameters get the plain kind.
    """
    kinds = {parameter: overrides.get(parameter, config.optimizer) for parameter in parameters}
    number_per_row = {table.weight for table in tables if overrides.get(table.weight, config.optimizer) in ROW_WISE}
    rowwise = number_per_row | {table.weight for table in tables if table.sparse}
    optimizers = []
    for kind in dict.fromkeys(kinds.values()):
        dense = [parameter for parameter in kinds if kinds[parameter] is kind and parameter not in rowwise]
        rows = [parameter for parameter in kinds if kinds[parameter] is kind and parameter in rowwise]
        if dense:
            optimizers.append(_dense(config, kind, dense))
        if rows:
            optimizers.append(_rowwise(config, kind, rows, l2))
    return optimizers


def _dense(config: TrainerConfig, kind: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    decay, device = config.weight_decay, parameters[0].device
    on_gpu = device.type == "cuda"  # the learning rate lies there too: a recorded step reads it anew in each replay
    lr: Any = torch.tensor(config.learning_rate, device=device) if on_gpu else config.learning_rate
    match kind:
        case Optimizer.adam | Optimizer.lazy_adam | Optimizer.row_wise_adam:
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, fused=True, capturable=on_gpu)
        case Optimizer.adamw:
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True, capturable=on_gpu)
        case Optimizer.sgd:
            return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, fused=True)
        case Optimizer.adagrad | Optimizer.row_wise_adagrad:
            return torch.optim.Adagrad(parameters, lr=config.learning_rate, weight_decay=decay)
        case Optimizer.ftrl:
            return _ftrl(config, parameters)


def _rowwise(
    config: TrainerConfig, kind: Optimizer, parameters: list[nn.Parameter], l2: Mapping[Tensor, float]
) -> torch.optim.Optimizer:
    match kind:
        case Optimizer.adam | Optimizer.adamw:
            groups = [{"params": [parameter], "l2": l2.get(parameter, 0.0)} for parameter in parameters]
            return DeferredAdam(groups, config.learning_rate, config.weight_decay, kind is Optimizer.adamw)
        case Optimizer.row_wise_adam:  # with an L2 term on a whole table, gradients are dense and include it
            groups = [{"params": [parameter]} for parameter in parameters]
            return DeferredAdam(groups, config.learning_rate, config.weight_decay, row_wise=True)
        case Optimizer.row_wise_adagrad:
            return RowWiseAdagrad(parameters, config.learning_rate, config.weight_decay)
        case Optimizer.sgd:
            return torch.optim.SGD(parameters, lr=config.learning_rate)
        case Optimizer.adagrad:
            return torch.optim.Adagrad(parameters, lr=config.learning_rate)
        case Optimizer.ftrl:
            return _ftrl(config, parameters)
        case _:
            return torch.optim.SparseAdam(parameters, lr=config.learning_rate)


def _ftrl(config: TrainerConfig, parameters: list[nn.Parameter]) -> FTRL:
    options = config.ftrl
    return FTRL(parameters, options.learning_rate, options.beta, options.l1, options.l2)


def learning_rate_factor(schedule: Schedule, step: int, n_steps: int, warmup: int) -> float:
    """What every learning rate is multiplied by in step `step` of `n_steps`, counted from 0."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    done = min(1.0, max(0.0, (step - warmup) / max(1, n_steps - warmup)))
    match schedule:
        case Schedule.linear:
            return rising * (1 - done)
        case Schedule.cosine:
            return rising * (1 + math.cos(math.pi * done)) / 2
        case _:
            return rising
