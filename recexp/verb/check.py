"""The verb `check`: tests a configuration's model against the contract of models and says what fails."""

import time

from recexp.verb.options import Option

USAGE = "[override...]"
HELP = "tries on a model what must hold for any, one's own too"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """0 if all checks hold, 1 if one fails. Raises ConfigError or DataError."""

    import torch

    from recexp.compose import load_config, split_flags
    from recexp.contract.case import build
    from recexp.contract.checks import CHECKS, verdict

    config = load_config(*split_flags(arguments))
    case = build(config)
    print(f"check  {config.model.name} on {config.dataset.name}, {len(case.dataset.log):,} of its events")
    began, n_failed = time.perf_counter(), 0
    torch.set_num_threads(config.trainer.threads or torch.get_num_threads())
    for check in CHECKS:
        fact = (check.__doc__ or "").splitlines()[0].rstrip(".")
        result, reason = verdict(check, case)
        n_failed += result == "FAILED"
        print(f"{result:8} {fact}{': ' if reason else ''}{reason}", flush=True)
    print(f"{len(CHECKS)} checks, {n_failed} failed, {time.perf_counter() - began:.0f} s")
    return 1 if n_failed else 0
