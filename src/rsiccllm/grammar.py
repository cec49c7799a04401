"""Reads a caption as events by fixed rules: which things are said to come or go, by which verb, and where.

It walks the phrases of a caption (phrases.py) and decides for every noun phrase whether it takes part in a change or is
only where it happened: a noun after a preposition is context ("along the road"), one before a verb is its subject, one
after "replaces" or "becomes" its object, and a conjunction opens a new clause where a noun phrase and then a verb
follow it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from rsiccllm.phrases import AND, NP, PLACE, PREP, STOP, THAT, VERB, WITH, Phrase, phrases
from rsiccllm.words import PLURAL, TOKEN, Words, word_set

SAME = re.compile(
    r"\bno (?:\w+ ){0,3}?(?:changes?|differences?|alterations?|modifications?)\b(?! of)|"
    r"\bnothing (?:\w+ ){0,3}?(?:changed?|different|differs|happened)|"
    r"\bnot (?:\w+ )?(?:changed?|differ\w*)\b|"
    r"\b(?:scenes?|images?|pictures?|areas?|everything|all|they|both|it|regions?|landscape|place)\b[^.;]{0,80}?"
    r"\b(?:same|identical|unchanged|unaltered|alike|remains? (?:intact|stable))\b|"
    r"\bwithout (?:any )?(?:\w+ )?(?:changes?|differences?)\b|\bunchanged between\b|\blook(?:s)? the same\b"
)
# "Nothing is built" denies its own verb and no other: "a house is built and nothing is removed".
NO_CHANGE = re.compile(rf"{SAME.pattern}|\bnothing (?:new )?(?:is|has|was|had)\b")


# "In the first image there are two houses" says what one date holds, not what changed between the two.
DATED = re.compile(
    r"\b(?:(?P<early>first|both|before|earlier|previous|older|pre\S*|initial|two)|"
    r"second|after|later|newer|post\S*|latter)"
    r" (?:\w+ )?(?:images?|pictures?|scenes?|photos?|dates?)\b"
)
# "A house is built and nothing else has changed" denies the rest alone.
REST = re.compile(r"\bnothing (?:else|more)\b")
# How far a conjunction looks for the verb of a new clause; longer lists than this are not written by people.
LOOK_AHEAD = 40
PRESENCE = word_set("seen visible observed present shown displayed show shows showed")


@dataclass(slots=True)
class Event:
    """One verb with the noun phrases that come (`appear`) and go (`disappear`) by it."""

    verb: Phrase
    name: str
    appear: list[Phrase] = field(default_factory=list)
    disappear: list[Phrase] = field(default_factory=list)
    subjects: list[Phrase] = field(default_factory=list)
    place: str | None = None
    road: bool = False
    weak: bool = False
    stay: bool = False


@dataclass(slots=True)
class Reading:
    """A caption read: its tokens as (text, start, end), all phrases, and the events.

    denied: it says that something, or everything, did not change. mentioned: it has the word "change" or the like.
    """

    tokens: list[tuple[str, int, int]]
    phrases: list[Phrase]
    events: list[Event]
    denied: bool
    mentioned: bool


def _mark_reduced(found: list[Phrase]) -> None:
    """Mark participles that only describe the noun before them: "a road with villas built along appears"."""
    for i, phrase in enumerate(found):
        if phrase.kind != VERB or phrase.form not in {"done", "weak"} or phrase.be or phrase.have:
            continue
        if not i or found[i - 1].kind not in {NP, PLACE, THAT}:
            continue
        if i >= 2 and found[i - 2].kind == WITH:
            phrase.main = False
            continue
        for other in found[i + 1 :]:
            if other.kind in {AND, STOP}:
                break
            if other.kind == VERB and (
                other.be or other.have or other.form in {"does", "active", "passive", "becomes"}
            ):
                phrase.main = False
                break


def _opens_clause(found: list[Phrase], i: int) -> str:
    """What a conjunction before phrase i joins: "verb" (same subject), "clause" (own subject), or "" (a list)."""
    if i < len(found) and found[i].kind == VERB and found[i].form not in {"takes"}:
        return "verb"
    noun = False
    for j in range(i, min(i + LOOK_AHEAD, len(found))):
        phrase = found[j]
        if phrase.kind == STOP:
            return ""
        if phrase.kind == NP and not (j and found[j - 1].kind == PREP):
            noun = True
        elif phrase.kind == VERB:
            if phrase.form == "takes" and j == i:
                return "clause"
            if phrase.main and phrase.form != "takes" and noun:
                return "clause"
            if phrase.form == "takes":
                return ""
    return ""


def _goes_on(found: list[Phrase], i: int, last: Phrase | None, natural: bool) -> bool:
    """Whether the noun at i still belongs to the list before the conjunction although a verb follows later.

    "on the grass and bareland and a road appears": bareland has no article and another conjunction comes first.
    """
    if last is None or not natural or i + 1 >= len(found) or found[i].kind != NP or found[i + 1].kind != AND:
        return False
    bare = found[i].quantity is None and found[i].start == found[i].noun_start
    return bare and _opens_clause(found, i + 2) == "clause"


class _Clauses:
    """The walk over one caption's phrases. One instance a caption."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.events: list[Event] = []
        self.before: list[Phrase] = []  # subjects of the clause before
        self.last: Phrase | None = None  # the last noun, what "it" and "them" stand for
        self.thing: Phrase | None = None  # the last one that is no mere place, what "some are built" stands for
        self.reset()

    def reset(self) -> None:
        self.subjects: list[Phrase] = []
        self.attached: list[Phrase] = []
        self.clause: list[Event] = []
        self.role = "subject"
        self.prep = ""
        self.lead: str | None = None
        self.lead_road = False
        self.noun: Phrase | None = None  # the last noun of this clause
        self.described: Event | None = None  # "houses built ...": what follows may say where

    def new_clause(self) -> None:
        if self.subjects:
            self.before = self.subjects
        self.reset()

    def walk(self, found: list[Phrase]) -> None:
        for i, phrase in enumerate(found):
            getattr(self, f"_{phrase.kind}")(phrase, i, found)

    def _stop(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        self.new_clause()

    def _that(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        """ "Houses are built where trees were removed" tells of a second change, "where trees stood" of a place."""
        if phrase.word != "where" or not self.clause:
            return
        for before, ahead in itertools.pairwise(found[i:]):
            if ahead.kind == STOP or (before.kind == NP and ahead.start > before.end):
                break  # what follows the noun is a verb that we do not know
            if ahead.kind == VERB:
                if ahead.verb != "appear":
                    self.new_clause()
                    return
                break
        self.role, self.prep = "context", phrase.word

    def _with(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        self.role = "with"

    def _prep(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        self.role, self.prep = "context", phrase.word
        ahead = found[i + 1] if i + 1 < len(found) else None
        if phrase.word in {"along", "alongside"} and (ahead is None or ahead.kind != NP):
            self._beside_road()

    def _place(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        if phrase.place == "along_road":
            self._beside_road()
        elif self.clause:
            for event in self.clause:
                event.place = event.place or phrase.place
        elif self.noun is not None:
            self.noun.place = self.noun.place or phrase.place
        else:
            self.lead = phrase.place
        self.role = self._after() if self.clause else "subject"

    def _after(self) -> str:
        """What a noun is that follows the last event's own nouns and places after a conjunction."""
        return "object" if self.clause[-1].verb.form in {"active", "passive", "becomes", "takes"} else "extra"

    def _beside_road(self) -> None:
        if self.described is not None:
            self.described.road = True
        elif self.clause and not self._gone():
            self.clause[-1].road = True
        elif self.noun is not None and self.noun.object != "road":
            self.noun.road = True
        else:
            self.lead_road = True

    def _gone(self) -> bool:
        """ "Houses replaced the trees on the roadside" says where the trees were: a roadside is said of its noun, while
        a place in the image, said last, is where all of it happened."""
        return self.clause[-1].name == "replace" and self.clause[-1].verb.form in {"active", "takes"}

    def _np(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        words = self.words
        if self._again(phrase, i, found):
            return
        if phrase.pronoun:
            if self.role == "context" and (self.prep in words.along or self.prep == "side_of"):
                if any(p.kind == NP and p.object == "road" for p in found[:i]):
                    self._beside_road()  # "on both sides of it": of the road said before
                return
            if self.last is None:
                return
            counted = phrase.quantity and self.role != "context" and self.thing is not None
            phrase.object = self.thing.object if counted and self.thing is not None else self.last.object
        if phrase.rebuilt and words.directions[phrase.rebuilt] == "appear" and self._tells(phrase):
            self.events.append(Event(phrase, phrase.rebuilt, appear=[phrase]))
        if self.role == "context" and not self.clause and i and found[i - 1].kind == NP and not found[i - 1].pronoun:
            self.role = "subject"  # "at the end of the road two houses are built"
        role = self.role
        if role == "subject" and self._also_absent(phrase, i, found):
            phrase.absent = True
        if role == "context":
            if phrase.object == "road" and (self.prep in words.along or self.prep == "side_of"):
                self._beside_road()
        else:
            self.noun = phrase
        if phrase.pronoun and role == "context":
            return
        self.last = phrase
        if role != "context":
            self.thing = phrase
        if role == "subject":
            self.subjects.append(phrase)
        elif role == "with":
            self._accompany(phrase, i, found)
        elif role == "object" and self.clause:
            self._object(self.clause[-1], phrase)
        elif role == "extra" and self.clause and not self.clause[-1].stay:
            event = self.clause[-1]
            if event.subjects == [] and event.verb.form in {"does", "weak", "done"}:
                self._object(event, phrase)
            elif i and found[i - 1].kind == AND:
                side = event.appear if self.words.directions.get(event.name) == "appear" else event.disappear
                if event.verb.form in {"done", "does"}:
                    side.append(phrase)

    def _again(self, phrase: Phrase, i: int, found: list[Phrase]) -> bool:
        """ "A building or container": two words for one thing."""
        return (
            i >= 2 and found[i - 1].kind == AND and found[i - 1].word == "or" and found[i - 2] is self.noun
            and self.noun.object == phrase.object
        )  # fmt: skip

    def _also_absent(self, phrase: Phrase, i: int, found: list[Phrase]) -> bool:
        """ "No house or road", "no houses and roads"; but "no house and a road" has a road of its own."""
        if not i or found[i - 1].kind != AND or not self.subjects or not self.subjects[-1].absent:
            return False
        return found[i - 1].word == "or" or (phrase.quantity is None and not phrase.definite)

    def _tells(self, phrase: Phrase) -> bool:
        """Whether a participle before a noun tells of a change that no verb tells: "houses along the widened road"."""
        return phrase.rebuilt == "build" or (self.role == "context" and phrase.object in self.words.made)

    def _accompany(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        """ "A house with a pool is built": the pool is built too; "with trees around" says where."""
        if phrase.object not in self.words.made or phrase.definite or phrase.absent:
            return
        if i + 1 < len(found) and found[i + 1].kind == VERB and not found[i + 1].main and found[i + 1].form == "done":
            return  # it has a verb of its own
        if self.clause:
            event = self.clause[-1]
            if event.subjects and not event.stay and event.verb.form in {"done", "does", "weak"}:
                if self.words.directions[event.name] == "appear":
                    event.appear.append(phrase)
            elif event.verb.form in {"active", "passive", "becomes", "takes"}:
                self._object(event, phrase)
        else:
            whole = self.subjects[-1] if self.subjects else None
            if whole is not None and whole.group and whole.object == phrase.object:
                phrase.place = phrase.place or whole.place  # "a residential area with many houses" is these houses
                self.subjects[-1] = phrase
            else:
                self.attached.append(phrase)

    def _and(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        self.described = None
        ahead = _opens_clause(found, i + 1)
        natural = self.last is not None and self.last.object not in self.words.made
        if not self.clause:
            listed = found[i - 1].kind == NP and _goes_on(found, i + 1, self.last, natural)
            if self.role == "context" and self.prep not in {"between", "among"} and not listed:
                self.role = "subject"
            return
        if ahead == "clause" and self._pair_ends(i, found):
            self.prep = ""  # a further conjunction does not end it again
            return
        if ahead == "clause":
            if self.role in {"context", "object"} and _goes_on(found, i + 1, self.last, natural):
                return
            self.new_clause()
        elif ahead == "verb":
            shared = self.subjects or [*self.clause[0].subjects]
            self.new_clause()
            self.before = shared or self.before
        elif self.role in {"subject", "extra"}:
            self.role = "extra"
        elif self.role == "context" and self.prep not in {"between", "among"} and i + 1 < len(found):
            # "replaced by a road near the lake and some houses": a new thing with a number of its own.
            ahead_np = found[i + 1]
            if ahead_np.kind == NP and ahead_np.quantity and ahead_np.object in self.words.made:
                self.role = self._after()

    def _pair_ends(self, i: int, found: list[Phrase]) -> bool:
        """ "between the houses and the road": the noun after this conjunction ends the pair."""
        return (
            self.role == "context" and self.prep == "between" and found[i - 1].kind == NP
            and found[i - 1].number != PLURAL and i + 1 < len(found) and found[i + 1].kind == NP
        )  # fmt: skip

    def _object(self, event: Event, phrase: Phrase) -> None:
        if phrase.absent:
            return
        form, direction = event.verb.form, self.words.directions.get(event.name, "appear")
        if event.name == "replace":
            (event.appear if form in {"passive", "becomes"} else event.disappear).append(phrase)
        else:
            (event.appear if direction == "appear" else event.disappear).append(phrase)

    def _verb(self, phrase: Phrase, i: int, found: list[Phrase]) -> None:
        form, ahead = phrase.form, found[i + 1] if i + 1 < len(found) else None
        if self.role == "context" and self.prep == "where":
            self.role = self._after()
            return
        if self._describes(phrase, found[i - 1] if i else None):
            return
        if not phrase.main:
            if self.noun is not None and form == "done":
                event = Event(phrase, phrase.verb, subjects=[self.noun], place=self.noun.place)
                side = event.appear if self.words.directions[phrase.verb] == "appear" else event.disappear
                side.append(self.noun)
                self.events.append(event)
                self.described = event
            self.role = "context" if self.clause or form != "done" else "subject"
            return
        event = Event(phrase, phrase.verb, weak=form == "weak", stay=form == "stay" or phrase.negated)
        event.place, event.road = self.lead, self.lead_road
        if form == "takes":
            self.role = "object"
            if self.clause:
                event.place, event.road = self.clause[-1].place, self.clause[-1].road
            self._add(event)
            return
        subjects = self.subjects
        if not subjects and not self.clause and (i == 0 or found[i - 1].kind in {AND, STOP, THAT, PLACE}):
            subjects = self.before if i and found[i - 1].kind == AND else []
            self.subjects = list(subjects)
        event.subjects = [s for s in subjects if not s.absent]
        if subjects and not event.subjects:
            event.stay = True
        taken = ahead is not None and ahead.kind == NP and not ahead.pronoun
        everyone = [*event.subjects, *self.attached]
        self.role = "extra"
        if form == "passive" or (form == "becomes"):
            event.disappear += event.subjects
            self.role = "object"
        elif form == "active":
            if phrase.be:  # "is replaced" with nothing after it
                event.disappear += event.subjects
            else:
                event.appear += everyone
                self.role = "object"
        elif form == "done" and taken and not phrase.be and (phrase.have or event.subjects or not subjects):
            event.subjects = []  # "workers have removed the trees": what follows is what went
            self.role = "object"
        elif (form == "does" and taken and not everyone) or (form == "weak" and phrase.word == "there"):
            self.role = "object"
        elif form != "stay":
            side = event.appear if self.words.directions[phrase.verb] == "appear" else event.disappear
            side += everyone
            if len(event.subjects) == 1 and event.subjects[0].place:
                event.place = event.place or event.subjects[0].place
        self._add(event)

    def _describes(self, phrase: Phrase, behind: Phrase | None) -> bool:
        """Whether a participle only says how the things just named stand: "the trees are replaced by houses built
        along the road", "houses appear arranged in rows". What follows it says where they are."""
        if not self.clause or phrase.form not in {"done", "weak"} or phrase.be or phrase.have or phrase.word == "there":
            return False
        if self.role == "object":
            if behind is None or behind is not self.noun:
                return False
            event = self.clause[-1]
            if event.verb.word == "there" and phrase.form == "done":  # "there is a house removed"
                things = [*event.appear, *event.disappear]
                away = self.words.directions[phrase.verb] == "disappear"
                event.name, event.weak = phrase.verb, False
                event.appear, event.disappear = ([], things) if away else (things, [])
            return True
        return behind is self.clause[-1].verb and phrase.form == "weak" and not self.clause[-1].stay

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self.clause.append(event)


def read(text: str, words: Words) -> Reading:
    """Read a caption. Never raises: words it does not know are passed over."""
    tokens = [(m.group().lower(), m.start(), m.end()) for m in TOKEN.finditer(text)]
    found = phrases(tokens, words)
    for phrase in found:
        if phrase.kind == VERB and phrase.form == "weak" and tokens[phrase.verb_start][0] == "there":
            phrase.word = "there"
    _mark_reduced(found)
    plain = " ".join(token[0] for token in tokens)
    denied = bool(NO_CHANGE.search(plain))
    clauses = _Clauses(words)
    clauses.walk(_without_denied(found, tokens) if denied else found)
    events = clauses.events
    if DATED.search(plain):
        _set_aside_inventories(events, found, tokens)
    mentioned = any(token[0] in {"change", "changes", "changed", "landscaping"} for token in tokens)
    return Reading(tokens, found, events, denied or any(event.stay for event in events), mentioned)


def _set_aside_inventories(events: list[Event], found: list[Phrase], tokens: list[tuple[str, int, int]]) -> None:
    """Mark as no change what a sentence only says to be there in one image or in both."""
    stops = [0, *(p.start for p in found if p.kind == STOP), len(tokens)]
    for start, end in itertools.pairwise(stops):
        date = DATED.search(" ".join(token[0] for token in tokens[start:end]))
        if date is None:
            continue
        for event in events:
            if not start <= event.verb.start < end or event.verb.kind != VERB:
                continue
            presence = tokens[event.verb.verb_start][0] in PRESENCE
            if event.weak or (presence and (date["early"] or not event.subjects)):
                event.stay = True


def _without_denied(found: list[Phrase], tokens: list[tuple[str, int, int]]) -> list[Phrase]:
    """The phrases of the clauses that do not say that nothing changed."""
    kept: list[Phrase] = []
    part: list[Phrase] = []
    begin = 0
    stops = [p for p in found if p.kind == STOP]
    bounds = [*(s.start for s in stops), len(tokens)]
    for bound in bounds:
        part = [p for p in found if begin <= p.start < bound]
        said = " ".join(token[0] for token in tokens[begin:bound])
        if REST.search(said) or not SAME.search(said):
            kept += part
        kept += [p for p in stops if p.start == bound]
        begin = bound + 1
    return kept
