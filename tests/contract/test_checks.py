"""recexp's own models hold, and each planted fault is found by the check made for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recexp
from recexp import registry
from recexp.config import Config
from recexp.contract import case as cases
from recexp.contract import checks
from recexp.contract.case import Case, build
from recexp.contract.checks import CHECKS, verdict
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.window import Packed
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.loss import bce, masked_bce
from recexp.model import Output, task_output


@pytest.fixture
def case(compose: Callable[..., Config]) -> Callable[[str], Case]:
    return lambda name: build(compose(f"model={name}"))


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("model"))
def test_every_model_passes_every_check(name: str, case: Callable[[str], Case]) -> None:
    subject = case(name)
    verdicts = {check.__name__: verdict(check, subject) for check in CHECKS}
    assert {name: told for name, (result, told) in verdicts.items() if result == "FAILED"} == {}


class Pooling(nn.Module):
    """Mean pooling as it should be; its children below each get one thing wrong."""

    def __init__(self, schema: object) -> None:
        super().__init__()
        self.embed = SequenceEmbedding(schema, 4, history_labels=True, std=0.3)
        self.head = nn.Linear(2 * self.embed.item_dim + self.embed.profile_dim, 1)

    def interest(self, history: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch.mask[:, :, None], history, 0).sum(1) / batch.mask.sum(1, keepdim=True).clamp(min=1)

    def forward(self, batch: Batch) -> Output:
        profile, target, history = self.embed(batch)
        return Output(self.head(torch.cat([self.interest(history, batch), target, profile], 1))[:, 0])

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}


class SumsPadding(Pooling):
    def interest(self, history: Tensor, batch: Batch) -> Tensor:
        return history.sum(1)


class DividesByWidth(Pooling):
    def interest(self, history: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch.mask[:, :, None], history, 0).sum(1) / max(1, history.shape[1])


class DividesByNothing(Pooling):
    def interest(self, history: Tensor, batch: Batch) -> Tensor:
        return torch.where(batch.mask[:, :, None], history, 0).sum(1) / batch.mask.sum(1, keepdim=True)


class ReadsTheLabel(Pooling):
    def forward(self, batch: Batch) -> Output:
        return Output(super().forward(batch).logits + batch.label)


class Squashes(Pooling):
    def forward(self, batch: Batch) -> Output:
        return Output(super().forward(batch).logits.sigmoid())


class CentresTheBatch(Pooling):
    def forward(self, batch: Batch) -> Output:
        logits = super().forward(batch).logits
        return Output(logits - logits.mean())


class DrawsAlways(Pooling):
    def forward(self, batch: Batch) -> Output:
        logits = super().forward(batch).logits
        return Output(logits + torch.randn_like(logits))


class KeepsATensor(Pooling):
    def __init__(self, schema: object) -> None:
        super().__init__(schema)
        self.shift = torch.randn(())

    def forward(self, batch: Batch) -> Output:
        return Output(super().forward(batch).logits + self.shift)


class HasADeadParameter(Pooling):
    def __init__(self, schema: object) -> None:
        super().__init__(schema)
        self.unused = nn.Parameter(torch.ones(3))


class NamesAnotherLoss(Pooling):
    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {**super().losses(output, batch), "extra": output.logits.square().mean()}


class ReturnsAColumn(Pooling):
    def forward(self, batch: Batch) -> Output:
        return Output(super().forward(batch).logits[:, None])


class LooksAhead(Pooling):
    def forward(self, batch: Batch) -> Output:
        states = torch.where(batch.mask[:, :, None], self.embed(batch)[2], 0).flip(1).cumsum(1).flip(1)
        return Output(super().forward(batch).logits, {"states": states})


class ScoresOtherwise(Pooling):
    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        return super().forward(batch).logits[:, None].expand_as(targets)


class GivesOtherVectors(Pooling):
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        vectors = self.embed.item.table.weight
        return vectors if ids is None else 2 * vectors[ids]


class RanksLookingAhead(Pooling):
    """Its query is right, and its states see the whole history."""

    def query(self, batch: Batch) -> Tensor:
        vectors = self.embed.items(batch, batch.history)
        return self.interest(vectors, batch)

    def states(self, events: Packed) -> Tensor:
        of = torch.arange(len(events.length)).repeat_interleave(events.length)
        vectors = self.embed.embed.rows("item", events.catalogue.items, events.item).flatten(-2)
        means = torch.zeros(len(events.length), vectors.shape[1]).index_add(0, of, vectors)
        return (means / events.length[:, None])[of]


class BreaksUnderAutocast(Pooling):
    def forward(self, batch: Batch) -> Output:
        logits = super().forward(batch).logits
        return Output(logits @ torch.eye(len(logits), dtype=torch.float32) if logits.dtype == torch.float32 else 1 / 0)


@dataclass(frozen=True)
class Fault:
    model: type[Pooling]
    check: Callable[[Case], str | None]
    words: str


FAULTS = [
    Fault(SumsPadding, checks.padding_content, "batch.mask"),
    Fault(DividesByWidth, checks.padding_length, "number of events"),
    Fault(DividesByNothing, checks.one_row, "not finite (history of 0 events)"),
    Fault(DividesByNothing, checks.every_length, "not finite (histories of every length)"),
    Fault(ReadsTheLabel, checks.label_unseen, "may not read batch.label"),
    Fault(ReadsTheLabel, checks.shuffled_labels, "sees the label"),
    Fault(Squashes, checks.overfits, "a sigmoid may squash"),
    Fault(CentresTheBatch, checks.evaluation, "batch statistics"),
    Fault(DrawsAlways, checks.evaluation, "drawn in evaluation mode"),
    Fault(KeepsATensor, checks.whole_state, "parameters or buffers"),
    Fault(HasADeadParameter, checks.all_trained, "none for unused in stage train"),
    Fault(NamesAnotherLoss, checks.named_losses, "extra, which model.loss_weights does not name"),
    Fault(ReturnsAColumn, checks.one_row, "shape (1, 1), not (1,)"),
    Fault(LooksAhead, checks.causal_states, "mask later positions"),
    Fault(ScoresOtherwise, checks.ranked, "give other numbers than forward()"),
    Fault(GivesOtherVectors, checks.ranked, "item_vectors(ids) gives other vectors than item_vectors()"),
    Fault(RanksLookingAhead, checks.ranker_states, "later positions"),
    Fault(BreaksUnderAutocast, checks.bfloat16, "raises ZeroDivisionError"),
]


def verdict_of(fault: Fault, kind: type[Pooling], subject: Case) -> tuple[str, str]:
    def made(other: int = 0) -> nn.Module:
        torch.manual_seed(other)
        return kind(subject.dataset.schema)

    return verdict(fault.check, replace(subject, make=made))


def named(fault: Fault) -> str:
    return f"{fault.model.__name__}-{fault.check.__name__}"


@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_fault_is_found_and_told_in_words(fault: Fault, case: Callable[[str], Case]) -> None:
    subject = case("seq_pooling")
    assert verdict_of(fault, Pooling, subject) in (("ok", ""), *SILENT)
    result, told = verdict_of(fault, fault.model, subject)
    assert result == "FAILED" and fault.words in told


@pytest.mark.parametrize("fault", FAULTS, ids=named)
@pytest.mark.parametrize(("n_users", "n"), [(100, 600), (6, 40)])
def test_fault_is_found_on_few_data_or_the_check_says_that_it_cannot_tell(
    fault: Fault, n_users: int, n: int, tmp_path: Path
) -> None:
    number = np.arange(n)
    label = np.random.default_rng(0).integers(0, 2, n)
    events = {"user": number % n_users, "item": number // 3 % 7, "label": label, "timestamp": number}
    pd.DataFrame(events).to_csv(tmp_path / "log.csv", index=False)
    subject = few(["model=seq_pooling", "dataset=csv", f"dataset.path={tmp_path}/log.csv"])
    assert verdict_of(fault, Pooling, subject)[0] != "FAILED"
    result, told = verdict_of(fault, fault.model, subject)
    assert fault.words in told if result == "FAILED" else "too few" in told or "differ enough" in told


class Twofold(Pooling):
    """A second label beside the first, as it should be; its children get only the second wrong."""

    def __init__(self, schema: object) -> None:
        super().__init__(schema)
        self.second = nn.Linear(self.head.in_features, 1)

    def forward(self, batch: Batch) -> Output:
        profile, target, history = self.embed(batch)
        x = torch.cat([self.interest(history, batch), target, profile], 1)
        return task_output(torch.cat([self.head(x), self.second_logit(x, batch)], 1), {})

    def second_logit(self, x: Tensor, batch: Batch) -> Tensor:
        return self.second(x)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        columns = zip(("first", "second"), output.by_task.T, batch.tasks.T, strict=True)
        return {name: masked_bce(logit, label, label >= 0) for name, logit, label in columns}


class SquashesTheSecond(Twofold):
    def second_logit(self, x: Tensor, batch: Batch) -> Tensor:
        return self.second(x).sigmoid()


class ReadsTheSecond(Twofold):
    def second_logit(self, x: Tensor, batch: Batch) -> Tensor:
        return self.second(x) + batch.tasks[:, 1:]


TWO_LABELS = [
    Fault(SquashesTheSecond, checks.overfits, "a sigmoid may squash"),
    Fault(ReadsTheSecond, checks.shuffled_labels, " of second (0.5"),
    Fault(ReadsTheSecond, checks.label_unseen, "may not read batch.label"),
]


@pytest.fixture
def two_labels(tmp_path: Path) -> Case:
    """The second label is known in half of the rows."""
    random, number = np.random.default_rng(0), np.arange(3000)
    events = {"user": number % 60, "item": random.integers(0, 50, 3000), "first": random.integers(0, 2, 3000),
              "second": np.where(number % 2, random.integers(0, 2, 3000), np.nan), "timestamp": number}  # fmt: skip
    pd.DataFrame(events).to_csv(tmp_path / "log.csv", index=False)
    typed = ["model=mmoe", "dataset=csv", f"dataset.path={tmp_path}/log.csv", "dataset.columns.label=[first,second]"]
    return few(typed)


@pytest.mark.parametrize("fault", TWO_LABELS, ids=named)
def test_fault_of_the_second_label_is_found(fault: Fault, two_labels: Case) -> None:
    assert verdict_of(fault, Twofold, two_labels) == ("ok", "")
    result, told = verdict_of(fault, fault.model, two_labels)
    assert result == "FAILED" and fault.words in told


def test_a_label_that_no_row_has_is_no_fault_of_the_model(two_labels: Case) -> None:
    tasks = two_labels.dataset.log.tasks.copy()
    tasks[:, 1] = -1
    dataset = replace(two_labels.dataset, log=replace(two_labels.dataset.log, tasks=tasks))
    subject = replace(two_labels, dataset=dataset, batches=Batches(dataset, two_labels.config.dataset))
    assert verdict(checks.all_trained, subject) == ("skipped", "no row has a label second, so nothing to tell")


SILENT = ("skipped", "the model hands out no states"), ("skipped", "the model has no states of next items")


def test_history_that_holds_the_present_is_found(case: Callable[[str], Case]) -> None:
    subject = case("seq_pooling")
    log = subject.dataset.log
    leaking = replace(subject.dataset, log=replace(log, before=log.before + 1))
    batches = Batches(leaking, subject.config.dataset)
    result, told = verdict(checks.strictly_before, replace(subject, batches=batches))
    assert result == "FAILED" and "events of the train split are not" in told


def few(typed: list[str]) -> Case:
    return build(recexp.load_config([*typed, "dataset.cache_dir=null", "trainer.threads=1", "device=cpu"]))


def failed(typed: list[str]) -> dict[str, str]:
    subject = few(typed)
    verdicts = {check.__name__: verdict(check, subject) for check in CHECKS}
    return {name: told for name, (result, told) in verdicts.items() if result == "FAILED"}


def test_a_log_that_is_sorted_by_user_and_time_is_checked_on_users_from_all_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test rows, the last in time, are of the last users."""
    number = np.arange(6000)
    random = np.random.default_rng(0)
    events = {"user": number // 20, "item": random.integers(0, 50, 6000), "label": number % 2, "timestamp": number}
    pd.DataFrame(events).to_csv(tmp_path / "log.csv", index=False)
    monkeypatch.setattr(cases.build, "__defaults__", (2000,))
    assert failed(["model=seq_pooling", "dataset=csv", f"dataset.path={tmp_path}/log.csv"]) == {}


@pytest.mark.parametrize(("name", "n_users", "n"), [("din", 200, 200), ("linear", 4, 30)])
def test_a_good_model_on_few_data_is_not_called_broken(name: str, n_users: int, n: int, tmp_path: Path) -> None:
    number = np.arange(n)
    events = {"user": number % n_users, "item": number % 5, "label": number // 3 % 2, "timestamp": number}
    pd.DataFrame(events).to_csv(tmp_path / "log.csv", index=False)
    split = "dataset.split.kind=random"
    assert failed([f"model={name}", "dataset=csv", f"dataset.path={tmp_path}/log.csv", split]) == {}


def test_a_good_model_of_a_table_of_numbers_is_not_called_broken(tmp_path: Path) -> None:
    """Its table of ids has no id."""
    random = np.random.default_rng(0)
    rows = {"a": random.normal(size=900), "b": random.normal(size=900), "label": random.integers(0, 2, 900)}
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    none = [f"dataset.columns.{name}=null" for name in ("user", "item", "timestamp")]
    typed = ["dataset=csv", f"dataset.path={tmp_path}/table.csv", "dataset.split.kind=random", *none]
    typed += ["dataset.features.context={a:numeric,b:numeric}", "dataset.features.user={}", "dataset.features.item={}"]
    assert failed(["model=deepfm", *typed]) == {}


def test_a_ranker_is_not_called_broken_where_most_rows_have_no_history(tmp_path: Path) -> None:
    """It knows a user by the history alone, so rows without any cannot be learnt by heart."""
    random = np.random.default_rng(0)
    events = {"user": random.integers(0, 2000, 2500), "item": random.integers(0, 50, 2500), "timestamp": range(2500)}
    frame = pd.DataFrame(events).assign(label=random.integers(0, 2, 2500))
    frame.to_csv(tmp_path / "log.csv", index=False)
    assert failed(["model=sasrec", "dataset=csv", f"dataset.path={tmp_path}/log.csv", "trainer.threads=1"]) == {}


def test_table_is_checked_too(table: object, compose: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "load", lambda config: table)
    subject = build(compose("model=deepfm"))
    verdicts = [verdict(check, subject) for check in CHECKS]
    assert [told for result, told in verdicts if result == "FAILED"] == []
    assert ("skipped", "the data have no histories") in verdicts
