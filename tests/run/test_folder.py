"""Directories are never shared, and what was made for a mistake is removed with it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from recexp.error import RunError
from recexp.run.folder import make, remove, unique_folder


def test_folders_asked_for_at_once_are_all_different(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: unique_folder(tmp_path, "run"), range(64)))
    assert len({path for path, *_ in made}) == 64 and all(path.is_dir() for path, *_ in made)


def test_an_unwritable_place_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*run\.dir"):
        unique_folder(tmp_path / "file" / "below", "run")


def test_removing_a_run_removes_the_folders_made_for_it_unless_another_run_is_there(tmp_path):
    first = make(tmp_path / "outputs" / "2026-01-31" / "a")
    second = make(tmp_path / "outputs" / "2026-01-31" / "b")
    (first[0] / "log.txt").touch()
    remove(first)
    assert second[0].is_dir() and not first[0].exists()
    again = make(tmp_path / "outputs" / "2026-02-01" / "a")
    remove(again)
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["2026-01-31"]
    remove([*second, *first[1:]])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_before_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    remove(make(tmp_path / "mine" / "new" / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and list((tmp_path / "mine").iterdir()) == []
