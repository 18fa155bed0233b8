"""What a sweep tells as it runs: on a terminal one bar over its jobs and a line a failure, elsewhere a line a job."""

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recexp.run.lines import number
from recexp.run.read import read_config, read_json
from recexp.sweep.folder import ENDED, find_jobs, state
from recexp.sweep.job import objective_name

logger = logging.getLogger(__name__)


class Progress:
    """paths: of the jobs to come, among all in the sweep's folder. expected: how many there will be, where more are."""

    def __init__(self, paths: Sequence[Path], expected: int = 0) -> None:
        begun = len(find_jobs(paths[0].parent))
        self.ended, self.total, self.failed = begun - len(paths), max(begun, expected), 0
        self.bar = tqdm(desc="sweep", initial=self.ended, total=self.total, leave=False, disable=None, unit="job")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def running(self, n: int) -> None:
        self.bar.set_postfix(running=n, failed=self.failed)

    def tell(self, path: Path) -> None:
        """A job has ended."""
        self.ended += 1
        failed = state(path)[0] not in ENDED
        self.failed += failed
        line = f"{self.ended:>{len(str(self.total))}}/{self.total}  {job_line(path)}"
        self.bar.update()
        if self.bar.disable:
            logger.info(line)
        elif failed:
            self.bar.write(line)


def job_line(path: Path) -> str:
    """A job in one line: state, name, and what came of it."""
    ended, error = state(path)
    metrics = read_json(path / "metrics.json")
    if metrics is None:
        return f"{ended:11}  {path.name}  {error or ''}".rstrip()
    name = objective_name(read_config(path))
    return f"{ended:11}  {path.name}  valid {name} {number(metrics['valid'].get(name))}  {metrics['seconds']:.1f} s"
