"""A running sweep's reports: on a terminal, one bar over its jobs and a line per failure; elsewhere a line per job."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recexp.metric.table import format_value
from recexp.run.status import ENDED
from recexp.sweep.folder import find_jobs
from recexp.sweep.outcome import Outcome, read_outcome

logger = logging.getLogger(__name__)


class Progress:
    """paths: the directories of the jobs still to run in a sweep. expected: the final number of jobs, if known."""

    def __init__(self, paths: Sequence[Path], expected: int = 0) -> None:
        begun = len(find_jobs(paths[0].parent))
        self.ended, self.total, self.failed = begun - len(paths), max(begun, expected), 0
        self.bar = tqdm(
            file=sys.__stderr__,
            desc="sweep",
            initial=self.ended,
            total=self.total,
            leave=False,
            disable=None,
            unit="job",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def running(self, n: int) -> None:
        self.bar.set_postfix(running=n, failed=self.failed)

    def tell(self, path: Path) -> None:
        """Reports a job that has ended."""
        job = read_outcome(path)
        self.ended += 1
        failed = job.record.state not in ENDED
        self.failed += failed
        line = f"{self.ended:>{len(str(self.total))}}/{self.total}  {job_line(job)}"
        self.bar.update()
        if self.bar.disable:
            logger.info(line)
        elif failed:
            self.bar.write(line)


def job_line(job: Outcome) -> str:
    """A job in one line: state, name, and its objective or error."""
    begin = f"{job.record.state:11}  {job.path.name}  "
    metrics = job.record.metrics
    if not metrics:
        return f"{begin}{job.error or ''}".rstrip()
    value = format_value(f"valid.{job.objective}", job.value)
    return f"{begin}valid {job.objective} {value}  {format_value('seconds', metrics['seconds'])} s"
