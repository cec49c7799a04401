"""A scene decided but not painted: what stands at each date, what changes, how each date was taken."""

from __future__ import annotations

from dataclasses import dataclass

from rsiccllm.facts import Fact
from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.events import Event, change_site, easy_change
from rsiccllm.sources.scenes.items import Item
from rsiccllm.sources.scenes.layout import Site, Theme, fill, lay_ground, lay_roads
from rsiccllm.sources.scenes.looks import Look, draw_looks

LAYOUT, LOOKS, WORDS, PAINT, HALVES = range(5)  # streams of random numbers of one scene


@dataclass(frozen=True)
class Plan:
    """Everything that is decided about one scene. `base` and `mixed` are the two ground covers that alternate."""

    seed: int
    index: int
    easy: bool
    theme: Theme
    base: str
    mixed: str
    items: tuple[Item, ...]
    events: tuple[Event, ...]
    looks: tuple[Look, Look]

    @property
    def changed(self) -> bool:
        """Whether anything changes."""
        return bool(self.events)

    @property
    def facts(self) -> list[Fact]:
        """The facts of all changes, in the order of the events."""
        return [change.fact for event in self.events for change in event.changes]

    def dice(self, stream: int) -> Dice:
        """Random numbers of this scene for one purpose, apart from those of every other."""
        return Dice(self.seed, self.index, int(self.easy), stream)


def is_changed(seed: int, index: int) -> bool:
    """Whether a scene changes: exactly one of the scenes 2k and 2k + 1 does, chosen by the seed."""
    return Dice(seed, index // 2, 0, HALVES).chance(0.5) == bool(index % 2)


def plan_scene(seed: int, index: int, easy: bool = False) -> Plan:
    """Decide scene `index` of `seed` (both at least 0). The same everywhere, whatever size it is painted at."""
    dice = Dice(seed, index, int(easy), LAYOUT)
    themes: list[tuple[Theme, float]] = [
        ("suburb", 4),
        ("open", 2.2),
        ("woods", 2),
        ("commercial", 1.6),
        ("desert", 1.3),
        ("farm", 1),
    ]
    if easy:
        themes = [("suburb", 2), ("open", 3), ("woods", 0.7), ("commercial", 0.6), ("desert", 2), ("farm", 1.2)]
    site = Site(dice, dice.weigh(themes), style=dice.integer(0, 7))
    lay_ground(site)
    events: list[Event] = []
    changes = is_changed(seed, index)
    if easy:
        # the event takes its place first, and everything else keeps clear of it
        events = easy_change(site) if changes else []
        lay_roads(site)
    else:
        lay_roads(site)
        events = change_site(site) if changes else []
    fill(site, easy)
    looks = draw_looks(Dice(seed, index, int(easy), LOOKS), easy)
    return Plan(seed, index, easy, site.theme, site.base, site.mixed, tuple(site.items), tuple(events), looks)
