"""The cache through `load`, with a reader that counts how often it is asked."""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recexp.dataset import cache
from recexp.dataset.batch import Batches
from recexp.dataset.config import (
    DatasetConfig,
    Duplicates,
    FeatureKind,
    HistoryKind,
    HistoryUntil,
    LabelKind,
    SplitKind,
)
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw
from recexp.registry import register


@register("tiny_counted", kind="reader")
class Counted:
    @dataclass(kw_only=True)
    class Config(DatasetConfig):
        pass

    raw: Raw
    content: str
    reads: int

    def __init__(self, config: Config) -> None: ...

    def fingerprint(self) -> str:
        return Counted.content

    def read(self) -> Raw:
        Counted.reads += 1
        return Counted.raw


@pytest.fixture
def config(tiny_config: Callable[..., DatasetConfig], tiny_log: Callable[..., Raw], tmp_path: Path) -> DatasetConfig:
    Counted.raw, Counted.content, Counted.reads = tiny_log(), "first content", 0
    return tiny_config(reader="tiny_counted", cache_dir=str(tmp_path))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("recexp.dataset.prepare"), "disabled", True)  # what it says of so few rows
    return caplog


def entries(config: DatasetConfig) -> list[Path]:
    return sorted((Path(str(config.cache_dir)) / "prepared").iterdir())


def assert_equal(one: Dataset, two: Dataset) -> None:
    assert (one.schema, one.facts, one.fingerprint) == (two.schema, two.facts, two.fingerprint)
    assert type(one.log) is type(two.log)
    assert [vars(one.encoder)[side].side for side in vars(two.encoder)] == [
        two.schema.user,
        two.schema.item,
        two.schema.context,
    ]
    first, second = one.log.arrays(), two.log.arrays()
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        assert array.shape == second[name].shape
        assert array.tobytes() == second[name].tobytes()


def test_the_second_load_equals_the_first_to_the_bit_and_reads_no_source(
    config: DatasetConfig, warnings: pytest.LogCaptureFixture
) -> None:
    first = load(config)
    second = load(config)
    assert Counted.reads == 1
    assert isinstance(second.log.label, np.memmap)
    assert_equal(first, second)
    assert first.folder == second.folder == entries(config)[0]
    assert not warnings.records


def test_the_encoder_comes_back_and_encodes_the_source(config: DatasetConfig) -> None:
    load(config)
    dataset = load(config)
    assert Counted.raw.items is not None
    ids = dataset.log.items.raw[1:]
    frame = Counted.raw.items.reindex(ids).assign(item=ids)
    encoded = dataset.encoder.item.transform(frame)
    assert encoded.ids.tobytes() == dataset.log.items.ids[1:].tobytes()
    assert encoded.values.tobytes() == dataset.log.items.values[1:].tobytes()


def test_ids_of_integers_come_back_as_integers(config: DatasetConfig) -> None:
    load(config)
    log = load(config).log
    assert (log.items.raw.dtype.kind, log.users.raw.dtype.kind) == ("i", "U")


def test_a_table_goes_through_the_cache(
    config: DatasetConfig, tiny_config: Callable, tiny_table: Callable[..., Raw]
) -> None:
    Counted.raw = tiny_table()
    kinds = {"context": {"device": FeatureKind.categorical}}
    config = tiny_config(SplitKind.random, features=kinds, reader="tiny_counted", cache_dir=config.cache_dir)
    assert_equal(load(config), load(config))
    assert Counted.reads == 1


def other_options(tiny_config: Callable, config: DatasetConfig) -> dict[str, DatasetConfig]:
    features = {side: dict(kinds) for side, kinds in config.features.sides.items()}
    swapped = features | {"item": dict(reversed(features["item"].items()))}
    made: dict[str, Any] = {
        "label": {"label": LabelKind.implicit},
        "threshold": {"label_threshold": 1.0},
        "bins": {"n_bins": 5},
        "rare values": {"min_count": 2},
        "duplicates": {"duplicates": Duplicates.last},
        "core": {"k_core": 2},
        "split": {"split": SplitKind.leave_last_out},
        "ratios": {"ratios": (0.8, 0.1, 0.1)},
        "feature": {"features": features | {"user": {}}},
        "kind": {"features": features | {"user": {"city": FeatureKind.multi}}},
        "hashed": {"features": features | {"user": {"city": FeatureKind.hash}}},
        "buckets": {"features": features | {"user": {"city": FeatureKind.hash}}, "n_buckets": 5},
        "quotients": {"features": features | {"user": {"city": FeatureKind.hash}}, "n_quotients": 2},
        "order": {"features": swapped},
        "last items": {"last_items": 1},
        "more last items": {"last_items": 2},
        "last items until the split": {"last_items": 2, "history_until": HistoryUntil.split},
        "most liked": {"most_liked": ["brand"]},
        "most liked of two": {"most_liked": ["brand", "tags"]},
    }
    common = {"reader": "tiny_counted", "cache_dir": config.cache_dir}
    return {name: tiny_config(**(common | options)) for name, options in made.items()}


def test_another_option_or_other_content_is_another_entry(config: DatasetConfig, tiny_config: Callable) -> None:
    keys = {load(config).fingerprint}
    for place, other in enumerate(other_options(tiny_config, config).values(), start=2):
        keys.add(load(other).fingerprint)
        assert Counted.reads == len(keys) == place
    Counted.content = "other content"
    assert load(config).fingerprint not in keys


def test_options_of_batches_share_an_entry_and_yet_hold(config: DatasetConfig) -> None:
    load(config)
    other = load(replace(config, max_history=9, negatives=3, history_until=HistoryUntil.split))
    assert (other.schema.max_history, other.schema.history_labels) == (9, True)
    liked = load(replace(config, history=HistoryKind.liked))
    assert (liked.schema.max_history, liked.schema.history_labels) == (4, False)
    assert Counted.reads == 1


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "array cut short": lambda path: (path / "label.npy").write_bytes((path / "label.npy").read_bytes()[:200]),
    "array empty": lambda path: (path / "item.npy").write_bytes(b""),
    "array no array": lambda path: (path / "user.npy").write_bytes(b"\x00" * 500),
    "array gone": lambda path: (path / "split.npy").unlink(),
    "json cut short": lambda path: (path / "dataset.json").write_text('{"schema": '),
    "json of something else": lambda path: (path / "dataset.json").write_text("[1, 2]"),
    "json no text": lambda path: (path / "dataset.json").write_bytes(b"\xff\xfe\x00"),
    "json without schema": lambda path: (path / "dataset.json").write_text('{"arrays": []}'),
    "json gone": lambda path: (path / "dataset.json").unlink(),
    "encoder cut short": lambda path: (path / "encoder.json").write_text('{"user": {"user": {"kind'),
    "encoder of something else": lambda path: (path / "encoder.json").write_text('{"user": {"user": {"kind": "x"}}}'),
    "encoder gone": lambda path: (path / "encoder.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_prepared_anew_with_a_warning(
    damage: str, config: DatasetConfig, warnings: pytest.LogCaptureFixture
) -> None:
    first = load(config)
    DAMAGES[damage](entries(config)[0])
    assert_equal(first, load(config))
    assert [record.message.count("prepared anew") for record in warnings.records] == [1]
    assert_equal(first, load(config))
    assert Counted.reads == 2


def test_a_flipped_bit_anywhere_is_told_and_the_entry_prepared_anew(
    config: DatasetConfig, warnings: pytest.LogCaptureFixture
) -> None:
    first = load(config)
    files = sorted(path for path in entries(config)[0].iterdir() if path.is_file())
    rng = np.random.default_rng(0)
    for number, file in enumerate(files, 1):
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        assert_equal(first, load(config))
        assert (Counted.reads, len(warnings.records)) == (number + 1, number), file.name


def test_an_entry_that_is_a_link_is_replaced(config: DatasetConfig, tmp_path: Path) -> None:
    first = load(config)
    entry = entries(config)[0]
    entry.rename(tmp_path / "outside")
    entry.symlink_to(tmp_path / "outside")
    before = {path: path.read_bytes() for path in (tmp_path / "outside").iterdir()}
    assert_equal(first, load(config))
    assert not entry.is_symlink() and Counted.reads == 2
    assert {path: path.read_bytes() for path in (tmp_path / "outside").iterdir()} == before


def test_what_killed_processes_left_is_removed_and_what_living_ones_fill_stays(
    config: DatasetConfig, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared"
    for key in ("dead", "alive"):
        (prepared / f".{key}.0123456789abcdef.tmp").mkdir(parents=True)
        (prepared / f".lock-{key}").touch()
    with cache.one_at_a_time(config.cache_dir, "alive"):
        (prepared / ".alive.0123456789abcdef.tmp").mkdir()
        load(config)
        names = sorted(path.name for path in prepared.iterdir())
    assert names == sorted([".alive.0123456789abcdef.tmp", ".lock-alive", load(config).fingerprint])
    with cache.one_at_a_time(config.cache_dir, "another"):
        pass
    assert [path.name for path in prepared.iterdir()] == [load(config).fingerprint]


def test_the_lock_of_a_process_that_was_killed_at_its_very_end_goes_when_its_data_are_read(
    config: DatasetConfig,
) -> None:
    load(config)
    (path,) = entries(config)
    (path.parent / f".lock-{path.name}").touch()
    load(config)
    assert entries(config) == [path]


def test_locks_and_leftovers_that_a_power_loss_left_are_gone_once_entries_are_listed(
    config: DatasetConfig, tmp_path: Path
) -> None:
    load(config)
    (entry,) = entries(config)
    (tmp_path / "prepared" / ".lock-run-all-target-4").touch()
    (entry / ".lock-run-all-target-4").touch()
    (entry / ".run-all-target-4.0123456789abcdef.tmp").mkdir()
    with cache.one_at_a_time(config.cache_dir, "alive"):
        assert [kept.path for kept in cache.entries(tmp_path)] == [entry]
        assert [path.name for path in (tmp_path / "prepared").glob(".*")] == [".lock-alive"]
    assert list(entry.glob(".*")) == []


def test_entries_tell_what_they_were_prepared_from_and_the_last_used_comes_first(
    config: DatasetConfig, tiny_config: Callable, tmp_path: Path
) -> None:
    first, second = load(config), load(tiny_config(reader="tiny_counted", cache_dir=config.cache_dir, n_bins=7))
    for age, dataset in enumerate((second, first)):
        assert dataset.folder is not None
        os.utime(dataset.folder, (age, age))
    assert [entry.path for entry in cache.entries(tmp_path)] == [first.folder, second.folder]
    load(tiny_config(reader="tiny_counted", cache_dir=config.cache_dir, n_bins=7))
    listed = cache.entries(tmp_path)
    assert [entry.path for entry in listed] == [second.folder, first.folder]
    assert listed[0].source == {"name": config.name, "reader": "tiny_counted"}
    assert (listed[0].rows, listed[0].used > 1e9) == (len(first.log), True)
    assert second.folder is not None
    (second.folder / "dataset.json").write_text("[]")
    assert {entry.path: entry.rows for entry in cache.entries(tmp_path)}[second.folder] is None


def test_what_a_process_makes_just_now_is_not_cleared_and_what_it_has_read_stays_readable(
    config: DatasetConfig, tmp_path: Path
) -> None:
    dataset = load(config)
    (entry,) = cache.entries(tmp_path)
    with cache.one_at_a_time(config.cache_dir, entry.path.name):
        assert not cache.clear(entry)
    before = {name: array.copy() for name, array in load(config).log.arrays().items()}
    assert cache.clear(entry)
    assert cache.clear(entry)  # by another process, just before
    assert list((tmp_path / "prepared").iterdir()) == []
    assert all(np.array_equal(before[name], array) for name, array in dataset.log.arrays().items())
    load(config)
    assert Counted.reads == 2


def test_a_lock_is_not_followed_through_a_link(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "prepared" / ".lock-key").symlink_to(tmp_path / "outside")
    with cache.one_at_a_time(config.cache_dir, "key"):
        assert (tmp_path / "outside").read_text() == "mine"


def test_writers_at_the_same_time_leave_one_whole_entry(
    config: DatasetConfig, warnings: pytest.LogCaptureFixture
) -> None:
    dataset = prepare(Counted.raw, config, fingerprint="key")
    barrier = threading.Barrier(8)

    def write() -> None:
        barrier.wait()
        cache.write(config.cache_dir, dataset, {})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in entries(config)] == ["key"]
    found = cache.read(config.cache_dir, "key")
    assert found is not None
    assert_equal(dataset, found)
    assert not warnings.records


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_writer_leaves_nothing(
    error: BaseException, config: DatasetConfig, warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepare(Counted.raw, config, fingerprint="key")
    save, count = np.save, iter(range(99))

    def fail(*args: Any, **kwargs: Any) -> None:
        if next(count) == 3:
            raise error
        save(*args, **kwargs)

    monkeypatch.setattr(np, "save", fail)
    if isinstance(error, OSError):
        cache.write(config.cache_dir, dataset, {})
        assert "cannot be written (disk full); preparing anew each time" in warnings.text
    else:
        with pytest.raises(KeyboardInterrupt):
            cache.write(config.cache_dir, dataset, {})
    assert entries(config) == []


def test_a_folder_that_cannot_be_written_only_warns(
    config: DatasetConfig, warnings: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    config = replace(config, cache_dir=str(tmp_path / "file"))
    assert_equal(load(config), load(config))
    assert Counted.reads == 2
    assert warnings.text.count("cannot be written (Not a directory); preparing anew") == 2


def test_without_a_cache_dir_nothing_is_written(config: DatasetConfig, tmp_path: Path) -> None:
    load(replace(config, cache_dir=None))
    assert list(tmp_path.iterdir()) == []


def test_writing_to_mapped_arrays_and_their_tensors_alters_no_file(config: DatasetConfig) -> None:
    first = load(config)
    mapped = load(config)
    before = {path: path.read_bytes() for path in entries(config)[0].iterdir()}
    for array in mapped.log.arrays().values():
        array[...] = array.dtype.type(0)
    columns = Batches(load(config), config).columns
    for tensor in vars(columns).values():
        tensor.copy_(torch.ones_like(tensor))
    assert {path: path.read_bytes() for path in before} == before
    assert_equal(first, load(config))


def test_data_that_several_want_at_once_are_prepared_once(
    config: DatasetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three find that the cache is empty before one of them reads."""
    missed = threading.Barrier(3)
    look = cache.read

    def look_together(folder: str | None, key: str, remove_damaged: bool = False) -> Dataset | None:
        found = look(folder, key, remove_damaged)
        if not Counted.reads and threading.current_thread().name not in waited:
            waited.add(threading.current_thread().name)
            missed.wait(timeout=60)
        return found

    waited: set[str] = set()
    monkeypatch.setattr(cache, "read", look_together)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(load, [config] * 3))
    assert Counted.reads == 1 and len(waited) == 3
    for other in loaded[1:]:
        assert_equal(loaded[0], other)
    assert [path.name for path in entries(config)] == [loaded[0].fingerprint]  # and no lock is left
