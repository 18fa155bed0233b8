"""What a run keeps of its data: enough for its held-out rows to the bit, and the files shared with the cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import whole

from recexp.dataset import artifact, cache
from recexp.dataset.batch import Batches
from recexp.dataset.config import DatasetConfig, FeatureKind, HistoryKind, HistoryUntil, SplitKind
from recexp.dataset.log import Dataset, Log
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.error import DamagedFile, DataError

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]
COLUMNS = ("label", "user", "target", "history", "history_label", "history_age", "mask")


def kept(dataset: Dataset, config: DatasetConfig, folder: Path) -> Dataset:
    artifact.save(dataset, config, folder)
    return artifact.load(folder)


def assert_same_encoding(one: Dataset, two: Dataset, raw: Raw) -> None:
    assert raw.context is not None
    before, after = (dataset.encoder.context.transform(raw.context) for dataset in (one, two))
    assert before.ids.tobytes() == after.ids.tobytes() and before.values.tobytes() == after.values.tobytes()


@pytest.mark.parametrize("until", HistoryUntil)
@pytest.mark.parametrize("history", HistoryKind)
@pytest.mark.parametrize("kind", SplitKind)
def test_held_out_rows_are_those_of_the_whole_log_to_the_bit(
    kind: SplitKind,
    history: HistoryKind,
    until: HistoryUntil,
    tiny_config: MakeConfig,
    tiny_log: MakeRaw,
    tmp_path: Path,
) -> None:
    for seed in range(3):
        raw, config = tiny_log(seed), tiny_config(kind, history=history, history_until=until, max_history=2)
        dataset = prepare(raw, config)
        found = kept(dataset, config, tmp_path / str(seed))
        assert (found.schema, found.facts, found.fingerprint) == (dataset.schema, dataset.facts, dataset.fingerprint)
        assert_same_encoding(dataset, found, raw)
        assert len(found.log) < len(dataset.log)
        for split in ("valid", "test"):
            assert found.log.row[found.log.rows(split)].tolist() == dataset.log.row[dataset.log.rows(split)].tolist()
            before, after = (whole(Batches(each, config), split) for each in (dataset, found))
            for name in COLUMNS:
                assert torch.equal(getattr(before, name), getattr(after, name)), name
            assert torch.equal(before.context.ids, after.context.ids)
            assert torch.equal(before.context.values, after.context.values)
            assert torch.equal(before.catalogue.users.ids, after.catalogue.users.ids)
            assert torch.equal(before.catalogue.items.values, after.catalogue.items.values)


def by_loop(log: Log, config: DatasetConfig) -> list[int]:
    """The events to keep, user by user: the last few that histories hold before the first held-out row, and all later.

    A user without a held-out row keeps the last events before the end.
    """
    rows: list[int] = []
    for user in range(1, len(log.users.raw)):
        events = np.flatnonzero(log.user == user)
        held_out = [event for event in events if log.split[event] > 0]
        end = log.before[held_out[0]] if held_out else events[-1] + 1
        earlier = [event for event in events if event < end]
        known = [event for event in earlier if config.history_until is HistoryUntil.target or log.split[event] == 0]
        seen = [event for event in known if config.history is HistoryKind.all or log.label[event] > 0]
        needed = seen[-config.max_history :] + known[max(0, len(known) - config.features.derived.last_items) :]
        rows += [event for event in events if event >= min([*needed, end])]
    return rows


@pytest.mark.parametrize("last_items", [0, 3])
@pytest.mark.parametrize("until", HistoryUntil)
@pytest.mark.parametrize("history", HistoryKind)
def test_events_are_kept_from_the_last_few_before_the_first_held_out_row(
    history: HistoryKind, until: HistoryUntil, last_items: int, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    for kind in SplitKind:
        config = tiny_config(kind, history=history, history_until=until, max_history=2, last_items=last_items)
        log = prepare(tiny_log(), config).log
        assert (
            artifact.reduced(prepare(tiny_log(), config), config).log.row.tolist()
            == log.row[by_loop(log, config)].tolist()
        )


def test_of_events_that_are_not_kept_the_users_and_items_are(
    tiny_config: MakeConfig, tiny_log: MakeRaw, tmp_path: Path
) -> None:
    config = tiny_config(max_history=1)
    dataset = prepare(tiny_log(), config)
    found = kept(dataset, config, tmp_path / "encoder")
    left = np.isin(dataset.log.row, found.log.row)
    pairs = set(zip(dataset.log.user[~left].tolist(), dataset.log.item[~left].tolist(), strict=True))
    assert pairs and found.earlier is not None and list(map(tuple, found.earlier.tolist())) == sorted(pairs)


def test_counts_over_all_events_keep_all_of_them(tiny_config: MakeConfig, tiny_log: MakeRaw, tmp_path: Path) -> None:
    config = tiny_config(most_liked=["brand"], max_history=1)
    dataset = prepare(tiny_log(), config)
    found = kept(dataset, config, tmp_path / "encoder")
    for name, array in dataset.log.arrays().items():
        assert array.tobytes() == found.log.arrays()[name].tobytes(), name


def test_of_a_table_the_encoder_stays_and_no_row(tiny_config: MakeConfig, tiny_table: MakeRaw, tmp_path: Path) -> None:
    kinds = {"context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric}}
    raw, config = tiny_table(), tiny_config(SplitKind.random, features=kinds)
    dataset = prepare(raw, config)
    found = kept(dataset, config, tmp_path / "encoder")
    assert len(found.log) == 0 and not isinstance(found.log, Log)
    assert found.schema == dataset.schema
    assert_same_encoding(dataset, found, raw)


@pytest.fixture
def cached(tiny_config: MakeConfig, tiny_log: MakeRaw, tmp_path: Path) -> tuple[Dataset, DatasetConfig]:
    config = tiny_config(cache_dir=str(tmp_path / "cache"))
    return cache.write(config.cache_dir, prepare(tiny_log(), config, fingerprint="key"), {}), config


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_runs_on_the_same_prepared_data_share_their_files(
    cached: tuple[Dataset, DatasetConfig], tmp_path: Path
) -> None:
    dataset, config = cached
    again = cache.read(config.cache_dir, "key")
    assert again is not None
    for name, each in (("a", dataset), ("b", again)):
        artifact.save(each, config, tmp_path / name)
    assert inodes(tmp_path / "a") == inodes(tmp_path / "b")
    artifact.save(replace(dataset, folder=None), config, tmp_path / "alone")
    assert contents(tmp_path / "alone") == contents(tmp_path / "a")
    longer = replace(config, max_history=50)
    artifact.save(dataset, longer, tmp_path / "longer")
    assert len(artifact.load(tmp_path / "longer").log) > len(artifact.load(tmp_path / "a").log)
    artifact.save(dataset, replace(config, history_until=HistoryUntil.split), tmp_path / "split")
    assert not set(inodes(tmp_path / "split").values()) & set(inodes(tmp_path / "a").values())


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_cache_that_is_cleared_while_a_run_begins_costs_it_nothing(
    when: str, cached: tuple[Dataset, DatasetConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, config = cached
    artifact.save(replace(dataset, folder=None), config, tmp_path / "wanted")

    def clear() -> None:
        for entry in cache.entries(tmp_path / "cache"):
            assert cache.clear(entry)

    if when == "before":
        clear()
    else:
        link = artifact._link
        monkeypatch.setattr(artifact, "_link", lambda source, target: (clear(), link(source, target)))
    artifact.save(dataset, config, tmp_path / "found")
    assert contents(tmp_path / "found") == contents(tmp_path / "wanted")
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_the_files_stay_when_the_cache_goes(cached: tuple[Dataset, DatasetConfig], tmp_path: Path) -> None:
    import shutil

    dataset, config = cached
    artifact.save(dataset, config, tmp_path / "a")
    before = contents(tmp_path / "a")
    shutil.rmtree(tmp_path / "cache")
    assert contents(tmp_path / "a") == before
    artifact.save(dataset, config, tmp_path / "b")
    assert contents(tmp_path / "b") == before


def test_without_links_files_are_copied(
    cached: tuple[Dataset, DatasetConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, config = cached
    artifact.save(dataset, config, tmp_path / "a")

    def refuse(*paths: Path) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", refuse)
    artifact.save(dataset, config, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not set(inodes(tmp_path / "a").values()) & set(inodes(tmp_path / "b").values())


def test_a_folder_that_is_there_stays_and_an_interrupted_writer_leaves_none(
    tiny_config: MakeConfig, tiny_log: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    dataset = prepare(tiny_log(), config)
    artifact.save(dataset, config, tmp_path / "a")
    before = inodes(tmp_path / "a")
    artifact.save(dataset, config, tmp_path / "a")  # a run that goes on
    assert inodes(tmp_path / "a") == before

    def fail(*arguments: object, **options: object) -> None:
        raise DataError("stopped")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(DataError):
        artifact.save(dataset, config, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # the others that share it stay as they are
    file.write_bytes(content)


def test_a_damaged_folder_beside_the_prepared_data_is_written_anew_and_not_shared(
    cached: tuple[Dataset, DatasetConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, config = cached
    artifact.save(dataset, config, tmp_path / "a")
    assert dataset.folder is not None and not caplog.records
    (shared,) = dataset.folder.glob("run-*")
    flip(shared / "item.npy")
    artifact.save(dataset, config, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a") == contents(shared)
    assert len(caplog.records) == 1 and "item.npy: damaged" in caplog.text


def test_a_damaged_folder_is_an_error_that_names_the_file_and_mended_once_the_run_goes_on(
    cached: tuple[Dataset, DatasetConfig], tmp_path: Path
) -> None:
    dataset, config = cached
    for name in ("item.npy", "encoder.json", "dataset.json"):
        artifact.save(dataset, config, tmp_path / "a")
        flip(tmp_path / "a" / name)
        with pytest.raises(DamagedFile, match=f"{name}: damaged"):
            artifact.load(tmp_path / "a")
    with pytest.raises(DamagedFile, match="nowhere: cannot be read"):
        artifact.load(tmp_path / "nowhere")
