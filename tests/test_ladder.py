"""Planted truth: on data with one known structure, the model made for it beats the one that lacks that part.

benchmarks/ladder.py draws the whole ladder, over more seeds and data.
"""

import pytest

import recexp

pytestmark = pytest.mark.slow
STRUCTURES = ("popularity", "interaction", "interest", "order", "drift", "recall", "triple")


@pytest.fixture
def share(tmp_path, one_thread):
    """The share of the way from AUC 0.5 to the oracle's, on data where one structure is planted."""

    def of(model: str, structure: str, *more: str, n_users: int = 300) -> float:
        planted = [f"dataset.{name}={1.0 if name == structure else 0.0}" for name in STRUCTURES]
        size = [f"dataset.n_users={n_users}", f"dataset.n_events={50 * n_users}", "dataset.n_items=200"]
        place = ["dataset.cache_dir=null", f"run.dir={tmp_path}/{model}", "trainer.threads=1", "trainer.patience=3"]
        typed = [f"model={model}", "trainer.batch_size=512", *planted, *size, *place, *more]
        return recexp.train(recexp.load_config(typed))["share_of_oracle"]

    return of


def test_popularity_is_found_by_the_model_that_looks_at_the_item_alone(share):
    assert share("popularity", "popularity") > 0.8


def test_interactions_are_found_by_models_of_pairs_and_not_by_a_linear_model(share):
    epochs = "trainer.epochs=5"
    assert share("linear", "interaction", epochs) < 0.15
    for model in ("fm", "afm", "deepfm"):
        assert share(model, "interaction", epochs) > 0.5, model


def test_a_triple_is_found_by_an_mlp_and_not_by_sums_over_pairs(share):
    typed = ["trainer.epochs=16", "trainer.patience=null", "trainer.learning_rate=5e-3"]
    pairs, deep = (share(model, "triple", *typed, n_users=600) for model in ("ffm", "pnn"))
    assert pairs < 0.2
    assert deep > pairs + 0.3


def test_interest_in_the_target_is_found_by_attention_and_not_by_blind_pooling(share):
    pooled, attended = (share(model, "interest", "trainer.epochs=5", n_users=600) for model in ("seq_pooling", "din"))
    assert attended > pooled + 0.1


def test_order_is_found_by_a_recurrent_model_and_not_by_order_blind_ones(share):
    pooled, attended, recurrent = (share(model, "order", "trainer.epochs=5") for model in ("seq_pooling", "din", "rnn"))
    assert recurrent > max(pooled, attended) + 0.3


def test_what_was_liked_before_the_history_is_found_by_search_and_not_by_attention(share):
    rounds = ["rounds=true", "n_categories=30", "max_history=10", "n_users=80", "n_events=5600", "n_items=60"]
    small = ["model.embedding_dim=8", "model.hidden_sizes=[32]", "model.attention_hidden_sizes=[16]"]
    trained = ["trainer.epochs=2", "trainer.learning_rate=5e-3", "trainer.batch_size=256"]
    typed = [*(f"dataset.{option}" for option in rounds), *small, *trained]
    assert share("din", "recall", *typed) < 0.3
    assert share("sim", "recall", *typed, "model.n_found=5") > 0.7


@pytest.fixture
def share_of_hits(tmp_path, one_thread):
    """hr@5 of what comes next, over the oracle's, on data where one rule draws 80 % of the items."""

    def of(model: str, rule: str, epochs: int) -> float:
        size = ["dataset.n_users=300", "dataset.n_events=9000", "dataset.n_items=60", "dataset.cache_dir=null"]
        asked = ["exclude_seen=false", "relevant=first", "cutoffs=[5]"]
        trained = [f"epochs={epochs}", "batch_size=32", "learning_rate=5e-3", "loss=cross_entropy", "threads=1",
                   "patience=null", "monitor=hr@5/all", *(f"ranking.{option}" for option in asked)]  # fmt: skip
        typed = [f"model={model}", "trainer=next_item", "dataset.label=implicit", f"dataset.{rule}=0.8", "device=cpu"]
        options = [f"trainer.{option}" for option in trained]
        metrics = recexp.train(recexp.load_config([*typed, *size, *options, f"run.dir={tmp_path}/{model}-{rule}"]))
        return metrics["test"]["hr@5/all"] / metrics["oracle"]["hr@5/all"]

    return of


def test_what_follows_the_last_item_is_found_by_models_of_sequences_and_not_by_popularity(share_of_hits):
    assert share_of_hits("popularity", "transition", 1) < 0.35
    assert share_of_hits("sasrec", "transition", 15) > 0.8


def test_what_follows_two_items_together_is_found_by_a_recurrent_model(share_of_hits):
    assert share_of_hits("popularity", "second_order", 1) < 0.35
    assert share_of_hits("gru4rec", "second_order", 40) > 0.5


def test_fashions_are_found_in_recent_histories_and_not_by_popularity_of_all_time(share_of_hits):
    assert share_of_hits("sasrec", "trend", 15) > share_of_hits("popularity", "trend", 1) + 0.2
