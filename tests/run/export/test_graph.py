"""Exported programs give their models' scores for any number of samples and any length of history."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from recexp.contract.variant import longer
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.run.export import graph

EVENTS = ("history_ids", "history_values", "mask")


def outputs(program: Any, names: list[str], batch: Batch) -> torch.Tensor:
    columns = graph.columns_of(batch)
    return program.module()(*(columns[name] for name in names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ranks", "read"),
    [
        (
            "dien",
            False,
            {"user_ids", "user_values", "context_ids", "item_ids", "item_values", *EVENTS, "history_label"},
        ),
        ("sasrec", True, {"history_ids", "mask"}),
        ("ease", False, {"item_ids", "history_ids", "history_label", "mask"}),
    ],
)
def test_a_program_reads_what_its_model_reads_and_takes_any_batch(
    name: str, ranks: bool, read: set[str], make: Callable[..., nn.Module], gather: Callable[..., Batch], mixed: Batch
) -> None:
    model = make(name).eval()
    program, names = graph.program(model, ranks, graph.columns_of(mixed), graph.INPUTS)
    assert set(names) == read
    served = graph.Served(model, ranks, names, graph.columns_of(mixed)).eval()
    with torch.no_grad():
        for batch in (mixed, gather([7]), longer(gather([0]), 1), longer(gather([3, 9]), 4)):
            expected = model.query(batch) if ranks else model(batch).logits.sigmoid()  # type: ignore[operator]
            torch.testing.assert_close(outputs(program, names, batch), expected, rtol=0, atol=1e-5)
            assert torch.allclose(served(*(graph.columns_of(batch)[name] for name in names)), expected, atol=1e-5)


def test_a_table_without_users_is_scored(make: Callable[..., nn.Module], table: Dataset, compose: Callable) -> None:
    model, batch = make("fnn", schema=table.schema).eval(), next(Batches(table, compose().dataset).epoch("train", 8))
    program, names = graph.program(model, False, graph.columns_of(batch), graph.INPUTS)
    assert set(names) == {"context_ids", "context_values"}
    with torch.no_grad():
        torch.testing.assert_close(outputs(program, names, batch), model(batch).logits.sigmoid(), rtol=0, atol=1e-5)


def test_stable_sorts_and_rrelu_are_the_same_in_onnx(tmp_path: Path) -> None:
    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            order = x.argsort(dim=1, stable=True) + x.sort(dim=1, descending=True, stable=True).indices
            return order + nn.functional.rrelu(x, 0.25, 0.75)

    x = torch.randint(-1, 2, (20, 30), generator=torch.Generator().manual_seed(0)).float()
    graph.write(torch.export.export(Sorts(), (x,)), ["x"], "score", "onnx", tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / graph.FILES["onnx"]))
    assert (session.run(None, {"x": x.numpy()})[0] == Sorts()(x).numpy()).all()


def test_a_loop_over_no_rows_is_read_again(make: Callable[..., nn.Module], mixed: Batch, tmp_path: Path) -> None:
    model = make("esmm").eval()  # of one label: the loop goes over the labels after the first
    program, names = graph.program(model, False, graph.columns_of(mixed), graph.INPUTS)
    graph.write(program, names, "score", "torch", tmp_path)
    with torch.no_grad():
        scores = torch.export.load(tmp_path / graph.FILES["torch"]).module()(
            *(graph.columns_of(mixed)[name] for name in names)
        )
        torch.testing.assert_close(scores, model(mixed).logits.sigmoid(), rtol=0, atol=1e-5)


ONTO_A_FULL_DISK = """
import sys, torch
from pathlib import Path
from recexp.run.export import graph
program = torch.export.export(torch.nn.Linear(2, 1), (torch.ones(3, 2),))
try:
    graph.write(program, ["x"], "score", "torch", Path(sys.argv[1]))
except OSError as error:
    sys.exit(error.errno)
"""


def test_a_full_disk_does_not_end_the_process(tmp_path: Path) -> None:
    (tmp_path / graph.FILES["torch"]).symlink_to("/dev/full")
    done = subprocess.run([sys.executable, "-c", ONTO_A_FULL_DISK, str(tmp_path)], stderr=subprocess.DEVNULL)
    assert os.strerror(done.returncode) == "No space left on device"


def test_an_operation_that_onnx_lacks_is_one_line(tmp_path: Path) -> None:
    class Factorises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.cholesky(x)

    program = torch.export.export(Factorises(), (torch.eye(3),))
    with pytest.raises(ConfigError, match=r"^format = onnx: .*cholesky.*; write it with --format torch\.$"):
        graph.write(program, ["x"], "score", "onnx", tmp_path)
    assert not list(tmp_path.iterdir())
