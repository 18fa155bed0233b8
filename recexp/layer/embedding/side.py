"""One table per side: for the fields of the user, of the item, or of the context.

n users, items or events, F fields of the side, D embedding size, C id columns (a multi-valued field has several, or
lists of ids if it is wide)
"""

from enum import Enum

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Features
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN, Field, Side
from recexp.layer.lookup import Origin, Table


class EmbeddingInit(Enum):
    normal = "normal, with standard deviation embedding_std"
    xavier_uniform = "uniform, with variance 2 / (values of the field + embedding_dim) (Glorot & Bengio 2010)"
    xavier_normal = "normal, with the same variance"


class SideEmbedding(nn.Module):
    """A vector of size D for each field of one side.

    A categorical field is a row of the table, a multi-valued one the mean over its values, a composed one the row of
    its remainder times 1 + that of its quotient, a numeric one its number times a direction (Guo et al. 2017), a vector
    the sum of its numbers times one each. Padding and unknown start at 0: padding stays there, unknown is trained only
    if values are missing. The side may be a selection of the data's fields: the table has rows only for these.

    Shi et al. (KDD 2020) multiply the two rows of a composed field. With the 1, values of a quotient that is rare stay
    near the row that all values of their remainder share, and initial values and L2 are those of any row.
    """

    columns: Tensor
    value_columns: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        side: Side,
        embedding_dim: int,
        std: float,
        init: EmbeddingInit = EmbeddingInit.normal,
    ) -> None:
        """std: of normal initial vectors, and of the directions of numbers under any init."""
        super().__init__()
        self.name, self.side = name, side
        padded = [field for field in side.fields if _is_padded(field)]
        self.runs = _runs(side)
        self.widths = [sum(field.width for field in run) for run in self.runs if _is_padded(run[0])]
        columns = [field.column + n for field in padded for n in range(field.width)]
        numeric = [field for field in side.fields if field.numeric]
        values = [field.column + n for field in numeric for n in range(field.width)]
        shift = _shifts(side)
        shifts = [shift[field.name] for field in padded for _ in range(field.width)]
        self.list_shift = {field.name: shift[field.name] for field in side.fields if field.wide}
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.long), persistent=False)  # (C,)
        self.register_buffer("value_columns", torch.tensor(values, dtype=torch.long), persistent=False)  # (V,)
        self.register_buffer("shift", torch.tensor(shifts, dtype=torch.long), persistent=False)  # (C,)
        self.shifted = any(shifts)
        self.table = Table(side.vocabulary, embedding_dim, padding_idx=PADDING)
        self.table.rowwise, self.table.n_ids, self.table.origin = True, len(columns), Origin(name, _id_spans(side))
        if init is EmbeddingInit.normal:
            nn.init.normal_(self.table.weight, std=std)
        else:
            _draw_by_field(self.table.weight, side, init)
        with torch.no_grad():
            self.table.weight[[PADDING, UNKNOWN]] = 0
        if side.value_columns:
            self.direction = nn.Parameter(torch.randn(side.value_columns, embedding_dim) * std * _direction_scale(side))

    def forward(self, features: Features) -> Tensor:
        """Features of n users, items or events -> (n, F, D)."""
        ids = self.rows(features.ids)  # (n, C)
        vectors = self.table(ids)  # (n, C, D)
        if all(map(_is_single, self.side.fields)):
            return vectors
        # One split, as slices would each have a gradient of the size of all vectors.
        columns = zip(vectors.split(self.widths, 1), ids.split(self.widths, 1), strict=True)
        values = features.values
        if values.shape[1] != len(self.value_columns):
            values = values.index_select(1, self.value_columns)
        parts, first = [], 0  # first: the column of the next number in values
        for run in self.runs:
            field = run[0]
            if _is_padded(field):
                field_vectors, field_ids = next(columns)
                parts.append(field_vectors if _is_single(field) else _combined(field, field_vectors, field_ids))
            elif field.wide:
                parts.append(self._list_means(field, features)[:, None])
            else:
                parts.append(self._projected(run, values, first))
                first += sum(field.width for field in run)
        return torch.cat(parts, 1)

    def _projected(self, run: list[Field], values: Tensor, first: int) -> Tensor:
        """(n, numbers of the run, D), or (n, 1, D) of a vector, from the values (n, V) from `first` on."""
        columns = slice(first, first + sum(field.width for field in run))
        if _is_number(run[0]):
            return values[:, columns, None] * self.direction[columns]
        return (values[:, columns] @ self.direction[columns])[:, None]

    def _list_means(self, field: Field, features: Features) -> Tensor:
        """(n, D) of a wide field: memory follows the values, not the longest cell."""
        assert features.lists is not None
        ids, row = features.lists.column(field.column)  # (T,) both
        vectors = self.table(torch.where(ids > UNKNOWN, ids + self.list_shift[field.name], ids))  # (T, D)
        total = vectors.new_zeros(len(features.ids), vectors.shape[1]).index_add(0, row, vectors)
        return total / features.lists.count[:, field.column, None].clamp(min=1)

    def rows(self, ids: Tensor) -> Tensor:
        """The data's ids (n, all columns) -> rows of the table (n, C)."""
        if ids.shape[1] != len(self.columns):
            ids = ids.index_select(1, self.columns)
        return torch.where(ids > UNKNOWN, ids + self.shift, ids) if self.shifted else ids


def _is_padded(field: Field) -> bool:
    """True if its ids have columns of their own in `Features.ids`."""
    return not (field.numeric or field.wide)


def _is_single(field: Field) -> bool:
    """True if its value is one row of the table."""
    return _is_padded(field) and field.width == 1


def _is_number(field: Field) -> bool:
    return field.numeric and field.width == 1


def _runs(side: Side) -> list[list[Field]]:
    """Groups of consecutive fields that are computed together: single rows, or numbers. Others are by themselves."""
    runs: list[list[Field]] = []
    for field in side.fields:
        joins = runs and any(kind(field) and kind(runs[-1][0]) for kind in (_is_single, _is_number))
        if joins:
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs


def _combined(field: Field, vectors: Tensor, ids: Tensor) -> Tensor:
    """(n, 1, D) of a composed or multi-valued field: vectors (n, width, D), ids (n, width)."""
    if field.composed:
        return vectors[:, :1] * (1 + vectors[:, 1:])
    count = (ids != PADDING).sum(1).clamp(min=1)[:, None, None]
    return vectors.sum(1, keepdim=True) / count  # padding is 0


def _draw_by_field(weight: Tensor, side: Side, init: EmbeddingInit) -> None:
    """Initialises each field as a matrix of its own, since Xavier's variance depends on the number of rows."""
    draw = nn.init.xavier_uniform_ if init is EmbeddingInit.xavier_uniform else nn.init.xavier_normal_
    sizes = [field.size for field in side.fields if not field.numeric and field.size]
    with torch.no_grad():
        for rows in weight[FIRST:].split(sizes):
            draw(rows)


def _id_spans(side: Side) -> tuple[range, ...]:
    """The spans of the data's ids that the rows of a side's table stand for, in order."""
    firsts = [(FIRST + field.offset, field.size) for field in side.fields if not field.numeric]
    return (range(FIRST), *(range(first, first + size) for first, size in firsts))


def _direction_scale(side: Side) -> Tensor:
    """(value columns, 1): 1 / sqrt(width), so that a vector's sum of directions starts at the scale of one number's."""
    widths = [field.width for field in side.fields if field.numeric for _ in range(field.width)]
    return torch.tensor(widths)[:, None].rsqrt()


def _shifts(side: Side) -> dict[str, int]:
    """What to add to each field's ids from FIRST on, to close the gaps that a selection of fields leaves."""
    shifts, size = {}, 0
    for field in side.fields:
        if not field.numeric:
            shifts[field.name] = size - field.offset
            size += field.size
    return shifts
