"""The one table of metrics: what it says of each, and that everything in it can be computed and shown."""

import subprocess
import sys

import pytest

from recexp.metric.binary import evaluate
from recexp.metric.table import (
    COSTS,
    HEADLINE,
    MONITORED,
    PREDICTION_METRICS,
    SUMMARY,
    find,
    format_value,
    higher_is_better,
)


def test_every_metric_of_the_table_is_computed_in_its_order():
    assert list(evaluate([0, 1], [0.0, 1.0]).values) == list(PREDICTION_METRICS)
    assert all(name == metric.name for name, metric in PREDICTION_METRICS.items())


def test_monitored_metrics_are_those_with_a_direction():
    assert set(PREDICTION_METRICS) - set(MONITORED) == {"gauc_users", "predicted_observed"}
    assert {name for name, metric in MONITORED.items() if metric.sign < 0} == {"logloss", "ece"}


def test_what_is_shown_by_default():
    assert HEADLINE == ("auc", "gauc", "logloss")
    assert (*HEADLINE, "accuracy@best", "f1@best", "ece") == SUMMARY
    assert COSTS == ("parameters", "seconds", "peak_memory_mb")


@pytest.mark.parametrize(("name", "direction"), [
    ("test.auc", True), ("valid.logloss", False), ("oracle.f1@best", True), ("test.gauc_users", None),
    ("train.target", False), ("train.auc", False), ("seconds", False), ("samples_per_second", True),
    ("test.coverage@10/all", True), ("test.coverage@10/sampled5", None), ("test.ndcg@10/sampled5", True),
    ("epochs", None), ("auc", None), ("trainer.learning_rate", None), ("seed", None),
])  # fmt: skip
def test_a_dotted_name_has_the_direction_of_its_metric(name, direction):
    assert higher_is_better(name) is direction


def test_losses_and_unknown_metrics_of_a_split_are_metrics_and_configuration_keys_are_none():
    assert find("train.auxiliary").name == "auxiliary" and find("test.new").digits == 4
    assert find("model.embedding_dim") is find("seed") is find("test") is None


@pytest.mark.parametrize(("name", "value", "text"), [
    ("test.auc", 0.75, "0.7500"), ("train.target", 12345.6, "12345.6000"), ("parameters", 1234567, "1,234,567"),
    ("seconds", 1234.56, "1,234.6"), ("peak_memory_mb", 340.6, "341"), ("test.auc", None, "-"),
])  # fmt: skip
def test_values_have_the_digits_of_their_metric(name, value, text):
    assert format_value(name, value) == text


def test_differences_have_a_sign_and_no_negative_zero():
    assert format_value("test.auc", 0.01, "+") == "+0.0100"
    assert format_value("test.auc", -0.00001, "+") == "+0.0000"
    assert format_value("epochs", -1, "+") == "-1"


def test_the_table_is_read_without_numpy_and_torch():
    program = "import sys, recexp.metric.table; assert not {'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
