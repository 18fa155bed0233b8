"""The loss of the next item: which of all known items follows an event, predicted from the state after that event.

B batch, L history length, N pairs of an event and its known successor, V known items, S drawn ones, H state size
    z_i = <q, w_i> + b_i         q = P state with w the embeddings of item ids (tied), or q = state with w of its own
    -log(e^z_next / sum_i e^z_i)                                         over all items
    -log(e^z_next / (e^z_next + sum_j e^(z_j - log(S p_j))))             over j drawn by popularity p, hits j = next out
S p_j is how often j is expected in the draw, so the sum over j is an unbiased estimate of that over all other items
(importance sampling; Bengio & Senecal, IEEE TNN 2008). The next item is always included, so its logit stays as it is
(Khrylchenko et al., RecSys 2025).
"""

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Catalogue
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.kernel.cross_entropy import sampled_cross_entropy, summed_cross_entropy, with_bias
from recexp.kernel.device import true_positions
from recexp.layer.embedding import SideEmbedding
from recexp.layer.mlp import linear

NONE = -1  # no known item follows


class Vectors(Enum):
    tied = "the embeddings of the item ids"
    own = "a matrix of its own"


class Draw:
    """Draws n items by popularity, and returns how often each is expected.

    This needs counts of all training events, which are kept until a batch has another catalogue.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.catalogue: Catalogue | None = None
        self.log_popularity = torch.zeros(0)  # (V,)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One draw of known items, counted from 0, for all pairs of the batch, and log(n p) of each: both (n,)."""
        catalogue = batch.catalogue
        if self.catalogue is not catalogue:
            self.catalogue, self.log_popularity = catalogue, log_popularity(catalogue)
        items = catalogue.draw_items(catalogue.sampling_pool.new_empty(self.n))
        drawn = catalogue.items.ids[items, 0] - FIRST
        return drawn, self.log_popularity[drawn] + math.log(self.n)


def log_popularity(catalogue: Catalogue) -> Tensor:
    """log p of each known item, p its fraction of training events: (V,), or fewer if the last have no events."""
    count = torch.bincount(catalogue.items.ids[catalogue.sampling_pool, 0] - FIRST)
    return count.float().log() - math.log(len(catalogue.sampling_pool))


class NextItem(nn.Module):
    """The mean loss over all events that have a known successor. Padding and unknown are not candidates.

    draw: draws the items that the next one competes with; None takes all items.
    """

    def __init__(
        self, vectors: Vectors, n_state: int, embedding_dim: int, n_items: int, draw: Draw | None = None
    ) -> None:
        super().__init__()
        tied, self.n_known, self.draw = vectors is Vectors.tied, n_items - FIRST, draw
        self.project = linear(n_state, embedding_dim, bias=False) if tied else None
        self.own = None if tied else linear(n_state, self.n_known, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.n_known))

    def forward(self, states: Tensor, batch: Batch, item: SideEmbedding) -> Tensor:
        """States (B, L, H) after each event, and the embedding of items, read if tied -> (), 0 if N is 0."""
        states, following = states[:, :-1].flatten(0, 1), successors(batch).flatten()
        valid = true_positions(following != NONE)  # no products with V items at masked positions
        states, following = states[valid], following[valid]
        query = states if self.project is None else self.project(states)  # (N, H) or (N, D)
        is_known, index = following != NONE, following.clamp(min=0)
        if self.draw is None:
            return self.over_all_items(query, index, is_known, item)
        drawn, log_expected = self.draw(batch)
        own = (query.float() * self.vectors(index, item)).sum(1) + self.bias[index]  # (N,)
        vectors, bias = self.vectors(drawn, item), self.bias[drawn] - log_expected
        return sampled_cross_entropy(query, vectors, bias, own, following, drawn) / is_known.sum().clamp(min=1)

    def over_all_items(self, query: Tensor, index: Tensor, is_known: Tensor, item: SideEmbedding) -> Tensor:
        """query (N, .), the successor's index (N,), whether there is one (N,) -> (). Never holds all (N, V) logits."""
        all_items = torch.arange(self.n_known, device=index.device)
        query, vectors = with_bias(query, self.vectors(all_items, item), self.bias)
        total = summed_cross_entropy(query * is_known[:, None], vectors, index)
        n_pairs = is_known.sum()
        masked = (len(query) - n_pairs) * math.log(self.n_known)  # a query of 0 has the loss log V, and no gradient
        return (total - masked) / n_pairs.clamp(min=1)

    def vectors(self, index: Tensor, item: SideEmbedding) -> Tensor:
        """The vectors of the known items at `index` (n,): (n, D) or (n, H)."""
        # The id is the first field of an item, so its known values are the rows from FIRST on.
        return item.table(index + FIRST) if self.own is None else F.embedding(index, self.own.weight)


def successors(batch: Batch) -> Tensor:
    """The known item that follows each event, counted from 0, or NONE: (B, L - 1).

    The target follows the last event but is not a successor: it is what the model is to predict.
    """
    following = batch.catalogue.items.ids[batch.history[:, 1:], 0]  # (B, L - 1)
    return torch.where(batch.mask[:, 1:] & (following > UNKNOWN), following - FIRST, NONE)
