"""What counts as a difference between runs."""

import pytest

from recexp.report.setting import differing, name_of, settings, text, unique_values
from recexp.run.record import read_all


@pytest.fixture
def settings_of(write_run, tmp_path):
    """settings_of({...}, {...}): the settings of runs with these options."""

    def of(*runs: dict) -> list[dict]:
        for number, options in enumerate(runs):
            write_run(str(number), **options)
        return settings(read_all([tmp_path]))

    return of


def test_seed_place_device_and_logger_are_no_setting(settings_of):
    apart = {
        "seed": 1,
        "device": "cpu",
        "run.name": "x",
        "logger.name": "none",
        "plugins": ["/a.py"],
        "objective": "auc",
    }
    assert settings_of({}, apart) == [{}, {}]


def test_where_data_lie_does_not_matter_while_they_are_the_same(settings_of):
    assert settings_of({"dataset.path": "/a/log.csv"}, {"dataset.path": "/b/log.csv"}) == [{}, {}]


def test_equal_configurations_on_other_data_are_told_apart(settings_of):
    assert settings_of({"dataset.path": "/a/log.csv", "fingerprint": "123456789"}, {"fingerprint": "abcdefghi"}) == [
        {"data": "log.csv:12345678"},
        {"data": "synthetic:abcdefgh"},
    ]


def test_keys_are_short_groups_first_then_in_the_order_of_the_configuration(settings_of):
    assert settings_of(
        {"model": "din", "trainer.learning_rate": 0.1}, {"model": "dien", "trainer.learning_rate": 0.2}
    ) == [
        {"model": "din", "trainer.learning_rate": 0.1},
        {"model": "dien", "trainer.learning_rate": 0.2},
    ]


def test_what_two_models_set_differently_is_said_by_their_names(settings_of):
    assert settings_of({"model": "din", "model.gates": 2}, {"model": "dien", "model.embedding_dim": 8}) == [
        {"model": "din"},
        {"model": "dien"},
    ]


def test_an_option_counts_where_runs_of_its_model_differ_and_is_absent_from_others(settings_of):
    assert settings_of({"model": "din", "model.gates": 2}, {"model": "din", "model.gates": 3}, {"model": "fm"}) == [
        {"model": "din", "model.gates": 2},
        {"model": "din", "model.gates": 3},
        {"model": "fm"},
    ]


def test_a_key_that_one_of_two_runs_lacks_differs(settings_of):
    assert settings_of({"trainer.new": 1}, {}) == [{"trainer.new": 1}, {}]


def test_a_setting_is_named_as_it_is_typed():
    assert name_of(
        {"model": "din", "model.hidden_sizes": [64, 32], "trainer.clip_norm": None, "a": True, "b": 1e-5}
    ) == ("model=din model.hidden_sizes=[64,32] trainer.clip_norm=null a=true b=1e-05")
    assert text("ml-100k") == "ml-100k" and text(["a b", None]) == "[a b,null]" and text({}) == "{}"


def test_distinct_values_come_once_in_order(write_run, tmp_path):
    for number, seed in enumerate([2, 0, 2]):
        write_run(str(number), seed=seed)
    records = read_all([tmp_path])
    assert unique_values(records, "seed") == [2, 0] and unique_values(records, "model") == ["din"]
    assert unique_values(records, "nothing") == [] and differing(records) == []
