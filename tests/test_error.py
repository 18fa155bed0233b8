"""Errors as lines for the user."""

import pytest

from recexp.error import first_line


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("\n  two\nlines"), "two"), (ValueError("one"), "one"), (OSError(), "OSError")]
)
def test_an_error_is_told_by_its_first_line_or_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line
