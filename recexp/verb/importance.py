"""The verb `importance`: what each feature is worth to a trained model, as a table and a picture."""

from recexp.error import ConfigError, choices
from recexp.verb.options import RUN, TRAINED, load_ended, option, parse, whole_number

USAGE = "RUN [--split SPLIT]"
HELP = "what each feature is worth to a trained model, by permuting it"
OPTIONS = (
    RUN,
    option("--split", metavar="SPLIT", default="valid", help="valid or test; default: valid"),
    option("--metric", metavar="NAME", help="metric that is to suffer; default: the one that the run monitored"),
    option(
        "--repeats", metavar="N", type=whole_number(2, 1000), default=5, help="permutations of each feature; default: 5"
    ),
    *TRAINED,
)


def run(arguments: list[str]) -> int:
    """Writes importance.json and importance.png into the run directory. Raises RunError or ConfigError."""
    from recexp.metric.table import MAIN, MONITORED, format_value, of_first_label, of_labels, rank_metric
    from recexp.run.folder import refuse_links
    from recexp.run.importance import draw, importance
    from recexp.storage import write_json
    from recexp.terminal import columns

    args = parse("importance", OPTIONS, arguments)
    trained = load_ended(args)
    labels = trained.dataset.schema.tasks
    path, metric = trained.path, of_first_label(args.metric or trained.config.trainer.monitor, labels)
    if rank_metric(metric):
        raise ConfigError(f"--metric {metric}: is of rankings; importance is of metrics of labels, such as {MAIN}.")
    allowed = of_labels(MONITORED, labels)
    if metric not in allowed:
        raise ConfigError(
            f"--metric {metric}: no such metric, or one that is neither good nor bad. {choices(metric, allowed)}"
        )
    refuse_links(path, ["importance.json", "importance.png"])
    result = importance(trained, args.split, metric, args.repeats)
    name = f"{args.split}.{metric}"
    value = format_value(name, result.value)
    print(f"{args.split} {metric} {value}; how much worse if permuted, {args.repeats} times each:\n")
    rows = [[feature, format_value(name, mean, "+"), format_value(name, sd)] for feature, mean, sd in result.rows()]
    print("\n".join(columns([["feature", "mean", "deviation"], *rows])))
    write_json(path / "importance.json", result.to_dict())
    draw(result, path / "importance.png")
    print(f"\n{path / 'importance.png'}")
    return 0
