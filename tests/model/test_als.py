"""Alternating least squares against numpy; the half-steps themselves are tested in tests/layer/test_factorise.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import with_catalogue
from recorder import Recorder
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.error import ConfigError
from recexp.model import Fit, stages
from recexp.model.als import Feedback
from recexp.trainer.default import Trainer

Make = Callable[..., nn.Module]
each_feedback = pytest.mark.parametrize("feedback", list(Feedback))


def fit(model: nn.Module, training: Batch) -> nn.Module:
    (stage,) = stages(model)
    assert isinstance(stage, Fit) and stage.name == "als" and stage.model is model
    stage.fit(training)
    return model


def factors(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Those of users and items, by id."""
    user, item = (side.table.weight.detach().double().numpy() for side in model.embed.sides.values())
    return user, item


def events(training: Batch) -> list[tuple[int, int, float]]:
    """User id, item id and label of each."""
    user, item = training.catalogue.users.ids[training.user, 0], training.catalogue.items.ids[training.target, 0]
    return list(zip(user.tolist(), item.tolist(), training.label.tolist(), strict=True))


def planted(training: Batch, n_events: int, label: Callable[[Tensor, Tensor], Tensor]) -> Batch:
    """Random events of the dataset's users and items, labelled by a law."""
    generator = torch.Generator().manual_seed(0)
    user = torch.randint(1, len(training.catalogue.users.ids), (n_events,), generator=generator)
    item = torch.randint(1, len(training.catalogue.items.ids), (n_events,), generator=generator)
    return replace(training, user=user, target=item, label=label(user, item))


def biases_by_hand(training: Batch, smoothing: float, iterations: int) -> tuple[float, dict, dict]:
    """Mean and smoothed biases, alternating, an event at a time."""
    log = events(training)
    mean = sum(r for _, _, r in log) / len(log)
    b_user = {u: 0.0 for u, _, _ in log}
    b_item = {i: 0.0 for _, i, _ in log}
    for _ in range(iterations):
        for u in b_user:
            left = [r - mean - b_item[i] for v, i, r in log if v == u]
            b_user[u] = sum(left) / (len(left) + smoothing)
        for i in b_item:
            left = [r - mean - b_user[u] for u, j, r in log if j == i]
            b_item[i] = sum(left) / (len(left) + smoothing)
    return mean, b_user, b_item


def test_explicit_logit_is_4_times_the_score_above_a_half(make: Make, batches: Batches, mixed: Batch) -> None:
    model = fit(make("als"), batches.training())
    x, y = factors(model)
    wanted = []
    for u, i, _ in events(mixed):
        score = float(model.mean) + float(model.user_bias[u]) + float(model.item_bias[i]) + x[u] @ y[i]
        wanted.append(4 * (score - 0.5))
    torch.testing.assert_close(model(mixed).logits, torch.tensor(wanted, dtype=torch.float32))


def test_biases_are_alternating_smoothed_means(make: Make, batches: Batches) -> None:
    model = fit(make("als", smoothing=3.0, iterations=2), batches.training())
    mean, b_user, b_item = biases_by_hand(batches.training(), 3.0, 2)
    assert float(model.mean) == pytest.approx(mean)
    for bias, wanted in ((model.user_bias, b_user), (model.item_bias, b_item)):
        expected = [wanted.get(id_, 0.0) for id_ in range(len(bias))]
        torch.testing.assert_close(bias, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_one_iteration_is_a_ridge_for_each_user_then_one_for_each_item(make: Make, batches: Batches) -> None:
    start = factors(make("als", iterations=1))[1]
    training = batches.training()
    model = fit(make("als", iterations=1, regularisation=0.2), training)
    x, y = factors(model)
    log = [(u, i, r - float(model.mean + model.user_bias[u] + model.item_bias[i])) for u, i, r in events(training)]

    def ridge(rows: list[np.ndarray], values: list[float]) -> np.ndarray:
        matrix, value = np.array(rows), np.array(values)
        return np.linalg.solve(matrix.T @ matrix + 0.2 * len(value) * np.eye(matrix.shape[1]), matrix.T @ value)

    for user in {u for u, _, _ in log}:
        own = [(start[i], r) for u, i, r in log if u == user]
        np.testing.assert_allclose(x[user], ridge(*map(list, zip(*own, strict=True))), rtol=1e-3, atol=1e-5)
    for item in {i for _, i, _ in log}:
        own = [(x[u], r) for u, i, r in log if i == item]
        np.testing.assert_allclose(y[item], ridge(*map(list, zip(*own, strict=True))), rtol=1e-3, atol=1e-5)


def test_implicit_item_factors_are_the_dense_solve_with_every_event_counted(make: Make, batches: Batches) -> None:
    training = batches.training()
    twice = torch.cat([torch.arange(len(training)), torch.arange(100)])
    training = replace(training, **{name: getattr(training, name)[twice] for name in ("user", "target", "label")})
    model = fit(make("als", feedback=Feedback.implicit, alpha=5.0, regularisation=0.7), training)
    x, y = factors(model)
    count = np.zeros((len(x), len(y)))
    for u, i, r in events(training):
        count[u, i] += r  # Hu et al.: how often; a label of 0 is no event
    assert count.max() > 1
    for i in range(FIRST, len(y)):
        c = 1 + 5.0 * count[:, i]
        wanted = np.linalg.solve(x.T @ np.diag(c) @ x + 0.7 * np.eye(x.shape[1]), x.T @ (c * (count[:, i] > 0)))
        np.testing.assert_allclose(y[i], wanted, rtol=1e-3, atol=1e-5)


def test_implicit_score_has_no_biases(make: Make, batches: Batches, mixed: Batch) -> None:
    model = fit(make("als", feedback=Feedback.implicit), batches.training())
    x, y = factors(model)
    wanted = torch.tensor([4 * (x[u] @ y[i] - 0.5) for u, i, _ in events(mixed)], dtype=torch.float32)
    torch.testing.assert_close(model(mixed).logits, wanted)


def test_events_of_label_0_are_not_observed_by_implicit(make: Make, batches: Batches) -> None:
    training = batches.training()
    liked = {name: getattr(training, name)[training.label == 1] for name in ("user", "target", "label")}
    models = [fit(make("als", feedback=Feedback.implicit), rows) for rows in (training, replace(training, **liked))]
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


@each_feedback
def test_objective_falls_from_iteration_to_iteration(feedback: Feedback, make: Make, batches: Batches) -> None:
    training, ridge, alpha = batches.training(), 0.1, 4.0

    def objective(iterations: int) -> float:
        model = fit(make("als", feedback=feedback, regularisation=ridge, alpha=alpha, smoothing=1e12,
                         iterations=iterations), training)  # fmt: skip
        x, y = factors(model)
        log = events(training)
        if feedback is Feedback.explicit:
            mean = float(model.mean)
            return sum((r - mean - x[u] @ y[i]) ** 2 + ridge * (x[u] @ x[u] + y[i] @ y[i]) for u, i, r in log)
        count = np.zeros((len(x), len(y)))
        for u, i, r in log:
            count[u, i] += r
        error = ((1 + alpha * count) * ((count > 0) - x @ y.T) ** 2).sum()
        return float(error + ridge * ((x**2).sum() + (y**2).sum()))

    values = [objective(iterations) for iterations in (1, 2, 3, 6, 12)]
    assert np.diff(values).max() < 0


def test_planted_preferences_of_rank_2_are_recovered(make: Make, batches: Batches) -> None:
    generator = torch.Generator().manual_seed(1)
    training = batches.training()
    a, b = (
        torch.randn(len(side.ids), 2, generator=generator)
        for side in (training.catalogue.users, training.catalogue.items)
    )

    def likes(user: Tensor, item: Tensor) -> Tensor:
        return ((a[user] * b[item]).sum(1) > 0).float()

    model = fit(make("als", embedding_dim=4, regularisation=0.02), planted(training, 3000, likes))
    users, items = torch.meshgrid(
        torch.arange(1, len(training.catalogue.users.ids)),
        torch.arange(1, len(training.catalogue.items.ids)),
        indexing="ij",
    )
    every = planted(training, 1, likes)
    every = replace(every, user=users.flatten(), target=items.flatten())
    right = (model(every).logits > 0).float() == likes(every.user, every.target)
    assert right.float().mean() > 0.9


@each_feedback
def test_unknown_user_and_item_have_neither_factor_nor_bias(
    feedback: Feedback, make: Make, batches: Batches, mixed: Batch
) -> None:
    def unknown(features: Features) -> Features:
        return Features(torch.full_like(features.ids, UNKNOWN), features.values)

    model = fit(make("als", feedback=feedback), batches.training())
    for table in factors(model):
        assert not table[:FIRST].any() and table[FIRST:].any(1).all()
    neither = model(
        with_catalogue(mixed, users=unknown(mixed.catalogue.users), items=unknown(mixed.catalogue.items))
    ).logits
    torch.testing.assert_close(neither, (4 * (model.mean - 0.5)).expand(len(mixed)))
    item_alone = model(with_catalogue(mixed, users=unknown(mixed.catalogue.users))).logits
    item = mixed.catalogue.items.ids[mixed.target, 0]
    torch.testing.assert_close(item_alone, 4 * (model.mean + model.item_bias[item] - 0.5))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_explicit_labels_that_are_all_the_same_leave_their_mean(
    label: float, make: Make, batches: Batches, mixed: Batch
) -> None:
    training = batches.training()
    model = fit(make("als"), replace(training, label=torch.full_like(training.label, label)))
    torch.testing.assert_close(model(mixed).logits, torch.full((len(mixed),), 4 * (label - 0.5)))


def test_implicit_without_any_event_of_label_1_prefers_nothing(make: Make, batches: Batches, mixed: Batch) -> None:
    training = batches.training()
    model = fit(make("als", feedback=Feedback.implicit), replace(training, label=torch.zeros_like(training.label)))
    torch.testing.assert_close(model(mixed).logits, torch.full((len(mixed),), -2.0))


def test_seed_of_the_initial_vectors_decides_the_factors(make: Make, batches: Batches) -> None:
    states = [fit(make("als", seed=seed), batches.training()).state_dict() for seed in (0, 0, 1)]
    name = "embed.sides.item.table.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.allclose(states[0][name], states[2][name], atol=1e-3)


def test_trainer_fits_training_rows_alone_in_one_stage(
    compose: Callable[..., Config], make: Make, dataset: Dataset, tmp_path: Path
) -> None:
    label = dataset.log.label.copy()
    label[dataset.log.split != 0] = 1
    models = []
    for name, data in (("own", dataset), ("other", replace(dataset, log=replace(dataset.log, label=label)))):
        model, recorder = make("als"), Recorder(tmp_path / name)
        trainer = Trainer(compose().trainer, torch.device("cpu"), 0)
        trainer.fit(model, Batches(data, compose().dataset), {"target": 1.0}, 0.0, recorder)
        assert [line["stage"] for line in recorder.lines] == ["als"]
        models.append(model)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("option", ["iterations", "regularisation", "smoothing", "alpha"])
def test_option_of_0_is_refused(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{option} = 0"):
        make("als", **{option: 0})
