"""The verb `calibrate`: maps a trained model's scores to probabilities by what the validation split says."""

from recexp.verb.options import RUN, TRAINED, load_ended, option, parse

SHOWN = ("ece", "logloss", "predicted_observed", "auc")
USAGE = "RUN [--method METHOD]"
HELP = "maps a model's scores to calibrated probabilities, fitted on valid"
OPTIONS = (
    RUN,
    option("--method", metavar="METHOD", default="isotonic", help="isotonic or platt; default: isotonic"),
    *TRAINED,
)


def run(arguments: list[str]) -> int:
    """Writes calibration.json into the run directory. Raises RunError."""
    from recexp.metric.table import format_value, of_label
    from recexp.run.calibration import FILE, calibrate
    from recexp.run.folder import refuse_links
    from recexp.storage import write_json
    from recexp.terminal import columns

    args = parse("calibrate", OPTIONS, arguments)
    trained = load_ended(args)
    refuse_links(trained.path, [FILE])
    calibration = calibrate(trained.split_scores("valid"), trained.split_scores("test"), args.method)
    write_json(trained.path / FILE, calibration)
    by_label = {name: calibration[name] for name in trained.dataset.schema.tasks} or {"": calibration}
    rows = []
    for label, metrics in by_label.items():
        for name in SHOWN:
            before, after = (format_value(f"test.{name}", metrics[when][name]) for when in ("before", "after"))
            rows.append([of_label(name, label), before, after])
    print("\n".join(columns([["test", "before", "after"], *rows])))
    print(f"{args.method}, fitted on valid: {trained.path / FILE}")
    return 0
