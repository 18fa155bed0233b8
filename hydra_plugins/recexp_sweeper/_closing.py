"""What a search reports about its trials."""

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from recexp.metric.table import higher_is_better

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running elsewhere"}


def count(trials: Sequence[FrozenTrial]) -> str:
    """The number of trials by state; if one was run again, only its last attempt counts."""
    replaced = {trial.user_attrs.get("again") for trial in trials}
    states = Counter(trial.state.name for trial in trials if trial.number not in replaced)
    counts = ", ".join(f"{states[name]} {word}" for name, word in STATES.items() if states[name])
    return f"{states.total()} trials: {counts}"


def best_trial(trials: Sequence[FrozenTrial], objective: str) -> FrozenTrial | None:
    """The best of the finished trials, including one that finished before it saw that it was pruned."""
    key = f"valid.{objective}"
    sign = 1 if higher_is_better(key) else -1
    finished = [trial for trial in trials if trial.user_attrs.get("state") == "finished" and key in trial.user_attrs]
    return max(finished, key=lambda trial: (sign * trial.user_attrs[key], -trial.number), default=None)
