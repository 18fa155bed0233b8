"""Sums over all pairs of fields, in linear time.

B batch, F fields, D embedding size, H outputs of a linear layer
Rendle, ICDM 2010, lemma 3.1   sum_{i<j} <e_i, e_j> = 1/2 sum_d [(sum_i e_id)^2 - sum_i e_id^2]
He & Chua, NFM, SIGIR 2017, eq. 4   the same before the sum over d
"""

from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.kernel.fields import field_sums, split_sums
from recexp.layer.embedding import FeatureEmbedding


def bi_interaction(e: Tensor) -> Tensor:
    """Elementwise products of all pairs, summed: e (B, F, D) -> (B, D)."""
    return split_sums(field_sums(e))[0]


def bi_interaction_of(embed: FeatureEmbedding, batch: Batch) -> Tensor:
    """bi_interaction of all fields of a batch, their sums computed once per unique user and item: (B, D)."""
    return split_sums(embed.total(batch, lambda side, e: field_sums(e)))[0]


def bi_interaction_and_linear(embed: FeatureEmbedding, linear: nn.Linear, batch: Batch) -> tuple[Tensor, Tensor]:
    """bi_interaction (B, D) and linear([e_1, ..., e_F]) (B, H) of a batch's fields, from one look-up of each field."""
    weight = embed.columns(linear.weight)
    return split_sums(embed.total(batch, lambda side, e: field_sums(e, weight[side])), linear.bias)
