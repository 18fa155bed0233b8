"""Turns what a reader returns into the prepared log: index, sort, split, encode."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp import registry
from recexp.dataset import cache
from recexp.dataset.config import DatasetConfig, FeatureKind, HistoryKind, HistoryUntil, LabelKind, SplitKind
from recexp.dataset.derive import derive
from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.facts import facts
from recexp.dataset.filter import filtered
from recexp.dataset.index import Indexed, by_user_then_time, group_starts, index_ids, narrowed
from recexp.dataset.label import binary_labels, task_labels
from recexp.dataset.log import SPLITS, Dataset, Entities, Log, Table, user_offsets
from recexp.dataset.note import interpreted, without_features
from recexp.dataset.raw import Raw
from recexp.dataset.schema import Schema
from recexp.dataset.split import by_name, by_row, remedy, split
from recexp.dataset.warning import warnings
from recexp.error import ConfigError, DataError, choices
from recexp.tree import to_dict

if TYPE_CHECKING:
    import pandas as pd

NO_FIELDS = Encoded(ids=np.zeros((0, 0), np.int32), values=np.zeros((0, 0), np.float32))


def load(config: Any) -> Dataset:
    """The prepared dataset of a configuration, read from the cache if it is there.

    Raises DataError for a source that is missing or does not hold what the configuration says.
    """
    reader = registry.get("reader", config.reader)(config)
    config = getattr(reader, "config", config)  # with patterns such as C* replaced by column names
    key = cache.key(_cached_options(config), reader.fingerprint())
    if (dataset := cache.read(config.cache_dir, key)) is None:
        with cache.one_at_a_time(config.cache_dir, key):
            if (dataset := cache.read(config.cache_dir, key, remove_damaged=True)) is None:
                dataset = cache.write(config.cache_dir, prepare(reader.read(), config, key), _source(config))
    return replace(dataset, schema=replace(dataset.schema, **_history_facts(dataset.log, config)))


def prepare(raw: Raw, config: DatasetConfig, fingerprint: str = "") -> Dataset:
    """Index, sort, split and encode. Raises DataError or ConfigError."""
    if not len(raw.label):
        raise DataError(f"{raw.origin}: holds no rows.")
    raw, kept, notes = filtered(raw, config)
    joined: dict[str, Indexed] = {}
    if raw.timestamp is None:
        joined = {side: index_ids(ids, f"{raw.origin}: a row's {side}") for side, (ids, _) in raw.by_id.items()}
        log, encoder = _table(raw, config, joined)
    else:
        log, encoder = _log(raw, config)
    sides = {name: getattr(encoder, name).side for name in ("user", "item", "context")}
    for split_name in SPLITS:
        if split_name != "valid" and not len(log.rows(split_name)):
            why = remedy(config.split, split_name, len(log), log.timestamp if isinstance(log, Log) else None)
            raise DataError(f"{raw.origin}: split {config.split.kind.name} leaves no rows for {split_name}: {why}.")
    tasks = tuple(raw.tasks or ())
    rows_by_side = {side: index for side, (index, _) in joined.items()}
    warning_lines = warnings(log, sides, raw.label, config, tasks, rows_by_side)
    notes += [*without_features(raw, log, joined), *interpreted(log, encoder, config)]
    return Dataset(
        log=log if kept is None else replace(log, row=kept[log.row]),
        schema=Schema(**sides, **_history_facts(log, config), tasks=tasks),
        encoder=encoder,
        facts=facts(log, sides, tasks) | {"notes": notes, "warnings": warning_lines},
        fingerprint=fingerprint,
        joined={side: raw.by_id[side][1] for side in joined},
    )


def _log(raw: Raw, config: DatasetConfig) -> tuple[Log, Encoder]:
    """Events of users with items over time, sorted and encoded."""
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    user, raw_user = index_ids(raw.user, f"{raw.origin}: a user")
    item, raw_item = index_ids(raw.item, f"{raw.origin}: an item")
    order = by_user_then_time(user, raw.timestamp)
    user, item, timestamp = user[order], item[order], narrowed(raw.timestamp[order], np.int32)
    before = group_starts(user, timestamp)
    if config.split.kind is SplitKind.given:
        splits = by_name(raw.split)[order]
    elif config.split.kind is SplitKind.random:
        splits = by_row(config.split.ratios, len(user))
    else:
        splits = split(config.split, user_offsets(user, len(raw_user)), before, timestamp)
    train = splits == 0
    user_encoder, users = _entities(raw.users, raw_user, "user", config.features.user, user[train], config)
    item_encoder, items = _entities(raw.items, raw_item, "item", config.features.item, item[train], config)
    log = Log(
        label=binary_labels(raw, config)[order],
        split=splits,
        row=order.astype(np.int32),
        context=NO_FIELDS,
        probability=raw.probability[order] if raw.probability is not None else None,
        tasks=task_labels(raw.tasks)[order] if raw.tasks else None,
        user=user,
        item=item,
        timestamp=timestamp,
        before=before,
        users=users,
        items=items,
        true_rank=raw.true_rank[order] if raw.true_rank is not None else None,
    )
    context_encoder, context = _log_context(raw, log, order, config)
    encoder = Encoder(user=user_encoder, item=item_encoder, context=context_encoder)
    return replace(log, context=context), encoder


def _log_context(raw: Raw, log: Log, order: np.ndarray, config: DatasetConfig) -> tuple[SideEncoder, Encoded]:
    """The context of each event: columns of the source, and fields derived from the user's earlier events."""
    import pandas as pd

    derived = {}
    if config.features.derived.names:
        derived = derive(log, _by_id(raw.items, log.items.raw, "item", config.features.item), config)
    frame = _columns(raw.context, "context", config.features.context)
    rows = pd.DataFrame(index=order) if frame is None else frame.iloc[order]
    kinds = {**config.features.context, **dict.fromkeys(derived, FeatureKind.categorical)}
    return _context(rows.assign(**derived), kinds, log.split == 0, config)


def _table(raw: Raw, config: DatasetConfig, joined: Mapping[str, Indexed]) -> tuple[Table, Encoder]:
    """Rows without time: only fields of the context, in the order of the source; features of ids join their rows."""
    frame, kinds = _columns(raw.context, "context", config.features.context), config.features.context
    for side, (index, raw_ids) in joined.items():
        side_kinds = getattr(config.features, side)
        features = _by_id(raw.by_id[side][1], raw_ids, side, side_kinds).iloc[index - 1].reset_index(drop=True)
        frame, kinds = features if frame is None else frame.join(features), kinds | side_kinds
    if not kinds:
        raise ConfigError("dataset.features.context: a table without time needs the columns of its fields.")
    _refuse_options_of_logs(config)
    if config.split.kind is SplitKind.given:
        splits = by_name(raw.split)
    elif config.split.kind is SplitKind.random:
        splits = by_row(config.split.ratios, len(raw.label))
    else:
        raise ConfigError(f"dataset.split.kind = {config.split.kind.name}: a table has no time; use random or given.")
    assert frame is not None
    encoder, context = _context(frame, kinds, splits == 0, config)
    log = Table(
        label=binary_labels(raw, config),
        split=splits,
        row=np.arange(len(splits), dtype=np.int32),
        context=context,
        probability=raw.probability,
        user=None if raw.user is None else index_ids(raw.user, f"{raw.origin}: a user")[0],
        tasks=task_labels(raw.tasks) if raw.tasks else None,
    )
    return log, Encoder(context=encoder)


def _refuse_options_of_logs(config: DatasetConfig) -> None:
    """Raises ConfigError for an option that a table without time cannot follow."""
    if config.features.derived.names:
        raise ConfigError("dataset.features.derived: a table without time has no events before a row.")
    if config.history_until is HistoryUntil.split:
        raise ConfigError("dataset.history_until = split: a table without time has no histories.")
    if config.label is LabelKind.implicit:
        raise ConfigError(
            "dataset.label = implicit: a table's rows are no events of users, for whom negatives are sampled."
        )


def _history_facts(log: Table, config: DatasetConfig) -> dict[str, Any]:
    """The schema's facts about histories. No stored array depends on them, so neither does the cache."""
    if not isinstance(log, Log):
        return {"max_history": 0, "history_labels": False}
    varying = config.label is LabelKind.explicit and config.history is HistoryKind.all
    return {"max_history": config.max_history, "history_labels": varying}


def _entities(
    features: "pd.DataFrame | None",
    raw_ids: np.ndarray,
    name: str,
    kinds: Mapping[str, FeatureKind],
    trained: np.ndarray,
    config: DatasetConfig,
) -> tuple[SideEncoder, Entities]:
    """Encodes the fields of all users or items, the id first, after a row of padding. trained: rows in training."""
    if name in kinds:
        raise ConfigError(f"dataset.features.{name}.{name}: is the name of the id itself; rename the column.")
    frame = _by_id(features, raw_ids, name, kinds).assign(**{name: raw_ids[1:]})
    train = np.zeros(len(frame), bool)
    train[trained - 1] = True
    kinds = {name: FeatureKind.categorical, **kinds}
    encoder, encoded = _fitted(frame, kinds, train, config, ids=(name,))
    ids, values, lists = _with_padding(encoded.ids), _with_padding(encoded.values), encoded.lists
    if lists is not None:
        lists = replace(lists, start=_with_padding(lists.start), count=_with_padding(lists.count))
    return encoder, Entities(ids=ids, values=values, lists=lists, raw=raw_ids)


def _context(
    frame: "pd.DataFrame", kinds: Mapping[str, FeatureKind], train: np.ndarray, config: DatasetConfig
) -> tuple[SideEncoder, Encoded]:
    """Fields of the events, in the order of the log."""
    encoder, encoded = _fitted(frame, kinds, train, config)
    return encoder, replace(encoded, ids=narrowed(encoded.ids, np.int8, np.int16))


def _fitted(
    frame: "pd.DataFrame",
    kinds: Mapping[str, FeatureKind],
    train: np.ndarray,
    config: DatasetConfig,
    ids: Collection[str] = (),
) -> tuple[SideEncoder, Encoded]:
    sizes = {name: getattr(config, name) for name in ("n_bins", "min_count", "n_buckets", "n_quotients")}
    return SideEncoder.fit(frame, kinds, train, ids=ids, **sizes)


def _by_id(
    features: "pd.DataFrame | None", raw_ids: np.ndarray, side: str, kinds: Mapping[str, FeatureKind]
) -> "pd.DataFrame":
    """The feature columns of a side, one row per id from 1 on."""
    import pandas as pd

    index = pd.Index(raw_ids[1:])
    frame = _columns(features, side, kinds)
    return pd.DataFrame(index=index) if frame is None else frame.reindex(index)


def _columns(frame: "pd.DataFrame | None", side: str, kinds: Mapping[str, FeatureKind]) -> "pd.DataFrame | None":
    """The feature columns of a side, None if it has none. Raises ConfigError for one that the source lacks."""
    available = [] if frame is None else [str(name) for name in frame.columns]
    for name in kinds:
        if name not in available:
            raise ConfigError(f"dataset.features.{side}.{name}: no such column. {choices(name, available)}")
    return frame[list(kinds)] if frame is not None and kinds else None


def _with_padding(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, rows.shape[1]), rows.dtype), rows])


def _cached_options(config: DatasetConfig) -> dict[str, Any]:
    """The options that the content of the prepared files depends on."""
    tree = to_dict(config)
    options = {
        key: tree[key]
        for key in ("label", "label_threshold", "n_bins", "min_count", "duplicates", "k_core", "split", "reader")
    }
    features = {side: list(kinds.items()) for side, kinds in tree["features"].items()}  # pairs: their order counts
    if any(kind is FeatureKind.hash for kinds in config.features.sides.values() for kind in kinds.values()):
        options |= {name: tree[name] for name in ("n_buckets", "n_quotients")}
    if config.features.derived.names:  # derived fields are stored; histories are gathered later
        options["history_until"] = tree["history_until"]
    return options | {"features": features}


def _source(config: DatasetConfig) -> dict[str, Any]:
    """Where the data come from, to be shown by `recexp cache`."""
    tree = to_dict(config)
    names = ("name", "reader", "path", "user_path", "item_path", "columns")
    return {name: tree[name] for name in names if tree.get(name)}
