"""The verbs of the command line, one file per verb.

A verb's file holds USAGE, its arguments in brief; HELP, what it does; OPTIONS, the arguments that argparse reads, none
for a verb that takes overrides or a name; and run(arguments), which returns the exit code and raises UserError.
`recexp --help` imports all these files, so heavy imports stand inside run().
"""

import importlib
from types import ModuleType

VERBS = (
    "models",
    "datasets",
    "inspect",
    "plan",
    "check",
    "explain",
    "runs",
    "show",
    "compare",
    "report",
    "evaluate",
    "predict",
    "recommend",
    "export",
    "resume",
    "rerun",
    "reproduce",
    "importance",
    "calibrate",
    "replay",
    "cache",
)  # in order of --help


def load(verb: str) -> ModuleType:
    return importlib.import_module(f"recexp.verb.{verb}")
