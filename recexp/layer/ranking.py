"""Losses of the next item, by name, and the negatives that some of them sample.

P queries q, each with a target item; V items with vectors e; S negatives a query, drawn by q; s = <q, e>
    cross_entropy    -log(e^s+ / sum_i e^s_i)                                              over all items
    sampled_softmax  -log(e^s+ / (e^s+ + sum_j e^(s_j - log(S q_j))))                       (Bengio & Senecal, 2008)
    bce              (softplus(-s+) + sum_j softplus(s_j)) / (1 + S)                        (Kang & McAuley, 2018)
    gbce             bce with sigma(s+)^b: b softplus(-s+),  b = a (t (1 - 1/a) + 1/a),  a = S / (V - 1)
                                                                                            (Petrov & Macdonald, 2023)
    bpr              sum_j softplus(s_j - s+) / S                                           (Rendle et al., 2009)
    bpr_max          -log sum_j w_j sigma(s+ - s_j) + r sum_j w_j s_j^2,  w = softmax(s_j)  (Hidasi & Karatzoglou, 2018)
A negative that is the target itself is left out. A loss is the mean over queries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recexp.dataset.batch import Catalogue
from recexp.dataset.schema import FIRST
from recexp.kernel.candidates import scores, scores_grouped
from recexp.kernel.cross_entropy import summed_cross_entropy
from recexp.kernel.device import waits
from recexp.kernel.linear import product
from recexp.kernel.lookup import lookup
from recexp.kernel.unique import Groups, grouped


@dataclass(frozen=True)
class Scored:
    """The scores of targets and negatives, and what else the losses need."""

    target: Tensor  # (P,)
    negative: Tensor  # (P, S)
    hit: Tensor  # (P, S) bool: the negative is the target
    log_expected: Tensor | None  # log(S q), (P, S) or (S,); None for no correction
    n_items: int


def sampled_softmax(scored: Scored) -> Tensor:
    """(P,)."""
    negative = scored.negative if scored.log_expected is None else scored.negative - scored.log_expected
    others = negative.masked_fill(scored.hit, -torch.inf).logsumexp(1)  # (P,)
    return torch.logaddexp(scored.target, others) - scored.target


def bce(scored: Scored, power: float = 1.0) -> Tensor:
    """power: of the target's probability, below 1 for gbce. (P,)."""
    negative = F.softplus(scored.negative).masked_fill(scored.hit, 0.0)
    return (power * F.softplus(-scored.target) + negative.sum(1)) / (1 + negative.shape[1])


def gbce(scored: Scored, calibration: float) -> Tensor:
    """calibration: t, 0 for bce, 1 for scores that are probabilities. (P,)."""
    rate = scored.negative.shape[1] / (scored.n_items - 1)
    return bce(scored, power=rate * (calibration * (1 - 1 / rate) + 1 / rate))


def bpr(scored: Scored) -> Tensor:
    """(P,)."""
    return F.softplus(scored.negative - scored.target[:, None]).masked_fill(scored.hit, 0.0).mean(1)


def bpr_max(scored: Scored, score_l2: float) -> Tensor:
    """(P,)."""
    hit, negative = scored.hit, scored.negative
    log_weight = negative.masked_fill(hit, torch.finfo(negative.dtype).min).log_softmax(1)  # (P, S)
    log_likelihood = (log_weight + F.logsigmoid(scored.target[:, None] - negative)).logsumexp(1)
    return -log_likelihood + score_l2 * (log_weight.exp() * negative.square()).sum(1)


class Negatives:
    """Draws n items for each query, or once for all of them.

    popular: the fraction of them drawn by frequency in training; the others are drawn uniformly from all known items.
    """

    def __init__(self, n: int, shared: bool, popular: float, corrected: bool) -> None:
        self.n_popular = round(n * popular)
        self.n, self.shared, self.corrected = n, shared, corrected
        self.catalogue: Catalogue | None = None
        self.log_expected = torch.zeros(0)  # by item id: log of how often a draw of n is expected to hold it

    def __call__(self, n_queries: int, catalogue: Catalogue, n_items: int) -> tuple[Tensor, Tensor | None]:
        """Ids, (P, S) or (S,) if shared, and log(S q) of each, None without the correction."""
        rows = (self.n,) if self.shared else (n_queries, self.n)
        drawn = torch.randint(FIRST, FIRST + n_items, rows, device=catalogue.items.ids.device)
        if self.n_popular:
            popular = catalogue.draw_items(drawn[..., : self.n_popular])
            drawn[..., : self.n_popular] = catalogue.items.ids[popular, 0]
        if not self.corrected:
            return drawn, None
        if self.catalogue is not catalogue:
            self.catalogue, self.log_expected = catalogue, self._log_expected(catalogue, n_items)
        return drawn, self.log_expected[drawn]

    def _log_expected(self, catalogue: Catalogue, n_items: int) -> Tensor:
        count = torch.bincount(catalogue.items.ids[catalogue.sampling_pool, 0], minlength=FIRST + n_items).float()
        popular = self.n_popular * count / len(catalogue.sampling_pool)
        return (popular + (self.n - self.n_popular) / n_items).log()


SampledLoss = Callable[[Scored], Tensor]
Vectors = Callable[[Tensor | None], Tensor]  # of item ids (n,), or of all (FIRST + V,): (n, D)


def next_item_loss(
    query: Tensor,
    vectors: Vectors,
    target: Tensor,
    catalogue: Catalogue,
    negatives: Negatives,
    loss: SampledLoss | None,
    by_row: bool = False,
) -> Tensor:
    """The mean loss of queries (P, D) whose targets are item ids (P,); 0 if there are none.

    loss: over sampled negatives; None for cross-entropy over all items. by_row: reads only the vectors of the step's
    items.
    """
    query, n_queries = query.float(), max(1, len(query))
    if loss is None:
        return summed_cross_entropy(query, vectors(None).float(), target, FIRST) / n_queries
    drawn, log_expected = negatives(len(query), catalogue, catalogue.n_known)
    together = torch.cat([target, drawn]) if negatives.shared else torch.cat([target[:, None], drawn], 1)
    groups = _groups(together, catalogue.n_known, by_row)
    items = vectors(None if groups is None else groups.rows).float()
    if negatives.shared:
        index = together if groups is None else groups.inverse()
        target_index, drawn_index = index.split([len(target), negatives.n])
        target_score = scores(query, items, target_index[:, None])
        negative = product(query, lookup(items, drawn_index))
    else:  # scored without copies of the vectors
        if groups is None:
            logits = scores(query, items, together)
        else:
            logits = scores_grouped(query, items, groups, 1 + negatives.n)
        target_score, negative = logits.split([1, negatives.n], 1)
    scored = Scored(target_score[:, 0], negative, drawn == target[:, None], log_expected, catalogue.n_known)
    return loss(scored).sum() / n_queries


def _groups(ids: Tensor, n_items: int, by_row: bool) -> Groups | None:
    """The groups of a step's item ids, so that each is looked up once; None where reading all items costs less."""
    if not by_row and (waits(ids) or ids.numel() >= n_items):
        return None
    return grouped(ids, torch.empty(FIRST + n_items, 0, device=ids.device))
