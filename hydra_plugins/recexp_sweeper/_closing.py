"""What a search says of its trials."""

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from recexp.metric.table import MONITORED

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running elsewhere"}


def count(trials: Sequence[FrozenTrial]) -> str:
    """How many ended how; of one that was run again, the last time counts."""
    replaced = {each.user_attrs.get("again") for each in trials}
    states = Counter(each.state.name for each in trials if each.number not in replaced)
    told = ", ".join(f"{states[name]} {word}" for name, word in STATES.items() if states[name])
    return f"{states.total()} trials: {told}"


def best_trial(trials: Sequence[FrozenTrial], objective: str) -> FrozenTrial | None:
    """Of those that ran to their end. One that did before it saw that it was pruned is among them."""
    key = f"valid.{objective}"
    sign = MONITORED[objective].sign
    ended = [each for each in trials if each.user_attrs.get("state") == "finished" and key in each.user_attrs]
    return max(ended, key=lambda each: (sign * each.user_attrs[key], -each.number), default=None)
