import json

from recexp.dataset.config import FeatureKind
from recexp.dataset.schema import Field, Schema, Side

ITEM = Side(
    fields=(
        Field(name="item", kind=FeatureKind.categorical, column=0, size=5),
        Field(name="price", kind=FeatureKind.numeric, column=0),
        Field(name="tags", kind=FeatureKind.multi, column=1, width=3, offset=5, size=4),
    )
)


def test_padding_and_unknown_come_on_top_of_the_known_values_once_a_side() -> None:
    assert ITEM.vocabulary == 2 + 5 + 4
    assert Side().vocabulary == 2
    assert Schema(item=ITEM).n_items == 2 + 5
    assert Schema().n_items == 2


def test_columns_count_ids_and_numbers_apart() -> None:
    assert (ITEM.id_columns, ITEM.value_columns) == (1 + 3, 1)


def test_a_schema_comes_back_from_json_as_it_was() -> None:
    schema = Schema(user=Side(), item=ITEM, max_history=7, history_labels=True)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
