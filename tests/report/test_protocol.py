"""Which runs may share a table."""

import pytest

from recexp.error import RunError
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.protocol import history_notes, mixture, require_one
from recexp.run.record import read_all


@pytest.fixture
def records(write_run, tmp_path):
    """records({...}, {...}): runs with these options."""

    def of(*runs: dict) -> list:
        for number, options in enumerate(runs):
            write_run(str(number), **options)
        return read_all([tmp_path])

    return of


@pytest.mark.parametrize(
    "options",
    [
        {"model": "fm"},
        {"dataset.max_history": 50},
        {"dataset.history": "liked"},
        {"dataset.features": {"user": {"age": "numeric"}}, "fingerprint": "other"},
        {"dataset.negatives": 4},  # of explicit labels nobody samples any
        {"dataset.path": "/elsewhere/log.csv"},
        {"seed": 1, "trainer.epochs": 3},
    ],
)
def test_what_a_model_is_given_may_differ(records, options):
    assert mixture(records({}, options)) is None


def test_other_events_labels_or_splits_are_a_mixture_that_names_the_key(records):
    sentence = mixture(records({"dataset.label_threshold": 4}, {}, {"dataset.label_threshold": 3, "events": "other"}))
    assert "dataset.label_threshold is 4 or 3" in sentence and "2 like " in sentence and "1 like " in sentence


def test_other_datasets_are_named_and_nothing_that_follows(records):
    sentence = mixture(
        records({"dataset.name": "a", "events": "a"}, {"dataset.name": "b", "events": "b", "dataset.x": 1})
    )
    assert "(dataset is a or b)" in sentence


def test_a_file_that_has_changed_is_told_as_such(records):
    assert "the content of their data differs" in mixture(records({"events": "a"}, {"events": "b"}))


def test_other_sampled_negatives_are_another_test(records):
    sentence = mixture(records({"dataset.label": "implicit"}, {"dataset.label": "implicit", "dataset.negatives": 4}))
    assert "dataset.negatives is 1 or 4" in sentence


def test_histories_that_end_elsewhere_are_another_protocol(records):
    sentence = mixture(records({"dataset.history_until": "target"}, {"dataset.history_until": "split"}))
    assert "(dataset.history_until is target or split)" in sentence


def test_other_users_who_validate_choose_by_another_figure(records):
    sentence = mixture(records({"trainer.ranking.valid_users": 50}, {"trainer.ranking.valid_users": None}, {}))
    assert "(trainer.ranking.valid_users is 50 or null)" in sentence and "2 like" in sentence


def test_runs_from_before_there_was_a_choice_have_histories_until_the_target(records):
    assert mixture(records({}, {"dataset.history_until": "target"})) is None


def test_a_leaderboard_says_where_histories_end_and_that_this_biases_gauc(records):
    gauc = {"figures": {"gauc": 0.7}}
    of_users = {**gauc, "dataset.columns": {"user": "uid", "item": None, "timestamp": None}}
    until_target, until_split, table, with_users = records(
        gauc, {**gauc, "dataset.history_until": "split"}, {}, of_users
    )
    assert history_notes([table, with_users]) == []  # tables, one of them with users
    assert "biases gauc" in history_notes([until_target, until_target])[0]
    assert history_notes([until_split]) == ["Histories until split: they end with the training split."]
    assert len(history_notes([until_target, until_split])) == 2
    assert history_notes([until_target])[0] in leaderboard([until_target], Choice()).notes


def test_gauc_of_sampled_negatives_selects_nobody_by_labels(records):
    assert "bias" not in history_notes(records({"figures": {"gauc": 0.7}, "dataset.label": "implicit"}))[0]


def test_many_kinds_are_cut_short(records):
    sentence = mixture(records(*({"events": str(n)} for n in range(6))))
    assert sentence.count(" like ") == 3 and "3 other kinds" in sentence


def test_the_refusal_ends_in_the_way_out(records):
    with pytest.raises(RunError, match=r"predict different things.* Use --mix\.$"):
        require_one(records({}, {"events": "other"}), "Use --mix.")
