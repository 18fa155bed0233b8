"""What a search says at its end."""

import shlex
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from hydra_plugins.recexp_sweeper import _space
from recexp.run.table import number
from recexp.trainer.metric import HIGHER_IS_BETTER

SHOWN = ("auc", "gauc", "logloss")  # test figures of the best trial
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running elsewhere"}


def closing(trials: Sequence[FrozenTrial], objective: str, words: Sequence[str]) -> list[str]:
    """The best trial: its figures, its directory, and the command that trains it again; chosen by valid alone.

    words: what every trial has.
    """
    replaced = {each.user_attrs.get("again") for each in trials}
    trials = [each for each in trials if each.number not in replaced]
    states = Counter(each.state.name for each in trials)
    count = ", ".join(f"{states[name]} {word}" for name, word in STATES.items() if states[name])
    best = best_trial(trials, objective)
    if best is None:
        return ["", f"{len(trials)} trials ({count}), none of which has a value."]
    attributes = best.user_attrs
    test = "  ".join(f"{name} {number(attributes.get(f'test.{name}'))}" for name in SHOWN)
    return [
        "",
        f"best of {len(trials)} trials ({count}): trial {best.number}, {attributes['directory']}",
        f"valid {objective} {number(attributes[f'valid.{objective}'])}  |  test {test}",
        shlex.join(["recexp", *words, *_space.words(best.params)]),
    ]


def best_trial(trials: Sequence[FrozenTrial], objective: str) -> FrozenTrial | None:
    """Of those that ran to their end. One that did before it saw that it was pruned is among them."""
    key = f"valid.{objective}"
    sign = 1 if HIGHER_IS_BETTER[objective] else -1
    ended = [each for each in trials if each.user_attrs.get("state") == "finished" and key in each.user_attrs]
    return max(ended, key=lambda each: (sign * each.user_attrs[key], -each.number), default=None)
