"""Checkpoints: tensors in safetensors, the rest in JSON, no pickle. Written whole or not at all.

`last.json` and `best.json` name the file of their tensors; the JSON is replaced in one step, after the tensors are on
disk, so a kill at any moment leaves a matching pair.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recexp.error import RunError


def save(folder: Path, name: str, tag: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes `name`.json and its tensors as `name`-`tag`.safetensors; removes the tensors it replaces."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}-{tag}.safetensors"
    temporary = folder / f".{target.name}.writing"
    temporary.touch()
    mode = temporary.stat().st_mode  # as the umask has it; safetensors would let only the owner read
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    copies = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    save_file(copies, temporary)
    temporary.chmod(mode)
    _sync(temporary)
    os.replace(temporary, target)
    temporary = folder / f".{name}.json.writing"
    temporary.write_text(json.dumps({"tensors": target.name, **state}, indent=1), "utf-8")
    _sync(temporary)
    os.replace(temporary, folder / f"{name}.json")
    for old in folder.glob(f"{name}-*.safetensors"):
        if old != target:
            old.unlink()


def load(folder: Path, name: str, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state, or None if there is no such checkpoint. Raises RunError for a damaged one."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text("utf-8"))
        return load_file(folder / state["tensors"], device=str(device)), state
    except Exception as error:
        raise RunError(f"{path}: damaged checkpoint ({error}); delete the checkpoints folder to start anew.") from error


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of the optimizers as flat names: optimizer.<which>.<parameter>.<key>."""
    return {
        f"optimizer.{which}.{index}.{key}": torch.as_tensor(value)
        for which, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restores the state that `optimizer_tensors` returned."""
    for which, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        prefix = f"optimizer.{which}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".", 1)
                value = tensor if tensor.is_floating_point() else tensor.item()  # SparseAdam counts steps in an int
                saved["state"].setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(saved)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raises RunError if the checkpoint is of another model."""
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"the checkpoint is of another model: {str(error).splitlines()[-1].strip()}") from error


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
