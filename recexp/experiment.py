"""The flow: a configuration becomes a dataset, a model and a trainer; training fills a run directory."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recexp import registry
from recexp.config import Config
from recexp.dataset import artifact
from recexp.dataset.batch import Batches
from recexp.dataset.config import LabelKind
from recexp.dataset.label import out_of_order
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load
from recexp.dataset.warning import warnings_of_run
from recexp.error import ConfigError, DataError, choices
from recexp.kernel.library import installed
from recexp.metric.binary import NO_USERS
from recexp.metric.scoring import undefined
from recexp.model import create, search_of
from recexp.process import terminable
from recexp.run import lines, picture, result
from recexp.run.directory import Run
from recexp.run.read import overrides_if_whole, read_epochs
from recexp.run.trained import Trained
from recexp.trainer.default import Trainer
from recexp.trainer.memory import MemoryLimit, memory_explained, require_memory
from recexp.unread import features_unread, unread
from recexp.validate import read, recheck

logger = logging.getLogger(__name__)
# Options of load_run, and the config key that each replaces: where and how fast a trained model runs.
PLACED = {"device": "device", "threads": "trainer.threads", "eval_batch_size": "trainer.eval_batch_size"}


@dataclass(frozen=True)
class Experiment:
    config: Config
    dataset: Dataset
    model: nn.Module
    trainer: Trainer


def build(config: Config) -> Experiment:
    """Loads the data, then makes the model and the trainer. Raises ConfigError or DataError."""
    recheck(config)
    return _build(config)


def _build(config: Config) -> Experiment:
    device = resolve_device(config.device)
    dataset = load(config.dataset)
    if undefined(config.trainer.monitor, dataset, sampled=False) == NO_USERS:
        raise ConfigError(
            f"trainer.monitor = {config.trainer.monitor}: needs users, and these data have none; "
            "name their column in dataset.columns.user."
        )
    _check_order(config.model.name, dataset)
    torch.manual_seed(config.seed)
    with MemoryLimit(config.model, config.trainer.optimizer):
        model = create(config.model, dataset.schema)
    require_memory(config, model, device)
    model = model.to(device)
    trainer = registry.get("trainer", config.trainer.name)(config.trainer, device, config.seed)
    return Experiment(config, dataset, model, trainer)


def _check_order(model: str, dataset: Dataset) -> None:
    """Raises DataError if the model needs each label to imply the one before, and the data violate that."""
    needs, log = getattr(registry.get("model", model), "needs", None), dataset.log
    if needs is None or not needs.ordered or log.tasks is None:
        return
    if (wrong := out_of_order(log.tasks)).any():
        raise DataError(
            f"model = {model}: of {', '.join(dataset.schema.tasks)} each can be 1 only where the one before is; "
            f"{int(wrong.sum()):,} of {len(log):,} rows are otherwise, first row {log.row[wrong].min()} (from 0). "
            "Mend them, or choose a model without that order, as mmoe."
        )


def train(config: Config) -> dict[str, Any]:
    """Checks the configuration again, as Python code may have changed it, then does as `train_checked`."""
    recheck(config)
    return train_checked(config)


def train_checked(config: Config, overrides: list[str] | None = None) -> dict[str, Any]:
    """Trains, evaluates and writes one run directory; returns the content of metrics.json.

    Raises UserError, leaving nothing behind if training had not begun; a run's status.json says how it ended.
    """
    return train_in_directory(config, overrides or [])[1]


@terminable()
def train_in_directory(config: Config, overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    """As `train_checked`; returns the run directory too."""
    resolve_device(config.device)
    with Run.open(config, overrides) as run:
        if metrics := run.finished():
            logger.info("%s is %s; nothing to do", run.path, metrics["status"])
            return run.path, metrics
        with memory_explained(config):
            experiment = _build(config)
        _announce(experiment, run)
        artifact.save(experiment.dataset, config.dataset, run.path / "encoder", search_of(experiment.model))
        with memory_explained(config, experiment.model):
            return run.path, _train(experiment, run)


def load_run(folder: str | Path, **options: Any) -> Trained:
    """The trained model of a run directory. options: `device`, `threads` or `eval_batch_size` in place of the run's.

    Runs the plugins that the run's configuration names. Raises RunError or ConfigError.
    """
    if wrong := options.keys() - PLACED.keys():
        raise ConfigError(f"{min(wrong)}: no option of how a run is used. {choices(min(wrong), PLACED)}")
    config = read(Path(folder), {PLACED[name]: value for name, value in options.items()})
    return Trained(Path(folder), config, resolve_device(config.device))


def resolve_device(name: str) -> torch.device:
    """The device that a configuration names. Raises ConfigError if this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    n_devices = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_devices:
        allowed = ["auto", "cpu", *(f"cuda:{n}" for n in range(n_devices))]
        raise ConfigError(f"device = {name}: this machine has {n_devices} CUDA devices. {choices(name, allowed)}")
    return device


def _announce(experiment: Experiment, run: Run) -> None:
    """Records the environment and logs what is about to be trained, and where."""
    config, dataset, device = experiment.config, experiment.dataset, experiment.trainer.device
    hardware = {"device": str(device), "kernels": [kernel.name for kernel in installed()]}
    warnings = warnings_of_run(dataset, config.dataset, auc=experiment.trainer.predicts_labels)
    run.environment(dataset.fingerprint, dataset.facts | {"warnings": warnings}, hardware)
    logger.info("run    %s", run.path)
    logger.info(lines.data_line(config.dataset.name, dataset))
    for note in dataset.facts["notes"]:
        logger.info("data   %s", note)
    for warning in warnings:
        logger.warning("data: %s", warning)
    logger.info(lines.model_line(config, experiment.model, device))
    if line := features_unread(config.model.name, config.dataset.features):
        logger.info("model  %s", line)
    for line in unread(config, overrides_if_whole(run.path)):
        logger.warning("%s", line)
    monitor, sampled = config.trainer.monitor, config.dataset.label is LabelKind.implicit
    if reason := undefined(monitor, dataset, sampled):
        logger.info(
            "valid %s cannot be computed (%s): all %d epochs are trained, and the last one counts",
            monitor, reason, config.trainer.epochs,
        )  # fmt: skip


def _train(experiment: Experiment, run: Run) -> dict[str, Any]:
    """Trains and writes the results; returns the content of metrics.json."""
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    batches = Batches(dataset, config.dataset, experiment.trainer.device, search=search_of(model))
    options = config.model
    weights = experiment.trainer.weights(config)
    trained = experiment.trainer.fit(model, batches, weights, options.embedding_l2, run, options.optimizers)
    if config.trainer.predictions and trained.test_scores:
        result.write_predictions(run.path, dataset, trained.test_scores)
    if config.trainer.predictions and trained.ranking and trained.ranking.top:
        result.write_recommendations(run.path, dataset, trained.ranking.top)
    metrics = result.collect_metrics(config, dataset, model, trained)
    epochs, _ = read_epochs(run.path)
    if reason := result.epoch_reason(epochs, config.trainer.monitor, metrics["best_epoch"]):
        metrics.setdefault("reasons", {})["best_epoch"] = reason
    run.metrics(metrics)
    picture.draw(run.path)
    for line in lines.result_lines(metrics, run.path):
        logger.info(line)
    return metrics
