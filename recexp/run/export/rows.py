"""Rows to test an exported model on: the last events of some of the run's users, or made up if it keeps no rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import SideEncoder
from recexp.dataset.field import Hash
from recexp.dataset.log import Dataset, Log, Table, evenly
from recexp.dataset.merge import MergedRows
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.dataset.value import checksum
from recexp.model import reads_history
from recexp.run.export.encoding import decoded
from recexp.run.export.padded import lists_of
from recexp.run.recommend import Request, seen_items
from recexp.run.trained import Trained


def examples(dataset: Dataset, n: int) -> MergedRows:
    """n rows, fewer if the run has fewer users."""
    log = dataset.log
    if isinstance(log, Log):
        last = log.offsets[1:] - 1
        rows = last[log.offsets[1:] > log.offsets[:-1]]
        return MergedRows(dataset, rows[evenly(len(rows), n)], np.ones(len(log), bool))
    random = np.random.default_rng(0)
    zeros = np.zeros(n, np.int32)
    context = _made_up(dataset.encoder.context, n, random)
    for known in dataset.joined.values():
        context = _joined(dataset.encoder.context, context, known.iloc[evenly(len(known), n)])
    n = len(context.ids)
    table = Table(label=zeros[:n].astype(np.int8), split=np.full(n, 2, np.int8), row=zeros[:n], context=context)
    return MergedRows(replace(dataset, log=table, folder=None), np.arange(n), None)


def _joined(encoder: SideEncoder, made: Encoded, known: pd.DataFrame) -> Encoded:
    """Rows with the known features of some ids; other fields are made up, or missing if wide."""
    encoded = encoder.transform(known.reset_index(drop=True).reindex(columns=list(encoder.fields)))
    for field in encoder.side.fields:
        if field.name not in known and not field.wide:
            columns = slice(field.column, field.column + field.width)
            array, source = (encoded.values, made.values) if field.numeric else (encoded.ids, made.ids)
            array[:, columns] = source[: len(known), columns]
    return encoded


def _made_up(encoder: SideEncoder, n: int, random: np.random.Generator) -> Encoded:
    side, made = encoder.side, {}
    for field in side.fields:
        if isinstance(fitted := encoder.fields[field.name], Hash):
            numbers = random.integers(100, size=n)  # small ones, which `decoded` soon finds again
            buckets = np.array([checksum(number) % fitted.n_buckets for number in numbers])
            made[field] = field.offset + fitted.ids(buckets).astype(np.int32)
        elif not field.numeric:
            known = FIRST + field.offset + random.integers(max(1, field.size), size=(n, field.width))
            made[field] = np.where(random.random((n, field.width)) < 0.9, known, UNKNOWN).astype(np.int32)
    ids, lists = ([column for field, column in made.items() if field.wide is wide] for wide in (False, True))
    return Encoded(
        ids=np.concatenate(ids, 1) if ids else np.zeros((n, 0), np.int32),
        lists=lists_of(lists) if lists else None,
        values=random.standard_normal((n, side.value_columns)).astype(np.float32),
    )


def batch_of(trained: Trained, given: MergedRows) -> Batch:
    """The rows, of padded data, as one batch in the memory of the CPU."""
    batches = Batches(given.dataset, trained.config.dataset, "cpu", given.known)
    longest = None if reads_history(trained.model) else 0
    return batches.gather(Samples(torch.from_numpy(given.row.astype(np.int32))), "test", longest)


def rankings(trained: Trained, given: MergedRows, k: int) -> list[dict[str, Any]]:
    """For each row's user: the items that the user has seen, and the k best others with their scores."""
    log = given.dataset.log
    assert isinstance(log, Log)
    row, item = seen_items(log, given.dataset.earlier, given.row)
    request = Request(given, np.arange(1, len(log.items.raw)), None)
    recommended = pd.concat(list(trained.best_of(request, k)))
    best = {user: group[["item", "score"]].to_numpy().tolist() for user, group in recommended.groupby("user")}
    users = log.users.raw[log.user[given.row]]
    return [
        {"seen": log.items.raw[np.unique(item[row == n])].tolist(), "best": best.get(user, [])}
        for n, user in enumerate(users)
    ]


def written(given: MergedRows, batch: Batch) -> list[dict[str, Any]]:
    """The rows, of padded data, with raw ids and values, as example.py reads them."""
    log, encoder = given.dataset.log, given.dataset.encoder
    context = Encoded(ids=log.context.ids[given.row], values=log.context.values[given.row])
    rows: list[dict[str, Any]] = [{} for _ in given.row]
    if isinstance(log, Log):
        users, items = log.users.raw[log.user[given.row]].tolist(), log.items.raw[log.item[given.row]].tolist()
        rows = [{"user": user, "item": item} for user, item in zip(users, items, strict=True)]
        if batch.mask.shape[1]:
            rows = [row | {"history": _history(batch, n, log.items.raw)} for n, row in enumerate(rows)]
    by_id = {name for known in given.dataset.joined.values() for name in known}
    for name, known in given.dataset.joined.items():
        for row, raw in zip(rows, known.index[evenly(len(known), len(rows))].tolist(), strict=True):
            row[name] = raw
    if encoder.context.fields:
        side = given.dataset.schema.context
        for row, values in zip(rows, decoded(encoder.context, side, context), strict=True):
            row["context"] = {name: value for name, value in values.items() if name not in by_id}
    return rows


def _history(batch: Batch, n: int, raw_items: np.ndarray) -> list[dict[str, Any]]:
    """The n-th row's history with raw ids."""
    length = int(batch.mask[n].sum())
    item, label, age = (column[n, :length] for column in (batch.history, batch.history_label, batch.history_age))
    events = zip(raw_items[item.numpy()].tolist(), label.tolist(), age.tolist(), strict=True)
    return [{"item": item, "label": label, "age": age} for item, label, age in events]
