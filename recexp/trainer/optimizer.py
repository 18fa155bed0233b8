"""Optimizers and learning rates by name."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from recexp.config import Optimizer, Schedule, TrainerConfig


def optimizer(
    config: TrainerConfig, parameters: Sequence[tuple[str, nn.Parameter]], tables: Iterable[nn.Embedding]
) -> list[torch.optim.Optimizer]:
    """One optimizer for all parameters, or, where tables are updated by row, another for them.

    Row-wise SGD and AdaGrad are exact: without momentum or decay a row whose gradient is 0 does not move. Lazy Adam is
    not Adam: a row absent from the batch keeps its moments, where Adam's would decay and still move it.
    """
    rowwise = {id(table.weight) for table in tables if table.sparse}
    dense = [parameter for _, parameter in parameters if id(parameter) not in rowwise]
    rows = [parameter for _, parameter in parameters if id(parameter) in rowwise]
    built = [_dense(config, dense)] if dense else []
    if rows:
        built.append(_rowwise(config, rows))
    return built


def _dense(config: TrainerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case Optimizer.adam | Optimizer.lazy_adam:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case Optimizer.adamw:
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
        case Optimizer.sgd:
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
        case Optimizer.adagrad:
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay)


def _rowwise(config: TrainerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    match config.optimizer:
        case Optimizer.sgd:
            return torch.optim.SGD(parameters, lr=config.learning_rate)
        case Optimizer.adagrad:
            return torch.optim.Adagrad(parameters, lr=config.learning_rate)
        case _:
            return torch.optim.SparseAdam(parameters, lr=config.learning_rate)


def rate_factor(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied by in step `step` of `steps`, counted from 0."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    done = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    match schedule:
        case Schedule.linear:
            return rising * (1 - done)
        case Schedule.cosine:
            return rising * (1 + math.cos(math.pi * done)) / 2
        case _:
            return rising
