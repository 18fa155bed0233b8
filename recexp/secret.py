"""Passwords in addresses, such as https://user:password@host, which no file of a run holds."""

import re
from typing import Any

CREDENTIALS = re.compile(r"://[^/\s]*@")
MASK = "://***@"


def masked(value: Any) -> Any:
    """A tree of plain values with a mask for the user and password in each address."""
    if isinstance(value, str):
        return CREDENTIALS.sub(MASK, value)
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value
