"""That exported models score as recexp does: every model and every named variant, freshly drawn, on a tiny log.

usage: python benchmarks/export.py [--format torch|onnx] [NAME ...]

Prints for each the largest difference of a probability, over batches of 1, 2 and 200 rows with histories of any length,
and the seconds that the export took. Ends with 1 if one differs by more than 1e-5 or cannot be exported. Models that
search all earlier events are left out, as `recexp export` refuses them.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import recexp
from recexp import registry
from recexp.config import Config
from recexp.contract.measure import in_closed_form
from recexp.contract.variant import longer
from recexp.dataset.batch import Batches, Samples
from recexp.dataset.prepare import load
from recexp.error import UserError
from recexp.groups import conf_folder
from recexp.model import create, search_of
from recexp.run.export import graph

TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--format", choices=list(graph.FILES), default="torch")
    parser.add_argument("names", nargs="*")
    typed = parser.parse_args()
    torch.set_num_threads(1)
    variants = sorted(path.stem for path in (conf_folder() / "experiment" / "variants").glob("*.yaml"))
    overrides = {name: ["+experiment=tiny", f"model={name}"] for name in registry.names("model")}
    overrides |= {name: [f"+experiment/variants={name}"] for name in variants}
    failed = 0
    for name in typed.names or overrides:
        began = time.perf_counter()
        try:
            config = recexp.load_config([*overrides[name], "device=cpu", "trainer.threads=1"])
            difference = largest_difference(config, typed.format)
        except UserError as error:
            difference, told = float("inf"), str(error)
        else:
            if difference is None:
                continue
            told = f"{difference:.1e}"
        failed += not difference <= TOLERANCE
        print(f"{name:24}{told:12}{time.perf_counter() - began:6.1f} s", flush=True)
    print(f"{failed} of {len(typed.names or overrides)} differ by more than {TOLERANCE:g} or cannot be exported")
    return int(failed > 0)


def largest_difference(config: Config, form: str) -> float | None:
    """Of a probability by the exported model from one by the model itself, whose embeddings are drawn wide.

    None for a model that searches.
    """
    dataset = load(config.dataset)
    batches = Batches(dataset, config.dataset)
    wide = {"embedding_std": 0.3} if hasattr(config.model, "embedding_std") else {}
    torch.manual_seed(0)
    model = in_closed_form(create(replace(config.model, **wide), dataset.schema), batches).eval()
    if search_of(model):
        return None
    held_out = batches.rows["test"]
    picked = [batches.rows["train"][:1], batches.rows["train"][:2], held_out[:1], held_out[:200]]
    rows = [batches.gather(Samples(row), "test") for row in picked]
    rows = [longer(batch, 1 - min(1, batch.mask.shape[1])) for batch in rows]  # an empty history is written as padding
    columns = graph.columns_of(rows[-1])
    program, names = graph.program(model, False, columns, graph.INPUTS)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        graph.write(program, names, "score", form, Path(folder))
        run = runner(form, Path(folder), names)
        return max(
            float(np.abs(run(graph.columns_of(batch)) - torch.sigmoid(model(batch).logits).numpy()).max())
            for batch in rows
        )


def runner(form: str, folder: Path, names: list[str]) -> Callable[[dict[str, torch.Tensor]], np.ndarray]:
    if form == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / graph.FILES[form]), options)
        return lambda columns: session.run(None, {name: columns[name].numpy() for name in names})[0]
    module = torch.export.load(folder / graph.FILES[form]).module()
    return lambda columns: module(*(columns[name] for name in names)).numpy()


if __name__ == "__main__":
    sys.exit(main())
