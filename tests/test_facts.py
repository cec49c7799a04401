"""The facts parser on made-up sentences, and on real captions where they are here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsiccllm import facts
from rsiccllm.errors import InputError
from rsiccllm.facts import Fact, parse, places_agree, quantities_agree, support, verb_kind
from rsiccllm.grammar import read
from rsiccllm.words import load_words


def said(caption: str) -> set[tuple[str, str]]:
    return {(fact.object, fact.direction) for fact in parse(caption).facts}


def only(caption: str) -> Fact:
    found = parse(caption).facts
    assert len(found) == 1, found
    return found[0]


COME_TREE_GONE = {("building", "appear"), ("tree", "disappear")}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a cottage is built", {("building", "appear")}),
        ("four cabins have been erected beside the stream", {("building", "appear")}),
        ("huts appear", {("building", "appear")}),
        ("a lane shows up in the meadow", {("road", "appear")}),
        ("the old barn road was demolished", {("road", "disappear")}),
        ("two warehouses disappear", {("building", "disappear")}),
        ("the shrubs are replaced by cottages", COME_TREE_GONE),
        ("cottages replace the shrubs", COME_TREE_GONE),
        ("a villa replacing some bushes appears", COME_TREE_GONE),
        ("huts are put up in place of the woods", COME_TREE_GONE),
        ("cabins are built to replace the former forest", COME_TREE_GONE),
        ("the woods give way to a village", COME_TREE_GONE),
        ("the shrubs were cut down to build a row of cottages", COME_TREE_GONE),
        ("the desert has become a pond", {("bareland", "disappear"), ("water", "appear")}),
        ("the pasture is turned into a stadium", {("grass", "disappear"), ("playground", "appear")}),
        ("the dirt track becomes a concrete lane", {("road", "appear")}),
        ("a pond and two lanes are built , and the shrubs are removed", None),
        ("cabins show up in the forest and replace some shrubs", COME_TREE_GONE),
        ("a lane is torn down and replaced by a pond", {("road", "disappear"), ("water", "appear")}),
        ("there are more trucks in the yard", {("vehicle", "appear")}),
        ("the removal of the woods made room for a mall", COME_TREE_GONE),
        ("workers have removed the shrubs", {("tree", "disappear")}),
        ("at the end of the lane two cottages are built", {("building", "appear")}),
        ("the left half of the wood has been cleared", {("tree", "disappear")}),
        ("the shrubs become withered and a hut shows up", COME_TREE_GONE),
        ("the shrubs become dense and wide lanes appear", {("tree", "appear"), ("road", "appear")}),
        ("the woods can no longer be seen", {("tree", "disappear")}),
        ("the woods and built huts are removed", {("tree", "disappear"), ("building", "disappear")}),
        ("the cars no longer appear", {("vehicle", "disappear")}),
        ("the hut is rebuilt into a bigger one", {("building", "appear")}),
        ("the shrubs become dense and wide lanes", {("tree", "disappear"), ("road", "appear")}),
        ("a lane surrounded by huts is widened", {("road", "appear")}),
    ],
)
def test_what_comes_and_what_goes(caption: str, expected: set[tuple[str, str]] | None) -> None:
    expected = expected or {("water", "appear"), ("road", "appear"), ("tree", "disappear")}
    assert said(caption) == expected
    assert parse(caption).changed is True


@pytest.mark.parametrize(
    "context",
    [
        "along the road", "next to the river", "in the grass", "around a lake", "between the woods and the pond",
        "in front of a stadium", "with trees on both sides", "at the edge of the desert", "on both sides of it",
        "among the original villas", "surrounded by meadows",
    ],
)  # fmt: skip
def test_where_a_thing_stands_is_no_change(context: str) -> None:
    assert said(f"three huts are built {context}") == {("building", "appear")}


def test_what_comes_with_a_thing_counts_where_people_make_it() -> None:
    assert said("a mansion with a swimming pool is built") == {("building", "appear"), ("pool", "appear")}
    assert said("a lane with shrubs is built") == {("road", "appear")}
    assert said("a lane with cabins built along appears") == {("road", "appear"), ("building", "appear")}
    assert said("huts appear beside the newly built lane") == {("road", "appear"), ("building", "appear")}


def test_a_list_after_a_place_and_a_new_clause_after_a_list() -> None:
    assert said("huts are built on the grass and sand and a lane appears") == {
        ("building", "appear"),
        ("road", "appear"),
    }
    assert said("the woods are replaced by a lane in the center and some huts") == {
        ("tree", "disappear"),
        ("road", "appear"),
        ("building", "appear"),
    }


@pytest.mark.parametrize(
    "caption",
    [
        "there is no difference .",
        "the two scenes seem identical .",
        "the scene is the same as before .",
        "no change has occurred .",
        "almost nothing has changed .",
        "no change is occurred",
        "almost nothing is changed",
        "Nothing has changed",
        "There is no difference",
        "All remained the same",
        "the lane remains unchanged",
        "No huts are demolished and the lane stays the same.",
        "Nothing has been built. In the first image there are many huts and a pond.",
        "Both images show a village. The shrubs and the lane stay as before.",
    ],
)
def test_no_change(caption: str) -> None:
    assert parse(caption).changed is False
    assert parse(caption).facts == []


def test_what_stayed_does_not_hide_what_changed() -> None:
    found = parse("There is no change on the left, but a hut is built on the right.")
    assert found.changed is True
    assert found.facts == [
        Fact(object="building", direction="appear", verb="build", quantity="one", place="right"),
    ]


def test_neither_said() -> None:
    assert parse("").changed is None
    assert parse("an aeroplane flies past").changed is None
    assert parse("Change of vegetation occurred.").changed is True


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("workers built a hut where shrubs stood before", {("building", "appear")}),
        ("a hut replaces the shrubs where the lane ends", COME_TREE_GONE),
        ("there is a hut where shrubs existed", {("building", "appear")}),
        ("a hut is built where the shrubs were removed", COME_TREE_GONE),
        ("the shrubs are removed where huts and lanes are built", {*COME_TREE_GONE, ("road", "appear")}),
        ("a hut is built where shrubs stood and a lane is removed", {("building", "appear"), ("road", "disappear")}),
        ("a pond becomes a yard where trucks are parked", {("water", "disappear"), ("bareland", "appear")}),
        ("huts are built where shrubs are seen. A lane appears", {("building", "appear"), ("road", "appear")}),
    ],
)
def test_where_tells_of_a_place_and_of_what_changed_there(caption: str, expected: set[tuple[str, str]]) -> None:
    assert said(caption) == expected
    assert all(fact.verb != "appear" for fact in parse(caption.partition(".")[0]).facts[1:])


def told(caption: str) -> list[tuple[str | None, ...]]:
    """(object, verb, quantity, place) of every fact, in alphabetical order."""
    return sorted(((f.object, f.verb, f.quantity, f.place) for f in parse(caption).facts), key=str)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("some huts are built along the lane and shrubs there are removed",
         [("building", "build", "several", "along_road"), ("tree", "remove", None, None)]),
        ("two large huts facing two lanes are built at the bottom", [("building", "build", "two", "bottom")]),
        ("a lane on the left with many huts around has been built",
         [("building", "build", "many", "left"), ("road", "build", "one", "left")]),
        ("a yard becomes a lane and huts and two trucks appear",
         [("bareland", "replace", "one", None), ("building", "appear", None, None),
          ("road", "replace", "one", None), ("vehicle", "appear", "two", None)]),
        ("a hut replaces some shrubs between the yard and an existing hut",
         [("building", "replace", "one", None), ("tree", "replace", "several", None)]),
        ("a hut is built between the lane and the yard and a pond appears",
         [("building", "build", "one", None), ("water", "appear", "one", None)]),
        ("several lanes run through an estate in place of the shrubs",
         [("road", "appear", "several", None), ("tree", "replace", None, None)]),
        ("shrubs are removed and a lane with huts built on both sides appears",
         [("building", "build", None, "along_road"), ("road", "appear", "one", None), ("tree", "remove", None, None)]),
        ("with huts built the shrubs are removed", [("building", "build", None, None), ("tree", "remove", None, None)]),
        ("the huts built on the left replace some shrubs",
         [("building", "build", None, "left"), ("building", "replace", None, "left"),
          ("tree", "replace", "several", None)]),
        ("along the lane are built many huts", [("building", "build", "many", "along_road")]),
        ("in the corner are built two huts and a lane",
         [("building", "build", "two", None), ("road", "build", "one", None)]),
        # an auxiliary before all else makes a verb of the participle too
        ("have recently removed shrubs at the top", [("tree", "remove", None, "top")]),
        # a participle after a place describes
        ("at the top scattered shrubs are removed", [("tree", "remove", None, "top")]),
        ("the woods are no longer dense", [("tree", "reduce", None, None)]),
        ("nothing replaces the shrubs", [("tree", "replace", None, None)]),
    ],
)  # fmt: skip
def test_what_goes_with_which_verb(caption: str, expected: list[tuple[str | None, ...]]) -> None:
    assert told(caption) == expected


def test_a_verb_after_what_something_became_belongs_to_its_own_sentence() -> None:
    assert said("There is no change at the top. The lane becomes wider replacing the shrubs.") == {
        ("road", "appear"),
        ("tree", "disappear"),
    }


def test_what_a_describing_participle_tells_of() -> None:
    described = read("a lane with huts built on both sides appears", load_words()).events[0]
    assert [phrase.object for phrase in described.subjects] == ["building"]


def test_what_was_not_built_does_not_hide_what_was() -> None:
    assert said("no hut and a lane are built") == said("a lane and no hut are built") == {("road", "appear")}
    assert said("no huts, two lanes and ponds are built") == {("road", "appear"), ("water", "appear")}
    for none in ("no huts and lanes are built", "no hut or a lane is built", "no hut, lane or pond is built"):
        assert parse(none).facts == []
        assert parse(none).changed is False


def test_that_nothing_is_built_denies_its_own_verb_alone() -> None:
    assert said("a hut is built and nothing is removed") == {("building", "appear")}
    assert said("nothing is built on the left and huts are removed") == {("building", "disappear")}
    for none in (
        "nothing is built",
        "nothing has been removed from the yard",
        "nothing new is there",
        "nothing was seen",
    ):
        assert parse(none).changed is False
        assert parse(none).facts == []


def test_a_verb_denied_before_an_adjective_or_by_no_longer_tells_of_nothing() -> None:
    for none in ("the huts aren't new built", "the woods no longer cover the ground"):
        assert parse(none).changed is False
        assert parse(none).facts == []


def test_what_is_removed_and_seen_no_longer_went_once() -> None:
    assert only("some woods are removed and can no longer be seen").verb == "remove"
    assert [fact.verb for fact in parse("a hut disappears and a pond is removed").facts] == ["disappear", "remove"]


@pytest.mark.parametrize("rest", ["nothing else can be seen", "nothing more is visible", "nothing else has changed"])
def test_that_nothing_else_changed_says_nothing_of_what_did(rest: str) -> None:
    assert only(f"a hut is removed and {rest}").verb == "remove"
    assert parse(f"{rest}").facts == []


@pytest.mark.parametrize(
    ("words", "quantity"),
    [
        ("a hut is", "one"), ("an old hut is", "one"), ("one hut is", "one"), ("another hut is", "one"),
        ("huts are", None),
        ("the hut is", None), ("two huts are", "two"), ("three new huts are", "three"), ("some huts are", "several"),
        ("a few huts are", "several"), ("a row of huts is", "several"), ("five huts are", "several"),
        ("many huts are", "many"), ("lots of huts are", "many"), ("a large number of huts are", "many"),
        ("two rows of huts are", "many"), ("a residential area is", None), ("part of a hut is", "one"),
        # "a" is of the stretch and not of the lane; "some hut" is a hut, "a row of hut" several
        ("a stretch of lane is", None), ("by the pond some hut is", None), ("by the pond a row of hut is", "several"),
    ],
)  # fmt: skip
def test_quantities(words: str, quantity: str | None) -> None:
    assert only(f"{words} built").quantity == quantity


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("at the top", "top"), ("in the upper left corner of the scene", "top_left"),
        ("on the lower-right", "bottom_right"),
        ("at the left bottom corner", "bottom_left"), ("in the middle", "center"),
        ("on the left side of the image", "left"),
        ("along the road", "along_road"), ("on both sides of the street", "along_road"), ("by the lane", "along_road"),
        ("on the roadside", "along_road"), ("on the left of the road", "along_road"), ("on the left of the pond", None),
        ("along the road at the bottom", "bottom"), ("in the woods", None), ("on the left of this pond", None),
        ("at the top of", "top"),  # cut short
    ],
)  # fmt: skip
def test_places(words: str, place: str | None) -> None:
    assert only(f"two huts are built {words}").place == place


def test_each_thing_has_its_own_place() -> None:
    found = parse("shrubs in the bottom left are removed and a hut appears at the top by the lane")
    assert [(fact.object, fact.place) for fact in found.facts] == [("tree", "bottom_left"), ("building", "top")]
    assert found.places == {("tree", "bottom_left"), ("building", "top"), ("building", "along_road")}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # beside a road is said of the noun before it; where both are in the image, of all that is told
        ("two sheds replaced the shrubs by the lane", [("building", None), ("tree", "along_road")]),
        ("two sheds replaced the shrubs at the top", [("building", "top"), ("tree", "top")]),
        ("two sheds appeared in place of the pond and some shrubs on the roadside",
         [("building", None), ("water", None), ("tree", "along_road")]),
        ("the shrubs are replaced by sheds along the lane", [("building", "along_road"), ("tree", None)]),
        ("the shrubs are replaced by sheds built along the lane", [("building", "along_road"), ("tree", None)]),
        ("the shrubs turn into sheds closely spaced beside the lane", [("building", "along_road"), ("tree", None)]),
        ("sheds appear scattered along the lane", [("building", "along_road")]),
        ("sheds around a lane in the lower right are built", [("building", "bottom_right")]),
        ("some shrubs beside the lane were cut to widen the lane", [("tree", "along_road"), ("road", None)]),
        ("a hut vanished from the roadside", [("building", "along_road")]),
        ("two huts are built on the right side of the central lane", [("building", "along_road")]),
        ("a hut is built nearby the lane", [("building", "along_road")]),
        ("a hut is built on top of the picture", [("building", "top")]),
        ("the dirt lane on the left becomes a paved lane", [("road", "left")]),
        ("sheds in a straight line at the top are removed", [("building", "top")]),
        ("several sheds beside the lane", [("building", "along_road")]),
    ],
)  # fmt: skip
def test_what_a_place_is_said_of(caption: str, expected: list[tuple[str, str | None]]) -> None:
    assert [(fact.object, fact.place) for fact in parse(caption).facts] == expected


@pytest.mark.parametrize(
    ("caption", "verb", "place"),
    [
        ("there is a hut removed at the top", "remove", "top"),
        ("there are two huts built along the lane", "build", "along_road"),
        ("In the second image there are huts constructed on the left", "build", "left"),
        ("there is a new hut at the top", "appear", "top"),
    ],
)
def test_what_there_is_with_a_participle_is_told_by_it(caption: str, verb: str, place: str) -> None:
    assert (only(caption).verb, only(caption).place) == (verb, place)


def test_two_words_for_one_thing_are_one_fact() -> None:
    found = parse("Some sheds or tanks on the roadside were removed. A hut or shed replaced the pond or lake.")
    assert [(f.object, f.direction, f.quantity, f.place) for f in found.facts] == [
        ("building", "disappear", "several", "along_road"),
        ("building", "appear", "one", None),
        ("water", "disappear", None, None),
    ]
    village = parse("a village with many huts and a lane is built at the top")
    assert [(f.object, f.quantity, f.place) for f in village.facts] == [
        ("building", "many", "top"),
        ("road", "one", "top"),
    ]


def test_a_number_alone_is_of_the_thing_that_changed_and_not_of_its_place() -> None:
    found = parse("two huts are built along the lane and some are torn down")
    assert [(f.object, f.direction, f.quantity) for f in found.facts] == [
        ("building", "appear", "two"),
        ("building", "disappear", "several"),
    ]


def test_a_participle_before_a_noun_tells_of_what_people_made() -> None:
    assert said("huts appear along the widened lane") == {("building", "appear"), ("road", "appear")}
    assert only("a widened lane is removed").verb == "remove"
    assert said("huts appear on the flattened ground") == {("building", "appear")}
    assert only("groundwork is in progress").verb == "build"


@pytest.mark.parametrize(
    ("caption", "verb"),
    [
        ("a hut is constructed", "build"), ("a hut emerges", "appear"), ("a hut is torn down", "remove"),
        ("a hut vanishes", "disappear"), ("the lane is widened", "extend"), ("the lane is renovated", "rebuild"),
        ("the pond shrinks", "reduce"),
    ],
)  # fmt: skip
def test_verbs(caption: str, verb: str) -> None:
    assert only(caption).verb == verb


def test_kinds_of_verbs() -> None:
    kinds = {
        "build": "come", "appear": "come", "remove": "go", "disappear": "go", "extend": "alter", "rebuild": "alter",
        "reduce": "reduce",
    }  # fmt: skip
    for verb, kind in kinds.items():
        assert verb_kind(Fact(object="road", direction="appear", verb=verb)) == kind
    assert verb_kind(Fact(object="road", direction="appear", verb="replace")) == "come"
    assert verb_kind(Fact(object="road", direction="disappear", verb="replace")) == "go"


def test_what_is_rebuilt_is_one_fact_and_what_comes_or_goes_with_it_another() -> None:
    beside = parse("the dirt track becomes a concrete lane and two cabins")
    assert [(fact.object, fact.direction, fact.verb) for fact in beside.facts] == [
        ("road", "appear", "rebuild"),
        ("building", "appear", "replace"),
    ]
    under = parse("the track and the woods become a concrete lane")
    assert [(fact.object, fact.direction, fact.verb) for fact in under.facts] == [
        ("road", "appear", "rebuild"),
        ("tree", "disappear", "replace"),
    ]


def test_without_a_verb_only_what_is_said_to_lie_by_a_road_does() -> None:
    assert only("a new hut near the forest").place is None
    assert only("several sheds beside the lane").place == "along_road"


def test_a_long_description() -> None:
    text = (
        "Both images show farmland from above. Three large warehouses at the top right corner are removed and can no "
        "longer be seen in the second image. A pond appears in the center where the shrubs stood before. The lane on "
        "the left is extended. The other huts, lanes and trees and the ground around them stay the same. The second "
        "image is darker than the first, which comes from the light and is not a change of the ground. In the first "
        "image there are three warehouses, a lane and some trees."
    )
    found = [(f.object, f.direction, f.verb, f.quantity, f.place) for f in parse(text).facts]
    assert found == [
        ("building", "disappear", "remove", "three", "top_right"),
        ("water", "appear", "appear", "one", "center"),
        ("road", "appear", "extend", None, "left"),
    ]


def test_case_and_final_stop_do_not_matter() -> None:
    assert parse("  A Hut is BUILT .").facts == parse("a hut is built").facts


SOME_WORDS = """
a the houses trees and or with , . are is removed built replaced by appear in along no top left of
one becomes to it road some rows zzz there remain both while which grass not has
"""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(SOME_WORDS.split()),
        max_size=25,
    ).map(" ".join)
    | st.text(max_size=60)
)
def test_any_text_is_read_without_an_error_and_the_same_twice(text: str) -> None:
    assert parse(text) == parse(text)


@pytest.mark.parametrize("unit", ["all ", "a hut and ", "huts . ", "no ", "and a hut is built ", "is ", "top left "])
def test_ten_thousand_words_take_no_long_time(unit: str) -> None:
    begin = time.process_time()  # of this process: what else runs on the machine does not count
    parse(unit * (10_000 // len(unit.split())))
    assert time.process_time() - begin < 5


def test_support_of_several_references() -> None:
    known = support(["a hut is built at the top left", "two cottages appear by the lane", "the shrubs are removed"])
    assert known.pairs == {("building", "appear"), ("tree", "disappear")}
    assert known.objects == {"building", "road", "tree"}
    assert known.places == {"top_left"}

    def fact(object_: str, direction: str, verb: str, **more: str) -> Fact:
        return Fact.model_validate({"object": object_, "direction": direction, "verb": verb, **more})

    assert known.supports(fact("building", "appear", "build"))
    assert known.supports(fact("building", "appear", "replace", quantity="two"))
    assert known.supports(fact("building", "appear", "build", place="left"))  # a part of "top left"
    assert not known.supports(fact("building", "disappear", "remove"))
    assert not known.supports(fact("road", "appear", "build"))  # named, but not as a change
    assert not known.supports(fact("building", "appear", "extend"))
    assert not known.supports(fact("building", "appear", "build", quantity="many"))
    assert not known.supports(fact("building", "appear", "build", place="bottom_left"))


def test_support_counts_and_places() -> None:
    known = support(
        ["a hut and grass are added at the top left", "lanes on the roadside are removed", "the pond is removed"]
    )
    assert known.counts == {
        ("water", "disappear"): {(1, 1)},
        ("building", "appear"): {(1, 1)},
        ("grass", "appear"): {(0, float("inf"))},
        ("road", "disappear"): {(2, float("inf"))},
    }
    assert known.places == {"top_left"}  # beside a road is no place in the image
    assert support(["it is removed"]).objects == set()


def test_places_and_quantities_that_contradict() -> None:
    assert places_agree("top", "top_left")
    assert places_agree("top_left", "left")
    assert places_agree("along_road", "left")
    assert not places_agree("left", "right")
    assert not places_agree("top_left", "top_right")
    assert quantities_agree("several", "two")
    assert not quantities_agree("one", "several")
    assert quantities_agree("three", "several")
    assert not quantities_agree("three", "two")


def test_words_name_the_canonical_words_of_facts() -> None:
    words = load_words()
    assert set(words.nouns) == set(get_args(facts.Object))
    assert set(words.position_words.values()) | {"along_road"} == set(get_args(facts.Place))
    assert set(words.directions.values()) == set(get_args(facts.Direction))
    assert words.near.keys() == words.draw.keys() == words.nouns.keys()
    for name, near in words.near.items():
        assert all(name in words.near[other] for other in near), f"near must hold both ways: {name}"


def test_own_words_are_added(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("objects:\n  building:\n    write: [lighthouse/lighthouses]\n", encoding="utf-8")
    assert parse("a lighthouse is built").facts == []
    assert parse("two lighthouses are built", load_words(own)).facts[0].object == "building"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("objects:\n  tower:\n    write: [a/b]\n", "objects.tower"),
        ("objects:\n  road:\n    write: lane\n", "objects.road.write"),
        ("prepositions: [on]\n", "prepositions"),  # YAML reads a bare "on" as true
        ("- a\n", "mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_faulty_own_words(tmp_path: Path, text: str, expected: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected) as error:
        load_words(own)
    assert "own.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_own_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_words(tmp_path / "none.yaml")


def test_real_captions(shared_data: Path) -> None:
    path = shared_data / "levir_cc_captions_train_val.json"
    if not path.is_file():
        pytest.skip("the captions of LEVIR-CC are not here")
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    changed = [s["raw"] for image in images if image["changeflag"] for s in image["sentences"]][::3]
    same = {s["raw"] for image in images if not image["changeflag"] for s in image["sentences"]}
    parsed = [parse(caption) for caption in changed]
    assert sum(bool(p.facts) for p in parsed) / len(parsed) > 0.99
    assert not any(p.changed is False for p in parsed)
    assert all(parse(caption).changed is False for caption in same)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 houses are built", ("building", "appear", "two")),
        ("3 buildings appear", ("building", "appear", "three")),
        ("1 house is removed", ("building", "disappear", "one")),
        ("7 trees are planted", ("tree", "appear", "several")),
        ("the images are identical except for one new road", ("road", "appear", "one")),
        ("Nothing changed except\na new road.", ("road", "appear", "one")),
        ("apart from a new building, nothing has changed", ("building", "appear", "one")),
        ("aside from two demolished houses the scene is unchanged", ("building", "disappear", "two")),
    ],
)
def test_numbers_in_digits_and_what_a_denial_leaves_out(text: str, expected: tuple[str, str, str]) -> None:
    found = parse(text)
    assert found.changed is True
    assert [(fact.object, fact.direction, fact.quantity) for fact in found.facts] == [expected]


def test_a_denial_that_leaves_out_no_thing_stays_one() -> None:
    for text in ("nothing has changed except the light", "there is no difference", "except " * 2000 + "no change"):
        assert (parse(text).changed, parse(text).facts) == (False, []), text[:60]
