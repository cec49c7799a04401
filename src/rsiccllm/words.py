"""The words of `words.yaml`, ready to be looked up: phrase -> what kind of word it is and what it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rsiccllm.errors import InputError
from rsiccllm.files import parse_yaml, read_text

TOKEN = re.compile(r"[a-z0-9]+(?:[-'’][a-z0-9]+)*|[.,;:!?\n]", re.IGNORECASE)


def word_set(text: str) -> frozenset[str]:
    """The words of a text written with blanks between them."""
    return frozenset(text.split())


BE = word_set("is are was were be been being get gets got isn't aren't wasn't weren't")
HAVE = word_set("has have had having hasn't haven't will would can")
NEGATIONS = word_set("not no never neither nor without isn't aren't wasn't weren't hasn't haven't")
ADVERBS = word_set(
    """
    newly also all now then neatly already recently completely entirely partially partly densely largely
    greatly slightly significantly just gradually mostly nearly almost only evenly orderly sporadically
    closely still very again clearly mainly subsequently so both
    """
)
SINGULAR, PLURAL, MASS = "singular", "plural", "mass"


class Noun(NamedTuple):
    """One noun and its forms. A mass noun has only `singular`; a plural-only noun has only `plural`."""

    object: str
    singular: str | None
    plural: str | None
    mass: bool
    group: bool
    write: bool


class Item(NamedTuple):
    """What a phrase is. `kind` names its part in the grammar, `value` and `extra` what it stands for."""

    kind: str
    value: str = ""
    extra: Any = None


@dataclass
class Words:
    """Every phrase by its first token (longest first), and the tables negatives are written from."""

    phrases: dict[str, list[tuple[tuple[str, ...], Item]]] = field(default_factory=dict)
    nouns: dict[str, list[Noun]] = field(default_factory=dict)
    made: frozenset[str] = frozenset()
    near: dict[str, frozenset[str]] = field(default_factory=dict)
    draw: dict[str, float] = field(default_factory=dict)
    filler: frozenset[str] = frozenset()
    directions: dict[str, str] = field(default_factory=dict)
    growth: frozenset[str] = frozenset()
    decline: frozenset[str] = frozenset()
    along: frozenset[str] = frozenset()
    adjectives: frozenset[str] = frozenset()
    no_change: tuple[str, ...] = ()
    position_words: dict[str, str] = field(default_factory=dict)
    quantity_tokens: frozenset[str] = frozenset()
    opposites: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    other_verbs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()
    measures: frozenset[str] = frozenset()


def _places(table: dict[str, list[str]]) -> dict[str, str]:
    """Every way to say a place: "top", "upper left", "left-bottom" ... -> its canonical name."""
    found = {word: place for place, words in table.items() for word in words}
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            for v in table[vertical]:
                for h in table[horizontal]:
                    for phrase in (f"{v} {h}", f"{v}-{h}", f"{h} {v}", f"{h}-{v}", f"{v}{h}", f"{v} {h} hand"):
                        found[phrase] = f"{vertical}_{horizontal}"
    for edge in ("top", "bottom", "left", "right"):
        for c in table["center"]:
            for e in table[edge]:
                for phrase in (f"{c} {e}", f"{c}-{e}", f"{e} {c}", f"{e}-{c}"):
                    found[phrase] = edge
    return found


def _noun(written: str, name: str, key: str) -> Noun:
    singular, slash, plural = written.partition("/")
    return Noun(name, singular.strip() or None, plural.strip() or None, not slash, key == "group", key == "write")


def _merge(base: dict[str, Any], more: dict[str, Any], path: str, at: str = "") -> dict[str, Any]:
    """The user's words over ours: lists grow, what is not in ours is an error (a typo would be a silent loss)."""
    merged = dict(base)
    for key, value in more.items():
        where = f"{at}.{key}" if at else str(key)
        if key not in base:
            raise InputError(f"{path}: unknown key '{where}', expected one of: {', '.join(map(str, base))}")
        if type(value) is not type(base[key]):
            raise InputError(f"{path}: '{where}' should be a {type(base[key]).__name__}, got {value!r}"[:300])
        if isinstance(value, dict):
            merged[key] = _merge(base[key], value, path, where)
        elif isinstance(value, list):
            if not all(isinstance(word, str) and word.strip() for word in value):
                raise InputError(f"{path}: '{where}' should list words, got {value!r}"[:300])
            merged[key] = [*base[key], *value]
        else:
            merged[key] = value
    return merged


def _tokens(phrase: str) -> tuple[str, ...]:
    return tuple(match.group().lower() for match in TOKEN.finditer(phrase))


def _pairs(table: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """object -> word -> the words it may become."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in table.values():
        for pair in entry["pairs"]:
            old, _, new = pair.partition("/")
            for name in entry["objects"]:
                found.setdefault(name, {}).setdefault(old.strip(), []).append(new.strip())
    return found


def _compile(table: dict[str, Any]) -> Words:
    words = Words()
    phrases: dict[tuple[str, ...], Item] = {}

    def say(texts: Iterable[str], item: Item) -> None:
        for text in texts:
            phrases[_tokens(text)] = item

    # Later kinds win over earlier ones where one phrase stands in two lists.
    say(ADVERBS, Item("adverb"))
    say(table["adjectives"], Item("adjective"))
    say(table["growth"], Item("adjective", "growth"))
    say(table["decline"], Item("adjective", "decline"))
    say(table["prepositions"], Item("prep"))
    say(table["weak"], Item("verb", "appear", "weak"))
    say(table["scene"], Item("scene"))
    for quantity, texts in table["quantities"].items():
        say(texts, Item("quantity", quantity))
    for name, entry in table["verbs"].items():
        words.directions[name] = entry["direction"]
        for form, texts in entry.items():
            if form != "direction":
                say(texts, Item("verb", name, form))
    say(table["stay"], Item("verb", "stay", "stay"))
    for name, entry in table["objects"].items():
        nouns = [_noun(text, name, key) for key in ("write", "read", "group") for text in entry.get(key, [])]
        words.nouns[name] = nouns
        words.near[name] = frozenset(entry["near"])
        words.draw[name] = float(entry["draw"])
        for noun in nouns:
            if noun.singular:
                say([noun.singular], Item("noun", name, (MASS if noun.mass else SINGULAR, noun.group)))
            if noun.plural:
                say([noun.plural], Item("noun", name, (PLURAL, noun.group)))
    words.position_words = _places(table["places"])
    for phrase, place in words.position_words.items():
        say([phrase], Item("position", place))
    say([f"on top of {the}{scene}" for the in ("", "the ") for scene in table["scene"]], Item("position", "top"))
    say(table["place_tails"], Item("tail"))
    for side in table["sides"]:
        for noun_ in ("side", "sides"):
            say([f"{p} {side} {noun_} of" for p in ("on", "at", "by", "to", "along", "in")], Item("prep", "side_of"))
            if "left" not in side and "right" not in side:
                say([f"{p} {side} {noun_}" for p in ("on", "at", "by", "along")], Item("roadside"))
    say(["on both its sides", "on its both sides", "along both sides", "on two sides"], Item("roadside"))
    say(
        ["on the roadside", "on the roadsides", "by the roadside", "along the roadside", "by roadside"],
        Item("roadside"),
    )
    say(
        ["at the roadside", "near the roadside", "on roadside", "from the roadside", "alongside it", "along it"],
        Item("roadside"),
    )
    say(["along both sides of", "on the sides of", "on sides of", "on each of the sides of"], Item("prep", "side_of"))
    say(["the", "this", "these", "those", "its", "their", "that area of"], Item("the"))
    say(["a", "an"], Item("a"))
    say(["it", "them", "they", "ones", "others", "itself", "themselves"], Item("pronoun"))
    say(["nothing", "nothing else", "nothing more", "nothing new"], Item("nothing"))
    say(["and", "or", ",", "as well as", "and then", "together with", "along with", "plus", "and also"], Item("and"))
    say(
        ["while", "but", "whereas", "although", "however", "though", "yet", ";", ".", "!", "?", ":", "\n"], Item("stop")
    )
    say(["because", "since", "meanwhile", "except for", "except", "apart from"], Item("stop"))
    say(["with", "including", "containing", "consisting of", "composed of", "accompanied by"], Item("with"))
    say(["of", "of the"], Item("of"))
    say(["that", "which", "there", "where", "when"], Item("that"))
    say(BE, Item("be"))
    say(HAVE, Item("have"))
    say(NEGATIONS - BE - HAVE - {"without"}, Item("no"))
    say(["without"], Item("prep"))
    say(["no longer"], Item("no_longer"))
    for tokens, item in phrases.items():
        words.phrases.setdefault(tokens[0], []).append((tokens, item))
    for entries in words.phrases.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    words.made = frozenset(name for name, entry in table["objects"].items() if entry["made"])
    words.filler = frozenset(table["filler"])
    words.growth, words.decline = frozenset(table["growth"]), frozenset(table["decline"])
    words.along = frozenset(table["along"])
    words.adjectives = frozenset(table["adjectives"])
    words.no_change = tuple(table["no_change"])
    words.quantity_tokens = frozenset(
        token for texts in table["quantities"].values() for text in texts for token in _tokens(text)
    )
    words.opposites, words.other_verbs = _pairs(table["opposites"]), _pairs(table["other_verbs"])
    words.rows, words.measures = frozenset(table["rows"]), frozenset(table["measures"])
    return words


@cache
def _ours() -> dict[str, Any]:
    text = resources.files("rsiccllm").joinpath("words.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


@cache
def load_words(extra: Path | None = None) -> Words:
    """The project's words, with those of the YAML file `extra` added to its lists.

    `extra` has the layout of words.yaml and holds only what it adds. Raises InputError naming the file and key where
    it is not YAML, a key is unknown or a value has the wrong type.
    """
    table = _ours()
    if extra is not None:
        more = parse_yaml(read_text(extra), extra)
        if not isinstance(more, dict):
            raise InputError(f"{extra}: should be a mapping with the keys of words.yaml")
        table = _merge(table, more, str(extra))
    return _compile(table)
