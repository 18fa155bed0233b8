"""An inspection as a dataset YAML: what differs from the reader's own file, each line with its reason."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeAlias

import yaml

from recexp.dataset.inspect.look import Inspection
from recexp.terminal import columns

Path: TypeAlias = "tuple[str, ...]"  # the keys that lead to an option


def dataset_yaml(name: str, inspection: Inspection) -> str:
    reader = inspection.form.reader
    head = [
        f"# {inspection.path}: {inspection.rows:,} rows. Written by recexp inspect; paths start where recexp is run.",
        f"# All other options are those of `recexp datasets {reader}`.",
        f"defaults: [{reader}]",
    ]
    lines = list(_lines({"name": name} | inspection.options, _reasons(inspection)))
    return "\n".join([*head, *columns([[line, f"# {reason}" if reason else ""] for line, reason in lines]), ""])


def _lines(tree: dict[str, Any], reasons: dict[Path, str], path: Path = ()) -> Iterator[tuple[str, str]]:
    """Each line of the YAML with its reason."""
    for key, value in tree.items():
        here, start = (*path, key), f"{'  ' * len(path)}{_inline(key)}:"
        if isinstance(value, dict) and value:
            yield start, reasons.get(here, "")
            yield from _lines(value, reasons, here)
        else:
            yield f"{start} {_inline(value)}", reasons.get(here, "")


def _inline(value: Any) -> str:
    return re.sub(
        r"\n(\.\.\.\n)?$", "", yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    )


def _reasons(inspection: Inspection) -> dict[Path, str]:
    """Why an option has its value, by the keys that lead to it."""
    reasons: dict[Path, str] = {}
    for column in inspection.columns:
        if not column.kind:
            reasons["columns", column.role] = f"{column.n_unique:,} values; {column.why}"
    by_side = {side: file.columns for side, file in inspection.sides.items()} | {"log": inspection.columns}
    for column in chain(*by_side.values()):
        reasons |= {("features", side, column.name): column.why for side in ("user", "item", "context")}
    if inspection.label is not None and inspection.label.threshold is not None:
        reasons["label_threshold",] = f"{inspection.label.share:.0%} of the labels are 1 then"
    if inspection.options.get("label") == "implicit":
        reasons["label",] = "every event is a positive, negatives are sampled"
    if inspection.facts is not None and inspection.facts.time is not None and inspection.columns:
        unseen = {kind: f"{unseen.user:.0%}" for kind, unseen in inspection.facts.unseen.items()}
        reasons["split", "kind"] = (
            f"test rows of unseen users: {unseen['user_time']} by user_time, {unseen['time']} by time"
        )
    return reasons
