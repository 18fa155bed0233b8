"""Runs chosen by keys and metrics."""

import pytest

from recexp.error import ConfigError
from recexp.report.select import chosen, known_keys, rank, resolve
from recexp.run.record import read_all


@pytest.fixture
def records(write_run, tmp_path):
    write_run("a", model="din", seed=0, auc=0.8, **{"trainer.learning_rate": 0.001})
    write_run("b", model="dien", seed=1, auc=0.7, **{"trainer.learning_rate": 0.01, "model.hidden_sizes": [8]})
    write_run("c", model="bst", seed=2, state="failed", **{"dataset.path": "log.csv"})
    return read_all([tmp_path])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "abc"),
        (["model=din"], "a"),
        (["model.name=din"], "a"),
        (["model=din,bst"], "ac"),
        (["model!=din,bst"], "b"),
        (["auc>0.75"], "a"),
        (["test.auc<=0.8", "seed>=1"], "b"),  # a failed run has no metrics, so it is not below either
        (["learning_rate=1e-2"], None),
        (["trainer.learning_rate=1e-2"], "b"),
        (["model.hidden_sizes=[8]"], "b"),
        (["model.hidden_sizes=[64,32]"], "ac"),
        (["dataset.path=null"], "ab"),
        (["dataset.path=log.csv"], "c"),
        (["state=finished,running"], "ab"),
        (["seed=0", "seed=1"], ""),
    ],
)
def test_a_filter_holds_where_all_its_words_do(records, words, names):
    if names is None:
        with pytest.raises(ConfigError, match=r"learning_rate: no run has.*Did you mean 'trainer\.learning_rate'"):
            chosen(records, words)
    else:
        assert "".join(record.path.name for record in chosen(records, words)) == names


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model", "must be KEY=VALUE"),
        ("=din", "must be KEY=VALUE"),
        ("modle=din", "Did you mean 'model'"),
        ("seed>x", "> compares with a number"),
        ("seed>", "> compares with a number"),
    ],
)
def test_a_filter_that_is_none_is_one_line(records, word, message):
    with pytest.raises(ConfigError) as error:
        chosen(records, [word])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_names_are_those_that_people_type(records):
    known = known_keys(records)
    assert resolve("--sort", "auc", known) == "test.auc"
    assert resolve("--sort", "model", known) == "model.name"
    assert resolve("--sort", "valid.auc", known) == "valid.auc"


def test_sorting_puts_the_best_metric_first_and_what_is_missing_last():
    assert sorted([0.7, None, 0.9], key=lambda value: rank("test.auc", value)) == [0.9, 0.7, None]
    assert sorted([0.7, None, 0.9], key=lambda value: rank("test.logloss", value)) == [0.7, 0.9, None]
    assert sorted(["b", 3, None, "a", 1], key=lambda value: rank("model.x", value)) == [1, 3, "a", "b", None]
