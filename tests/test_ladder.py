"""Planted truth: on data with one known structure, the model made for it beats the one that lacks that part.

benchmarks/ladder.py draws the whole ladder, over more seeds and data.
"""

import statistics

import pytest

import recexp

pytestmark = pytest.mark.slow
STRUCTURES = ("popularity", "interaction", "interest", "order", "drift")
SEEDS = (0, 1)


@pytest.fixture
def share(tmp_path, one_thread):
    """The mean share of the way from AUC 0.5 to the oracle's, on data where one structure is planted."""

    def of(model: str, structure: str, *more: str) -> float:
        planted = [f"dataset.{name}={1.0 if name == structure else 0.0}" for name in STRUCTURES]
        size = ["dataset.n_users=600", "dataset.n_events=30000", "dataset.n_items=200", "dataset.cache_dir=null"]
        found = []
        for seed in SEEDS:
            place = [f"run.dir={tmp_path}/{model}-{seed}", f"seed={seed}", "trainer.threads=1", "trainer.patience=3"]
            config = recexp.load_config([f"model={model}", "trainer.batch_size=256", *planted, *size, *place, *more])
            found.append(recexp.train(config)["share_of_oracle"])
        return statistics.fmean(found)

    return of


def test_popularity_is_found_by_the_model_that_looks_at_the_item_alone(share):
    assert share("popularity", "popularity") > 0.8


def test_interactions_are_found_by_models_of_pairs_and_not_by_a_linear_model(share):
    epochs = "trainer.epochs=20"
    assert share("linear", "interaction", epochs) < 0.15
    for model in ("fm", "afm", "deepfm"):
        assert share(model, "interaction", epochs) > 0.5, model


def test_interest_in_the_target_is_found_by_attention_and_not_by_blind_pooling(share):
    pooled, attended = (
        share("seq_pooling", "interest", "trainer.epochs=10"),
        share("din", "interest", "trainer.epochs=10"),
    )
    assert attended > pooled + 0.1


def test_order_is_found_by_a_recurrent_model_and_not_by_order_blind_ones(share):
    pooled, attended, recurrent = (
        share(model, "order", "trainer.epochs=10") for model in ("seq_pooling", "din", "rnn")
    )
    assert recurrent > max(pooled, attended) + 0.3
