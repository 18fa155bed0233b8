"""The machine's limit: flops per training sample, and the best fp32 speed of the model's matrix products.

torch.utils.flop_counter counts the flops of the bare model, forward and backward; the same count is used for every
library, whatever else it computes. The speed is that of the fastest matrix product in the forward pass of a batch, each
measured alone, with torch.mm and with recexp's own product.
"""

import time

import bare_models
import torch
import torch.nn.functional as F
from drive_bare import tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from worker import Job, report, timed

from recexp.kernel.linear import times

SECONDS = 0.2  # of measurement per product


class Products(TorchDispatchMode):
    """Shapes (m, k, n) of all matrix products (m, k) x (k, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, int, int]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            self.shapes.add((*left.shape, right.shape[1]))
        return func(*args, **(kwargs or {}))


def flops_per_second(m: int, k: int, n: int) -> float:
    """The best of many runs of one product (m, k) x (k, n)."""
    left, right = torch.randn(m, k), torch.randn(n, k)
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        best = min(best, timed(lambda: torch.mm(left, right.t())), timed(lambda: times(left, right)))
    return 2 * m * k * n / best


def main(job: Job) -> None:
    torch.set_num_threads(job.threads)
    model = bare_models.build(job.model, job.settings)
    batch: list[Tensor] = [column[: job.settings["batch_size"]] for column in tensors(job.rows()["train"])]
    label, *inputs = batch
    with Products() as products:
        model(*inputs)
    with FlopCounterMode(display=False) as counter:
        F.binary_cross_entropy_with_logits(model(*inputs), label).backward()
    rates = {shape: flops_per_second(*shape) for shape in products.shapes}
    best = max(rates, key=lambda shape: rates[shape])
    report({
        "flops_per_sample": counter.get_total_flops() / len(label), "flops_per_second": rates[best], "product": best,
    })  # fmt: skip


if __name__ == "__main__":
    main(Job())
