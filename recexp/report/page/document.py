"""The frame of every page: one self-contained HTML file with sections under a header."""

from importlib.resources import files
from string import Template

from recexp.report.page.element import Html, element

Section = tuple[str, str, Html | None]  # id, heading, content; without content it is left out


def document(title: str, facts: Html | None, sections: list[Section], style: str = "", scripted: bool = False) -> str:
    """The whole HTML text. style: CSS added to that of all pages. scripted: with the report's script."""
    shown = [(name, heading, content) for name, heading, content in sections if content is not None]
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in shown]
    return Template(_file("page.html")).substitute(
        title=element("title", title),
        style=element("style", Html(_file("page.css") + style)),
        header=element("header", element("h1", title), facts, element("nav", *links, aria_label="sections")),
        main=element("main", *(_section(*section) for section in shown)),
        script=element("script", Html(_file("page.js"))) if scripted else "",
    )


def scrolled(label: str, content: Html | None) -> Html | None:
    """A table in its own container, so that a narrow screen scrolls the table and not the page."""
    return content and element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def _file(name: str) -> str:
    return (files("recexp.report.page") / name).read_text("utf-8")


def _section(name: str, heading: str, content: Html) -> Html:
    return element("section", element("h2", heading, id=f"{name}-heading"), content, id=name,
                   aria_labelledby=f"{name}-heading")  # fmt: skip
