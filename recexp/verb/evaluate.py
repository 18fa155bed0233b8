"""The verb `evaluate`: the metrics of a trained model, again or on other rows."""

from pathlib import Path

from recexp.verb.options import HISTORY, OUTPUT, RUN, TRAINED, load_trained, option, parse

USAGE = "RUN [--rows FILE]"
HELP = "metrics of a trained model: of its test split again, or of labelled rows"
OPTIONS = (
    RUN,
    option("--split", metavar="SPLIT", default="test", help="test or valid, from the best checkpoint; default: test"),
    option(
        "--rows",
        metavar="FILE",
        help="evaluate these instead: a CSV, Parquet or JSON lines file of rows that have labels",
    ),
    HISTORY,
    OUTPUT,
    *TRAINED,
)


def run(arguments: list[str]) -> int:
    """Prints the metrics, or writes them as JSON. Raises ConfigError, DataError or RunError."""
    import json

    args = parse("evaluate", OPTIONS, arguments)
    trained = load_trained(args)
    from recexp.dataset.given import open_table
    from recexp.metric.table import format_value
    from recexp.report.format import put
    from recexp.terminal import columns

    if args.rows:
        rows = trained.read(open_table(Path(args.rows), trained.config.dataset, "--rows"), labelled=True)
        metrics = trained.evaluate_rows(rows, args.history)
    else:
        metrics = trained.evaluate(split=args.split)
    if args.output:
        put(json.dumps(metrics, indent=1) + "\n", args.output)
        return 0
    print("\n".join(columns([[name, format_value(f"test.{name}", value)] for name, value in metrics.items()])))
    if trained.metrics and not args.rows:  # a run that was interrupted has none yet
        before = {name: trained.metrics.get(f"{args.split}.{name}") for name in metrics}
        print(
            "the same as in metrics.json" if before == metrics else "not the same as in metrics.json, to the last bit"
        )
    return 0
