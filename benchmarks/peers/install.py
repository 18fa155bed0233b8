"""Creates an environment with pinned versions for each of the other libraries in benchmarks/peers/.env.

usage: python benchmarks/peers/install.py [NAME ...]

Each is installed separately; a failure is reported in one line and does not stop the others. PEERS also lists
packages that a library imports but does not declare, and upper bounds on those that later removed what it calls.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent / ".env"
TORCH = "torch==2.13.0"
PEERS = {
    "torch_rechub": ["torch-rechub==0.9.0"],
    "deepctr_torch": ["deepctr-torch==0.3.0", "requests"],
    "fuxictr": ["fuxictr==2.3.10", "keras_preprocessing", "numpy<2", "pandas<3", "pyarrow<18", "polars==1.17.1"],
    "recbole": [
        "recbole==1.2.1", "numpy<2", "pandas<3", "scipy<1.14", "lightgbm", "xgboost", "kmeans_pytorch", "setuptools<81",
    ],
    "rectools": ["rectools[torch]==0.19.0"],
    "torchrec": [
        "numpy", "tensordict==0.15.3", "torchmetrics==1.0.3", "pyre-extensions", "iopath", "psutil", "scikit-learn",
    ],
}  # fmt: skip
# TorchRec asks for FBGEMM's build for GPUs, so both come without what they ask for.
ALONE = {"torchrec": ["torchrec==1.8.0", "fbgemm-gpu-cpu==1.8.0"]}
# FuxiCTR's wheel lacks its models: the code comes from its repository, the wheel only brings the dependencies.
SOURCE, COMMIT = "https://github.com/reczoo/FuxiCTR", "0245987fdc1d43c36164ea496a02324885a8557a"


def install(name: str) -> None:
    """Creates an environment unless it is complete. Raises CalledProcessError and leaves nothing behind on failure."""
    folder = ENVIRONMENTS / name
    stamp = folder / ".installed"
    alone = ALONE.get(name, [])
    wanted = "\n".join([TORCH, *PEERS[name], *alone])
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        print(f"{name}: installed already")
        return
    remove(folder)
    try:
        run(sys.executable, "-m", "venv", folder)
        for packages in ([TORCH], PEERS[name], *([["--no-deps", *alone]] if alone else [])):
            run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
        if name == "fuxictr":
            clone(ENVIRONMENTS / "FuxiCTR")
    except BaseException:
        remove(folder)
        raise
    stamp.write_text(wanted, "utf-8")
    print(f"{name}: installed")


def clone(folder: Path) -> None:
    """The repository at the pinned commit."""
    remove(folder)
    run("git", "clone", "--quiet", SOURCE, folder)
    run("git", "-C", folder, "checkout", "--quiet", COMMIT)


def remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*PEERS, []], default=[], metavar="NAME", help=", ".join(PEERS))
    for name in parser.parse_args().names or PEERS:
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or error.stdout.strip() or str(error)).splitlines()[-1]
            print(f"{name}: absent, its installation failed: {last}")
