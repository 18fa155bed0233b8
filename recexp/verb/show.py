"""The verb `show`: one run directory, printed."""

import logging
from collections.abc import Callable
from typing import TypeVar

from recexp.error import RunError
from recexp.verb.options import RUN, folder, parse

Content = TypeVar("Content")
logger = logging.getLogger(__name__)

USAGE = "RUN"
HELP = "one run: its configuration, epochs and figures"
OPTIONS = (RUN,)


def run(arguments: list[str]) -> int:
    """Prints what is readable. Raises RunError for a folder that is not a run."""
    import yaml

    from recexp.run.lines import epoch_line, result_lines
    from recexp.run.read import read_config, read_epochs, read_metrics, read_overrides
    from recexp.run.record import torn_lines
    from recexp.run.status import check_results, read_status

    path = folder(parse("show", OPTIONS, arguments).run)
    if not (path / "config.yaml").exists():
        read_config(path)  # says that it is no run
    status = readable(lambda: read_status(path)) or {"state": "damaged", "error": None}
    print(f"{path}: {status['state']}" + (f" ({status['error']})" if status["error"] else ""))
    if (overrides := readable(lambda: read_overrides(path))) is not None:
        print("typed: " + (" ".join(overrides) or "nothing") + "\n")
    config = readable(lambda: read_config(path)) or {}
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    monitor = str((config.get("trainer") or {}).get("monitor"))
    lines, torn = readable(lambda: read_epochs(path)) or ([], [])
    for line in lines:
        print(epoch_line(line, monitor))
    if torn and status["state"] != "running":
        logger.warning(torn_lines(path, torn))
    readable(lambda: check_results(path, status))
    if metrics := readable(lambda: read_metrics(path)):
        print("\n".join(result_lines(metrics, path)))
    return 0


def readable(read: Callable[[], Content]) -> Content | None:
    """What a function reads; None, with a warning that names it, if it is damaged."""
    try:
        return read()
    except RunError as error:
        logger.warning("%s", error)
        return None
