"""The verb `compare`: how two runs differ in configuration and metrics, and whether the difference is significant."""

from recexp.verb.options import folder, option, parse, whole_number

MIN_DRAWS = 100  # fewer leave the ends of a 95 % interval to chance
MAX_DRAWS = 1_000_000  # more take hours and change no digit that is shown
USAGE = "A B"
HELP = "two runs: what differs, and whether the figures really do"
OPTIONS = (
    option("a", metavar="A", help="run directory"),
    option("b", metavar="B", help="run directory"),
    option(
        "--draws",
        metavar="N",
        type=whole_number(MIN_DRAWS, MAX_DRAWS),
        default=2000,
        help="of the bootstrap; default: 2000",
    ),
    option("--mix", action="store_true", help="compare runs on other data too, without their predictions"),
)


def run(arguments: list[str]) -> int:
    """Raises RunError for a folder that is not a run, and for runs on different data without --mix."""
    from recexp.report.compare import configuration, metrics, tested
    from recexp.report.protocol import require_one
    from recexp.run.record import read
    from recexp.terminal import columns

    args = parse("compare", OPTIONS, arguments)
    a, b = read(folder(args.a)), read(folder(args.b))
    if not args.mix:
        require_one([a, b], "Compare all but their predictions by --mix.")
    changes, remark = ({}, "no p: asked to mix") if args.mix else tested(a, b, args.draws)
    print(f"A  {a.path}: {a.state}\nB  {b.path}: {b.state}\n")
    if rows := configuration(a, b):
        print("\n".join(columns([["configuration", "A", "B"], *rows])) + "\n")
    else:
        print("the configurations are the same\n")
    print("\n".join(columns([["", "A", "B", "B - A", "95 %", "p"], *metrics(a, b, changes)])))
    print(f"\n{remark}\nEach is one training: how much seeds change is for recexp report to say.")
    return 0
