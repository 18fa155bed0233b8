"""Dropout inside kernels, which is a function of a seed and of a number's position alone (kernel.h, kept)."""

import torch


def dropped(*probabilities: float) -> tuple[int, ...]:
    """Dropout thresholds in units of 2^-32, and a seed that torch's generator draws; all 0 if nothing is dropped."""
    thresholds = [min(round(p * 2**32), 2**32 - 1) for p in probabilities]
    return *thresholds, int(torch.randint(2**31, ())) if any(thresholds) else 0
