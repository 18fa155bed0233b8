"""Values of a column: their vocabulary and ids."""

import pytest

from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.dataset.value import ids_of, objects, vocabulary_of


@pytest.mark.parametrize("values", [["b", "a", "ß", "a", "\U0001f600", "Z", ""], [3, 1, 2, 1], [2.5, 1], []])
def test_a_vocabulary_is_sorted_and_its_ids_are_places_in_it(values):
    found = vocabulary_of(objects(values))
    assert found.tolist() == sorted(set(values))
    assert all(type(value) in (str, int, float) for value in found.tolist())
    expected = [FIRST + sorted(set(values)).index(value) for value in values]
    assert ids_of(objects([*values, "absent"]), found).tolist() == [*expected, UNKNOWN]
