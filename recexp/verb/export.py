"""The verb `export`: a trained model as a folder that serves raw ids without recexp."""

import argparse
import logging
from pathlib import Path

from recexp.error import ConfigError, choices
from recexp.verb.options import RUN, TRAINED, load_trained, option, parse

logger = logging.getLogger(__name__)
USAGE = "RUN --format torch|onnx -o DIR"
HELP = "a trained model as a folder that serves raw ids without recexp"
FORMATS = ("torch", "onnx")


def _format(text: str) -> str:
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text}: no such format. {choices(text, FORMATS)}")
    return text


OPTIONS = (
    RUN,
    option("--format", metavar="FORMAT", type=_format, default="torch", help="torch or onnx; default: torch"),
    option("-o", "--output", metavar="DIR", required=True, help="the new folder: the model, what encodes raw values, "
           "and example.py, which scores rows with numpy and torch or onnxruntime alone"),
    option("--embeddings", action="store_true", help="also user.parquet and item.parquet: vectors by raw id"),
    *TRAINED,
)  # fmt: skip


def run(arguments: list[str]) -> int:
    """Raises ConfigError, DataError or RunError."""
    args = parse("export", OPTIONS, arguments)
    folder = new_path(args.output)
    if args.format == "onnx":
        _require_onnx()
    trained = load_trained(args)
    from recexp.run.export.bundle import N_CHECKED, export

    difference = export(trained, args.format, folder, args.embeddings)
    logger.info(
        "%s: the largest difference from the run's scores, of up to %d rows, is %.1e", folder, N_CHECKED, difference
    )
    logger.info("try it: python %s", folder / "example.py")
    return 0


def new_path(name: str) -> Path:
    """The folder that -o names. Raises ConfigError if it is there already, or its parent is not."""
    path = Path(name)
    if path.exists() or not path.parent.is_dir():
        raise ConfigError(f"-o {path}: {'is there already' if path.exists() else 'is in no directory that is there'}.")
    return path


def _require_onnx() -> None:
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ConfigError("--format onnx: onnx is not installed; pip install 'recexp[export]'")
