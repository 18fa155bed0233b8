"""The verb `show`: one run directory looked at."""

from pathlib import Path

import yaml

from recexp.run.lines import epoch_line, result_lines
from recexp.run.read import read_config, read_epochs, read_json
from recexp.run.status import read_status
from recexp.verb.options import parse


def show(arguments: list[str]) -> int:
    """`show RUN`. Raises RunError for a folder that is no run."""
    path = Path(parse("show", arguments).run)
    config, status = read_config(path), read_status(path)
    print(f"{path}: {status['state']}" + (f" ({status['error']})" if status["error"] else ""))
    typed = yaml.safe_load((path / "overrides.yaml").read_text("utf-8")) or []
    print("typed: " + (" ".join(typed) or "nothing") + "\n")
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    for line in read_epochs(path):
        print(epoch_line(line, config["trainer"]["monitor"]))
    if metrics := read_json(path / "metrics.json"):
        print("\n".join(result_lines(metrics, path)))
    return 0
