import json
import os
from pathlib import Path

import pytest

from recexp import storage
from recexp.error import DamagedFile


def test_what_is_written_is_read_again(tmp_path):
    value = {"name": "Æ", "list": [1, 2.5, None], "nan": float("inf")}
    storage.write_json(tmp_path / "a.json", value)
    storage.write_yaml(tmp_path / "a.yaml", value)
    assert storage.read_json(tmp_path / "a.json") == value
    assert storage.read_yaml(tmp_path / "a.yaml") == value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.yaml"]


@pytest.mark.parametrize("name", ["json", "yaml"])
def test_each_flipped_bit_is_noticed(tmp_path, name):
    path, value = tmp_path / "file", {"seed": 1, "words": ["a", "b"], "share": 0.25}
    write, read = getattr(storage, f"write_{name}"), getattr(storage, f"read_{name}")
    write(path, value)
    whole = path.read_bytes()
    for index in range(len(whole)):
        for bit in (0, 3, 6):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :])
            try:
                assert read(path) == value  # as where a space becomes another white space at the end
            except DamagedFile as error:
                assert str(path) in str(error)


def test_a_file_without_a_checksum_is_read_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text('{"seed": 1}')
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    assert storage.read_json(tmp_path / "a.json") == storage.read_yaml(tmp_path / "a.yaml") == {"seed": 1}


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), storage.replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), storage.new_folder(tmp_path / "folder"):
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_link_is_replaced_not_followed(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "file"
    outside.write_text("mine")
    path.symlink_to(outside)
    storage.write_text(path, "new")
    assert outside.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()
    lines = tmp_path / "lines"
    lines.symlink_to(outside)
    with pytest.raises(OSError):
        storage.append_line(lines, {"epoch": 1})
    assert outside.read_text() == "mine"


def test_lines_cut_at_any_byte_lose_only_what_was_cut(tmp_path):
    path, values = tmp_path / "lines", [{"epoch": epoch, "loss": epoch / 3} for epoch in range(4)]
    for value in values:
        storage.append_line(path, value)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        n_whole = whole[: size + 1].count(b"}\n") if whole[size : size + 1] == b"\n" else whole[:size].count(b"}\n")
        lines = list(storage.read_lines(path).values())
        assert [line for line in lines if line] == values[:n_whole]
        assert (None in lines) == (size > 0 and whole[size - 1 : size] != b"\n" and whole[size : size + 1] != b"\n")
        storage.append_line(path, {"epoch": 9})
        assert [line for line in storage.read_lines(path).values() if line] == [*values[:n_whole], {"epoch": 9}]


def test_a_torn_line_in_the_middle_is_set_aside_and_named(tmp_path):
    path = tmp_path / "lines"
    for epoch in range(3):
        storage.append_line(path, {"epoch": epoch})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("1", "7", 1), "", lines[2]]) + "\n")
    assert storage.read_lines(path) == {1: {"epoch": 0}, 2: None, 4: {"epoch": 2}}


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        storage.read_bytes(tmp_path / "pipe")


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    for name in (".status.json.0123456789abcdef.tmp", ".notes.tmp", "mine.tmp", ".folder.0123456789abcdef.tmp/file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    storage.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", "mine.tmp"]


def test_the_mode_follows_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        storage.write_json(tmp_path / "file", {})
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert json.loads((tmp_path / "file").read_text()).keys() == {"checksum"}
