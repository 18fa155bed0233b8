"""Checks for options of different groups that are valid by themselves but contradict each other."""

from inspect import signature

from recexp import registry
from recexp.config import EXACT, L2Rows, ModelConfig, NextItemConfig, Optimizer, Schedule, TrainerConfig
from recexp.dataset.config import DatasetConfig, HistoryKind, LabelKind, SplitKind
from recexp.error import ConfigError, choices
from recexp.metric.table import MONITORED, coverage_name, of_labels, rank_metric, rank_names
from recexp.option import Labels


def check_metric(key: str, name: str, trainer: TrainerConfig, labels: list[str]) -> None:
    """Raises ConfigError for a metric that this trainer does not compute."""
    ranking = trainer.ranking
    allowed = [] if isinstance(trainer, NextItemConfig) else of_labels(MONITORED, labels)
    allowed += rank_names(ranking.cutoffs, ranking.protocol)
    if name not in allowed:
        why = "no such metric"
        if rank_metric(name) is not None and ranking.protocol is None:
            why = "trainer.ranking.candidates = none ranks nothing; choose all"
        elif name in map(coverage_name, ranking.cutoffs) and ranking.protocol == "all":
            why = "is of test alone, and valid chooses"
        elif rank_metric(name) is not None or name in MONITORED:
            why = f"trainer={trainer.name} does not compute it"
        raise ConfigError(f"{key} = {name}: {why}. {choices(name, allowed)}")


def check_ranking(dataset: DatasetConfig, trainer: TrainerConfig) -> None:
    """Raises ConfigError for a ranking of data whose events are not all positives."""
    if trainer.ranking.protocol and dataset.label is not LabelKind.implicit:
        if isinstance(trainer, NextItemConfig):
            raise ConfigError(
                "dataset.label = explicit: trainer=next_item takes every event for a positive; "
                "set dataset.label=implicit."
            )
        raise ConfigError(
            f"trainer.ranking.candidates = {trainer.ranking.candidates}: a ranking takes every event for a positive; "
            "set dataset.label=implicit with it."
        )


def check_next_item(model: str) -> None:
    """Raises ConfigError for a model that cannot be trained on next items."""
    kind = registry.get("model", model, "model.name")
    learns = hasattr(kind, "item_vectors") and (hasattr(kind, "states") or hasattr(kind, "pairs"))
    if kind.Config.trained and not learns:
        raise ConfigError(
            f"model = {model}: scores rows, not the vectors of all items that trainer=next_item needs; "
            "train it with trainer=default, and rank with trainer.ranking.candidates=all."
        )
    if kind.Config.trained and "ids" not in signature(kind.item_vectors).parameters:
        raise ConfigError(
            f"model = {model}: item_vectors() gives the vectors of all items alone; trainer=next_item asks for those "
            "of a step too: item_vectors(self, ids=None), as docs/add-a-model.md says."
        )


def check_l2(model: ModelConfig, trainer: TrainerConfig) -> None:
    by_row = {trainer.optimizer, *model.optimizers.values()} & {Optimizer.lazy_adam}
    if trainer.sparse and trainer.optimizer not in EXACT:
        by_row.add(trainer.optimizer)
    if by_row and model.embedding_l2 and trainer.l2_rows is L2Rows.all:
        raise ConfigError(
            f"trainer.l2_rows = all: decays whole tables, which {by_row.pop().name} by row does not touch; "
            "set trainer.l2_rows=batch or model.embedding_l2=0."
        )


def check_validation(dataset: DatasetConfig, trainer: TrainerConfig) -> None:
    """Raises ConfigError for an option that needs validation rows if the split leaves none."""
    ratios, kind = dataset.split.ratios, dataset.split.kind
    if ratios[1] or kind in (SplitKind.given, SplitKind.leave_last_out):
        return
    needed = {
        f"trainer.patience = {trainer.patience}": (trainer.patience, "set trainer.patience=null"),
        "trainer.schedule = plateau": (trainer.schedule is Schedule.plateau, "choose another"),
    }
    for option, (needs, way_out) in needed.items():
        if needs:
            raise ConfigError(
                f"{option}: needs validation rows, and dataset.split.ratios = {ratios} has none; {way_out}."
            )


def check_labels(model: ModelConfig, dataset: DatasetConfig) -> None:
    """Raises ConfigError for a model option that needs labels the dataset lacks."""
    implicit = dataset.label is LabelKind.implicit
    varied = not implicit and dataset.history is HistoryKind.all
    why = "dataset.label is implicit" if implicit else "dataset.history is liked"
    for option, labels in model.label_needs().items():
        if labels is Labels.both and implicit:
            raise ConfigError(f"{option}: needs {labels.value}, but {why}; set model.feedback=implicit.")
        if labels is Labels.varied and not varied:
            raise ConfigError(f"{option}: needs {labels.value}, but {why}.")
