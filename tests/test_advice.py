"""What a message advises works: pasted into a shell, it is the override that was meant."""

import shlex

import pytest

import recexp
from recexp.error import ConfigError

LOG = ["dataset=csv", "dataset.path=log.csv"]
ADVISED = {
    "+dataset.features.context.page kind=categorical": {"page kind": "categorical"},
    "+dataset.features.context.'page kind'=multi": {"page kind": "multi"},
    "+dataset.features.context.a:b=numeric": {"a:b": "numeric"},
    "+dataset.features.context={'page kind':categorical}": {"page kind": "categorical"},
    '+dataset.features.context={"a, b":hash, place:categorical}': {"a, b": "hash", "place": "categorical"},
    '+dataset.features.context={"x=y (z)":binned,"[u]":multi}': {"x=y (z)": "binned", "[u]": "multi"},
    'dataset.columns.label={"like":"my label>=4"}': {"like": "my label>=4"},
}
IN_A_FILE = [
    "+dataset.features.context.prénom=categorical",
    "+dataset.features.context={prénom:categorical}",
    '+dataset.features.context={"it\'s":categorical}',
    "+dataset.features.item.a;b=categorical",
]


@pytest.mark.parametrize("typed", ADVISED)
def test_a_column_of_any_name_is_typed_as_advised(typed: str) -> None:
    with pytest.raises(ConfigError) as told:
        recexp.load_config([*LOG, typed])
    start, write, advised = str(told.value).partition("write ")
    assert start.startswith(typed) and write and "\n" not in start
    (override,) = shlex.split(advised.removesuffix("."))
    config = recexp.load_config([*LOG, override]).dataset
    found = config.columns.label if "label" in typed else {n: k.name for n, k in config.features.context.items()}
    assert found == ADVISED[typed]


@pytest.mark.parametrize("typed", IN_A_FILE)
def test_a_name_that_hydras_grammar_has_no_way_to_write_is_for_a_file(typed: str) -> None:
    with pytest.raises(ConfigError, match="stands in a YAML file: recexp inspect FILE --write NAME"):
        recexp.load_config([*LOG, typed])
