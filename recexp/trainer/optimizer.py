"""Optimizers by name and by part of a model, and learning rates step by step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from recexp.config import Optimizer, Schedule, TrainerConfig, require_rowwise
from recexp.error import ConfigError, choices
from recexp.trainer.ftrl import FTRL


def own_optimizers(config: TrainerConfig, model: nn.Module, parts: Mapping[str, Optimizer]) -> dict[Tensor, Optimizer]:
    """The optimizers of a model's parts by parameter; parameters of no part are left out.

    A part is a prefix of parameter names that ends where a module's name does; of two that fit, the longer one counts.
    Raises ConfigError for a part without parameters, and for an optimizer that does not go with trainer.sparse.
    """
    named = list(model.named_parameters())
    found: dict[Tensor, Optimizer] = {}
    for part in sorted(parts, key=len):
        inside: list[Tensor] = [parameter for name, parameter in named if f"{name}.".startswith(f"{part}.")]
        if not inside:
            known = {name.partition(".")[0] for name, _ in named}
            raise ConfigError(f"model.optimizers.{part}: no such part of the model. {choices(part, known)}")
        require_rowwise(f"model.optimizers.{part}", parts[part], config.sparse)
        found |= dict.fromkeys(inside, parts[part])
    return found


def optimizer(
    config: TrainerConfig,
    parameters: Sequence[tuple[str, nn.Parameter]],
    tables: Iterable[nn.Embedding],
    own: Mapping[Tensor, Optimizer] = MappingProxyType({}),
) -> list[torch.optim.Optimizer]:
    """One optimizer for all parameters of a kind of optimizer, or, where tables are updated by row, another for them.

    own: the kinds of those parameters that have not the trainer's. Row-wise SGD, AdaGrad and FTRL are exact: without
    momentum or decay a row whose gradient is 0 does not move. Lazy Adam is not Adam: a row absent from the batch keeps
    its moments, where Adam's would decay and still move it.
    """
    rowwise = {table.weight for table in tables if table.sparse}
    kinds = {parameter: own.get(parameter, config.optimizer) for _, parameter in parameters}
    built = []
    for kind in dict.fromkeys(kinds.values()):
        dense = [parameter for parameter in kinds if kinds[parameter] is kind and parameter not in rowwise]
        rows = [parameter for parameter in kinds if kinds[parameter] is kind and parameter in rowwise]
        if dense:
            built.append(_dense(config, kind, dense))
        if rows:
            built.append(_rowwise(config, kind, rows))
    return built


def _dense(config: TrainerConfig, kind: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    decay, device = config.weight_decay, parameters[0].device
    on_gpu = device.type == "cuda"  # the rate lies there too: a recorded step reads it anew in each replay
    rate: Any = torch.tensor(config.learning_rate, device=device) if on_gpu else config.learning_rate
    match kind:
        case Optimizer.adam | Optimizer.lazy_adam:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True, capturable=on_gpu)
        case Optimizer.adamw:
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True, capturable=on_gpu)
        case Optimizer.sgd:
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
        case Optimizer.adagrad:
            return torch.optim.Adagrad(parameters, lr=config.learning_rate, weight_decay=decay)
        case Optimizer.ftrl:
            return _ftrl(config, parameters)


def _rowwise(config: TrainerConfig, kind: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    match kind:
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


def rate_factor(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """What every learning rate is multiplied by in step `step` of `steps`, counted from 0."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    done = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    match schedule:
        case Schedule.linear:
            return rising * (1 - done)
        case Schedule.cosine:
            return rising * (1 + math.cos(math.pi * done)) / 2
        case _:
            return rising
