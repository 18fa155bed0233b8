"""Scores rows of raw ids by the exported model: python example.py [ROWS.json]

It needs numpy, and torch or onnxruntime. model.json tells what the model takes, encoder.json how raw values become ids
and numbers, user.npz and item.npz hold those of the known users and items; rows.json shows how rows are written. Values
of categories are compared as text: 3, 3.0, "3" and "3.0" are the same. So are ids, of which text is taken as it is:
"3.0" is not "3". user.json or item.json, if it is there, holds features that join a row's context by its user or item.
"""

import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np


def text(value):
    whole = isinstance(value, float) and value.is_integer() and -(2**53) < value < 2**53
    return str(int(value)) if whole else str(value)


def plain(value):
    """As text, in which a whole number has no fraction, however it was written."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text(value))


def key(side, field, value):
    """The text by which a field's value is looked up. In categories 3, 3.0 and "3.0" are the same."""
    return plain(value) if field["kind"] == "categorical" and field["name"] != side else text(value)


def look_up(table, raw):
    """The table's entry for an id, or None. The number 3 is also the id that is written 3.0."""
    entry = table.get(text(raw))
    return entry if entry is not None or isinstance(raw, str) else table.get(plain(raw) + ".0")


HERE = Path(__file__).parent
ABOUT, FIELDS = (json.loads((HERE / name).read_text("utf-8")) for name in ("model.json", "encoder.json"))
KNOWN = {side: dict(np.load(HERE / f"{side}.npz")) for side in ("user", "item") if (HERE / f"{side}.npz").exists()}
ROW = {side: {str(raw): row for row, raw in enumerate(table["raw"].tolist()) if row} for side, table in KNOWN.items()}
JOINED = {
    side: json.loads((HERE / f"{side}.json").read_text("utf-8"))
    for side in ("user", "item")
    if (HERE / f"{side}.json").exists()
}
ID = {
    (side, field["name"]): {key(side, field, value): n for n, value in enumerate(field["values"], field["first"])}
    for side, fields in FIELDS.items()
    for field in fields
    if "values" in field
}


def hashed(field, value):
    """The ids of the remainder and the quotient of a value's bucket; a field without quotients has only the first."""
    if value is None:
        return [1, 0]
    quotient, remainder = divmod(zlib.crc32(plain(value).encode()) % field["buckets"], field["remainders"])
    return [field["first"] + remainder, field["first"] + field["remainders"] + quotient]


def encode(side, values):
    """Raw values by name as ids (0 is padding, 1 is unknown) and numbers."""
    ids, numbers = [], []
    for field in FIELDS[side]:
        value = values.get(field["name"])
        if field["kind"] in ("numeric", "vector"):
            mean, deviation = np.atleast_1d(field["mean"]), np.atleast_1d(field["deviation"])
            spread = np.where(deviation, deviation, np.inf)  # 0: the model knows nothing of such numbers
            scaled = np.zeros(len(mean)) if value is None else (np.atleast_1d(value) - mean) / spread
            numbers += [*np.clip(scaled, -field["largest"], field["largest"])]
        elif field["kind"] == "binned":
            known = value is not None and field["size"]
            ids.append(field["first"] + int(np.searchsorted(field["edges"], value, "right")) if known else 1)
        elif field["kind"] == "hash":
            ids += hashed(field, value)[: field["width"]]
        else:
            cell = (value or []) if field["kind"] == "multi" else [value]
            known = ID[side, field["name"]]
            cell_ids = [1 if value is None else known.get(key(side, field, value), 1) for value in cell]
            ids += (cell_ids + [0] * field["width"])[: field["width"]]
    return ids, numbers


def find(side, given):
    """The ids and numbers of a user or an item: a known id, or a new one's values by name, its id among them."""
    values = given if isinstance(given, dict) else {side: given}
    row = None if values.get(side) is None else look_up(ROW[side], values[side])
    if row:
        return KNOWN[side]["ids"][row], KNOWN[side]["values"][row]
    return encode(side, values)


def joined(row):
    """A row of a table, its context joined with the features of its user or item."""
    context = dict(row.get("context", {}))
    for side, known in JOINED.items():
        context |= look_up(known, row.get(side)) or {}
    return {"context": context} if JOINED else row


def inputs(rows):
    """The model's inputs; histories, oldest event first, are padded on the right."""
    rows = [joined(row) for row in rows]
    histories = [row.get("history", [])[-ABOUT["max_history"] :] if ABOUT["max_history"] else [] for row in rows]
    sizes = {"batch": len(rows), "length": max(1, *map(len, histories), 0)}
    arrays = {
        entry["name"]: np.zeros([sizes.get(n, n) for n in entry["shape"]], entry["dtype"]) for entry in ABOUT["inputs"]
    }

    def put(at, **values):
        for name in values.keys() & arrays.keys():
            arrays[name][at] = values[name]

    for n, (row, history) in enumerate(zip(rows, histories, strict=True)):
        for side in row.keys() & FIELDS.keys():
            ids, values = encode(side, row[side]) if side == "context" else find(side, row[side])
            put(n, **{f"{side}_ids": ids, f"{side}_values": values})
        for step, event in enumerate(history):
            ids, values = find("item", event["item"])
            put((n, step), history_ids=ids, history_values=values, mask=True)
            put((n, step), history_label=event.get("label", 0), history_age=event.get("age", 0))
    return arrays


def run(arrays):
    if (HERE / "model.onnx").exists():
        import onnxruntime

        return onnxruntime.InferenceSession(str(HERE / "model.onnx")).run(None, arrays)[0]
    import torch

    with torch.no_grad():
        return torch.export.load(HERE / "model.pt2").module()(*map(torch.from_numpy, arrays.values())).numpy()


def best(query, seen, k=3):
    """The k best items that a user has not seen, and their scores."""
    scores = np.load(HERE / "item_vectors.npy")[KNOWN["item"]["ids"][:, 0]] @ query
    scores[[0, *filter(None, (look_up(ROW["item"], item) for item in seen))]] = -np.inf
    chosen = np.argsort(-scores, kind="stable")[:k]
    return [(KNOWN["item"]["raw"][row], 1 / (1 + np.exp(-scores[row]))) for row in chosen]


def scores(rows):
    """The probability of label 1 of each row, or a column for each of several labels.

    A ranker's query is multiplied by the vector of the row's item.
    """
    output = run(inputs(rows))
    if ABOUT["output"] == "query":
        ids = [find("item", row["item"])[0][0] for row in rows]
        output = 1 / (1 + np.exp(-(output * np.load(HERE / "item_vectors.npy")[ids]).sum(1)))
    return output


if __name__ == "__main__":
    rows = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "rows.json").read_text("utf-8"))["rows"]
    for row, score in zip(rows, scores(rows), strict=True):
        print(*(row[side] for side in ("user", "item") if side in row), *(f"{p:.6f}" for p in np.atleast_1d(score)))
    if ABOUT["output"] == "query":
        for row, query in zip(rows, run(inputs(rows)), strict=True):
            print(row["user"], *(f"{item}:{score:.6f}" for item, score in best(query, row.get("seen", []))))
