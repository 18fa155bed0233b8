"""Labels, one or several: which columns and comparisons they are, what is missing, what the data hold of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from recexp.dataset.batch import Batches
from recexp.dataset.config import LabelKind
from recexp.dataset.label import Rule, out_of_order, rules
from recexp.dataset.prepare import prepare
from recexp.dataset.reader.csv import Csv
from recexp.dataset.schema import Schema
from recexp.error import ConfigError, DataError

YAML = Path(__file__).parents[2] / "conf/dataset/csv.yaml"
LOG = "user,item,rating,ratio,bought,timestamp\n" + "".join(
    f"u{row % 3},i{row % 5},{row % 5 + 1},{row % 4 / 4 if row % 3 else ''},{row % 2},{row}\n" for row in range(60)
)
TWO = {"like": "rating >= 4", "finish": "ratio>.5"}


def reader(folder: Path, label: Any, text: str = LOG, **options: Any) -> Csv:
    (folder / "log.csv").write_text(text)
    given = {"path": str(folder / "log.csv"), "columns": {"label": label}, **options}
    merged = OmegaConf.merge(OmegaConf.structured(Csv.Config), OmegaConf.load(YAML), given)
    return Csv(OmegaConf.to_object(merged))


@pytest.mark.parametrize(
    ("sign", "wanted"), [(">=", [0, 1, 1]), (">", [0, 0, 1]), ("<=", [1, 1, 0]), ("<", [1, 0, 0]), ("==", [0, 1, 0])]
)
def test_comparisons_mean_what_they_say_and_nothing_known_stays_so(sign: str, wanted: list[int]) -> None:
    rule = rules({"a": f"x{sign}2.5"})["a"]
    assert rule == Rule("x", sign, 2.5)
    np.testing.assert_array_equal(rule.apply(np.array([2.0, 2.5, 3.0, np.nan])), [*wanted, np.nan])


def test_labels_are_columns_or_named_comparisons() -> None:
    assert rules(None) == {}
    assert rules("rating") == {"rating": Rule("rating")}
    assert rules(["click", "buy"]) == {"click": Rule("click"), "buy": Rule("buy")}
    assert rules({"a": "view time >= -1e3", "b": "buy"}) == {"a": Rule("view time", ">=", -1000), "b": Rule("buy")}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (3, "must be a column"),
        ([], "must be a column"),
        ([1, 2], "must be a column"),
        (["a", "a"], "names a label twice"),
        (["a b", "c"], "a name of letters"),
        ({"a/b": "x"}, "a name of letters"),
        ({"a": "x>=high"}, "'high', which is no number"),
        ({"a": "x=>4"}, "label.a = x=>4: must be a column, or one compared by >=, <=, ==, >, <"),
        ({"a": "x != 4"}, "one compared by"),
        ({"a": "x=-.5"}, "one compared by"),
        ({"a": "x>="}, "'=', which is no number"),
        ({"a": ">=4"}, "one compared by"),
        ({"a": "x>=nan"}, "must be a comparison with a finite number, not with nan"),
        ({"a": "x<-inf"}, "must be a comparison with a finite number, not with -inf"),
    ],
)
def test_a_wrong_label_is_one_line(given: Any, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        rules(given)
    assert "\n" not in str(caught.value)


def test_labels_of_one_column_or_of_two_are_read_with_their_gaps(tmp_path: Path) -> None:
    raw = reader(tmp_path, TWO).read()
    frame = np.genfromtxt(LOG.splitlines()[1:], delimiter=",")[:, 2:]
    assert raw.tasks is not None
    np.testing.assert_array_equal(raw.label, frame[:, 0] >= 4)
    np.testing.assert_array_equal(raw.tasks["like"], raw.label)
    np.testing.assert_array_equal(raw.tasks["finish"], np.where(np.isnan(frame[:, 1]), np.nan, frame[:, 1] > 0.5))
    both = reader(tmp_path, {"good": "rating>=4", "best": "rating==5"}).read()
    assert both.tasks is not None and both.tasks["best"].sum() == (frame[:, 0] == 5).sum()


def test_one_label_is_one_label_however_it_is_named(tmp_path: Path) -> None:
    plain = reader(tmp_path, "rating", label_threshold=4)
    for same in (reader(tmp_path, {"like": "rating>=4"}), reader(tmp_path, ["bought"])):
        assert same.config.tasks == [] and same.read().tasks is None
    wanted, found = (
        prepare(reader.read(), reader.config) for reader in (plain, reader(tmp_path, {"like": "rating>=4"}))
    )
    assert found.log.digest() == wanted.log.digest()
    assert found.schema == wanted.schema and found.schema.tasks == ()


def test_log_and_batches_hold_all_labels_in_the_order_of_the_log(tmp_path: Path) -> None:
    csv = reader(tmp_path, TWO)
    dataset = prepare(csv.read(), csv.config)
    log = dataset.log
    assert dataset.schema.tasks == ("like", "finish") == Schema.from_dict(dataset.schema.to_dict()).tasks
    assert log.tasks is not None and log.tasks.dtype == np.int8
    np.testing.assert_array_equal(log.tasks[:, 0], log.label)
    for row, task in zip(log.row, log.tasks, strict=True):
        assert task[1] == (-1 if row % 3 == 0 else row % 4 / 4 > 0.5)
    batch = next(Batches(dataset, csv.config).epoch("train", 100))
    np.testing.assert_array_equal(batch.tasks.numpy(), log.tasks[log.rows("train")])
    known = log.tasks[log.rows("train"), 1]
    told = dataset.facts["tasks"]["finish"]
    assert told["known"] == pytest.approx((known >= 0).mean(), abs=1e-6)
    assert told["rate"] == pytest.approx(known[known >= 0].mean(), abs=1e-6)


def test_another_second_label_is_other_data(tmp_path: Path) -> None:
    digests = set()
    for label in (TWO, {"like": "rating>=4", "finish": "ratio>.2"}, {"like": "rating>=4"}):
        csv = reader(tmp_path, label)
        digests.add(prepare(csv.read(), csv.config).log.digest())
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("label", "options", "fault"),
    [
        ({"finish": "ratio>.5", "like": "rating>=4"}, {}, "column 'ratio' = '': must not be empty: histories show the"),
        ({"like": "rating>=4", "finish": "ratio"}, {}, "column 'ratio' = '0.25': must be 0 or 1, or empty"),
        ({"like": "rating>=4", "buy": "bougth"}, {}, "no column 'bougth' \\(dataset.columns.label\\)"),
    ],
)
def test_a_column_that_is_no_label_is_named(label: Any, options: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=fault):
        reader(tmp_path, label, **options).read()


@pytest.mark.parametrize(
    ("label", "options", "fault"),
    [
        (TWO, {"label_threshold": 4}, "label_threshold = 4.* each says its own"),
        ({"like": "rating>=4", "who": "user"}, {}, "each role has a column of its own, not 'user' twice"),
        (TWO, {"features": {"context": {"ratio": "numeric"}}}, "features.context.ratio: is dataset.columns.label"),
    ],
)
def test_a_contradiction_is_one_line(label: Any, options: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=fault):
        reader(tmp_path, label, **options)


def test_several_labels_of_implicit_data_are_refused(tmp_path: Path) -> None:
    csv = reader(tmp_path, TWO)
    with pytest.raises(ConfigError, match=r"label = .*like.*: dataset\.label=implicit reads no labels; set it"):
        replace(csv.config, label=LabelKind.implicit)


def test_a_label_after_one_that_is_0_is_out_of_order_and_a_missing_one_is_not() -> None:
    tasks = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 1, 0], [1, 0, 1], [0, -1, 0], [0, -1, 1]], np.int8
    )
    assert out_of_order(tasks).tolist() == [False, False, False, False, True, True, False, True]


def test_the_example_of_the_yaml_file_is_a_list_of_labels() -> None:
    comment = next(line for line in YAML.read_text().splitlines() if line.startswith("  label:")).partition("#")[2]
    example = comment[comment.index("{") : comment.index("}") + 1]
    assert len(rules(yaml.safe_load(example))) == 2


def test_labels_are_cut_at_the_threshold(tiny_config: Callable, tiny_log: Callable) -> None:
    raw = tiny_log()
    rated = replace(raw, label=1.0 + np.arange(len(raw.label)) % 5)
    log = prepare(rated, tiny_config(label_threshold=4.0)).log
    assert log.label.tolist() == [float(rating >= 4) for rating in rated.label[log.row]]
    assert prepare(rated, tiny_config(label=LabelKind.implicit)).log.label.min() == 1


def test_label_mistakes_name_the_value(tiny_config: Callable, tiny_log: Callable) -> None:
    raw = tiny_log()
    label = raw.label.astype(float)
    label[5] = 3.5
    with pytest.raises(DataError, match=r"tiny: label 3\.5 is neither 0 nor 1; set dataset\.label_threshold"):
        prepare(replace(raw, label=label), tiny_config())
    label[5] = np.nan
    with pytest.raises(DataError, match="label nan is neither"):
        prepare(replace(raw, label=label), tiny_config())
    with pytest.raises(DataError, match="the label is missing in row 5"):
        prepare(replace(raw, label=label), tiny_config(label_threshold=1.0))
