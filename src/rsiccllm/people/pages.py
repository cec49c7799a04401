"""What all pages for people share: who is there, one item's form, that nothing is left. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

from rsiccllm.page import Html, element, join, page


def document(title: str, *body: Html, style: str = "", script: str = "") -> Html:
    """A page with the style and the keys of pages for people. style, script: of ours, after theirs."""
    here = resources.files("rsiccllm.people")
    ours, keys = ((here / name).read_text(encoding="utf-8") for name in ("people.css", "keys.js"))
    return page(title, join(body), ours + style, keys + script)


def name_page(title: str, people: Sequence[str], wrong: str = "") -> Html:
    """Asks who is there. people: those who were here before. wrong: what was wrong with the name given."""
    field = field_of(type="text", name="by", maxlength=60, autofocus="", required="")
    form = element("form", field, element("div", element("button", "Begin"), css="bar"), attributes={"action": "/"})
    known = [link("", f"/?by={quote(name, safe='')}", name) for name in people]
    parts = [element("p", wrong, css="bad")] if wrong else []
    parts += [element("p", "Your name, so that what several people say can be told apart:"), form]
    parts += [element("p", "Here before: ", *(join([each, " "]) for each in known))] if known else []
    return document(title, *parts)


def done_page(title: str, person: str) -> Html:
    """Nothing is left for this person."""
    back = link("", f"/item/0?by={quote(person, safe='')}", "Look again")
    return document(title, element("p", f"{person} has decided on every item."), element("p", back),
                    element("p", link("", "/report", "What was decided")))  # fmt: skip


def status(place: int, total: int, done: int, person: str) -> Html:
    """The line above an item. place: from 0. done: items the person decided on."""
    said = f"{place + 1} of {total}, {done} decided by {person}. "
    return element("p", said, link("", "/report", "What was decided"), css="quiet")


def item_form(place: int, person: str, token: str, *content: Html) -> Html:
    """The form of an item, around what it asks."""
    return element(
        "form",
        field_of(type="hidden", name="token", value=token),
        field_of(type="hidden", name="by", value=person),
        *content,
        attributes={"method": "post", "action": f"/item/{place}", "autocomplete": "off"},
    )


def moves(place: int, total: int, person: str) -> Html:
    """Links to the item before and the one behind."""
    to = f"/item/{{}}?by={quote(person, safe='')}"
    return element(
        "span",
        link("ArrowLeft", to.format(place - 1), "←") if place > 0 else "",
        link("ArrowRight", to.format(place + 1), "→") if place + 1 < total else "",
        css="push",
    )


def field_of(**attributes: object) -> Html:
    """An input, by its attributes."""
    return Html(element("input", attributes=attributes).removesuffix("</input>"))  # the element has no end tag


def button(key: str, words: str, shown: str, css: str = "", **attributes: object) -> Html:
    """A button that `key` presses ("a", "Control Enter"); shown: the key in the reader's words."""
    return element("button", words, element("kbd", shown), css=css, attributes={**attributes, "data-key": key})


def link(key: str, target: str, words: str) -> Html:
    """A link; with a key that presses it, it looks like a button."""
    attributes = {"href": target, **({"data-key": key} if key else {})}
    return element("a", words, css="button" if key else "", attributes=attributes)
