"""Directories are never shared, and what was made for a mistake is removed with it."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recexp import lock
from recexp.error import RunError
from recexp.run.folder import filled, is_filled, make, refuse_links, remove, unique_folder


def write(path):
    (path / "file").write_text("whole")


def test_filled_folders_asked_for_at_once_are_all_different_and_whole_from_the_first_moment(tmp_path):
    over = threading.Event()

    def look():
        while not over.is_set():
            assert all((path / "file").exists() for path in tmp_path.glob("run*"))

    with ThreadPoolExecutor(17) as pool:
        looks = pool.submit(look)
        make_one = functools.partial(filled, fill=write)
        made = list(pool.map(lambda _: unique_folder(tmp_path, "run", make_one), range(32)))
        over.set()
        looks.result()
    assert len({path for path, *_ in made}) == 32
    assert len(list(tmp_path.iterdir())) == 32  # and nothing temporary


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_folder_that_cannot_be_filled_is_not_there_and_neither_is_its_parent(tmp_path, error):
    def fail(path):
        write(path)
        raise error

    with pytest.raises(error):
        filled(tmp_path / "new" / "run", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_killed_in_its_first_moments_left_is_removed_by_a_later_one(tmp_path):
    old, young, locked = (tmp_path / f".run.{digit * 16}.tmp" for digit in "123")
    for path in (old, young, locked):
        path.mkdir()
    for path in (old, locked):
        os.utime(path, (0, 0))
    with lock.locked(locked):
        filled(tmp_path / "run", write)
    assert sorted(tmp_path.iterdir()) == [young, locked, tmp_path / "run"]


def test_a_taken_name_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "link"):
        with pytest.raises(FileExistsError):
            filled(tmp_path / name, write)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_directory_with_leftovers_alone_counts_as_empty(tmp_path):
    assert not is_filled(tmp_path) and not is_filled(tmp_path / "nowhere")
    (tmp_path / ".config.yaml.0123456789abcdef.tmp").touch()
    assert not is_filled(tmp_path)
    (tmp_path / "notes").touch()
    assert is_filled(tmp_path)


def test_links_are_refused(tmp_path):
    (tmp_path / "log.txt").touch()
    refuse_links(tmp_path, ["log.txt", "status.json"])
    (tmp_path / "status.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"status\.json: is a link"):
        refuse_links(tmp_path, ["log.txt", "status.json"])


def test_folders_asked_for_at_once_are_all_different(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: unique_folder(tmp_path, "run", make), range(64)))
    assert len({path for path, *_ in made}) == 64 and all(path.is_dir() for path, *_ in made)


def test_an_unwritable_place_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*run\.dir"):
        unique_folder(tmp_path / "file" / "below", "run", make)


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
