"""What `recexp --help` says."""

import textwrap

from recexp.groups import GROUPS, options

VERBS = {  # name: (module, function, arguments, what it does)
    "models": ("recexp.verb.catalogue", "models", "[NAME]", "all models, or one's options: type, default, meaning"),
    "datasets": ("recexp.verb.catalogue", "datasets", "[NAME]", "all datasets, or one's options"),
    "check": ("recexp.verb.check", "check", "[override...]", "tries on a model what must hold for any, one's own too"),
    "explain": (
        "recexp.verb.explain",
        "explain",
        "KEY [override...]",
        "the value of a key, and which file or override set it",
    ),
    "runs": ("recexp.verb.runs", "runs", "[DIR...]", "the run directories below DIR (outputs), filtered and sorted"),
    "show": ("recexp.verb.show", "show", "RUN", "one run: its configuration, epochs and figures"),
    "compare": ("recexp.verb.compare", "compare", "A B", "two runs: what differs, and whether the figures really do"),
    "report": ("recexp.verb.report", "report", "DIR...", "a leaderboard over seeds, as text, table or offline page"),
    "resume": ("recexp.verb.resume", "resume", "RUN", "goes on with an interrupted run or sweep"),
}
HELP = """recexp: config-driven experiments for deep recommender models.

Composes a model, a dataset and a trainer from YAML files, trains, evaluates, and writes one run directory.

  recexp [key=value ...]          train; NAME for a group, a value for a key
  recexp -m key=1,2,3 [...]       a sweep: one run for each combination
  recexp VERB [...]               one of the verbs below

groups
{groups}

verbs
{verbs}

examples
  recexp model=dien trainer.epochs=5
  recexp model=din dataset=csv dataset.path=log.csv dataset.columns.user=uid
  recexp -m model=deepfm,din seed=0,1,2
  recexp -m +sweep=din hydra.sweeper.n_trials=20
  recexp check model=din plugins=[my_model.py]

flags (Hydra's): --cfg job --resolve shows the configuration, --config-dir DIR adds a folder of YAML files,
-sc install=bash completes on the command line, --info, --hydra-help, --version.
Exit codes: 0 done, 1 a run failed, 2 a mistake in what was typed, 130 and 143 interrupted (go on: recexp resume RUN).
"""


def help_text() -> str:
    groups = "\n".join(
        textwrap.fill(", ".join(options(group)), 110, initial_indent=f"  {group:11} ", subsequent_indent=" " * 14)
        for group in GROUPS
        if options(group)
    )
    verbs = "\n".join(f"  {verb + ' ' + usage:30}  {text}" for verb, (_, _, usage, text) in VERBS.items())
    return HELP.format(groups=groups, verbs=verbs)


def verb_help(verb: str) -> str:
    from recexp.verb.options import describe

    _, _, usage, text = VERBS[verb]
    return f"recexp {verb} {usage}: {text}\n{describe(verb)}"
