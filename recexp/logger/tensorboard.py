"""TensorBoard: event files, in the run directory or in a folder of your own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recexp.logger import LoggerConfig, require_package
from recexp.registry import register


@register("tensorboard", kind="logger")
class TensorBoard:
    @dataclass(kw_only=True)
    class Config(LoggerConfig):
        dir: str | None

        def __post_init__(self) -> None:
            require_package("tensorboard", "tensorboard")
            if self.dir is not None:
                self.dir = str(Path(self.dir).expanduser().absolute())

    def __init__(self, config: Config, path: Path, options: dict[str, Any]) -> None:
        self.path, self.options = path, options
        self.folder = path / "tensorboard" if config.dir is None else Path(config.dir, *path.absolute().parts[1:])

    def begin(self, points: list[dict[str, float]]) -> str:
        from torch.utils.tensorboard import SummaryWriter

        # Readers ignore what older files hold from this step on: the new file holds everything again.
        self.writer = SummaryWriter(str(self.folder), purge_step=0)
        self.writer.add_text("config", f"```\n{(self.path / 'config.yaml').read_text('utf-8')}```")
        for step, metrics in enumerate(points, 1):
            self._add(step, metrics)
        self.writer.flush()
        return str(self.folder)

    def epoch(self, step: int, metrics: dict[str, float]) -> None:
        self._add(step, metrics)
        self.writer.flush()

    def end(self, step: int, metrics: dict[str, float], state: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        self._add(step, metrics)
        options = {name: _simple(value) for name, value in self.options.items()}
        file = self.writer.file_writer
        assert file is not None
        for summary in hparams(options, metrics):
            file.add_summary(summary)
        self.writer.add_text("status", state, step)
        self.writer.close()

    def _add(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)


def _simple(value: Any) -> bool | int | float | str:
    """The value as the hyper-parameter plugin accepts it."""
    return value if isinstance(value, bool | int | float | str) else str(value)
