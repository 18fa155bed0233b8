"""What `recexp --help` and `recexp VERB --help` say."""

import textwrap

from recexp.groups import GROUPS, options
from recexp.verb import VERBS, load
from recexp.verb.options import describe

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

flags (Hydra's): --cfg job --resolve shows the configuration, --config-dir DIR adds a folder of YAML files (the
environment variable RECEXP_CONFIG_DIR too), -sc install=bash completes on the command line, --info, --hydra-help,
--version.
Exit codes: 0 done, 1 a run failed, 2 a mistake in what was typed, 130 and 143 interrupted (go on: recexp resume RUN).
"""


def help_text() -> str:
    groups = "\n".join(
        textwrap.fill(", ".join(options(group)), 110, initial_indent=f"  {group:11} ", subsequent_indent=" " * 14)
        for group in GROUPS
        if options(group)
    )
    loaded = {name: load(name) for name in VERBS}
    verbs = "\n".join(f"  {name + ' ' + verb.USAGE:30}  {verb.HELP}" for name, verb in loaded.items())
    return HELP.format(groups=groups, verbs=verbs)


def verb_help(name: str) -> str:
    verb = load(name)
    return f"recexp {name} {verb.USAGE}: {verb.HELP}\n{describe(name, verb.OPTIONS)}"
