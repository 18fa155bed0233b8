"""HTML made of elements. Everything that is not yet HTML is escaped, so no text of a run can become markup."""

import html
import re


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag attribute="...">children</tag>.

    Children that are not Html are escaped; None is left out. An attribute of None or False is left out, one of True
    has no value; class_ is class, data_x is data-x.
    """
    opened = "".join(_attribute(name, value) for name, value in attributes.items())
    return Html(f"<{tag}{opened}>{join(*children)}</{tag}>")


def void(tag: str, **attributes: object) -> Html:
    """An element of HTML that is never closed, such as input."""
    return Html(f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>")


def join(*children: object) -> Html:
    return Html(
        "".join(child if isinstance(child, Html) else _escape(child) for child in children if child is not None)
    )


def breakable(name: str) -> Html:
    """A dotted name, which narrow columns may break at its dots and underscores."""
    return join(*(join(part, void("wbr")) for part in re.findall(r"[^._]*[._]+|[^._]+", name)))


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_escape(value)}"'


def _escape(value: object) -> str:
    """Escaped; surrogates, which file names may contain, become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))
