"""Files of run directories read back, also those that a kill has cut short."""

from pathlib import Path

import pytest

from recexp.error import RunError
from recexp.run.read import find_runs, read_config, read_epochs, read_json


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert [line["epoch"] for line in read_epochs(tmp_path)] == [1, 2]


def test_damaged_and_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(RunError, match=r"no config\.yaml"):
        read_config(tmp_path)
    assert read_json(tmp_path / "metrics.json") is None
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json: damaged"):
        read_json(tmp_path / "metrics.json")


def test_runs_are_found_at_any_depth(tmp_path):
    for name in ("x/10-a", "x/2-b", "y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").write_text("{}")
    assert [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path])] == ["x/2-b", "x/10-a", "y"]
    with pytest.raises(RunError, match="no such directory"):
        find_runs([Path("nowhere")])
