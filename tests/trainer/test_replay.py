"""That no step waits for a GPU, told without one: meta tensors have no values to wait for. test_cuda.py replays."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from recexp import registry
from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.log import Dataset
from recexp.dataset.search import Search
from recexp.layer import next_item
from recexp.layer.loss import bce
from recexp.model import Output, Train, losses, stages
from recexp.model.sim import SearchKind
from recexp.trainer.loss import joint


@pytest.fixture
def meta_step(
    monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Config], dataset: Dataset, search: Search
) -> Callable[..., None]:
    """meta_step(model, 7): the gathering of 7 samples, and losses and gradients of each stage, without values."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # knows no meta tensors
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    # Counted in the first step, which is not recorded.
    monkeypatch.setattr(
        next_item, "log_popularity", lambda catalogue: torch.zeros(len(catalogue.items.ids), device="meta")
    )
    batches = Batches(dataset, compose().dataset, "meta", search=search)

    def meta_step(model: nn.Module, n_rows: int) -> None:
        model = model.to("meta").train()
        batch = batches.gather(Samples(torch.zeros(n_rows, dtype=torch.int32, device="meta")), "train")
        for stage in (each for each in stages(model) if isinstance(each, Train)):
            parts = losses(stage.model, stage.model(batch), batch)
            joint(parts, dict.fromkeys(parts, 1.0)).backward()

    return meta_step


@pytest.mark.parametrize("n_rows", [7, 100], ids=["fewer rows than items", "more rows than items"])
@pytest.mark.parametrize("name", registry.names("model"))
def test_a_step_of_no_model_waits_for_the_gpu(name: str, n_rows: int, make: Callable, meta_step: Callable) -> None:
    meta_step(make(name), n_rows)


def test_a_step_of_soft_search_does_not_wait_either(make: Callable, meta_step: Callable) -> None:
    meta_step(make("sim", search=SearchKind.soft, n_found=3), 7)


class Waits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> Output:
        return Output(self.weight * batch.label.sum().item() * torch.ones_like(batch.label))

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}


def test_one_that_waits_is_told(meta_step: Callable[..., None]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        meta_step(Waits(), 7)
