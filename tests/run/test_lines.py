"""What a run tells of its data in one line."""

from types import SimpleNamespace

import pytest

from recexp.run.lines import data_line


def told(rates):
    facts = {"rows": {"train": 8, "test": 2}, "label_rate": {"train": 0.25}, "unknown_rate": {"test": rates}}
    return data_line("csv", SimpleNamespace(facts=facts))


@pytest.mark.parametrize(("rates", "line"), [
    ({}, "data   csv: rows train 8, test 2; label rate 0.250"),
    ({"user": 0.5, "item": 0.0}, "data   csv: rows train 8, test 2; label rate 0.250; unknown in test: user 50.0%"),
])  # fmt: skip
def test_unknown_values_are_told_where_there_are_any(rates, line):
    assert told(rates) == line


def test_of_many_columns_the_largest_shares_are_told_by_name():
    rates = {f"c{n}": n / 100 for n in range(1, 11)}
    assert told(rates).endswith(
        "unknown in test: c5 5.0%, c6 6.0%, c7 7.0%, c8 8.0%, c9 9.0%, c10 10.0%, 4 more columns at most 4.0%"
    )


def test_one_column_more_than_are_named_is_named_too():
    assert "more columns" not in told({f"c{n}": n / 100 for n in range(1, 8)})
