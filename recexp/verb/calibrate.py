"""The verb `calibrate`: maps a trained model's scores to probabilities by what the validation split says."""

from recexp.run.trust import require_trust
from recexp.verb.options import folder, option, parse

SHOWN = ("ece", "logloss", "predicted_observed", "auc")
USAGE = "RUN [--method METHOD]"
HELP = "maps a model's scores to calibrated probabilities, fitted on valid"
OPTIONS = (
    option("run", metavar="RUN", help="run directory, as outputs/2026-01-31/12-00-00-dien-synthetic-s0"),
    option("--method", metavar="METHOD", default="isotonic", help="isotonic or platt; default: isotonic"),
    option("--trust", action="store_true", help="use a run of another user: this runs the plugins that it names"),
)


def run(arguments: list[str]) -> int:
    """Writes calibration.json into the run directory. Raises RunError."""
    from recexp.experiment import resolve_device
    from recexp.metric.table import format_value
    from recexp.run.calibration import FILE, calibrate
    from recexp.run.folder import refuse_links
    from recexp.run.held_out import HeldOut
    from recexp.storage import write_json
    from recexp.terminal import columns
    from recexp.validate import read

    typed = parse("calibrate", OPTIONS, arguments)
    path = folder(typed.run)
    require_trust(path, typed.trust)
    config = read(path)
    refuse_links(path, [FILE])
    found = calibrate(HeldOut.of(path, config, resolve_device(config.device)), typed.method)
    write_json(path / FILE, found)
    rows = [
        [name, *(format_value(f"test.{name}", found[when][name]) for when in ("before", "after"))] for name in SHOWN
    ]
    print("\n".join(columns([["test", "before", "after"], *rows])))
    print(f"{typed.method}, fitted on valid: {path / FILE}")
    return 0
