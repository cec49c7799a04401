"""What was found, in a few lines for the terminal and on a page with the images beside each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rsiccllm.near_duplicates import Found, Match, blind, find_near_duplicates, group_of
from rsiccllm.page import Html, element, figure, join, table, write_page
from rsiccllm.sources import open_source

SHOWN = 50
"""Matches that the page shows with images; the table counts all."""


def report_near_duplicates(specs: list[str], out: Path | None = None) -> list[str]:
    """Compare all pairs of the sources across sets and splits; write a page to `out` and return lines to print.

    Raises InputError for a wrong spec and for an image that cannot be opened.
    """
    sources = [open_source(spec) for spec in specs]
    items = [(source, pair) for source in sources for pair in source.pairs]
    found = find_near_duplicates(items)
    if out is not None:
        write_page(out, "Near-duplicates", join(_page(found)))
    return list(_lines(found))


def _lines(found: Found) -> Iterator[str]:
    groups = list(dict.fromkeys(map(group_of, found.items)))
    yield f"{len(found.items):,} pairs in {len(groups)} groups (a set and a split each)"
    for (one, other), number in sorted(found.between().items()):
        yield f"{number:,} pairs share an image: {one} | {other}"
    unseen = blind(found.items)
    if not found.images:
        yield "no image is in two groups" + (" of those compared" if unseen else "")
    for group in unseen:
        yield f"images not compared, for it has annotations alone: {group}"
    yield f"{len(found.texts):,} long texts are in two groups or nearly so"
    yield f"{len(found.training_leaks()):,} pairs of the split train would give something of another split away"


def _page(found: Found) -> Iterator[Html]:
    yield element("p", *(join([line, Html("<br>")]) for line in _lines(found)))
    if found.images:
        rows = [(one, other, number) for (one, other), number in sorted(found.between().items())]
        yield table(["one group", "other group", "pairs of pairs that share an image"], rows)
    by_groups: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in found.images:
        by_groups[group_of(found.items[match.first]), group_of(found.items[match.second])].append(match)
    each = max(1, SHOWN // max(1, len(by_groups)))
    for matches in by_groups.values():
        yield from (_card(found, match) for match in matches[:each])
    if found.texts:
        yield element("h2", "Texts")
        for one in found.texts[:SHOWN]:
            carried = ", ".join(found.items[item][1].id for item in one.items[:8])
            more = f" and {len(one.items) - 8} more" if len(one.items) > 8 else ""
            yield element(
                "section",
                element("div", element("h3", carried + more), _badge(f"{one.similarity:.2f}"), css="head"),
                *(element("p", text, css="text") for text in one.texts),
                css="card",
            )


def _card(found: Found, match: Match) -> Html:
    figures = []
    for item, role in zip((match.first, match.second), match.roles, strict=True):
        source, pair = found.items[item]
        figures.append(figure(getattr(source.open(pair), role), f"{group_of((source, pair))}: {pair.id}, {role}"))
    shared = match.overlap
    badges = [f"{100 * shared.share:.0f}% of the smaller", f"correlation {shared.correlation:.2f}"]
    badges += ["mirrored"] if shared.mirrored else []
    title = " | ".join(found.items[item][1].id for item in (match.first, match.second))
    head = element("div", element("h3", title), *map(_badge, badges), css="head")
    return element("section", head, element("div", *figures, css="figures"), css="card")


def _badge(text: str) -> Html:
    return element("span", text, css="badge")
