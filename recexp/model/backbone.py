"""What models of the next item share: item vectors, and the query that they are multiplied by.

B batch, L history length, D embedding size, T events of n sequences one after another
"""

from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.dataset.window import Packed, packed
from recexp.layer.dropout import Dropout
from recexp.layer.embedding import SideEmbedding
from recexp.layer.packed import Layout
from recexp.model import Output


class Backbone(nn.Module):
    """Item vectors, and an encoder of their sequences whose output is multiplied by the item vectors.

    encoder: called with vectors (T, D), their layout, and whether to return only the last of each sequence (n, D).
    dropout: of the item vectors, both as the encoder's input and as the output's factors.
    """

    def __init__(self, schema: Schema, dim: int, std: float, encoder: nn.Module, dropout: float) -> None:
        super().__init__()
        self.item = SideEmbedding("item", schema.ids.item, dim, std)
        self.item_dropout = Dropout(dropout)
        self.encoder = encoder

    def forward(self, batch: Batch) -> Output:
        target = self.item_dropout(self.item.table(batch.catalogue.items.ids[batch.target, 0]))  # (B, D)
        return Output(logits=(self.query(batch).float() * target).sum(1))

    def query(self, batch: Batch) -> Tensor:
        """The query of each user of a batch, after the history: (B, D)."""
        events, order = packed(batch)
        last = self.encode(events, last=True)  # (n, D), n = B or only those with events, which come first
        query = last.new_zeros(order.shape[0], last.shape[1]).index_copy(0, order[: last.shape[0]], last)
        return query.masked_fill(~batch.mask.any(1, keepdim=True), 0)

    def states(self, events: Packed) -> Tensor:
        """The query after each event: (T, D)."""
        return self.encode(events, last=False)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.item_dropout(self.item.table.rows(ids))

    def encode(self, events: Packed, last: bool) -> Tensor:
        """The query after each event (T, D), or (n, D) after the last one of each sequence."""
        padded_to = events.item.shape[1] if events.item.dim() == 2 else None
        layout = Layout(events.length, padded_to, events.age.flatten())
        ids = events.catalogue.items.ids[events.item.flatten(), 0]
        return self.encoder(self.item_dropout(self.item.table(ids)), layout, last)
