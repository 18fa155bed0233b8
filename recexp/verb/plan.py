"""The verb `plan`: what a configuration's training will take, before it is trained."""

from typing import TYPE_CHECKING

from recexp.verb.options import Option

if TYPE_CHECKING:
    from torch import nn

    from recexp.trainer.estimate import Estimate


USAGE = "[override...]"
HELP = "what training will take: parameters, memory, and seconds an epoch from a few real steps"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Writes no run directory. Raises ConfigError or DataError."""
    import pandas  # noqa: F401  # as a run loads it to write its predictions: it counts in the memory

    from recexp.compose import load_config, split_flags
    from recexp.dataset.batch import Batches
    from recexp.experiment import build
    from recexp.model import search_of
    from recexp.run import lines
    from recexp.run.result import peak_memory_mb
    from recexp.terminal import columns
    from recexp.trainer.estimate import estimates
    from recexp.trainer.memory import memory_explained

    config = load_config(*split_flags(arguments))
    with memory_explained(config):
        experiment = build(config)
    model, trainer, options = experiment.model, experiment.trainer, config.model
    print(lines.data_line(config.dataset.name, experiment.dataset))
    print(lines.model_line(config, model, trainer.device))
    print("\n" + "\n".join(columns(parameters(model))), flush=True)
    with memory_explained(config, model):
        batches = Batches(experiment.dataset, config.dataset, trainer.device, search=search_of(model))
        stages = estimates(trainer, model, batches, trainer.weights(config), options.embedding_l2, options.optimizers)
    print("\n" + "\n".join(columns(memory(stages))))
    print(f"the process: {peak_memory_mb():,.0f} MB at its peak\n")
    print("\n".join(columns(times(stages))))
    return 0


def parameters(model: "nn.Module") -> list[list[str]]:
    """Tables one by one, other parameters by the part of the model that they are in."""
    from torch import nn

    tables = {f"{name}.weight": table for name, table in model.named_modules() if isinstance(table, nn.Embedding)}
    rows, parts = [], dict[str, int]()
    for name, parameter in model.named_parameters():
        if name in tables:
            short = name.removesuffix(".weight").removesuffix(".table").replace(".sides.", ".")
            rows.append([short, "table", " x ".join(f"{n:,}" for n in parameter.shape), f"{parameter.numel():,}"])
        else:
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    others = [[part, type(getattr(model, part)).__name__, "", f"{n:,}"] for part, n in parts.items()]
    return [["part", "", "", "parameters"], *rows, *others, ["all", "", "", f"{total:,}"]]


def memory(stages: "list[Estimate]") -> list[list[str]]:
    """What one step holds, stage by stage."""
    from recexp.terminal import size

    measured = [stage for stage in stages if stage.memory]
    if not measured:
        return [["memory of a step", "nothing is trained by gradient"]]
    rows = [[name, *(size((stage.memory or {})[name]) for stage in measured)] for name in measured[0].memory or {}]
    total = [size(sum((stage.memory or {}).values())) for stage in measured]
    return [["memory of a step", *(stage.stage for stage in measured)], *rows, ["all", *total]]


def times(stages: "list[Estimate]") -> list[list[str]]:
    """Steps and seconds, stage by stage, and their sum."""
    head = ["stage", "steps an epoch", "a step", "an epoch", "validation", "epochs at most", "all"]
    rows = [
        [stage.stage, f"{stage.n_steps:,}", *map(duration, (stage.step, stage.epoch, stage.validation)),
         f"{stage.epochs:,}", duration(stage.seconds)] if stage.n_steps
        else [stage.stage, "-", "-", "-", "-", "1", "fitted in closed form: not measured"]
        for stage in stages
    ]  # fmt: skip
    total = ["all", "", "", "", "", "", duration(sum(stage.seconds for stage in stages))]
    return [head, *rows, total] if len(stages) > 1 else [head, *rows]


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
