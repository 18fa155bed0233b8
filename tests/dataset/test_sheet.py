"""How columns of a frame become features."""

import pandas as pd
import pytest

from recexp.dataset.config import FeatureKind
from recexp.dataset.given import FrameTable
from recexp.dataset.sheet import Sheet


def categories(values: pd.Series) -> list:
    """The column as categories, None where a value is missing."""
    sheet = Sheet([FrameTable(pd.DataFrame({"code": values}))], {"code": "asked"})
    found = sheet.features({"code": FeatureKind.categorical})["code"]
    assert isinstance(found.dtype, pd.CategoricalDtype)
    return found.astype(object).where(found.notna(), None).tolist()


@pytest.mark.parametrize(("values", "expected"), [
    (pd.Series([True, 1, "1.0", "", None], dtype=object), ["True", "1", "1", None, None]),
    (pd.Series([3, 1, 3]), ["3", "1", "3"]),
    (pd.Series([3.0, 0.5, None, -0.0, 0.0]), ["3", "0.5", None, "0", "0"]),
    (pd.Series(["7.0", "7", "x.0"]), ["7", "7", "x.0"]),
    (pd.Series([False, True]), ["False", "True"]),
    (pd.to_datetime(pd.Series(["2024-01-02", "2024-01-03", "2024-01-02"])), ["2024-01-02", "2024-01-03", "2024-01-02"]),
    (pd.Series(["b", "a"], dtype="category"), ["b", "a"]),
])  # fmt: skip
def test_a_value_is_a_category_by_its_text(values, expected):
    assert categories(values) == expected
