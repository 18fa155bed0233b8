"""Search-based Interest Model: its attention event by event, what a search keeps, and when it changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recexp
from recexp.contract.measure import step
from recexp.dataset.batch import Batch
from recexp.dataset.config import FeatureKind
from recexp.dataset.history import Past
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.model.sim import SearchKind, Unit
from recexp.run.export.bundle import export

Make = Callable[..., nn.Module]
LONG = ("model=sim", "+experiment=tiny", "trainer.threads=1", "dataset.max_history=2", "dataset.cache_dir=null")


@pytest.fixture
def sim(make: Make) -> Make:
    return lambda **options: make("sim", activation=Activation.relu, **options).eval()


@pytest.fixture
def all_found(mixed: Batch) -> Batch:
    """The batch in which the whole history is what the search has found."""
    past = Past(item=mixed.history, label=mixed.history_label, age=mixed.history_age, mask=mixed.mask)
    return replace(mixed, found=past)


def plain_logit(model: nn.Module, batch: Batch, row: int, kept: list[int]) -> Tensor:
    """The logit of a row that attends to the found events at some positions: event by event."""
    profile, target, history = (x[row] for x in model.embed(batch))
    found = batch.found
    events = model.embed.item_events(batch.catalogue, found.item, found.label, found.mask).expanded()[row]
    z = [torch.cat([events[s], model.age(found.age[row, s])]) for s in kept]
    now = torch.cat([target, model.age(torch.tensor(0.0))])
    width = len(now)
    if model.unit is None:
        scores = [[w @ target @ z_s for z_s in z] for w in model.heads.weight.split(width)]
    else:
        scores = [[model.unit.mlp(torch.cat([now, z_s, now - z_s, now * z_s])[None])[0, 0] for z_s in z]]
    u = [weighted(head, z, width) for head in scores]
    h = list(history[: int(batch.mask[row].sum())])
    of_history = [model.short.mlp(torch.cat([target, h_s, target - h_s, target * h_s])[None])[0, 0] for h_s in h]
    return model.mlp(torch.cat([*u, weighted(of_history, h, len(target)), target, profile])[None])[0, 0]


def weighted(scores: list[Tensor], vectors: list[Tensor], width: int) -> Tensor:
    """The sum of the vectors by softmax of the scores; 0 without any."""
    weights = (torch.stack(scores) / width**0.5).softmax(0) if scores else []
    return sum((w * x for w, x in zip(weights, vectors, strict=True)), torch.zeros(width))


@pytest.mark.parametrize("attention", Unit)
def test_hard_search_attends_to_all_that_is_found(attention: Unit, sim: Make, mixed: Batch) -> None:
    model = sim(attention=attention, n_heads=3)
    n_found = mixed.found.mask.sum(1).tolist()
    assert {0, 1} < set(n_found)
    expected = torch.stack([plain_logit(model, mixed, row, list(range(n))) for row, n in enumerate(n_found)])
    torch.testing.assert_close(model(mixed).logits, expected, rtol=1e-4, atol=1e-5)


def test_soft_search_attends_to_the_events_of_the_highest_inner_products(sim: Make, all_found: Batch) -> None:
    model = sim(search=SearchKind.soft, n_found=3)
    found = all_found.found
    events = model.embed.item_events(all_found.catalogue, found.item, found.label, found.mask).expanded()
    target = model.embed(all_found)[1]
    expected = []
    for row, length in enumerate(found.mask.sum(1).tolist()):
        r = [(model.soft.key(events[row, s]) @ model.soft.query(target[row])).item() for s in range(length)]
        expected.append(plain_logit(model, all_found, row, sorted(range(length), key=r.__getitem__)[-3:]))
    torch.testing.assert_close(model(all_found).logits, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", Unit)
def test_a_search_that_keeps_all_events_is_attention_over_all(attention: Unit, sim: Make, all_found: Batch) -> None:
    length = all_found.mask.shape[1]
    soft, without = sim(search=SearchKind.soft, n_found=length, attention=attention), sim(attention=attention)
    without.load_state_dict(soft.state_dict(), strict=False)
    assert torch.equal(soft(all_found).logits, without(all_found).logits)
    fewer = sim(search=SearchKind.soft, n_found=2, attention=attention)
    fewer.load_state_dict(soft.state_dict())
    assert not torch.allclose(fewer(all_found).logits, soft(all_found).logits)


def test_only_its_own_loss_trains_the_soft_search(make: Make, all_found: Batch) -> None:
    model = make("sim", search=SearchKind.soft)
    parts, searches = step(model, all_found)[1], [model.soft.key.weight, model.soft.query.weight]
    assert torch.autograd.grad(model(all_found).logits.sum(), searches, allow_unused=True) == (None, None)
    assert parts.keys() == {"target", "auxiliary"}
    assert all(weight.grad.any() for weight in searches)


def test_the_auxiliary_loss_of_hard_search_pools_what_is_found(sim: Make, mixed: Batch) -> None:
    model, found = sim(), mixed.found
    events = model.embed.item_events(mixed.catalogue, found.item, found.label, found.mask).expanded()
    mean = (events * found.mask[:, :, None]).sum(1) / found.mask.sum(1, keepdim=True).clamp(min=1)
    expected = model.auxiliary(torch.cat([mean, model.embed(mixed)[1]], 1))[:, 0]
    torch.testing.assert_close(model(mixed).parts["search"], expected)


def test_the_time_since_an_event_counts(sim: Make, mixed: Batch) -> None:
    model, rows = sim(), mixed.found.mask.any(1)
    later = replace(mixed, found=replace(mixed.found, age=mixed.found.age * 64))
    assert (model(later).logits != model(mixed).logits)[rows].all()


def test_the_field_searched_by_is_one_of_the_item(make: Make, dataset: Dataset) -> None:
    assert make("sim").search.field.name == "category"
    assert make("sim", schema=dataset.schema.ids).search.field.name == "item"
    tags = make("sim", search_field="tags").search.field
    assert (tags.name, tags.kind) == ("tags", FeatureKind.multi)
    with pytest.raises(ConfigError, match=r"^model.search_field = price: no field of items to search by\. "):
        make("sim", search_field="price")


def test_soft_search_without_its_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.search = soft: .* set model.loss_weights.auxiliary above 0\.$"):
        recexp.load_config(["model=sim", "model.search=soft"])


def test_batches_without_a_search_are_refused(sim: Make, mixed: Batch) -> None:
    with pytest.raises(ConfigError, match=r"^Batches: .* search=model\.search\.$"):
        sim()(replace(mixed, found=None))


def test_a_trained_model_searches_the_events_kept_and_those_given(tmp_path: Path) -> None:
    trained_metrics = recexp.train(recexp.load_config([*LONG, f"run.dir={tmp_path / 'run'}"]))
    run = recexp.load_run(tmp_path / "run", device="cpu")
    assert run.evaluate()["auc"] == trained_metrics["test"]["auc"]
    log, category = run.dataset.log, run.dataset.schema.item.fields[1]
    of_category = log.items.column(category)[:, 0]
    same, other = (log.items.raw[1:][(of_category[1:] == of_category[1]) == each] for each in (True, False))
    events = [same[0], other[0], *other[:30]]
    frame = pd.DataFrame({"user": 10**6, "item": [*events, same[1]], "label": 1.0, "device": 0})
    frame["timestamp"] = 10**9 + 3600 * frame.index

    def score(disliked: int | None) -> float:
        label = frame["label"].where(frame.index != disliked, 0.0).where(frame.index < len(events))
        return float(run.predict(frame.assign(label=label), history="given").iloc[-1])

    assert score(0) != score(None)  # of the target's category, long before the history
    assert score(1) == score(None)  # of another
    with pytest.raises(ConfigError, match="its model searches all earlier events; export writes one of histories"):
        export(run, "torch", tmp_path / "exported")
