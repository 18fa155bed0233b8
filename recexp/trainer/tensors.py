"""Tensors in a safetensors file: written one after another, read only if the file is what was written."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recexp.error import DamagedFile
from recexp.storage import file_digest, replacing

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Writes a file without copying more than one tensor at a time; returns what `read` needs to recognise it."""
    header, end = {}, 0
    aligned = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    for name, tensor in aligned:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in aligned:
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return {"tensors": path.name, "bytes": path.stat().st_size, "digest": file_digest(path)}


def verify(path: Path, written: dict[str, Any]) -> None:
    """Raises DamagedFile unless the file is the one of which `write` returned this."""
    try:
        size = path.stat().st_size if path.is_file() else -1
        if size != written["bytes"] or file_digest(path) != written["digest"]:
            raise DamagedFile(f"{path}: {'missing' if size < 0 else 'damaged'} (not the file that was written).")
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be read ({error.strerror}).") from error


def read(path: Path, written: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file that `verify` accepts. Raises DamagedFile."""
    verify(path, written)
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path}: damaged ({error}).") from error
