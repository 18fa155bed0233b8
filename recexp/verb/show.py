"""The verb `show`: one run directory, printed."""

from pathlib import Path

from recexp.verb.options import option, parse

USAGE = "RUN"
HELP = "one run: its configuration, epochs and figures"
OPTIONS = (option("run", metavar="RUN", help="run directory, as outputs/2026-01-31/12-00-00-dien-synthetic-s0"),)


def run(arguments: list[str]) -> int:
    """Raises RunError for a folder that is not a run."""
    import yaml

    from recexp.run.lines import epoch_line, result_lines
    from recexp.run.read import read_config, read_epochs, read_json
    from recexp.run.status import read_status

    path = Path(parse("show", OPTIONS, arguments).run)
    config, status = read_config(path), read_status(path)
    print(f"{path}: {status['state']}" + (f" ({status['error']})" if status["error"] else ""))
    overrides = yaml.safe_load((path / "overrides.yaml").read_text("utf-8")) or []
    print("typed: " + (" ".join(overrides) or "nothing") + "\n")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    for line in read_epochs(path):
        print(epoch_line(line, config["trainer"]["monitor"]))
    if metrics := read_json(path / "metrics.json"):
        print("\n".join(result_lines(metrics, path)))
    return 0
