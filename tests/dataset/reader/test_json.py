"""What the json reader does beyond recexp.dataset.frame."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recexp.dataset.reader import json as module
from recexp.dataset.reader.json import Json
from recexp.error import DataError

YAML = Path(__file__).parents[3] / "conf/dataset/json.yaml"
ROWS = [
    {"user": "u", "item": 10, "label": True, "timestamp": 5, "tags": ["a", "b"], "style": {"size": "L"}},
    {"user": "v", "item": 11, "label": False, "timestamp": 7, "price": 2.5},
    {"user": "u", "item": 2**62 + 1, "label": True, "timestamp": 9, "tags": []},
]


def reader(path: Path, **options: Any) -> Json:
    tree = OmegaConf.merge(OmegaConf.structured(Json.Config), OmegaConf.load(YAML), {"path": str(path)}, options)
    return Json(OmegaConf.to_object(tree))


def write(folder: Path, rows: list[Any] = ROWS) -> Path:
    path = folder / "log.jsonl.gz"
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    return path


@pytest.mark.parametrize("block", [1, 2**25])
def test_objects_are_rows_and_what_one_lacks_is_a_gap(block: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    raw = reader(write(tmp_path), features={"context": {"tags": "multi"}}).read()
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None and raw.context is not None
    assert (raw.user.tolist(), raw.item.tolist()) == (["u", "v", "u"], [10, 11, 2**62 + 1])
    assert (raw.label.tolist(), raw.timestamp.tolist()) == ([1, 0, 1], [5, 7, 9])
    assert raw.context["tags"].fillna("none").tolist() == ["a|b", "none", "none"]


def test_a_wrong_value_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, [*ROWS, {"user": "u", "item": 1, "label": 3, "timestamp": 1}])
    with pytest.raises(DataError):
        reader(path).read()
    numbers = [row | {"label": int(row["label"])} for row in ROWS]  # type: ignore[call-overload]
    path = write(tmp_path, [*numbers, {"user": "u", "item": 1, "label": 3, "timestamp": 1}])
    with pytest.raises(DataError, match=r"log\.jsonl\.gz:7: column 'label' = '3': must be 0 or 1"):
        reader(path).read()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ": is empty."),
        (b'{"user": 1}\n{"user": ', ": is not one JSON object a line: JSON parse error"),
        (b"[1, 2]\n", ": is not one JSON object a line"),
        (b'{"usr": 1}', "no column 'user' (dataset.columns.user). Did you mean 'usr'?"),
        (b'{"user": 1}\n{"user": "x"}', "JSON parse error"),
        (b"{'user': 1}\n\n{'user': {1, 2}}", "log.jsonl:3: holds a value that JSON cannot hold: Object of type set"),
        (b"{'user': 1}\n{'user': b'x'}", "log.jsonl:2: holds a value that JSON cannot hold: Object of type bytes"),
        (b"{'user': 1}\n{'user': x}", "log.jsonl:2: cannot be read: malformed node"),
    ],
)
def test_a_damaged_file_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        reader(tmp_path / "log.jsonl").read()
    assert expected in str(caught.value) and "\n" not in str(caught.value)
