"""BERT4Rec: its equations by a loop over sequences, what a masked event sees, and what is learnt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from recorder import Recorder, Stopped, same, state
from ring import N_ITEMS, RING, write
from torch import Tensor, nn

import recexp
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.cloze import MASK, Cloze, masked
from recexp.dataset.sample import Samples
from recexp.dataset.schema import FIRST
from recexp.dataset.window import WindowBatch, Windows
from recexp.experiment import build
from recexp.metric.item_scores import ItemScores
from recexp.trainer.checkpoint import Checkpoints
from recexp.trainer.next_item import NextItem

Make = Callable[..., nn.Module]


def by_hand(model: nn.Module, vectors: Tensor, position: int) -> Tensor:
    """The query at a position of one sequence of item vectors (L, D), the mask's among them."""
    length, dim = vectors.shape
    x = vectors + model.position.table.weight[:length].flip(0)
    x = F.layer_norm(x, (dim,), model.input_norm.weight, model.input_norm.bias)
    for block in model.blocks:
        q = block.attention.query(x)
        k, v = block.attention.key_value(x).chunk(2, 1)
        heads = []
        for head in zip(*(part.chunk(block.attention.n_heads, 1) for part in (q, k, v)), strict=True):
            weights = (head[0] @ head[1].t() / head[0].shape[1] ** 0.5).softmax(1)
            heads.append(weights @ head[2])
        y = block.attention.output(torch.cat(heads, 1))
        x = F.layer_norm(x + y, (dim,), block.norms[0].weight, block.norms[0].bias)
        y = block.down(F.gelu(block.up(x)))
        x = F.layer_norm(x + y, (dim,), block.norms[1].weight, block.norms[1].bias)
    return F.layer_norm(F.gelu(model.head(x[position])), (dim,), model.norm.weight, model.norm.bias)


def sequences(cloze: Cloze) -> list[tuple[Tensor, int]]:
    """The items of each sequence, and where among the events it begins."""
    starts = (cloze.length.cumsum(0) - cloze.length).tolist()
    return list(zip(cloze.item.split(cloze.length.tolist()), starts, strict=True))


@pytest.fixture(scope="module")
def windows(batches: Batches) -> Windows:
    return Windows(batches)


@pytest.fixture(scope="module")
def window_batch(windows: Windows) -> WindowBatch:
    return windows.gather(Samples(torch.arange(windows.size("train"))))


def test_a_query_is_the_state_of_a_mask_appended_to_the_history(make: Make, mixed: Batch) -> None:
    model, ids = make("bert4rec").eval(), mixed.catalogue.items.ids[:, 0]
    query, logits = model.query(mixed), model(mixed).logits
    for sample in range(len(mixed)):
        history = model.item_vectors()[ids[mixed.history[sample][mixed.mask[sample]]]]
        expected = by_hand(model, torch.cat([history, model.mask[None]]), -1)
        torch.testing.assert_close(query[sample], expected, rtol=1e-4, atol=1e-4)
        target = model.item_vectors()[ids[mixed.target[sample]]]
        torch.testing.assert_close(logits[sample], expected @ target, rtol=1e-4, atol=1e-4)


def test_the_loss_is_cross_entropy_at_masked_events_alone(make: Make, window_batch: WindowBatch, compose) -> None:
    model, ids = make("bert4rec").eval(), window_batch.events.catalogue.items.ids[:, 0]
    trained = NextItem(model, compose("model=bert4rec", "trainer=next_item", "dataset.label=implicit",
                                      "trainer.loss=cross_entropy").trainer)  # fmt: skip
    torch.manual_seed(3)
    loss = trained.losses(trained(window_batch), window_batch)["cross_entropy"]
    torch.manual_seed(3)
    cloze = masked(window_batch.whole, len(window_batch), model.mask_rate, model.last_rate)
    parts = []
    for item, start in sequences(cloze):
        vectors = torch.stack([model.mask if row == MASK else model.item_vectors()[ids[row]] for row in item])
        for query, target in zip(cloze.query.tolist(), cloze.target.tolist(), strict=True):
            if start <= query < start + len(item):
                assert item[query - start] == MASK
                logits = model.item_vectors()[FIRST:] @ by_hand(model, vectors, query - start)
                parts.append(-logits.log_softmax(0)[ids[target] - FIRST])
    assert len(parts) == len(cloze.target)
    torch.testing.assert_close(loss, torch.stack(parts).mean(), rtol=1e-4, atol=1e-4)


def test_with_the_last_masked_alone_training_asks_what_evaluation_asks(
    make: Make, windows: Windows, window_batch: WindowBatch, gather: Callable[..., Batch]
) -> None:
    model = make("bert4rec", mask_rate=0.0).eval()
    query, target = model.pairs(window_batch)
    end = dict(zip(windows.user.tolist(), windows.end.tolist(), strict=True))
    last = torch.tensor([end[user] - 1 for user in window_batch.events.user.tolist()])  # in the log
    given, asked = window_batch.whole, gather(last)
    of = given.window[given.time == windows.group[last][given.window]]  # the window of each target
    alone = torch.bincount(of) == 1
    assert len(target) == len(of) and alone.sum() > 20
    torch.testing.assert_close(query[alone[of]], model.query(asked)[alone], rtol=1e-4, atol=1e-4)
    assert torch.equal(target[alone[of]], asked.target[alone].long())


def test_a_masked_event_sees_later_ones_of_its_own_window_alone(make: Make, mixed: Batch) -> None:
    model, items = make("bert4rec").eval(), mixed.catalogue.items
    item, length = torch.tensor([3, MASK, 5, 6, 7, 8]), torch.tensor([4, 2])
    states = model.encode(item, length, items, last=False)
    for place in (0, 2, 3):
        changed = model.encode(item.index_fill(0, torch.tensor([place]), 9), length, items, last=False)
        assert (changed[1] - states[1]).abs().max() > 1e-3
        torch.testing.assert_close(changed[4:], states[4:])
    padded = torch.tensor([[3, MASK, 5, 6, 11], [7, 8, 12, 13, 14]])
    other = model.encode(padded, length, items, last=False).view(2, 5, -1)
    torch.testing.assert_close(torch.cat([other[0, :4], other[1, :2]]), states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_nothing_at_or_after_the_targets_time_enters_a_query(make: Make, batches: Batches, split: str) -> None:
    model, columns = make("bert4rec").eval(), batches.columns
    for row in batches.rows[split][::97].tolist():
        samples = Samples(torch.tensor([row]))
        query = model.query(batches.gather(samples, split))
        later = (columns.user == columns.user[row]) & (columns.timestamp >= columns.timestamp[row])
        item = columns.item.clone()
        columns.item[later] = 1 + (columns.item[later] + 3) % 30
        try:
            assert torch.equal(model.query(batches.gather(samples, split)), query)
        finally:
            columns.item.copy_(item)


def test_the_mask_is_no_item_and_is_never_ranked(make: Make, batches: Batches) -> None:
    model, ids = make("bert4rec").eval(), batches.catalogue.items.ids
    candidates = (ids[:, 0] >= FIRST).nonzero()[:, 0]
    assert len(model.item_vectors()) == FIRST + len(candidates)
    rows = batches.rows["test"][:3]
    scores = ItemScores(model, batches, "test", candidates, size=50).of(rows)
    query = model.query(batches.gather(Samples(rows), "test"))
    torch.testing.assert_close(scores, query @ model.item_vectors()[ids[candidates, 0]].t(), rtol=1e-4, atol=1e-4)
    assert not (model.item_vectors() == model.mask).all(1).any()


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The overrides of a run on a log in which item n is followed by n + 1 around a ring."""
    monkeypatch.chdir(tmp_path)
    write()
    shared = ["trainer=next_item", "dataset.label=implicit", "device=cpu", "trainer.threads=1", *RING]
    own = ["model=bert4rec", "model.embedding_dim=16", "model.hidden_size=32", "model.n_layers=1", "model.n_heads=1",
           "model.embedding_std=0.3", "model.last_rate=0.5", "trainer.learning_rate=1e-2"]  # fmt: skip
    return lambda *more: [*shared, *([] if "model=popularity" in more else own), *more]


def test_what_follows_is_learnt_far_better_than_by_popularity(ring: Callable[..., list[str]]) -> None:
    typed = ring("trainer.loss=cross_entropy", "trainer.epochs=15", "run.dir=run")
    found = recexp.train(recexp.load_config(typed))["test"]["hr@1/all"]
    baseline = recexp.train(recexp.load_config(ring("model=popularity", "run.dir=baseline")))["test"]["hr@1/all"]
    assert found > 0.6 and baseline < 0.2
    top = pd.read_parquet("run/recommendations.parquet")
    assert set(top.item) <= {f"i{item}" for item in range(N_ITEMS)}


@pytest.mark.parametrize("loss", ["cross_entropy", "gbce"])
def test_a_run_killed_within_an_epoch_goes_on_with_the_same_masks(
    loss: str, ring: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recexp.load_config(ring("trainer.epochs=2", f"trainer.loss={loss}", "trainer.negatives.n=8",
                                     "trainer.checkpoint_every=1steps", "trainer.patience=null"))  # fmt: skip

    def trained(recorder: Recorder) -> tuple[Any, nn.Module]:
        experiment = build(config)
        batches = Batches(experiment.dataset, config.dataset)
        weights = experiment.trainer.weights(config)
        return experiment.trainer.fit(experiment.model, batches, weights, 0.0, recorder), experiment.model

    save, saved = Checkpoints.save_last, []

    def save_and_stop(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        saved.append(True)
        if len(saved) == 6:  # of an epoch's 4 steps each is one
            raise Stopped

    whole, killed = Recorder(tmp_path / "whole"), Recorder(tmp_path / "killed")
    wanted, model = trained(whole)
    monkeypatch.setattr(Checkpoints, "save_last", save_and_stop)
    with pytest.raises(Stopped):
        trained(killed)
    assert len(killed.lines) == 1
    found, resumed = trained(killed)
    assert killed.told == whole.told and same(state(resumed), state(model))
    assert found.test == wanted.test
