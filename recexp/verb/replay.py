"""The verb `replay`: takes the step that gave nan or inf again, and shows what became so first."""

from pathlib import Path

from recexp.error import ConfigError
from recexp.verb.options import Option

USAGE = "RUN"
HELP = "takes the step that gave nan or inf again, and says where it began"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises RunError for a run that has kept no such step, or whose files are damaged."""
    if len(arguments) != 1:
        raise ConfigError("replay: takes one run directory, as in: recexp replay outputs/RUN")
    from recexp.dataset import artifact
    from recexp.experiment import resolve_device
    from recexp.model import create
    from recexp.terminal import columns
    from recexp.trainer import broken
    from recexp.trainer.divergence import examine, explanation, what_to_lower
    from recexp.trainer.loop import numerics
    from recexp.validate import read

    path = Path(arguments[0])
    config = read(path)
    device = resolve_device(config.device)
    model = create(config.model, artifact.load(path / "encoder").schema).to(device)
    where, what, cause = broken.load(path / "checkpoints", model, config, device)
    with numerics(config.trainer):
        finding = examine(cause)
    print(explanation(where, what, finding, what_to_lower(config.trainer, finding)))
    losses = ", ".join(f"{name} {loss:.6g}" for name, loss in finding.losses.items())
    print(f"a batch of {len(cause.batch):,} rows{f'; losses: {losses}' if losses else ''}")
    if finding.sizes:
        rows = [[name, f"{weight:.4g}", f"{gradient:.4g}"] for name, weight, gradient in finding.sizes]
        print("\n".join(columns([["parameter", "largest weight", "largest gradient"], *rows])))
    return 0
