"""Poly2: crosses one by one in a dictionary, and the hash in Python's own integers."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Catalogue, Features
from recexp.dataset.config import FeatureKind
from recexp.dataset.log import Dataset
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN, Field, Schema, Side
from recexp.layer.poly2 import Poly2

LARGE = 2**40 + 15  # no table of so many rows is made
Bag = dict[int, float]


def bags(schema: Schema, batch: Batch, row: int) -> list[Bag]:
    """Each field of a sample as ids and coefficients."""
    sample = []
    rows = {
        "user": (batch.catalogue.users, batch.user),
        "item": (batch.catalogue.items, batch.target),
        "context": (batch.context, None),
    }
    for name, (features, index) in rows.items():
        for field in getattr(schema, name).fields:
            at = row if index is None else int(index[row])
            if field.numeric:
                values = features.values[at, field.column : field.column + field.width].tolist()
                sample.append({FIRST + n: value for n, value in enumerate(values)})
            else:
                ids = features.ids[at, field.column : field.column + field.width].tolist()
                values = [id_ for id_ in ids if id_ != PADDING]
                sample.append({id_: values.count(id_) / len(values) for id_ in values})
    return sample


def crosses(sample: list[Bag]) -> Iterator[tuple[tuple[int, int, int, int], float]]:
    """Every pair of values of two fields, and the product of their coefficients."""
    for i, left in enumerate(sample):
        for j in range(i + 1, len(sample)):
            for a, x in left.items():
                for b, y in sample[j].items():
                    yield (i, a, j, b), x * y


def mixed_by_hand(x: int) -> int:
    """SplitMix64's finaliser, unsigned."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def hashed(cross: tuple[int, int, int, int], n_buckets: int) -> int:
    i, a, j, b = cross
    pair = mixed_by_hand((3 * mixed_by_hand(a + (i << 48)) + mixed_by_hand(b + (j << 48))) % 2**64)
    signed = pair - 2**64 if pair >= 2**63 else pair
    return signed % n_buckets


def filled(schema: Schema, n_buckets: int) -> Poly2:
    """With random crosses, and no linear part."""
    torch.manual_seed(0)
    poly2 = Poly2(schema, n_buckets)
    for parameter in poly2.linear.parameters():
        nn.init.zeros_(parameter)
    nn.init.normal_(poly2.table.weight)
    return poly2


def require_dense(schema: Schema, batch: Batch) -> int:
    """The layer equals a sum over a dictionary that holds a weight for each cross; their number."""
    samples = [list(crosses(bags(schema, batch, row))) for row in range(len(batch))]
    n_buckets = 2**22
    buckets = {cross: hashed(cross, n_buckets) for sample in samples for cross, _ in sample}
    assert len(set(buckets.values())) == len(buckets)  # without collisions
    dense = {cross: float(n) for n, cross in enumerate(buckets, start=1)}
    poly2 = filled(schema, 1)
    poly2.table = nn.Embedding.from_pretrained(torch.zeros(n_buckets, 1))
    for cross, bucket in buckets.items():
        poly2.table.weight[bucket] = dense[cross]
    wanted = [sum(dense[cross] * product for cross, product in sample) for sample in samples]
    torch.testing.assert_close(poly2(batch), torch.tensor(wanted), rtol=1e-5, atol=1e-3)
    return len(buckets)


def test_without_collisions_each_cross_of_two_fields_has_a_weight(dataset: Dataset, mixed: Batch) -> None:
    schema = dataset.schema
    kinds = {field.kind for side in (schema.user, schema.item, schema.context) for field in side.fields}
    assert {FeatureKind.categorical, FeatureKind.multi, FeatureKind.numeric} <= kinds
    assert require_dense(schema, mixed) > 100


def test_table_and_selected_fields_have_crosses_too(
    compose: Callable[..., Config], table: Dataset, dataset: Dataset, mixed: Batch
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    assert require_dense(table.schema, batch) > 10
    chosen = dataset.schema.select(["tags", "user", "price"], "model.wide_fields")
    assert require_dense(chosen, mixed) > 10


def test_each_pair_of_fields_counts_once_and_none_with_itself(dataset: Dataset, mixed: Batch) -> None:
    poly2 = filled(dataset.schema, 3)
    nn.init.ones_(poly2.table.weight)
    wanted = []
    for row in range(len(mixed)):
        sums = [sum(bag.values()) for bag in bags(dataset.schema, mixed, row)]  # 1, or a number, or 0 where missing
        wanted.append(sum(x * y for i, x in enumerate(sums) for y in sums[i + 1 :]))
    torch.testing.assert_close(poly2(mixed), torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_padding_contributes_nothing(dataset: Dataset, mixed: Batch) -> None:
    padded = replace(mixed, target=torch.zeros_like(mixed.target))
    assert not padded.catalogue.items.ids[0].any()
    without = replace(dataset.schema, item=Side())
    assert require_dense(dataset.schema, padded) >= require_dense(without, padded) > 10


def test_each_number_of_a_vector_is_crossed_with_other_fields() -> None:
    vector = Field(name="vector", kind=FeatureKind.vector, column=0, width=3)
    site = Field(name="site", kind=FeatureKind.categorical, column=0, size=2)
    batch = context_only(Features(torch.tensor([[2], [3]]), torch.randn(2, 3)))
    assert require_dense(Schema(context=Side(fields=(site, vector))), batch) == 6


def test_order_and_repetition_within_a_bag_are_those_of_a_mean() -> None:
    tags = Field(name="tags", kind=FeatureKind.multi, column=1, width=3, offset=2, size=5)
    site = Field(name="site", kind=FeatureKind.categorical, column=0, size=2)
    schema = Schema(context=Side(fields=(site, tags)))
    ids = torch.tensor([[2, 4, 5, 0], [2, 5, 4, 0], [2, 4, 0, 0], [2, 4, 4, 0], [2, 0, 0, 0]])
    poly2 = filled(schema, 2**12)
    logits = poly2(context_only(Features(ids, torch.zeros(5, 0)))).tolist()
    one, other = (poly2.table.weight[hashed((0, 2, 1, tag), 2**12), 0].item() for tag in (4, 5))
    assert logits == pytest.approx([(one + other) / 2, (one + other) / 2, one, one, 0])


def context_only(features: Features) -> Batch:
    none = torch.zeros((len(features.ids), 0), dtype=torch.long)
    empty = Features(none, none.float())
    return Batch(label=torch.zeros(len(none)), tasks=empty, user=none, target=none, context=features, history=none,
                 history_label=none.float(), history_age=none.float(), mask=none.bool(),
                 catalogue=Catalogue(empty, empty, none[:, 0:0].flatten()))  # fmt: skip


def test_linear_part_is_added(dataset: Dataset, mixed: Batch) -> None:
    torch.manual_seed(0)
    poly2 = Poly2(dataset.schema, 2**12)
    assert torch.equal(poly2(mixed), poly2.linear(mixed))  # crosses start at 0
    assert poly2(mixed).abs().sum() > 0


def buckets(schema: Schema, ids: torch.Tensor, n_buckets: int = LARGE) -> torch.Tensor:
    poly2 = Poly2(schema, 1)
    poly2.table.num_embeddings = n_buckets
    return poly2.buckets(ids)


def fields(n: int) -> Schema:
    fields = (Field(name=f"f{i}", kind=FeatureKind.categorical, column=i, offset=10 * i, size=10) for i in range(n))
    return Schema(context=Side(fields=tuple(fields)))


def test_hash_is_that_of_pythons_integers_within_range() -> None:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(2**31, (50, 3), generator=random)
    for n_buckets in (7, 2**18, LARGE):
        actual = buckets(fields(3), ids, n_buckets)
        expected = [
            [hashed((i, row[i], j, row[j]), n_buckets) for i, j in ((0, 1), (0, 2), (1, 2))] for row in ids.tolist()
        ]
        assert actual.tolist() == expected
        assert actual.min() >= 0 and actual.max() < n_buckets


def test_hash_never_changes() -> None:
    """A saved model finds its weights by it."""
    assert buckets(fields(2), torch.tensor([[2, 13]]), 2**18).tolist() == [[138834]]


def test_shared_ids_of_different_fields_are_not_confused() -> None:
    same = torch.full((1, 6), UNKNOWN)
    used = buckets(fields(6), same)
    assert len(torch.unique(used)) == 15
    swapped = buckets(fields(2), torch.tensor([[5, 9], [9, 5]]))
    assert swapped[0] != swapped[1]


def test_hash_spreads_over_all_buckets() -> None:
    grid = torch.cartesian_prod(torch.arange(FIRST, 202), torch.arange(FIRST, 202))  # 40,000 crosses
    counts = torch.bincount(buckets(fields(2), grid, 400).flatten(), minlength=400)
    deviation = (counts - 100).double().square().sum() / 100  # chi squared, 399 degrees of freedom
    assert 300 < deviation < 510
