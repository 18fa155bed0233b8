"""The trained model of a run, and the validation and test rows as the run had them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from recexp.config import Config
from recexp.dataset import artifact
from recexp.dataset.batch import Batches
from recexp.dataset.config import LabelKind
from recexp.dataset.log import Log
from recexp.dataset.prepare import load
from recexp.dataset.schema import Schema
from recexp.error import Failure, RunError, choices
from recexp.metric.scoring import Scores, score
from recexp.model import create
from recexp.run.directory import check_data
from recexp.run.record import has_ended
from recexp.trainer.checkpoint import load_trained
from recexp.trainer.loop import numerics
from recexp.trainer.step import autocast

SPLITS = ("valid", "test")


@dataclass(frozen=True)
class HeldOut:
    """The model of a run, with the weights of its best epoch, and the run's batches."""

    path: Path
    config: Config
    model: nn.Module
    schema: Schema
    batches: Batches

    @classmethod
    def of(cls, path: Path, config: Config, device: torch.device) -> "HeldOut":
        """Raises RunError for a run that has not ended or a damaged file.

        The run keeps no rows of a table and no sampled negatives, so these are read from their source again.
        """
        if not has_ended(path):
            raise RunError(f"{path}: has not ended; go on with: recexp resume {path}")
        dataset = artifact.load(path / "encoder")
        if not isinstance(dataset.log, Log) or config.dataset.label is LabelKind.implicit:
            dataset = load(config.dataset)
            check_data(path, dataset.fingerprint)
        model = create(config.model, dataset.schema).to(device)
        load_trained(path / "checkpoints", model, device)
        return cls(path, config, model, dataset.schema, Batches(dataset, config.dataset, device))

    def require_rows(self, split: str) -> None:
        """Raises RunError for another split than valid and test, or one without rows."""
        if split not in SPLITS:
            raise RunError(f"{split}: no split that was held out. {choices(split, SPLITS)}")
        if not self.batches.size(split):
            raise RunError(f"{self.path}: split {split} has no rows.")

    def scores(self, split: str) -> Scores:
        """The model's logits for a split, as in evaluation after training."""
        trainer = self.config.trainer
        precision = autocast(trainer, self.batches.device)
        try:
            with numerics(trainer):
                return score(self.model, self.batches, split, trainer.eval_batch_size, precision)
        except FloatingPointError as error:
            raise Failure(str(error)) from error
