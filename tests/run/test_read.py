"""Files of run directories read back, also those that a kill has cut short."""

import json
from pathlib import Path

import pytest

from recexp import storage
from recexp.error import DamagedFile, RunError
from recexp.run.read import find_runs, read_config, read_epochs, read_json, read_metrics, read_overrides

LINE = {"stage": "train", "epoch": 1, "losses": {"target": 0.5}, "valid": {}, "samples_per_second": 9.0}


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path):
    epochs = [json.dumps({**LINE, "epoch": epoch}) for epoch in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*epochs, epochs[0][:9]]))
    lines, torn = read_epochs(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2] and torn == [3]


def test_a_line_that_tells_of_no_epoch_is_left_out(tmp_path):
    strange = ({"epoch": "1"}, {"losses": 2}, {"valid": {"auc": [1]}}, {"stage": 3})
    for line in ({**LINE, "valid": {"auc": None}}, *({**LINE, **wrong} for wrong in strange)):
        storage.append_line(tmp_path / "metrics.jsonl", line)
    lines, torn = read_epochs(tmp_path)
    assert len(lines) == 1 and torn == [2, 3, 4, 5]


def test_damaged_and_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(RunError, match=r"no config\.yaml"):
        read_config(tmp_path)
    assert read_json(tmp_path / "metrics.json") is None
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"metrics\.json: damaged"):
        read_json(tmp_path / "metrics.json")


@pytest.mark.parametrize("content", ["[1]", "3", '"a"', "null", "{}", '{"valid": 3}', "1" * 5000, "[" * 5000, "\x00"])
def test_metrics_of_another_shape_are_damaged(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DamagedFile, match=r"metrics\.json: damaged"):
        read_metrics(tmp_path)


def test_overrides_are_a_list_of_words_or_damaged(tmp_path):
    assert read_overrides(tmp_path) == []
    for content in ("a: 1", "[1]", "3", "- [a]"):
        (tmp_path / "overrides.yaml").write_text(content)
        with pytest.raises(DamagedFile, match=r"overrides\.yaml: damaged"):
            read_overrides(tmp_path)


def test_runs_are_found_at_any_depth(tmp_path):
    for name in ("x/10-a", "x/2-b", "y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").write_text("{}")
    assert [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path])] == ["x/2-b", "x/10-a", "y"]
    with pytest.raises(RunError, match="no such directory"):
        find_runs([Path("nowhere")])
