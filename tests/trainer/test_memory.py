"""A model that the machine has no memory for is refused; running out of memory is one line that says what to lower."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recorder import same
from torch import nn

from recexp import registry
from recexp.cli import run
from recexp.config import Config, Optimizer
from recexp.dataset.log import Dataset
from recexp.error import ConfigError, Failure
from recexp.model import create
from recexp.terminal import size
from recexp.trainer import memory
from recexp.trainer.default import Trainer
from recexp.trainer.memory import MemoryLimit, memory_explained, require_memory, training_bytes
from recexp.trainer.optimizer import rowwise_tables


@pytest.mark.parametrize("name", registry.names("model"))
def test_every_model_is_counted_as_it_is_made(name: str, compose: Callable[..., Config], dataset: Dataset) -> None:
    config = compose(f"model={name}").model
    torch.manual_seed(0)
    plain = create(config, dataset.schema)
    torch.manual_seed(0)
    with MemoryLimit(config, Optimizer.adam) as bounded:
        model = create(config, dataset.schema)
    assert same(model.state_dict(), plain.state_dict())
    assert bounded.allocated == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_bytes_of_training_are_weights_gradients_and_state(
    make: Callable[..., nn.Module], compose: Callable[..., Config]
) -> None:
    model, fitted = make("fm"), make("als")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert training_bytes(model, compose("model=fm")) == 4 * weights
    assert training_bytes(model, compose("model=fm", "trainer.optimizer=sgd")) == 2 * weights
    found = training_bytes(fitted, compose("model=als"))
    assert found == sum(tensor.nbytes for tensor in fitted.state_dict().values())


def test_gradient_of_a_table_by_row_holds_the_rows_of_a_batch(
    make: Callable[..., nn.Module], compose: Callable[..., Config]
) -> None:
    """A model with two tables a side: an id's vector, and its linear term."""
    model, options = make("fm"), ("model=fm", "trainer.batch_size=3", "trainer.sparse=true")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    tables = rowwise_tables(model)
    rows = sum(3 * table.n_ids * (4 * table.embedding_dim + 8) for table in tables)
    others = weights - sum(table.weight.nbytes for table in tables)
    assert training_bytes(model, compose(*options)) == 3 * weights + others + rows


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["model=fm", "model.embedding_dim=65536"], "takes .* lower model.embedding_dim = 65536"),
        (["model=deepfm", "model.hidden_sizes=[4096,4096]"], r"a tensor of 4,096 x [\d,]+ takes [\d.]+ MB"),
        (["model=als", "model.embedding_dim=65536"], r"x 65,536 takes [\d.]+ MB; this machine has"),
    ],
)
def test_model_larger_than_the_machine_is_refused(
    typed: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**23)
    assert run(["+experiment=tiny", *typed]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recexp: ")]
    assert re.search(told, line)
    assert list(tmp_path.iterdir()) == []


def test_model_that_cannot_be_trained_here_is_refused(
    compose: Callable[..., Config], make: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("deepfm")
    needed = training_bytes(model, compose("model=deepfm"))
    monkeypatch.setattr(memory, "memory_bytes", lambda: needed)
    require_memory(compose("model=deepfm"), model, torch.device("cpu"))
    monkeypatch.setattr(memory, "memory_bytes", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"the largest part is deep\.linears\.0\.weight \(128 x \d+, "):
        require_memory(compose("model=deepfm"), model, torch.device("cpu"))


CPU = (
    "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes. Error code 12"
)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (RuntimeError(CPU.format(4 * 10**12)), r" \(another 4 TB were asked for\)"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
            r" \(another 21.5 GB",
        ),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (1,)"), r" \(another 8 TB"),
        (MemoryError(), ""),
    ],
)
def test_running_out_of_memory_says_what_to_lower(
    error: Exception, asked: str, compose: Callable[..., Config], make: Callable[..., nn.Module]
) -> None:
    with pytest.raises(Failure) as raised, memory_explained(compose(), make("deepfm")):
        raise error
    assert raised.match(rf"^out of memory{asked}.*deep\.linears\.0\.weight.*batches of 256.*lower trainer.batch_size")
    assert "\n" not in str(raised.value)


def test_other_errors_are_not_explained(compose: Callable[..., Config]) -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_explained(compose()):
        raise RuntimeError("shape mismatch")


def test_run_out_of_memory_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError(CPU.format(10**13))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "fit", full)
    assert run(["+experiment=tiny", "model=fm", "run.dir=a"]) == 1
    told = capsys.readouterr().err
    assert "recexp: out of memory (another 10 TB were asked for)" in told and "Traceback" not in told
    assert '"failed"' in Path("a/status.json").read_text()


def test_sizes_are_read_at_a_glance() -> None:
    assert [size(n) for n in (0, 999, 1.5e3, 25e9, 4e15)] == ["0 bytes", "999 bytes", "1.5 KB", "25 GB", "4e+03 TB"]


@pytest.mark.parametrize(("text", "expected"), [("max\n", None), ("1000\n", 1000), (f"{2**60}\n", None)])
def test_a_container_may_grant_less_than_the_machine_has(
    text: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recexp.process import memory_bytes

    monkeypatch.setattr(Path, "is_file", lambda path: False)
    whole = memory_bytes()
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path, *arguments: text)
    assert memory_bytes() == (expected or whole)
