"""Which events are left out, against a loop over all of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.config import Duplicates, FeatureKind, SplitKind
from recexp.dataset.filter import deduplicated, filtered, k_core
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError, DataError

MakeRaw = Callable[..., Raw]
MakeConfig = Callable[..., Any]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Duplicates.same_time, [0, 1, 3, 4, 5]),  # row 2 has row 5's user, item and time, and comes earlier
        (Duplicates.first, [0, 1, 3]),
        (Duplicates.last, [1, 4, 5]),
    ],
)
def test_one_of_a_users_events_of_an_item_counts(rule: Duplicates, kept: list[int]) -> None:
    user, item = np.array([1, 1, 2, 2, 1, 2]), np.array([7, 8, 7, 7, 7, 7])
    time = np.array([10, 10, 30, 20, 11, 30])
    assert np.flatnonzero(deduplicated(user, item, time, rule)).tolist() == kept


@pytest.mark.parametrize("seed", range(3))
def test_a_core_is_what_is_left_when_rare_users_and_items_are_taken_away_again_and_again(seed: int) -> None:
    user, item = np.random.default_rng(seed).geometric(0.08, (2, 400))
    rows = set(range(400))
    while few := {
        row for row in rows if min(sum(ids[other] == ids[row] for other in rows) for ids in (user, item)) < 5
    }:
        rows -= few
    assert 0 < len(rows) < 400
    assert np.flatnonzero(k_core(user, item, np.ones(400, bool), 5)).tolist() == sorted(rows)


def test_what_is_left_out_is_counted_and_the_rest_stays_as_it_is(tiny_log: MakeRaw, tiny_config: MakeConfig) -> None:
    raw, config = tiny_log(), tiny_config(k_core=5, duplicates=Duplicates.last)
    kept, rows, notes = filtered(raw, config)
    assert [note.partition(" of ")[0].isdigit() for note in notes] == [True, True]
    assert sum(int(note.partition(" of ")[0]) for note in notes) == len(raw.label) - len(kept.label)
    dataset = prepare(raw, config)
    assert dataset.facts["notes"] == notes
    log = dataset.log
    assert rows is not None and sorted(log.row) == rows.tolist() and rows[-1] >= len(rows)
    assert log.users.raw[log.user].tolist() == np.asarray(raw.user)[log.row].astype(str).tolist()  # type: ignore[attr-defined]
    assert log.items.raw[log.item].tolist() == np.asarray(raw.item)[log.row].tolist()  # type: ignore[attr-defined]
    assert dataset.log.digest() == prepare(kept, tiny_config()).log.digest()  # type: ignore[attr-defined]
    assert filtered(raw, tiny_config()) == (raw, None, [])


def test_rules_that_leave_nothing_or_have_nothing_to_act_on_are_refused(
    tiny_log: MakeRaw, tiny_table: MakeRaw, tiny_config: MakeConfig
) -> None:
    with pytest.raises(DataError, match=r"^tiny: no event is left by dataset\.k_core = 100; lower it\.$"):
        prepare(tiny_log(), tiny_config(k_core=100))
    with pytest.raises(ConfigError, match=r"^dataset\.duplicates: rows without users, items and times"):
        prepare(tiny_table(), tiny_config(SplitKind.random, duplicates=Duplicates.first))


def test_values_in_few_training_rows_are_unknown_and_ids_stay(tiny_log: MakeRaw, tiny_config: MakeConfig) -> None:
    raw = tiny_log()
    frame = pd.DataFrame({"site": ["a"] * 60 + ["b"] * 99 + ["rare"], "tags": ["x|y"] * 159 + ["z|x"]})
    kinds = {"context": {"site": FeatureKind.categorical, "tags": FeatureKind.multi}}
    raw = replace(raw, context=frame, split=np.array(["train"] * 80 + ["test", "valid"] * 39 + ["train"] * 2, object))
    dataset = prepare(raw, tiny_config(SplitKind.given, features=kinds, min_count=2))
    context = dataset.encoder.context.fields
    assert [context[name].vocabulary.tolist() for name in kinds["context"]] == [["a", "b"], ["x", "y"]]  # type: ignore
    last = dataset.log.context.ids[dataset.log.row == 159][0]
    assert last.tolist() == [UNKNOWN, UNKNOWN, dataset.log.context.ids[dataset.log.row == 0][0, 1]]
    all_kept = prepare(raw, tiny_config(SplitKind.given, features=kinds))
    assert dataset.schema.item == all_kept.schema.item
    assert dataset.facts["notes"][0].startswith("missing in train, or rarer than dataset.min_count=2: ")
