"""All fields of a sample: those of its user, its target and its context.

B batch, n unique users or items, F fields, D embedding size, K size of a term
"""

import operator
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Features
from recexp.dataset.schema import Schema
from recexp.kernel.device import traced, unique
from recexp.kernel.lookup import lookup_concat
from recexp.layer.embedding.side import EmbeddingInit, SideEmbedding
from recexp.layer.lookup import Events, lookup, total


class FeatureEmbedding(nn.Module):
    """A vector for each field of a schema."""

    def __init__(
        self, schema: Schema, embedding_dim: int, std: float = 0.01, init: EmbeddingInit = EmbeddingInit.normal
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.sides: Mapping[str, SideEmbedding] = nn.ModuleDict(  # type: ignore[assignment]  # one in all but name
            {
                name: SideEmbedding(name, side, embedding_dim, std, init)
                for name, side in (("user", schema.user), ("item", schema.item), ("context", schema.context))
                if side.fields
            }
        )

    @property
    def n_fields(self) -> int:
        return sum(len(side.side.fields) for side in self.sides.values())

    def columns(self, weight: Tensor) -> dict[str, Tensor]:
        """The columns of each side in a weight (H, F D) on all fields side by side."""
        widths = [len(side.side.fields) * self.embedding_dim for side in self.sides.values()]
        return dict(zip(self.sides, weight.split(widths, 1), strict=True))

    def fields(self, batch: Batch) -> Tensor:
        """The fields of user, target and context: (B, F, D)."""
        fields, indices = [], []
        for side, features, index in self._tables(batch):
            features, index = self.unique_rows(side, features, index)
            fields.append(self.sides[side](features).flatten(1))  # (n, F D)
            indices.append(index)
        if "context" in self.sides:
            fields.append(self.sides["context"](batch.context).flatten(1))
            indices.append(torch.arange(fields[-1].shape[0], device=fields[-1].device))
        return lookup_concat(fields, indices).unflatten(1, (-1, self.embedding_dim))

    def unique_fields(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The fields (n, F, D) of n rows, and the index (B,) that expands them to the batch.

        Rows are the unique users or items if all fields are theirs.
        """
        if len(self.sides) > 1 or "context" in self.sides:
            fields = self.fields(batch)
            return fields, torch.arange(fields.shape[0], device=fields.device)
        ((side, features, index),) = self._tables(batch)
        features, index = self.unique_rows(side, features, index)
        return self.sides[side](features), index

    def total(self, batch: Batch, term: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The sum over sides of term(side, its fields (n, F, D)) (n, K): (B, K).

        Linear terms, sums of pairs and an MLP's first product are such sums over fields. Terms are computed once for
        each unique user and item.
        """
        terms = []
        for side, features, index in self._tables(batch):
            features, index = self.unique_rows(side, features, index)
            terms.append(Events(term(side, self.sides[side](features)), index))
        context = [term("context", self.sides["context"](batch.context))] if "context" in self.sides else []
        return reduce(operator.add, [*([total(terms)] if terms else []), *context])

    def _tables(self, batch: Batch) -> list[tuple[str, Features, Tensor]]:
        """For the user and the item, if they have fields: the side, its table, and the rows (B,) of the batch."""
        catalogue = batch.catalogue
        tables = (("user", catalogue.users, batch.user), ("item", catalogue.items, batch.target))
        return [table for table in tables if table[0] in self.sides]

    def rows(self, side: str, features: Features, index: Tensor) -> Tensor:
        """The fields of the users or items at `index` (...): (..., F, D). Each unique one is embedded once."""
        features, index = self.unique_rows(side, features, index)
        vectors = self.sides[side](features)  # (n, F, D)
        return lookup(vectors.flatten(1), index).unflatten(-1, vectors.shape[1:])

    def unique_rows(self, side: str, features: Features, index: Tensor) -> tuple[Features, Tensor]:
        """The n unique users or items at `index` (...), and the index (...) that expands them."""
        if self.reads_all_rows(side, features.ids.shape[0], index):
            return features, index
        rows, index = self.unique(side, features.ids.shape[0], index)
        return features.at(rows), index

    def unique(self, side: str, size: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """The unique values (n,) of `index` (...), all below `size`, and the index (...) that expands them.

        Where that costs less than finding unique values, all values below `size` or, on a GPU, the index itself.
        """
        if self.reads_all_rows(side, size, index):
            return torch.arange(size, device=index.device), index
        return unique(index)

    def reads_all_rows(self, side: str, size: int, index: Tensor) -> bool:
        """True if embedding all `size` rows costs less than finding the unique ones; not if the gradient is sparse."""
        return not traced() and index.numel() >= size and not self.sides[side].table.sparse


class Linear(nn.Module):
    """w0 + sum_i w_i over all fields: the linear part of factorisation models."""

    def __init__(self, schema: Schema, std: float = 0.01) -> None:
        """std: of the initial weights."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.weights = FeatureEmbedding(schema, 1, std)

    def forward(self, batch: Batch) -> Tensor:
        """(B,)."""
        return self.bias + self.weights.total(batch, lambda side, w: w.sum(1))[:, 0]
