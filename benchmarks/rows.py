"""From a Parquet file of many rows to test metrics: seconds of each part, and the largest memory.

usage: python benchmarks/rows.py [--rows N] [--values N] [--kind categorical|hash] [-o FOLDER] [OVERRIDE ...]

Rows of Criteo's shape (benchmarks/peers/criteo.py): 26 columns of ids, each of so many values, 13 of levels; nine
tenths train, the rest in equal parts valid and test. One epoch of deepfm through the command line, in the way that a
user would start it, with nothing cached. The files stay in the folder for the next time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import criteo

PART = 1_000_000  # rows made at once
MODEL = [
    "model=deepfm", "model.embedding_l2=0", "model.embedding_dim=16", "trainer.epochs=1", "trainer.batch_size=4096",
    "trainer.eval_batch_size=16384",
]  # fmt: skip


def write(folder: Path, n_rows: int, n_values: int) -> None:
    """train, valid and test.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": n_rows - 2 * (n_rows // 20), "valid": n_rows // 20, "test": n_rows // 20}
    seed = 0
    for part, size in sizes.items():
        path = folder / f"{part}.parquet"
        if path.is_file() and pq.read_metadata(path).num_rows == size:
            continue
        schema = pa.table(criteo.columns(1, n_values, 0)).schema
        with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
            for first in range(0, size, PART):
                seed += 1
                writer.write_table(pa.table(criteo.columns(min(PART, size - first), n_values, seed)))


def run(words: list[str]) -> float:
    """Seconds of a command, whose output is shown. Raises CalledProcessError."""
    began = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("recexp")), *words], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=4e7)
    parser.add_argument("--values", type=float, default=4e5)
    parser.add_argument("--kind", choices=["categorical", "hash"], default="categorical")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    typed = parser.parse_args()
    n_rows, n_values = int(typed.rows), int(typed.values)
    data = typed.output / f"criteo-{n_rows}-{n_values}"
    began = time.perf_counter()
    write(data, n_rows, n_values)
    print(f"written in {time.perf_counter() - began:.0f} s: {sum(map(os.path.getsize, data.iterdir())) / 2**30:.1f} GB")
    read = criteo.overrides(data, n_values, typed.kind)
    with tempfile.TemporaryDirectory(dir=typed.output) as folder:
        seconds = run([*MODEL, *read, "dataset.cache_dir=null", f"run.dir={folder}/run", *typed.overrides])
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text("utf-8"))
    print(json.dumps({
        "rows": n_rows, "command_seconds": seconds, "training_seconds": metrics["seconds"],
        "samples_per_second": metrics["samples_per_second"], "peak_memory_mb": metrics["peak_memory_mb"],
        "parameters": metrics["parameters"], "test_auc": metrics["test"]["auc"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
