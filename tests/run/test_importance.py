"""Permutation importance: what is mixed is one feature alone, and a feature that a model ignores is worth exactly 0."""

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
import torch
from torch import nn

from recexp.cli import run
from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.run.importance import Importance, features, mixed

Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]
OVER = range(0, 60), range(100, 160)  # two batches of as many rows


@pytest.mark.parametrize("name", ["deepfm", "dien", "als", "graphfm"])
def test_a_row_with_all_features_of_another_is_scored_as_that_one(
    name: str, make: Make, gather: Gather, dataset: Dataset
) -> None:
    model = make(name).eval()
    batch, other = (gather(rows) for rows in OVER)
    wanted = features(dataset.schema, history=True)
    whole = reduce(lambda one, feature: mixed(one, other, feature), wanted, batch)
    assert torch.allclose(model(whole).logits, model(other).logits, atol=1e-5)
    for feature in wanted:
        same = mixed(batch, batch, feature)
        assert torch.allclose(model(same).logits, model(batch).logits, atol=1e-5), feature


def test_each_feature_is_mixed_alone(make: Make, gather: Gather, dataset: Dataset) -> None:
    batch, other = (gather(rows) for rows in OVER)
    table, side = batch.catalogue.items, dataset.schema.item
    for feature in features(dataset.schema, history=False):
        if feature.side != "item":
            continue
        found = mixed(batch, other, feature)
        rows, own, others = found.catalogue.items.at(found.target), table.at(batch.target), table.at(other.target)
        changed = range(feature.first, feature.first + feature.width)
        for column in range(side.id_columns):
            source = others if column in changed and not feature.numeric else own
            assert torch.equal(rows.ids[:, column], source.ids[:, column])
        for column in range(side.value_columns):
            source = others if column in changed and feature.numeric else own
            assert torch.equal(rows.values[:, column], source.values[:, column])
        assert (found.user is batch.user, found.context is batch.context, found.history is batch.history) == (True,) * 3


def test_a_run_is_told_what_each_feature_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["+experiment=tiny", "model=popularity", "trainer.threads=1", "run.dir=a"]) == 0
    capsys.readouterr()
    assert run(["importance", "a", "--repeats", "3", "--split", "test"]) == 0
    told = capsys.readouterr().out.splitlines()
    saved = json.loads(Path("a/importance.json").read_text())
    assert (saved["split"], saved["metric"]) == ("test", "auc")
    assert saved["value"] == json.loads(Path("a/metrics.json").read_text())["test"]["auc"]
    found = {name: (mean, deviation) for name, mean, deviation in Importance(
        **{key: saved[key] for key in ("split", "metric", "value", "lost")}).rows()}  # fmt: skip
    assert next(iter(found)) == "item" and found.pop("item")[0] > 0.01
    assert set(found.values()) == {(0.0, 0.0)} and {"user", "user.age", "context.device", "item.tags"} <= found.keys()
    assert told[3].split()[0] == "item" and Path("a/importance.png").stat().st_size > 1000
    before = Path("a/importance.json").read_bytes()
    assert run(["importance", "a", "--repeats", "3", "--split", "test"]) == 0
    assert Path("a/importance.json").read_bytes() == before
    for words, mistake in (["--split", "train"], "Choices: test, valid"), (["--metric", "ac"], "Did you mean 'auc'?"):
        assert run(["importance", "a", *words]) == 2
        assert mistake in capsys.readouterr().err
