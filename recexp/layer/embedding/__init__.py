"""Embeddings of fields. One table a side: the fields of the user, of the item and of the context.

B batch, L history length, F fields of a side, D embedding size, C id columns (a multi-valued field has several)
"""

import operator
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.dataset.batch import Batch, Features
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN, Schema, Side
from recexp.error import ConfigError
from recexp.layer.lookup import Events, Origin, Table, lookup, total


class SideEmbedding(nn.Module):
    """A vector of size D for each field of one side.

    A categorical field is a row of the table, a multi-valued one the mean over its values, a numeric one its number
    times a vector (Guo et al. 2017). Padding and unknown start at 0: padding stays there, unknown is met by training
    only where a value is missing. The side may be a selection of the data's fields: the table has rows for these alone.
    """

    columns: Tensor
    shift: Tensor

    def __init__(self, name: str, side: Side, embedding_dim: int, std: float) -> None:
        super().__init__()
        self.name, self.side = name, side
        columns = [field.column + n for field in side.fields if not field.numeric for n in range(field.width)]
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.long), persistent=False)  # (C,)
        self.register_buffer("shift", torch.tensor(_shifts(side), dtype=torch.long), persistent=False)  # (C,)
        self.moved = any(_shifts(side))
        self.table = Table(side.vocabulary, embedding_dim, padding_idx=PADDING)
        self.table.rowwise, self.table.origin = True, Origin(name, _source(side))
        nn.init.normal_(self.table.weight, std=std)
        with torch.no_grad():
            self.table.weight[[PADDING, UNKNOWN]] = 0
        if side.value_columns:
            self.direction = nn.Parameter(torch.randn(side.value_columns, embedding_dim) * std)

    def forward(self, features: Features) -> Tensor:
        """Features of n users, items or events to (n, F, D)."""
        ids = self.rows(features.ids)  # (n, C)
        looked_up = self.table(ids)  # (n, C, D)
        if all(field.width == 1 and not field.numeric for field in self.side.fields):
            return looked_up
        fields = []
        column = number = 0
        for field in self.side.fields:
            if field.numeric:
                fields.append(features.values[:, field.column, None] * self.direction[number])
                number += 1
                continue
            if field.width == 1:
                fields.append(looked_up[:, column])
            else:
                columns = slice(column, column + field.width)
                count = (ids[:, columns] != PADDING).sum(1, keepdim=True).clamp(min=1)
                fields.append(looked_up[:, columns].sum(1) / count)  # padding is 0
            column += field.width
        return torch.stack(fields, 1)

    def rows(self, ids: Tensor) -> Tensor:
        """Ids of the data (n, all columns) to rows of the table (n, C)."""
        if ids.shape[1] != len(self.columns):
            ids = ids.index_select(1, self.columns)
        return torch.where(ids > UNKNOWN, ids + self.shift, ids) if self.moved else ids


def _source(side: Side) -> Tensor:
    """The data's id of each row of a side's table: (vocabulary,)."""
    known = [torch.arange(field.size) + FIRST + field.offset for field in side.fields if not field.numeric]
    return torch.cat([torch.arange(FIRST), *known])


def _shifts(side: Side) -> list[int]:
    """What is added to the known ids of each column: a selection's ranges of ids close up."""
    shifts, size = [], 0
    for field in side.fields:
        if not field.numeric:
            shifts += [size - field.offset] * field.width
            size += field.size
    return shifts


class FeatureEmbedding(nn.Module):
    """All fields of a schema."""

    def __init__(self, schema: Schema, embedding_dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.sides: Mapping[str, SideEmbedding] = nn.ModuleDict(  # type: ignore[assignment]  # is one but in name
            {
                name: SideEmbedding(name, side, embedding_dim, std)
                for name, side in (("user", schema.user), ("item", schema.item), ("context", schema.context))
                if side.fields
            }
        )

    @property
    def n_fields(self) -> int:
        return sum(len(side.side.fields) for side in self.sides.values())

    def columns(self, weight: Tensor) -> dict[str, Tensor]:
        """What of a weight (H, F D) on all fields side by side belongs to each side."""
        widths = [len(side.side.fields) * self.embedding_dim for side in self.sides.values()]
        return dict(zip(self.sides, weight.split(widths, 1), strict=True))

    def fields(self, batch: Batch) -> Tensor:
        """Every field of user, target and context: (B, F, D)."""
        parts = []
        if "user" in self.sides:
            parts.append(self.rows("user", batch.catalogue.users, batch.user))
        if "item" in self.sides:
            parts.append(self.rows("item", batch.catalogue.items, batch.target))
        if "context" in self.sides:
            parts.append(self.sides["context"](batch.context))
        return torch.cat(parts, 1)

    def total(self, batch: Batch, term: Callable[[str, Tensor], Tensor]) -> Tensor:
        """sum over the sides of term(side, its fields (n, F, D)) (n, K), computed once for each distinct user and item.

        What is a sum over fields, as linear terms, sums of pairs and an MLP's first product are: (B, K).
        """
        sources = []
        for side, table, index in (
            ("user", batch.catalogue.users, batch.user),
            ("item", batch.catalogue.items, batch.target),
        ):
            if side in self.sides:
                rows, place = self.distinct(side, table, index)
                sources.append(Events(term(side, self.sides[side](rows)), place))
        context = [term("context", self.sides["context"](batch.context))] if "context" in self.sides else []
        return reduce(operator.add, [*([total(sources)] if sources else []), *context])

    def rows(self, side: str, table: Features, index: Tensor) -> Tensor:
        """Fields of the users or items at `index` (...): (..., F, D). Each distinct one is embedded once."""
        rows, place = self.distinct(side, table, index)
        embedded = self.sides[side](rows)  # (n, F, D)
        return lookup(embedded.flatten(1), place).unflatten(-1, embedded.shape[1:])

    def distinct(self, side: str, table: Features, index: Tensor) -> tuple[Features, Tensor]:
        """The distinct users or items at `index` (...), n of them, and the place of each among these (...)."""
        if self.takes_all(side, len(table.ids), index):
            return table, index
        known, place = self.known(side, len(table.ids), index)
        return table.at(known), place

    def takes_all(self, side: str, size: int, index: Tensor) -> bool:
        """Whether all of a size cost less than to look for the distinct. A sparse gradient would name all rows."""
        return index.numel() >= size and not self.sides[side].table.sparse

    def known(self, side: str, size: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct of `index` (...), each below `size`, and the place of each among these; or all of them."""
        if self.takes_all(side, size, index):
            return torch.arange(size, device=index.device), index
        if index.device.type != "cpu":  # how many are distinct would have to be waited for
            return index.flatten(), torch.arange(index.numel(), device=index.device).view(index.shape)
        return torch.unique(index, return_inverse=True)


class Linear(nn.Module):
    """w0 + sum_i w_i over all fields: the part that every factorisation model adds to."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.weights = FeatureEmbedding(schema, 1)

    def forward(self, batch: Batch) -> Tensor:
        """(B,)."""
        return self.bias + self.weights.total(batch, lambda side, w: w.sum(1))[:, 0]


class SequenceEmbedding(nn.Module):
    """Target, history and profile of a sample, as vectors.

    An item is its fields side by side, E = F D; a history event is its item plus a vector for its label, where labels
    are known; the profile is the fields of user and context side by side, of size P.
    """

    def __init__(self, schema: Schema, embedding_dim: int, history_labels: bool, std: float = 0.01) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, embedding_dim, std)
        self.n_item = len(schema.item.fields) * embedding_dim
        self.n_profile = (len(schema.user.fields) + len(schema.context.fields)) * embedding_dim
        self.label = Table(3, self.n_item, padding_idx=PADDING) if history_labels else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=std)
            with torch.no_grad():
                self.label.weight[PADDING] = 0

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Profile (B, P), target (B, E) and history (B, L, E)."""
        target, events = self.events(batch)
        return self.profile(batch), target, events.expanded()

    def events(self, batch: Batch) -> tuple[Tensor, Events]:
        """Target (B, E) and the history's events."""
        together = self.together(batch)
        # Two look-ups: slices of a single one would each have a gradient of its whole size.
        target = lookup(together.vectors, together.index[:, -1])
        return target, Events(together.vectors, together.index[:, :-1])

    def together(self, batch: Batch) -> Events:
        """The history's events and, behind them, the target: places (B, L + 1)."""
        index, side = torch.cat([batch.history, batch.target[:, None]], 1), self.embed.sides["item"]
        if self.label is None:
            rows, place = self.embed.distinct("item", batch.catalogue.items, index)
            items = side(rows).flatten(1)  # (n, E)
        else:  # a target is an item whose label is not known
            n_labels = self.label.num_embeddings
            label = torch.where(batch.mask, 1 + batch.history_label.long(), PADDING)  # (B, L)
            index = n_labels * index + functional.pad(label, (0, 1), value=PADDING)
            known, place = self.embed.known("item", n_labels * len(batch.catalogue.items.ids), index)
            rows = batch.catalogue.items.at(known // n_labels)
            items = side(rows).flatten(1) + self.label(known % n_labels)
        return Events(items, place)

    def labelled(self, events: Tensor, label: Tensor, known: Tensor) -> Tensor:
        """Events (B, L, E) plus the vectors of their labels (B, L), of those that are known (B, L)."""
        return events if self.label is None else events + self.label(torch.where(known, 1 + label.long(), PADDING))

    def items(self, batch: Batch, index: Tensor) -> Tensor:
        """Items (...) without labels: (..., E)."""
        return self.embed.rows("item", batch.catalogue.items, index).flatten(-2)

    def profile(self, batch: Batch) -> Tensor:
        fields = self.embed.rows("user", batch.catalogue.users, batch.user)
        if "context" in self.embed.sides:
            fields = torch.cat([fields, self.embed.sides["context"](batch.context)], 1)
        return fields.flatten(1)


def require_items(schema: Schema, model: str) -> None:
    """Raises ConfigError for a table, which has no users, items and histories."""
    if not schema.max_history:
        raise ConfigError(
            f"model = {model}: needs users, items and time; this dataset is a table. "
            "Name dataset.columns, or choose a model over fields such as fm or deepfm."
        )


def require_fields(schema: Schema, model: str) -> None:
    """Raises ConfigError for fewer than two fields, ids included: a model of their interactions has nothing to do."""
    n_fields = sum(len(side.fields) for side in (schema.user, schema.item, schema.context))
    if n_fields < 2:
        raise ConfigError(f"model = {model}: needs 2 fields or more, ids included; this table has {n_fields}.")
