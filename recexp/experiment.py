"""The flow: a configuration becomes dataset, model and trainer; training them fills a run directory."""

import logging
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recexp import registry
from recexp.config import Config
from recexp.dataset import artifact
from recexp.dataset.batch import Batches
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load
from recexp.error import ConfigError, Terminated, UserError, choices
from recexp.kernel.library import installed
from recexp.process import terminable
from recexp.run import picture, result, table
from recexp.run.directory import Run, read_json
from recexp.trainer.default import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    config: Config
    dataset: Dataset
    model: nn.Module
    trainer: Trainer


def build(config: Config) -> Experiment:
    """Loads the data, then makes model and trainer. Raises ConfigError or DataError."""
    device = resolve_device(config.device)
    dataset = load(config.dataset)
    torch.manual_seed(config.seed)
    model = registry.get("model", config.model.name)(config.model, dataset.schema).to(device)
    trainer = registry.get("trainer", config.trainer.name)(config.trainer, device, config.seed)
    return Experiment(config, dataset, model, trainer)


@terminable()
def train(config: Config, overrides: list[str] | None = None) -> dict[str, Any]:
    """Trains, evaluates and writes one run directory; returns what metrics.json holds.

    Raises UserError, with nothing left behind where training had not begun; whatever else ends the run is in its
    status.json.
    """
    device = resolve_device(config.device)
    run = (Run.reopen if config.run.resume and config.run.dir else Run.create)(config, overrides or [])
    try:
        if finished := _finished(run):
            logger.info("%s is %s; nothing to do", run.path, finished["status"])
            run.status(finished["status"])
            return finished
        experiment = build(config)
        logger.info("run    %s", run.path)
        hardware = {"device": str(device), "kernels": [each.name for each in installed()]}
        run.environment(experiment.dataset.fingerprint, experiment.dataset.facts, hardware)
        artifact.save(experiment.dataset, config.dataset, run.path / "encoder")
        logger.info(table.data_line(config.dataset.name, experiment.dataset))
        logger.info(table.model_line(config, experiment.model, device))
        metrics = _fill(experiment, run)
        run.status(metrics["status"])
        return metrics
    except UserError as error:
        if run.began:
            run.status("failed", str(error))
        else:
            run.discard()
        raise
    except (KeyboardInterrupt, Terminated):
        run.status("interrupted", "stopped by a signal; go on with: recexp resume " + str(run.path))
        raise
    except BaseException as error:
        run.log(traceback.format_exc())
        run.status("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        run.close()


def resolve_device(name: str) -> torch.device:
    """The device a configuration means. Raises ConfigError for one that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    n_devices = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_devices:
        allowed = ["auto", "cpu", *(f"cuda:{n}" for n in range(n_devices))]
        raise ConfigError(f"device = {name}: this machine has {n_devices} CUDA devices. {choices(name, allowed)}")
    return device


def _fill(experiment: Experiment, run: Run) -> dict[str, Any]:
    """Trains, and writes what comes of it."""
    config = experiment.config
    batches = Batches(experiment.dataset, config.dataset, experiment.trainer.device)
    l2 = getattr(config.model, "embedding_l2", 0.0)
    optimizers = getattr(config.model, "optimizers", {})
    trained = experiment.trainer.fit(experiment.model, batches, config.model.loss_weights, l2, run, optimizers)
    if config.trainer.predictions and trained.test_scores:
        result.write_predictions(run.path, experiment.dataset, trained.test_scores)
    metrics = result.summary(config, experiment.dataset, experiment.model, trained)
    run.metrics(metrics)
    picture.draw(run.path)
    for line in table.result_lines(metrics, run.path):
        logger.info(line)
    return metrics


def _finished(run: Run) -> dict[str, Any] | None:
    return read_json(run.path / "metrics.json")
