"""A sample as a sequence: profile, target and history.

B batch, L history length, n unique events, E = F D size of an item (its F fields of size D), P size of the profile
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.dataset.batch import Batch, Catalogue
from recexp.dataset.schema import PADDING, Schema
from recexp.layer.embedding.fields import FeatureEmbedding
from recexp.layer.embedding.side import SideEmbedding
from recexp.layer.lookup import Events, Table, lookup


class SequenceEmbedding(nn.Module):
    """Target, history and profile of a sample, as vectors.

    An item is its fields side by side; a history event is its item plus, with history_labels, a vector for its label;
    the profile is the fields of user and context side by side.
    """

    def __init__(self, schema: Schema, embedding_dim: int, history_labels: bool, std: float = 0.01) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, embedding_dim, std)
        self.item_dim = len(schema.item.fields) * embedding_dim
        self.profile_dim = (len(schema.user.fields) + len(schema.context.fields)) * embedding_dim
        self.label = Table(3, self.item_dim, padding_idx=PADDING) if history_labels else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=std)
            with torch.no_grad():
                self.label.weight[PADDING] = 0

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Profile (B, P), target (B, E) and history (B, L, E)."""
        target, events = self.events(batch)
        return self.profile(batch), target, events.expanded()

    def events(self, batch: Batch) -> tuple[Tensor, Events]:
        """Target (B, E) and the events of the history, index (B, L)."""
        events = self.events_and_target(batch)
        # Two look-ups: slices of a single one would each have a gradient of its whole size.
        target = lookup(events.vectors, events.index[:, -1])
        return target, Events(events.vectors, events.index[:, :-1])

    def events_and_target(self, batch: Batch) -> Events:
        """The events of the history and, after the padding, the target; index (B, L + 1)."""
        index = torch.cat([batch.history, batch.target[:, None]], 1)  # (B, L + 1)
        mask = functional.pad(batch.mask, (0, 1), value=False)  # a target is an item of unknown label
        return self.item_events(batch.catalogue, index, functional.pad(batch.history_label, (0, 1)), mask)

    def item_events(self, catalogue: Catalogue, item: Tensor, label: Tensor, mask: Tensor) -> Events:
        """The events of rows of items (B, L) with labels (B, L), which are known where the mask (B, L) is true."""
        items = catalogue.items
        if self.label is None:
            features, index = self.embed.unique_rows("item", items, item)
            return Events(self.item(features).flatten(1), index)
        # Unique pairs of an item and its label.
        n_labels = self.label.num_embeddings
        index = n_labels * item + torch.where(mask, 1 + label.long(), PADDING)
        pairs, index = self.embed.unique("item", n_labels * items.ids.shape[0], index)
        vectors = self.item(items.at(pairs // n_labels)).flatten(1) + self.label(pairs % n_labels)  # (n, E)
        return Events(vectors, index)

    @property
    def item(self) -> SideEmbedding:
        """The embedding of items."""
        return self.embed.sides["item"]

    def labelled(self, events: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Events (B, L, E) plus the vectors of their labels (B, L) where the mask (B, L) is true."""
        return events if self.label is None else events + self.label(torch.where(mask, 1 + label.long(), PADDING))

    def items(self, batch: Batch, index: Tensor) -> Tensor:
        """Items at an index (...), without labels: (..., E)."""
        return self.embed.rows("item", batch.catalogue.items, index).flatten(-2)

    def profile(self, batch: Batch) -> Tensor:
        """The fields of user and context side by side: (B, P)."""
        fields = self.embed.rows("user", batch.catalogue.users, batch.user)
        if "context" in self.embed.sides:
            fields = torch.cat([fields, self.embed.sides["context"](batch.context)], 1)
        return fields.flatten(1)
