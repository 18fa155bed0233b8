"""The verb `check`: the contract of models, tried on the configuration at hand and told in words.

The data are cut to the first users with some thousands of events, so that a check takes seconds on any dataset.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from recexp import registry
from recexp.config import Config
from recexp.contract import CHECKS, Case, Skip
from recexp.dataset.batch import Batches, Samples
from recexp.dataset.prepare import load
from recexp.experiment import resolve_device

N_EVENTS = 20_000  # of the log that is looked at


def check(arguments: list[str]) -> int:
    """`check [override...]`: 0 where all checks hold, 1 where one fails."""
    from recexp.compose import load_config, split_flags

    overrides, config_dir = split_flags(arguments)
    config = load_config(overrides, config_dir)
    case = build(config)
    print(f"check  {config.model.name} on {config.dataset.name}, {len(case.dataset.log):,} of its events")
    began, failed = time.perf_counter(), 0
    torch.set_num_threads(config.trainer.threads or torch.get_num_threads())
    for each in CHECKS:
        fact = (each.__doc__ or "").splitlines()[0].rstrip(".")
        result, told = verdict(each, case)
        failed += result == "FAILED"
        print(f"{result:8} {fact}{': ' if told else ''}{told}", flush=True)
    print(f"{len(CHECKS)} checks, {failed} failed, {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


def verdict(each: "Callable[[Case], str | None]", case: Case) -> tuple[str, str]:
    """ok, skipped or FAILED, and what there is to say."""
    try:
        fault = each(case)
    except Skip as reason:
        return "skipped", str(reason)
    except Exception as error:
        return "FAILED", f"raises {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return ("FAILED", fault) if fault else ("ok", "")


def build(config: Config, n_events: int = N_EVENTS) -> Case:
    """The case of a configuration. Raises ConfigError or DataError."""
    device = resolve_device(config.device)
    dataset = load(config.dataset).head(n_events)

    def make(other: int = 0) -> nn.Module:
        torch.manual_seed(config.seed + other)
        return registry.get("model", config.model.name)(config.model, dataset.schema).to(device)

    make()  # a model that refuses the dataset says so here
    batches = Batches(dataset, config.dataset, device)
    rows = Samples(batches.rows["train"])
    length = batches.gather(rows, "train").mask.sum(1)
    wanted = {0, 1, 2, int(length.float().median()), int(length.max())}
    chosen = torch.cat([torch.nonzero(length == n)[:2, 0] for n in sorted(wanted)])
    return Case(config, dataset, batches, batches.gather(rows.take(chosen), "train"), make)
