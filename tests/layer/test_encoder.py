"""What the labels of a sample share, against loops over fields and events."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.layer.encoder import Encoding, encoder

OPTIONS = {"embedding_dim": 8, "embedding_std": 0.3, "attention_hidden_sizes": [6]}


@torch.no_grad()
def test_fields_stand_side_by_side(dataset: Dataset, mixed: Batch, field_vectors: Callable[..., list[Tensor]]) -> None:
    encode = encoder(SimpleNamespace(encoder=Encoding.fields, **OPTIONS), dataset.schema)
    wanted = [torch.cat(field_vectors(encode.embed, mixed, row)) for row in range(len(mixed))]
    torch.testing.assert_close(encode(mixed), torch.stack(wanted))
    assert encode.n_out == len(wanted[0])


@torch.no_grad()
def test_interest_is_the_events_weighted_by_the_unit_of_din_without_a_softmax(dataset: Dataset, mixed: Batch) -> None:
    torch.manual_seed(0)
    encode = encoder(SimpleNamespace(encoder=Encoding.interest, **OPTIONS), dataset.schema).eval()
    profiles, targets, histories = encode.embed(mixed)
    assert encode.embed.label is not None  # the labels of past events are known
    wanted = []
    for profile, t, history, mask in zip(profiles, targets, histories, mixed.mask, strict=True):
        interest = torch.zeros_like(t)
        for h in history[mask]:
            interest = interest + encode.attention.mlp(torch.cat([t, h, t - h, t * h])[None])[0] * h
        wanted.append(torch.cat([interest, t, profile]))
    torch.testing.assert_close(encode(mixed), torch.stack(wanted), rtol=1e-4, atol=1e-6)
    assert not encode(mixed)[~mixed.mask.any(1), : encode.embed.item_dim].any()  # no history, no interest
