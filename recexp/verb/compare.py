"""The verb `compare`: how two runs differ in configuration and figures, and whether their predictions really do."""

from pathlib import Path

from recexp.report.compare import configuration, metrics, tested
from recexp.report.protocol import require_one
from recexp.run.record import read
from recexp.run.table import columns
from recexp.verb.options import parse


def compare(arguments: list[str]) -> int:
    """`compare A B`. Raises RunError for a folder that is no run, and for runs on other data unless asked to mix."""
    typed = parse("compare", arguments)
    a, b = read(Path(typed.a)), read(Path(typed.b))
    if not typed.mix:
        require_one([a, b], "Compare all but their predictions by --mix.")
    changes, told = ({}, "no p: asked to mix") if typed.mix else tested(a, b, typed.draws)
    print(f"A  {a.path}: {a.state}\nB  {b.path}: {b.state}\n")
    if rows := configuration(a, b):
        print("\n".join(columns([["configuration", "A", "B"], *rows])) + "\n")
    else:
        print("the configurations are the same\n")
    print("\n".join(columns([["", "A", "B", "B - A", "95 %", "p"], *metrics(a, b, changes)])))
    print(f"\n{told}\nEach is one training: how much seeds change is for recexp report to say.")
    return 0
