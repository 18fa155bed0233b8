"""Which runs may share a table: those evaluated by the same protocol, which docs/statistics.md explains."""

from collections import Counter
from collections.abc import Hashable

from recexp.error import RunError
from recexp.report.setting import differing, short, text
from recexp.run.record import Record

# Options of a model's inputs, not of what it has to predict: runs that differ in these can be compared.
INPUTS = ("dataset.features.", "dataset.max_history", "dataset.history", "dataset.n_bins", "dataset.n_buckets",
          "dataset.n_quotients", "dataset.min_count")  # fmt: skip
UNTIL = "dataset.history_until"
# Options of the ranking protocol, with the value for runs that lack the key.
RANKING = {"trainer.ranking.exclude_seen": True, "trainer.ranking.relevant": "all",
           "trainer.ranking.valid_users": None}  # fmt: skip
N_SHOWN = 3


def protocol(record: Record) -> Hashable:
    """Equal for runs with the same events, labels, splits, end of histories, sampled negatives and ranking."""
    sampled = record.config.get("dataset.label") == "implicit"
    negatives = record.config.get("dataset.negatives") if sampled else None
    ranking = [record.config.get(key, default) for key, default in RANKING.items()]
    return record.events, until(record), negatives, *ranking


def until(record: Record) -> str:
    """Where histories end; until the target in runs from before there was a choice."""
    return record.config.get(UNTIL, "target")


def history_notes(records: list[Record]) -> list[str]:
    """Where histories end, of runs on logs, and what that means for their metrics."""
    return list(dict.fromkeys(map(_history_note, filter(_on_log, records))))


def _on_log(record: Record) -> bool:
    """True if a run's rows have histories. A table may have users, and metrics by user, but no items."""
    if record.config.get("dataset.columns.item", "") is None:
        return False
    return any(name.partition("/")[0] == "test.gauc" for name in record.metrics)


def _history_note(record: Record) -> str:
    if until(record) == "split":
        return "Histories until split: they end with the training split."
    if record.config.get("dataset.label") == "implicit":
        return "Histories until target: they hold earlier test events."
    return "Histories until target: they hold earlier test labels, which biases gauc (docs/protocols.md)."


def require_one(records: list[Record], way_out: str) -> None:
    """Raises RunError unless all records have the same protocol; it says what differs and ends in `way_out`."""
    if difference := mixture(records):
        raise RunError(f"{difference} {way_out}")


def mixture(records: list[Record]) -> str | None:
    """A sentence on how the runs' protocols differ; None if they do not."""
    counts = Counter(map(protocol, records))
    if len(counts) < 2:
        return None
    examples: dict[Hashable, Record] = {}
    for record in records:
        examples.setdefault(protocol(record), record)
    kinds = [f"{counts[kind]} like {examples[kind].path}" for kind in list(counts)[:N_SHOWN]]
    if len(counts) > N_SHOWN:
        kinds.append(f"{len(counts) - N_SHOWN} other kinds")
    return f"the runs predict different things ({_reason(list(examples.values()))}): {', '.join(kinds)}."


def _reason(examples: list[Record]) -> str:
    keys = [key for key in differing(examples) if key in RANKING or (key.startswith("dataset.") and not _is_input(key))]
    named = keys if "dataset.name" not in keys else ["dataset.name"]  # all else follows from it
    if not named:
        return "the content of their data differs"
    return "; ".join(f"{short(key)} is {_values(key, examples)}" for key in named[:N_SHOWN])


def _is_input(key: str) -> bool:
    return key in INPUTS or key.startswith(INPUTS[0])


def _values(key: str, examples: list[Record]) -> str:
    return " or ".join(dict.fromkeys(text(record.config.get(key)) for record in examples))
