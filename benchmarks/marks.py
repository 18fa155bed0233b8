"""Published marks: do recexp's models reach the figures of the literature, by configuration alone?

usage: python benchmarks/marks.py DATA [MARK ...] [--seeds N] [--threads N]

DATA is a folder with `frappe/`, the three files of Frappe_x1, and `s3rec/`, the text files of S3-Rec. Each mark is an
experiment of conf/experiment/marks, trained with several seeds; its mean test metric may stay below the published
figure by a tolerance. Exit 1 if one falls out. The published AUCs are those of BARS (Zhu et al., SIGIR 2022,
openbenchmark.github.io/BARS), the rankings of Beauty those of eSASRec's benchmark (Klenitskiy et al., RecSys 2025), the
one of LastFM is BSARec's (Shin et al., AAAI 2024).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import recexp

TOLERANCE = {"auc": 0.001, "ndcg@10/all": 0.001}
SHOWN = {"auc": "logloss", "ndcg@10/all": "hr@10/all"}  # beside a mark's metric
PUBLISHED = {  # mark: its data, published test AUC, or NDCG@10 of a ranking
    "linear_frappe": ("frappe", 0.9356),
    "fm_frappe": ("frappe", 0.9671),
    "afm_frappe": ("frappe", 0.9697),
    "ffm_frappe": ("frappe", 0.9786),
    "nfm_frappe": ("frappe", 0.9804),
    "autoint_frappe": ("frappe", 0.9831),
    "fibinet_frappe": ("frappe", 0.9832),
    "feature_mlp_frappe": ("frappe", 0.9833),
    "wide_deep_frappe": ("frappe", 0.9841),
    "pnn_frappe": ("frappe", 0.9841),
    "deepfm_frappe": ("frappe", 0.9842),
    "dcnv2_frappe": ("frappe", 0.9845),
    "xdeepfm_frappe": ("frappe", 0.9845),
    "autoint_deep_frappe": ("frappe", 0.9848),
    "finalmlp_frappe": ("frappe", 0.9861),
    "sasrec_beauty": ("s3rec/Beauty.txt", 0.0531),
    "esasrec_beauty": ("s3rec/Beauty.txt", 0.0523),
    "hstu_beauty": ("s3rec/Beauty.txt", 0.0439),
    "sasrec_lastfm": ("s3rec/LastFM.txt", 0.0355),
}


def train(mark: str, data: Path, seed: int, more: list[str]) -> dict[str, Any]:
    """metrics.json of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        place = [f"dataset.path={data / PUBLISHED[mark][0]}", f"run.dir={folder}/run", "trainer.predictions=false"]
        return recexp.train(recexp.load_config([f"+experiment=marks/{mark}", f"seed={seed}", *place, *more]))


def metric_of(mark: str) -> str:
    return "auc" if mark.endswith("_frappe") else "ndcg@10/all"


def row(mark: str, runs: list[dict[str, Any]], seconds: float) -> str:
    """A line of the table: two metrics as mean and deviation over seeds, and the seconds a seed took."""
    cells = []
    for metric in (metric_of(mark), SHOWN[metric_of(mark)]):
        values = [run["test"][metric] for run in runs]
        cells.append(f"{statistics.fmean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}")
    return f"{mark:20} {PUBLISHED[mark][1]:9.4f}   {'   '.join(cells)}   {seconds / len(runs):7.0f}   {metric_of(mark)}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("marks", nargs="*", default=list(PUBLISHED), metavar="MARK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    typed = parser.parse_args()
    missed = []
    print(f"{'mark':20} {'published':>9}   {'metric':15}   {'beside it':15}   seconds   metric", flush=True)
    for mark in typed.marks:
        began = time.perf_counter()
        threads = f"trainer.threads={typed.threads or 'null'}"
        runs = [train(mark, typed.data, seed, [threads]) for seed in range(typed.seeds)]
        print(row(mark, runs, time.perf_counter() - began), flush=True)
        metric = metric_of(mark)
        if statistics.fmean(run["test"][metric] for run in runs) < PUBLISHED[mark][1] - TOLERANCE[metric]:
            missed.append(mark)
    print(f"below the published figure and its tolerance: {', '.join(missed)}" if missed else "all within tolerance")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
