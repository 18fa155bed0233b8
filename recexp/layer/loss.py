"""Losses on logits. Each is a mean over its valid elements, 0 if there are none."""

import torch
from torch import Tensor
from torch.nn import functional


def bce(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy, mean over (B,)."""
    return functional.binary_cross_entropy_with_logits(logits.float(), label)


def masked_bce(logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the true positions of mask (B, L); the others may hold anything."""
    losses = functional.binary_cross_entropy_with_logits(logits.float(), label, reduction="none")
    return torch.where(mask, losses, 0.0).sum() / mask.sum().clamp(min=1)
