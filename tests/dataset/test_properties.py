"""Properties that hold for any input: what is read is what was written, splits, histories and encoders of any log."""

import csv
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recexp
from recexp import registry
from recexp.dataset.batch import Batches, Samples
from recexp.dataset.config import DatasetConfig, FeatureKind, SplitKind
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.error import DataError

MakeConfig = Callable[..., DatasetConfig]
settings.register_profile("recexp", max_examples=40, deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
settings.load_profile("recexp")

# Any text that a file can hold in one cell; a carriage return ends a line, and NUL no CSV file has.
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=("Cs",)), min_size=1)
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 9), st.booleans()), min_size=4, max_size=40
)


@pytest.mark.slow
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), separator=st.sampled_from(",;\t|"))
def test_ids_of_a_csv_file_are_the_text_that_was_written(rows: list[tuple[str, str]], separator: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(["user", "item", "label", "timestamp"])
            writer.writerows([user, item, n % 2, n] for n, (user, item) in enumerate(rows))
        config = recexp.load_config(["dataset=csv", f"dataset.path={path}", "model=fm"]).dataset
        raw = registry.get("reader", "csv")(replace(config, separator=separator)).read()
    assert list(zip(raw.user, raw.item, strict=True)) == rows
    assert raw.timestamp.tolist() == list(range(len(rows)))


def log_of(events: list[tuple[int, int, int, bool]]) -> Raw:
    user, item, time, label = map(np.array, zip(*events, strict=True))
    return Raw(origin="drawn", label=label.astype(np.int64), user=user, item=item, timestamp=time)


def prepared(raw: Raw, config: DatasetConfig):
    """None where the split leaves train or test without rows, which is refused."""
    try:
        return prepare(raw, config)
    except DataError as error:
        assert "leaves no rows" in str(error)
        return None


@pytest.mark.parametrize("kind", [SplitKind.user_time, SplitKind.leave_last_out, SplitKind.time])
@given(events=EVENTS)
def test_splits_are_chronological_and_divide_no_tie(events: list, kind: SplitKind, tiny_config: MakeConfig) -> None:
    if (dataset := prepared(log_of(events), tiny_config(kind, features={}))) is None:
        return
    log = dataset.log
    assert sorted(log.row) == list(range(len(events)))
    for one in range(len(log)):
        for two in range(len(log)):
            if log.user[one] == log.user[two] and log.timestamp[one] <= log.timestamp[two]:
                assert log.split[one] <= log.split[two]


@given(events=EVENTS, seed=st.integers(0, 2**16))
def test_no_event_of_the_same_time_or_later_changes_a_sample(events: list, seed: int, tiny_config: MakeConfig) -> None:
    config = tiny_config(SplitKind.given, features={}, max_history=3)
    splits = np.array(["train", "test"], object)[np.arange(len(events)) % 2]
    raw = replace(log_of(events), split=splits)
    moment = events[seed % len(events)][2]
    later = raw.timestamp >= moment
    other = replace(raw, label=np.where(later, 1 - raw.label, raw.label))
    histories = []
    for version in (raw, other):
        dataset = prepare(version, config)
        batches = Batches(dataset, config)
        rows = batches.rows["test"]
        batch = batches.gather(Samples(rows), "test")
        asked = dataset.log.timestamp[rows.numpy()] <= moment
        histories.append([tensor[asked].tolist() for tensor in (batch.history, batch.history_label, batch.mask)])
    assert histories[0] == histories[1]


@given(
    values=st.lists(st.tuples(CELL, st.floats(-1e6, 1e6), st.lists(st.sampled_from("abcd"))), min_size=3, max_size=20),
    n_bins=st.integers(2, 4),
)
def test_an_encoder_loaded_again_encodes_alike(values: list, n_bins: int) -> None:
    frame = pd.DataFrame(
        {"city": [text for text, _, _ in values], "price": [number for _, number, _ in values],
         "age": [number for _, number, _ in values], "tags": ["|".join(tags) for _, _, tags in values]}
    )  # fmt: skip
    kinds = {"city": FeatureKind.categorical, "price": FeatureKind.numeric, "age": FeatureKind.binned,
             "tags": FeatureKind.multi}  # fmt: skip
    train = np.arange(len(frame)) < len(frame) - 1
    encoder, encoded = SideEncoder.fit(frame, kinds, train, n_bins)
    with tempfile.TemporaryDirectory() as folder:
        Encoder(item=encoder).save(Path(folder))
        loaded = Encoder.load(Path(folder)).item
    for again in (encoder.transform(frame), loaded.transform(frame)):
        assert again.ids.tolist() == encoded.ids.tolist() and again.values.tobytes() == encoded.values.tobytes()
