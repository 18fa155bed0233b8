"""Embeddings: of one side's fields, of all fields of a sample, and of a target with its history."""

from recexp.layer.embedding.fields import FeatureEmbedding, Linear
from recexp.layer.embedding.sequence import SequenceEmbedding
from recexp.layer.embedding.side import EmbeddingInit, SideEmbedding

__all__ = ["EmbeddingInit", "FeatureEmbedding", "Linear", "SequenceEmbedding", "SideEmbedding"]
