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

    typed = parse("calibrate", OPTIONS, arguments)
    trained = load_ended(typed)
    refuse_links(trained.path, [FILE])
    found = calibrate(trained.split_scores("valid"), trained.split_scores("test"), typed.method)
    write_json(trained.path / FILE, found)
    by_label = {name: found[name] for name in trained.dataset.schema.tasks} or {"": found}
    rows = [
        [of_label(name, label), *(format_value(f"test.{name}", of[when][name]) for when in ("before", "after"))]
        for label, of in by_label.items()
        for name in SHOWN
    ]
    print("\n".join(columns([["test", "before", "after"], *rows])))
    print(f"{typed.method}, fitted on valid: {trained.path / FILE}")
    return 0
