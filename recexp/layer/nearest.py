"""The events of a history that are nearest to a target by an inner product.

B batch, L history length, n unique events, S size of the vectors compared
"""

import torch
from torch import Tensor, nn

from recexp.layer.chunk import in_chunks
from recexp.layer.lookup import Events, lookup
from recexp.layer.mlp import linear


class SoftSearch(nn.Module):
    """r_s = <W_e e_s, W_t t> of the events of a history (B, L), and where the highest are. Pi et al., CIKM 2020."""

    def __init__(self, dim: int, size: int, n_found: int) -> None:
        super().__init__()
        self.n_found = n_found
        self.key, self.query = linear(dim, size, bias=False), linear(dim, size, bias=False)

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The relevance of each event (B, L), and the positions (B, K) of the most relevant.

        target: (B, E)
        """
        relevance = inner_products(self.query(target), Events(self.key(events.vectors), events.index))
        return relevance, nearest(relevance.detach(), mask, self.n_found)


def inner_products(query: Tensor, keys: Events) -> Tensor:
    """<q, k_s> of queries (B, S) and all keys of the history: (B, L). Equal events have equal ones to the bit."""
    per_row = max(1, keys.index.shape[1]) * query.shape[1]
    if len(keys.vectors) <= per_row:  # products with all unique events take less memory than the key of each event
        return (query @ keys.vectors.T).gather(1, keys.index)
    return in_chunks(_products, per_row, (query, keys.index), keys.vectors)


def _products(query: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
    return (query[:, None] * lookup(vectors, index)).sum(2)


def nearest(scores: Tensor, mask: Tensor, most: int) -> Tensor:
    """The positions (B, K) of the highest scores (B, L) where the mask (B, L) is true, of equal ones the last.

    K is `most`, or L if that is less; ascending, and where fewer are true, others follow.
    """
    length = scores.shape[1]
    bits = scores.float().contiguous().view(torch.int32)
    # Floats as integers of the same order: below 0, the bits of the absolute value run the other way.
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long().masked_fill(~mask, -(2**31))
    # With the position in the lower half no two are equal, so padding and the batch cannot decide between them.
    position = torch.arange(length, device=scores.device)
    chosen = ((ordered << 32) + position).topk(min(most, length), dim=1).indices
    last = torch.where(mask.gather(1, chosen), chosen, length)
    return chosen.gather(1, last.argsort(dim=1, stable=True))
