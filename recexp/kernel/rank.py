"""How many scores of a user are at least as high as one of them: what a rank is counted from.

B users, V scores each, n scores to be ranked
"""

import torch
from torch import Tensor

from recexp.kernel.library import library
from recexp.kernel.lookup import require_rows


def reference(scores: Tensor, row: Tensor, own: Tensor) -> Tensor:
    """scores (B, V), row (n,) which user, own (n,) one of the user's scores -> (n,) int64."""
    out = torch.empty_like(row)
    for start in range(0, len(row), len(scores)):  # as many rows at once as scores has
        part = slice(start, start + len(scores))
        out[part] = (scores[row[part]] >= own[part, None]).sum(1)
    return out


def at_least(scores: Tensor, row: Tensor, own: Tensor) -> Tensor:
    """As `reference`; a CPU counts without an array of comparisons, in a tenth of the time."""
    kernels = library(scores)
    if kernels is None:
        return reference(scores, row, own)
    out = row.new_empty(row.shape)
    sizes = {"n": len(row), "n_scores": scores.shape[1], "n_rows": len(scores)}
    require_rows(kernels["at_least"](scores=scores, row=row, own=own, out=out, **sizes), row, len(scores))
    return out
