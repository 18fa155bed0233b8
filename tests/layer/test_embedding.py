"""Field vectors against one look-up at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recexp.dataset.batch import Batch, Catalogue, Features
from recexp.dataset.config import FeatureKind
from recexp.dataset.schema import PADDING, UNKNOWN, Field, Schema, Side
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear, SequenceEmbedding, SideEmbedding

D = 3
USER = Side(fields=(Field(name="user", kind=FeatureKind.categorical, column=0, size=6),))
ITEM = Side(
    fields=(
        Field(name="item", kind=FeatureKind.categorical, column=0, size=8),
        Field(name="price", kind=FeatureKind.numeric, column=0),
        Field(name="tags", kind=FeatureKind.multi, column=1, width=3, offset=8, size=4),
        Field(name="year", kind=FeatureKind.binned, column=4, offset=12, size=2),
        Field(name="weight", kind=FeatureKind.numeric, column=1),
    )
)
CONTEXT = Side(
    fields=(
        Field(name="device", kind=FeatureKind.categorical, column=0, size=3),
        Field(name="hour", kind=FeatureKind.numeric, column=0),
    )
)
SCHEMA = Schema(user=USER, item=ITEM, context=CONTEXT, max_history=5, history_labels=True)
N_ITEMS = 10


def random_items(generator: torch.Generator) -> Features:
    """Ten items and padding: unknown ids, no tag up to three, in the order of the schema."""
    ids = torch.zeros(N_ITEMS + 1, 5, dtype=torch.long)
    for row in range(1, N_ITEMS + 1):
        n_tags = row % 4
        ids[row, 0] = 1 + row % 9
        ids[row, 1 : 1 + n_tags] = 10 + torch.randperm(4, generator=generator)[:n_tags]
        ids[row, 4] = 14 + row % 2
    ids[3, 1] = UNKNOWN
    values = torch.randn(N_ITEMS + 1, 2, generator=generator)
    values[PADDING] = 0
    return Features(ids, values)


def random_batch(size: int, seed: int = 0, longest: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(longest + 1, (size,), generator=generator)
    mask = torch.arange(longest) < length[:, None]
    return Batch(
        label=torch.zeros(size),
        tasks=torch.zeros(size, 0),
        user=torch.randint(1, 8, (size,), generator=generator),
        target=torch.randint(1, N_ITEMS + 1, (size,), generator=generator),
        context=Features(
            torch.randint(1, 5, (size, 1), generator=generator), torch.randn(size, 1, generator=generator)
        ),
        history=torch.randint(1, N_ITEMS + 1, (size, longest), generator=generator) * mask,
        history_label=torch.randint(2, (size, longest), generator=generator).float() * mask,
        history_age=mask.float(),
        mask=mask,
        catalogue=Catalogue(
            users=Features(torch.arange(8)[:, None], torch.zeros(8, 0)),
            items=random_items(generator),
            sampling_pool=torch.tensor([1]),
        ),
    )


def look_up(side: SideEmbedding, features: Features, row: int) -> Tensor:
    """(F, D), one field and one value after another."""
    fields = []
    for field in side.side.fields:
        if field.kind is FeatureKind.numeric:
            fields.append(float(features.values[row, field.column]) * side.direction[field.column])
            continue
        ids = features.ids[row, field.column : field.column + field.width].tolist()
        vectors = [side.table.weight[index] for index in ids if index != PADDING]
        fields.append(torch.stack(vectors).mean(0) if vectors else torch.zeros(side.table.embedding_dim))
    return torch.stack(fields)


def test_a_composed_field_is_its_remainders_row_times_1_and_its_quotients() -> None:
    ad = Field(name="ad", kind=FeatureKind.hash, column=1, width=2, offset=3, size=5 + 2)  # 5 remainders, 2 quotients
    side = Side(fields=(Field(name="place", kind=FeatureKind.categorical, column=0, size=3), ad))
    embedding = SideEmbedding("context", side, D, std=1.0)
    ids = torch.tensor([[2, 5 + bucket % 5, 10 + bucket // 5] for bucket in range(10)] + [[UNKNOWN, UNKNOWN, PADDING]])
    weight = embedding.table.weight
    with torch.no_grad():
        weight[UNKNOWN] = 0.5
    found = embedding(Features(ids, torch.zeros(11, 0)))
    for n, (place, remainder, quotient) in enumerate(ids.tolist()):
        assert torch.equal(found[n], torch.stack([weight[place], weight[remainder] * (1 + weight[quotient])]))
    assert len(found[:10, 1].unique(dim=0)) == 10
    assert torch.equal(found[10, 1], weight[UNKNOWN])
    found.sum().backward()
    assert bool((weight.grad[5:] != 0).all()) and bool((weight.grad[PADDING] == 0).all())


def wide(embed: FeatureEmbedding) -> FeatureEmbedding:
    """Vectors large enough to tell apart, that of unknown too."""
    with torch.no_grad():
        for side in embed.sides.values():
            side.table.weight[1:].normal_()
    return embed


@pytest.fixture
def embed() -> FeatureEmbedding:
    torch.manual_seed(0)
    return wide(FeatureEmbedding(SCHEMA, D, std=1.0))


def test_a_field_is_a_row_a_mean_over_values_or_a_number_times_a_vector(embed: FeatureEmbedding) -> None:
    items = random_batch(1).catalogue.items
    expected = torch.stack([look_up(embed.sides["item"], items, row) for row in range(N_ITEMS + 1)])
    torch.testing.assert_close(embed.sides["item"](items), expected)


def test_a_side_of_plain_ids_is_a_look_up(embed: FeatureEmbedding) -> None:
    ids = torch.tensor([[0], [5], [1]])
    vectors = embed.sides["user"](Features(ids, torch.zeros(3, 0)))
    torch.testing.assert_close(vectors, embed.sides["user"].table.weight[ids])


def test_a_side_of_numbers_alone_needs_no_ids() -> None:
    torch.manual_seed(0)
    side = SideEmbedding("context", Side(fields=(Field(name="hour", kind=FeatureKind.numeric, column=0),)), D, std=1.0)
    features = Features(torch.zeros(2, 0, dtype=torch.long), torch.tensor([[0.5], [0.0]]))
    torch.testing.assert_close(side(features), torch.stack([0.5 * side.direction, torch.zeros(1, D)]))


def test_a_vector_is_the_sum_of_its_numbers_times_their_directions() -> None:
    torch.manual_seed(0)
    fields = (Field(name="hour", kind=FeatureKind.numeric, column=4),
              Field(name="image", kind=FeatureKind.vector, column=1, width=3))  # fmt: skip
    side = SideEmbedding("context", Side(fields=fields), D, std=1.0)
    values = torch.randn(5, 5)
    directions = side.direction
    expected = [values[:, 4:] * directions[0], sum(values[:, 1 + n, None] * directions[1 + n] for n in range(3))]
    torch.testing.assert_close(side(Features(torch.zeros(5, 0).long(), values)), torch.stack(expected, 1))


def test_a_vector_of_any_length_starts_as_large_as_a_number() -> None:
    torch.manual_seed(0)
    fields = tuple(Field(name=f"v{n}", kind=FeatureKind.vector, column=0, width=n) for n in (2, 500))
    vectors = SideEmbedding("item", Side(fields=fields), 64, std=0.5)(
        Features(torch.zeros(400, 0).long(), torch.randn(400, 500))
    )
    assert vectors.std((0, 2)).tolist() == pytest.approx([0.5, 0.5], rel=0.2)


def test_fields_are_those_of_user_target_and_context_in_the_order_of_the_schema(embed: FeatureEmbedding) -> None:
    batch = random_batch(6)
    expected = [
        torch.cat([
            look_up(embed.sides["user"], batch.catalogue.users, int(batch.user[row])),
            look_up(embed.sides["item"], batch.catalogue.items, int(batch.target[row])),
            look_up(embed.sides["context"], batch.context, row),
        ])
        for row in range(6)
    ]  # fmt: skip
    fields = embed.fields(batch)
    assert fields.shape == (6, embed.n_fields, D) == (6, 1 + 5 + 2, D)
    torch.testing.assert_close(fields, torch.stack(expected))


@pytest.mark.parametrize("size", [3, 40])  # fewer and more than there are items
@pytest.mark.parametrize(("sides", "n_most"), [({"item"}, N_ITEMS + 1), ({"user", "item"}, 40), ({"context"}, 40)])
def test_unique_fields_expand_to_all(sides: set[str], n_most: int, size: int) -> None:
    chosen = {side: getattr(SCHEMA, side) if side in sides else Side() for side in ("user", "item", "context")}
    embed, batch = FeatureEmbedding(replace(SCHEMA, **chosen), D), random_batch(size)
    fields, index = embed.unique_fields(batch)
    assert len(fields) <= n_most
    torch.testing.assert_close(fields[index], embed.fields(batch))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (5, 7)])  # fewer and more than there are items
def test_rows_equal_a_direct_look_up_gradients_included(
    shape: tuple[int, ...], sparse: bool, embed: FeatureEmbedding
) -> None:
    batch, side = random_batch(4), embed.sides["item"]
    index = torch.randint(N_ITEMS + 1, shape, generator=torch.Generator().manual_seed(1))
    factor = torch.randn(*shape, 5, D, generator=torch.Generator().manual_seed(2))
    side.table.sparse = sparse
    vectors = embed.rows("item", batch.catalogue.items, index)
    (vectors * factor).sum().backward()
    gradients = [parameter.grad.to_dense() for parameter in side.parameters() if parameter.grad is not None]
    side.zero_grad()
    side.table.sparse = False
    flat = index.flatten()
    direct = side(Features(batch.catalogue.items.ids[flat], batch.catalogue.items.values[flat])).view(*shape, 5, D)
    (direct * factor).sum().backward()
    torch.testing.assert_close(vectors, direct)
    torch.testing.assert_close(gradients, [parameter.grad for parameter in side.parameters()])


def test_a_sparse_gradient_names_the_rows_of_the_batch_alone(embed: FeatureEmbedding) -> None:
    """What lazy Adam updates and mini-batch-aware L2 decays."""
    batch, side = random_batch(4), embed.sides["item"]
    side.table.sparse = True
    index = torch.full((40,), 4)
    embed.rows("item", batch.catalogue.items, index).sum().backward()
    assert side.table.weight.grad is not None
    named = set(side.table.weight.grad.coalesce().indices()[0].tolist())
    assert named == set(batch.catalogue.items.ids[4].tolist()) - {PADDING}


def test_padding_has_no_vector_and_no_gradient(embed: FeatureEmbedding) -> None:
    batch = random_batch(4)
    for index in (torch.zeros(2, 2, dtype=torch.long), torch.zeros(40, dtype=torch.long), batch.history):
        embed.zero_grad()
        vectors = embed.rows("item", batch.catalogue.items, index)
        assert not vectors[index == 0].any()
        vectors.square().sum().backward()
        gradient = embed.sides["item"].table.weight.grad
        assert gradient is not None and not gradient[PADDING].any()
    assert gradient.any()


def test_padding_and_unknown_start_at_0_and_the_rest_with_the_given_deviation() -> None:
    torch.manual_seed(0)
    big = Side(fields=(Field(name="item", kind=FeatureKind.categorical, column=0, size=5000),))
    weight = SideEmbedding("item", big, 8, std=0.05).table.weight
    assert not weight[[PADDING, UNKNOWN]].any()
    assert weight[2:].std().item() == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("init", [EmbeddingInit.xavier_uniform, EmbeddingInit.xavier_normal])
def test_xavier_counts_the_values_of_each_field_alone(init: EmbeddingInit) -> None:
    torch.manual_seed(0)
    many = Field(name="item", kind=FeatureKind.categorical, column=0, size=5000)
    few = Field(name="shop", kind=FeatureKind.categorical, column=1, size=600, offset=5000)
    weight = SideEmbedding("item", Side(fields=(many, few)), 8, std=9.0, init=init).table.weight
    assert not weight[[PADDING, UNKNOWN]].any()
    for rows in (weight[2:5002], weight[5002:]):
        assert rows.std().item() == pytest.approx((2 / (len(rows) + 8)) ** 0.5, rel=0.03)
    bounded = weight[2:].abs().max() <= (6 / 608) ** 0.5
    assert bounded == (init is EmbeddingInit.xavier_uniform)


def test_linear_sums_a_weight_for_each_field() -> None:
    torch.manual_seed(0)
    linear, batch = Linear(SCHEMA), random_batch(5)
    wide(linear.weights)
    with torch.no_grad():
        linear.bias.fill_(0.3)
    sides = linear.weights.sides
    expected = [
        0.3
        + look_up(sides["user"], batch.catalogue.users, int(batch.user[row])).sum()
        + look_up(sides["item"], batch.catalogue.items, int(batch.target[row])).sum()
        + look_up(sides["context"], batch.context, row).sum()
        for row in range(5)
    ]
    torch.testing.assert_close(linear(batch), torch.stack(expected))


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("size", [1, 6])
def test_a_sequence_is_items_side_by_side_with_a_vector_for_each_label(size: int, labels: bool) -> None:
    torch.manual_seed(0)
    sequence, batch = SequenceEmbedding(SCHEMA, D, labels, std=1.0), random_batch(size)
    wide(sequence.embed)
    profile, target, history = sequence(batch)
    sides = sequence.embed.sides
    for row in range(size):
        user = look_up(sides["user"], batch.catalogue.users, int(batch.user[row])).flatten()
        context = look_up(sides["context"], batch.context, row).flatten()
        torch.testing.assert_close(profile[row], torch.cat([user, context]))
        torch.testing.assert_close(
            target[row], look_up(sides["item"], batch.catalogue.items, int(batch.target[row])).flatten()
        )
        for step in range(batch.history.shape[1]):
            expected = look_up(sides["item"], batch.catalogue.items, int(batch.history[row, step])).flatten()
            if sequence.label is not None and batch.mask[row, step]:
                expected = expected + sequence.label.weight[1 + int(batch.history_label[row, step])]
            torch.testing.assert_close(history[row, step], expected)
    assert not history[~batch.mask].any()
    assert (profile.shape[1], target.shape[1]) == (sequence.profile_dim, sequence.item_dim)


def test_a_batch_without_any_history_has_one_of_length_0() -> None:
    sequence, batch = SequenceEmbedding(SCHEMA, D, True), random_batch(3, longest=0)
    _, target, history = sequence(batch)
    assert (target.shape, history.shape) == ((3, 5 * D), (3, 0, 5 * D))
