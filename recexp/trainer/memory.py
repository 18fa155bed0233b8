"""Refuses a model too large for the machine, and explains running out of memory."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recexp import registry
from recexp.config import Config, ModelConfig, Optimizer
from recexp.dataset.search import events_of_sample
from recexp.error import ConfigError, Failure
from recexp.model import Fit, search_of, stages
from recexp.process import memory_bytes
from recexp.terminal import size
from recexp.trainer.optimizer import ids_of_batch, optimizer_overrides, rowwise_tables, table_by_row

# Numbers that an optimizer keeps for each weight; the row-wise ones keep another for each row.
STATE_PER_WEIGHT = {
    "adam": 2, "adamw": 2, "lazy_adam": 2, "ftrl": 2, "row_wise_adam": 1, "adagrad": 1, "row_wise_adagrad": 0, "sgd": 0,
}  # fmt: skip
INDEX_BYTES = 8  # of a row in a sparse gradient
FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
# Messages of torch on CPU and GPU, and of numpy.
ALLOCATION_FAILED = re.compile(r"(?:tried to allocate|Unable to allocate) ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class MemoryLimit(TorchFunctionMode):
    """While active, refuses to allocate a model whose tensors and optimizer state exceed the machine's memory.

    Gradients are checked once the model is made (`require_memory`), since a table updated by row has none of its size.
    A model with stages of its own may be fitted in closed form, so here only its tensors count.
    """

    def __init__(self, config: ModelConfig, optimizer: Optimizer) -> None:
        super().__init__()
        self.config, self.memory, self.allocated = config, memory_bytes(), 0
        by_gradient = not hasattr(registry.get("model", config.name), "stages")
        self.copies = 1 + STATE_PER_WEIGHT[optimizer.name] if by_gradient else 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            options = {name: kwargs[name] for name in ("size", "dtype") if name in kwargs}
            tensor = torch.empty(*args, **options, device="meta")  # its size without its memory
            self.allocated += tensor.nbytes
            if self.allocated * self.copies > self.memory:
                self._refuse(tensor)
        return func(*args, **kwargs)

    def _refuse(self, tensor: Tensor) -> NoReturn:
        options = [f"model.{name} = {value}" for name, value in vars(self.config).items() if value in tensor.shape]
        copies = f", {self.copies} times with the optimizer's state" if self.copies > 1 else ""
        lower = f"; lower {' or '.join(options)}" if options else ""
        raise ConfigError(
            f"model = {self.config.name}: a tensor of {shape(tensor)} takes {size(tensor.nbytes)}{copies}; "
            f"this machine has {size(self.memory)}{lower}."
        )


def require_memory(config: Config, model: nn.Module, device: torch.device) -> None:
    """Raises ConfigError if weights, gradients and the optimizer's state already exceed the memory of the device."""
    needed = training_bytes(model, config)
    available = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_bytes()
    if needed > available:
        raise ConfigError(
            f"model = {config.model.name}: weights, gradients and the optimizer's state take {size(needed)}, "
            f"more than the {size(available)} of {device}; the largest part is {largest_part(model)}."
        )


def training_bytes(model: nn.Module, config: Config) -> int:
    """Bytes of weights and buffers, and of the gradients and optimizer state of what is trained by gradient.

    The gradient of a table that is updated by row holds only the rows of a batch.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    if all(isinstance(stage, Fit) for stage in stages(model)):
        return weights
    trainer, options = config.trainer, config.model
    overrides = optimizer_overrides(trainer, model, options.optimizers)
    gradients: dict[Tensor, int] = {parameter: parameter.nbytes for parameter in model.parameters()}
    n_events = events_of_sample(config.dataset.max_history, search_of(model))
    for table in rowwise_tables(model):
        n_ids = ids_of_batch(trainer, model, table, n_events)
        if table_by_row(trainer, table, overrides, options.embedding_l2, n_ids):
            gradients[table.weight] = min(n_ids, len(table.weight)) * (table.weight[0].nbytes + INDEX_BYTES)
    optimizers = {parameter: overrides.get(parameter, trainer.optimizer) for parameter in gradients}
    state = sum(STATE_PER_WEIGHT[kind.name] * parameter.nbytes for parameter, kind in optimizers.items())
    return weights + sum(gradients.values()) + state


def largest_part(model: nn.Module) -> str:
    """The name and shape of the largest tensor."""
    name, tensor = max(model.state_dict().items(), key=lambda item: item[1].nbytes)
    return f"{name} ({shape(tensor)}, {size(tensor.nbytes)})"


def shape(tensor: Tensor) -> str:
    return " x ".join(f"{n:,}" for n in tensor.shape)


@contextlib.contextmanager
def memory_explained(config: Config, model: nn.Module | None = None) -> Iterator[None]:
    """Turns running out of memory into a Failure that says how much was requested, and what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        requested = ALLOCATION_FAILED.search(str(error))
        if requested is None and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        amount = ""
        if requested:
            amount = f" (another {size(float(requested[1]) * UNITS[requested[2].lower()])} were asked for)"
        trainer, longest = config.trainer, config.dataset.max_history
        parts = [] if model is None else [largest_part(model)]
        parts.append(
            f"batches of {trainer.batch_size:,}, in evaluation {trainer.eval_batch_size:,}, rows x {longest:,} events"
        )
        lower = "trainer.batch_size, trainer.eval_batch_size, dataset.max_history or the sizes of the model"
        raise Failure(f"out of memory{amount}; the largest parts are {' and '.join(parts)}; lower {lower}") from error
