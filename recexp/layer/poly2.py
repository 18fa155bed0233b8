"""Second-order polynomial with hashed weights.

Chang et al., Training and Testing Low-degree Polynomial Data Mappings via Linear SVM, JMLR 2010
    y = w0 + sum_i w_i x_i + sum_{i<j} w_h(i, j) x_i x_j,  i and j from different fields

B batch, C columns, P pairs of columns of different fields. Each field is a small bag of ids with coefficients x: a
categorical field its id with coefficient 1, a multi-valued or composed one its ids with 1 / count each, a numeric one a
fixed id with its number as coefficient, a vector as many.
"""

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Features
from recexp.dataset.schema import FIRST, PADDING, Schema, Side
from recexp.layer.embedding import Linear
from recexp.layer.lookup import Table


class Poly2(nn.Module):
    """The linear part, and a weight for each pair of values of two fields, hashed into `n_buckets`."""

    first: Tensor
    second: Tensor
    field: Tensor

    def __init__(self, schema: Schema, n_buckets: int) -> None:
        super().__init__()
        self.sides = (schema.user, schema.item, schema.context)
        self.linear = Linear(schema)
        self.table = Table(n_buckets, 1)
        self.table.rowwise = True
        nn.init.zeros_(self.table.weight)  # a pair unseen in training adds nothing
        fields = [field for side in self.sides for field in side.fields]
        field = torch.repeat_interleave(torch.tensor([field.width for field in fields]))  # (C,)
        first, second = torch.triu_indices(len(field), len(field), offset=1)
        apart = field[first] != field[second]
        self.register_buffer("field", field, persistent=False)
        self.register_buffer("first", first[apart], persistent=False)  # (P,)
        self.table.n_ids = len(self.first)
        self.register_buffer("second", second[apart], persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """(B,)."""
        ids, x = self.bags(batch)
        weights = self.table(self.buckets(ids))[:, :, 0]  # (B, P)
        products = x.index_select(1, self.first) * x.index_select(1, self.second)  # (B, P)
        return self.linear(batch) + (weights * products).sum(1)

    def bags(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids and coefficients (B, C) of all fields side by side; padding has coefficient 0."""
        user, item, context = self.sides
        bags = []
        if user.fields:
            bags.append(side_bags(user, batch.catalogue.users.at(batch.user)))
        if item.fields:
            bags.append(side_bags(item, batch.catalogue.items.at(batch.target)))
        if context.fields:
            bags.append(side_bags(context, batch.context))
        ids, x = zip(*bags, strict=True)
        return torch.cat(ids, 1), torch.cat(x, 1)

    def buckets(self, ids: Tensor) -> Tensor:
        """The bucket (B, P) of each pair of ids (B, C). Fields are hashed too, since they share one unknown id."""
        code = mix(ids + (self.field << 48))  # (B, C)
        pair = mix(3 * code.index_select(1, self.first) + code.index_select(1, self.second))
        return pair % self.table.num_embeddings


def side_bags(side: Side, features: Features) -> tuple[Tensor, Tensor]:
    """Ids and coefficients (n, C) of a side's fields; C counts numeric fields too."""
    ids, x = [], []
    for field in side.fields:
        if field.numeric:
            numbers = features.values[:, field.column : field.column + field.width]  # (n, width)
            fixed = torch.arange(FIRST, FIRST + field.width, device=numbers.device)
            ids.append(fixed.expand(numbers.shape[0], -1))  # len() would make the batch size of an export a constant
            x.append(numbers)
            continue
        values = features.ids[:, field.column : field.column + field.width]  # (n, width)
        valid = (values != PADDING).float()
        ids.append(values)
        x.append(valid / valid.sum(1, keepdim=True).clamp(min=1))
    return torch.cat(ids, 1), torch.cat(x, 1)


def mix(x: Tensor) -> Tensor:
    """A one-to-one scramble of 64-bit integers, the same everywhere (Steele et al., SplitMix64, OOPSLA 2014)."""
    x = (x ^ _right(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed integer
    x = (x ^ _right(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _right(x, 31)


def _right(x: Tensor, n: int) -> Tensor:
    """x >> n of an unsigned integer, filled with zeros from the left; torch's repeats the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)
