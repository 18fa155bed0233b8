"""What the other libraries are given in benchmarks/peers is what recexp itself trains on, row by row."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import recexp
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.prepare import load

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"
PARTS = ("train", "valid", "test")


@pytest.fixture
def peers(monkeypatch):
    """The modules of benchmarks/peers, which are scripts beside each other."""
    monkeypatch.syspath_prepend(PEERS)
    import data
    import worker

    yield data, worker
    for name in [name for name, module in sys.modules.items() if str(PEERS) in str(getattr(module, "__file__", ""))]:
        sys.modules.pop(name)


@pytest.fixture
def written(peers, tmp_path):
    """MovieLens-like files, and for each model the folder of its rows and recexp's batches of the same experiment."""
    data, worker = peers
    data.write_small_movielens(tmp_path / "source", n_events=1500)
    source = [f"dataset.path={tmp_path / 'source'}", "dataset.cache_dir=null"]
    data.write_movielens(source, tmp_path / "inputs")

    def read(model: str):
        config = recexp.load_config([f"+experiment=peers/{model}", *source])
        folder = tmp_path / "inputs" / data.kind_of(model)
        return folder, worker.read_rows(folder), Batches(load(config.dataset), config.dataset)

    return read


def whole(batches: Batches, part: str) -> Batch:
    return next(batches.epoch(part, 10_000))


@pytest.mark.parametrize("model", ["din", "dien", "bst"])
def test_the_peers_histories_are_those_of_recexps_batches(model, written):
    _, rows, batches = written(model)
    for part in PARTS:
        batch, given = whole(batches, part), rows[part]
        item = batch.catalogue.items.ids[:, 0]
        longest = batch.history.shape[1]
        assert given.label.tolist() == batch.label.tolist()
        assert given.columns["user"].tolist() == batch.catalogue.users.ids[batch.user, 0].tolist()
        assert given.columns["item"].tolist() == item[batch.target].tolist()
        assert given.history[:, :longest].tolist() == item[batch.history].tolist()
        assert not given.history[:, longest:].any()
        assert given.length.tolist() == batch.mask.sum(1).tolist()


def test_the_peers_fields_are_those_of_recexps_batches_each_counted_from_its_own_start(written):
    _, rows, batches = written("deepfm")
    seen: dict[str, dict[int, int]] = {}
    for part in PARTS:
        batch, given = whole(batches, part), rows[part]
        found = np.concatenate([batch.catalogue.users.ids[batch.user], batch.catalogue.items.ids[batch.target]], 1)
        assert given.label.tolist() == batch.label.tolist()
        assert len(given.columns) == found.shape[1] == 8
        for (name, column), ids in zip(given.columns.items(), found.T, strict=True):
            pairs = set(zip(column.tolist(), ids.tolist(), strict=True))
            assert all(seen.setdefault(name, {}).setdefault(ours, theirs) == theirs for ours, theirs in pairs)
    for name, ids in seen.items():
        assert len(set(ids.values())) == len(ids), name  # one to one
        assert min(key for key in ids if key > 1) == 2


@pytest.mark.parametrize("model", ["deepfm", "din"])
def test_files_of_fuxictr_and_recbole_hold_the_same_rows(model, written):
    import pandas as pd

    folder, rows, _ = written(model)
    for part in PARTS:
        given = rows[part]
        csv = pd.read_csv(folder / "fuxictr" / f"{part}.csv", keep_default_na=False)
        atomic = pd.read_csv(folder / "recbole" / folder.name / f"{folder.name}.{part}.inter", sep="\t")
        atomic.columns = [name.partition(":")[0].removesuffix("_id") for name in atomic.columns]
        for name, column in {**given.columns, "label": given.label}.items():
            assert csv[name].tolist() == atomic[name].tolist() == column.tolist()
        if given.history is None:
            continue
        for row, length in enumerate(given.length):
            expected = [str(item) for item in given.history[row, :length]]
            assert [item for item in csv["history"][row].split("^") if item] == expected
            assert atomic["item_id_list"][row].split(" ") == (expected or ["none"])


@pytest.mark.parametrize("model", ["deepfm", "dcnv2"])
def test_ids_of_criteos_shape_are_the_buckets_that_recexp_hashes_them_into(model, peers, tmp_path):
    import criteo

    data, worker = peers
    settings = data.settings_of(model, embedding_dim=4, hidden_sizes=[8])
    criteo.write(tmp_path, n_rows=400, n_buckets=90, models={model: settings})
    overrides = json.loads((tmp_path / f"{model}.json").read_text("utf-8"))["overrides"]
    config = recexp.load_config([*overrides, "dataset.cache_dir=null"])
    dataset, given = load(config.dataset), worker.read_rows(tmp_path / "criteo")
    assert (config.model.name, config.model.hidden_sizes, config.model.dropout) == (model, [8], 0)
    for part in PARTS:
        batch, rows = whole(Batches(dataset, config.dataset), part), given[part]
        assert rows.label.tolist() == batch.label.tolist()
        for field in dataset.schema.context.fields:
            ids, theirs = batch.context.ids[:, field.column].numpy() - field.offset, rows.columns[field.name]
            if field.name.startswith("C"):
                assert ids.tolist() == theirs.tolist()
            else:
                assert len(set(zip(ids, theirs, strict=True))) == len(set(ids)) == len(set(theirs))


def test_the_plain_loops_windows_are_those_of_recexps_next_items(peers, tmp_path, monkeypatch):
    import drive_next_loop
    import drive_next_recexp
    import next_item
    import ranker

    next_item.write_log(next_item.synthetic(30, 40), tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "--model", "sasrec_full", "--data", str(tmp_path), "--max-batches", "1"])
    job = ranker.ranking_job()
    _, item, target = drive_next_loop.prepare(job)
    experiment = drive_next_recexp.prepare(job)
    ours = drive_next_recexp.Recexp(job, experiment)
    batch = ours.step.gather(next(ours.windows.samples("train", 30, 0)))
    raw, kept = experiment.dataset.log.items.raw, target > 0
    pairs = zip(raw[batch.events.item[batch.query]], raw[batch.target], strict=True)
    given = zip(item[kept].tolist(), target[kept].tolist(), strict=True)
    assert len(item) == len(batch) == 30
    assert sorted((int(one), int(other)) for one, other in pairs) == sorted(given)
