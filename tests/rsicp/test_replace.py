"""Replacement negatives on made-up captions, and on real ones where they are here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rsiccllm.facts import parse, support
from rsiccllm.records import Rejected
from rsiccllm.rsicp.replace import WEIGHTS, replacements
from rsiccllm.rsicp.swaps import ORDER, Kind
from rsiccllm.words import load_words

HUTS = ["two huts are built at the top", "some cottages appear", "cabins are built in the upper left corner"]


def made(references: list[str], *kinds: Kind, count: int = 30, seed: int = 0) -> list[Rejected]:
    """Every negative of these kinds that a few dozen draws find."""
    return replacements(references, count, seed, weights={kinds: 1.0} if kinds else None)


def texts(references: list[str], *kinds: Kind) -> set[str]:
    return {negative.text for negative in made(references, *kinds)}


def test_objects_change_and_the_article_follows() -> None:
    found = texts(["an old hut is removed"], "object")
    assert "an old road is removed" in found
    assert any(word in text for text in found for word in ("tree", "forest", "bush"))
    assert not any(word in text for text in found for word in ("house", "villa", "building", "hut"))
    assert {t.split()[0] for t in texts(["a neat hut appears"], "object")} <= {"a", "an"}


def test_number_is_kept() -> None:
    found = texts(["three huts are demolished"], "object")
    assert found
    for text in found:
        assert re.fullmatch(r"three (roads|parking lots|swimming pools|playgrounds) are demolished", text), text


def test_mass_nouns_keep_their_grammar() -> None:
    for text in texts(["vegetation is removed"], "object"):
        assert text.split()[0] in {"grass", "bareland", "wasteland"}
    assert "the road is removed" in texts(["the vegetation is removed"], "object")


def test_an_object_that_any_reference_names_is_never_written() -> None:
    references = ["a hut is built", "a lane and a stadium appear", "a car park is laid out next to a hut"]
    for text in texts(references, "object"):
        assert "swimming pool" in text


def test_an_object_people_confuse_with_a_supported_one_is_never_written() -> None:
    found = texts(["the woods disappear", "some shrubs are removed"], "object")
    assert found
    assert not any(word in text for text in found for word in ("grass", "meadow", "land"))


def test_direction_keeps_voice_number_and_tense() -> None:
    assert texts(["two huts are built"], "direction") == {"two huts are removed", "two huts are demolished"}
    assert texts(["a hut has been demolished"], "direction") == {"a hut has been built", "a hut has been constructed"}
    assert texts(["a pond appears"], "direction") == {"a pond disappears"}
    assert texts(["Some ponds disappeared."], "direction") == {"Some ponds appeared."}
    assert texts(["the shrubs are removed"], "direction") == {"the shrubs are planted", "the shrubs are added"}


def test_direction_takes_the_words_that_suit_the_other_with_it() -> None:
    assert texts(["some new huts appear in the woods"], "direction") == {"some huts disappear from the woods"}
    assert texts(["a newly erected hut appears"], "direction") == set()
    assert "the huts are built" in texts(["the original huts are removed"], "direction")
    found = texts(["A hut is removed and can no longer be seen."], "direction")
    assert "A hut is built and can now be seen." in found


def test_direction_of_a_replacement_turns_round() -> None:
    assert texts(["the woods are replaced by a pond"], "direction") == {"a pond is replaced by the woods"}
    assert texts(["three huts replace the pond"], "direction") == {"the pond replaces three huts"}
    assert texts(["three huts replace the pond of the yard"], "direction") == set()


def test_no_direction_where_some_reference_says_the_opposite() -> None:
    assert texts(["two huts are built", "one hut disappears"], "direction") == set()


def test_places_are_mirrored_unless_a_reference_agrees_with_the_mirror_image() -> None:
    assert texts(["a hut is built in the upper left corner"], "place") == {
        "a hut is built in the lower left corner",
        "a hut is built in the upper right corner",
        "a hut is built in the lower right corner",
    }
    assert texts(["a hut is built in the upper left corner", "a cabin on the left appears"], "place") == {
        "a hut is built in the upper right corner",
        "a hut is built in the lower right corner",
    }
    assert texts(["a hut is built on the lower-left"], "place") >= {"a hut is built on the upper-left"}
    assert texts(["a hut is built at the top", "a hut is built at the bottom"], "place") == set()


def test_quantities_contradict_every_reference_and_the_verb_agrees() -> None:
    found = texts(["two huts are built", "a pair of cottages appear"], "quantity")
    assert found == {"a hut is built", "three huts are built", "many huts are built"}
    assert "several old huts have been built" in texts(["an old hut has been built"], "quantity")
    assert "a hut shows up" in texts(["many huts show up"], "quantity")
    assert texts(["some huts are built", "two huts are built", "three huts are built"], "quantity") == {
        "a hut is built"
    }
    assert texts(["huts are built"], "quantity") == set()


def test_one_at_the_top_and_one_at_the_bottom_may_be_two() -> None:
    assert texts(["a hut appears at the top", "a hut appears at the bottom"], "quantity") == set()


def test_one_thing_is_not_put_on_both_sides() -> None:
    assert not any(t.startswith("a hut") for t in texts(["many huts are built on both sides of the road"], "quantity"))


def test_a_number_is_not_changed_where_a_pronoun_hangs_on_it() -> None:
    assert texts(["a lane is built and huts appear along it"], "quantity") == set()
    assert texts(["two lanes are built and huts appear along them"], "quantity") >= {
        "three lanes are built and huts appear along them"
    }


def test_another_verb() -> None:
    assert "a lane is widened" in texts(["a lane is built"], "verb")
    assert texts(["a lane is built", "the lane is broadened"], "verb") == set()


def test_two_kinds_at_once() -> None:
    for negative in made(["two huts are built at the top"], "object", "place"):
        assert negative.kind == "replace:object+place"
        assert negative.text.endswith("at the bottom")
        assert len(negative.changed) == 2
    assert not any("planted" in text for text in texts(["some shrubs are removed"], "object", "direction"))


def test_what_is_said_of_a_negative() -> None:
    found = {negative.text: negative for negative in made(HUTS, "quantity")}
    negative = found["a hut is built at the top"]
    assert negative.kind == "replace:quantity"
    assert negative.changed == ["two huts -> a hut"]
    assert negative.similarity is not None
    assert 0 < negative.similarity < 1


def test_every_negative_is_wrong_by_all_references_and_none_twice() -> None:
    known = support(HUTS)
    own = set(parse(HUTS[0]).facts)
    found = made(HUTS)
    assert len(found) > 10
    assert len({negative.text for negative in found}) == len(found)
    for negative in found:
        new = [fact for fact in parse(negative.text).facts if fact not in own]
        assert new, negative.text
        assert not any(known.supports(fact) for fact in new), negative.text
        assert negative.text not in HUTS


def test_the_seed_decides() -> None:
    assert replacements(HUTS, 4, 1) == replacements(HUTS, 4, 1)
    assert len({tuple(n.text for n in replacements(HUTS, 4, seed)) for seed in range(6)}) > 1


def test_weights_decide_which_kinds_are_drawn() -> None:
    kinds = {negative.kind for negative in replacements(HUTS, 8, 0, weights={("place",): 1, ("quantity",): 0})}
    assert kinds == {"replace:place"}
    # Object and direction come most, one swap more often than two.
    one = {kinds[0]: weight for kinds, weight in WEIGHTS.items() if len(kinds) == 1}
    assert set(one) == {"object", "direction", "place", "quantity", "verb"}
    assert all(weight < min(one["object"], one["direction"]) for kind, weight in one.items() if kind in ORDER[2:])
    assert sum(one.values()) > sum(WEIGHTS.values()) - sum(one.values())


def test_an_object_is_rarely_swapped_where_only_rare_ones_are_left() -> None:
    # Of what is built only a swimming pool is left, drawn with 0.5 of the 4 of a choice: one object for eight places.
    references = ["a hut is built at the top", "a lane and a stadium appear", "a car park is laid out next to a hut"]
    both: dict[tuple[Kind, ...], float] = {("object",): 1.0, ("place",): 1.0}
    kinds = [replacements(references, 1, seed, weights=both)[0].kind for seed in range(120)]
    assert 3 < kinds.count("replace:object") < 35  # 13 are to be expected


def test_capital_and_full_stop_are_kept() -> None:
    for negative in made(["Two huts are built at the top of the image."]):
        assert negative.text[0].isupper()
        assert negative.text.endswith(".")
        assert not negative.text.endswith("..")


def test_a_long_description_takes_several_swaps() -> None:
    text = (
        "Both images show farmland from above. Three large warehouses at the top right corner are removed. A pond "
        "appears in the center in the second image. Two lanes are built at the bottom. The other huts and trees stay "
        "the same. In the first image there are three warehouses and some trees."
    )
    found = replacements([text], 12, 3)
    assert len(found) == 12
    assert sum(len(negative.changed) > 1 for negative in found) > 6
    for negative in found:
        assert "Both images show farmland" in negative.text
        assert negative.text.endswith("The other huts and trees stay the same. In the first image there are three "
                                      "warehouses and some trees.")  # fmt: skip


def test_no_change_pairs() -> None:
    references = ["there is no difference", "the two scenes seem identical"]
    assert replacements(references, 4, 0) == []
    found = replacements(references, 4, 0, variant="ours")
    assert [negative.kind for negative in found] == ["invented"] * 4
    assert all(parse(negative.text).changed and parse(negative.text).facts for negative in found)


INVENTED = re.compile(
    r"(?P<thing>(?P<one>an? )(?P<structure>house|building|villa|road|parking lot|swimming pool)|"
    r"(?P<many>(?:two|several|some|many) )(?P<structures>houses|buildings|villas|roads|parking lots|swimming pools)|"
    r"an? (?:tree|forest|bush|lake|pond|river|car)|"
    r"(?:two|several|some|many) (?:trees|woods|forests|bushes|lakes|ponds|rivers|cars))"
    r" (?P<verb>appears?|disappears?|(?:is|are) (?:built|constructed|removed|demolished))"
    r"(?: (?P<place>along the road|in the center|at the top|at the bottom|on the left|on the right|"
    r"at the (?:top|bottom) (?:left|right) corner))?"
)


def test_what_is_invented_is_good_english_of_every_kind() -> None:
    found = [
        INVENTED.fullmatch(negative.text) or negative.text
        for seed in range(60)
        for negative in replacements(["there is no difference"], 8, seed, variant="ours")
    ]
    assert len(found) > 400
    assert not [text for text in found if isinstance(text, str)]
    seen = [one for one in found if isinstance(one, re.Match)]
    verbs: dict[str, set[str]] = {"one structure": set(), "structures": set(), "one": set(), "many": set()}
    for one in seen:
        made_by_people = one["structure"] or one["structures"]
        alone = one["thing"].startswith("a")
        kind = ("one structure" if alone else "structures") if made_by_people else "one" if alone else "many"
        verbs[kind].add(one["verb"])
        assert not (made_by_people or "").startswith("road") or one["place"] != "along the road"
    made_or_gone = ("built", "constructed", "removed", "demolished")
    assert verbs == {
        "one structure": {"appears", "disappears", *(f"is {verb}" for verb in made_or_gone)},
        "structures": {"appear", "disappear", *(f"are {verb}" for verb in made_or_gone)},
        "one": {"appears", "disappears"},
        "many": {"appear", "disappear"},
    }
    assert len({one["place"] for one in seen}) == 11  # no place among them
    # More comes than goes, by three to two, of what grows or drives as well, which has no other verb.
    natural = [one["verb"] for one in seen if not (one["structure"] or one["structures"])]
    assert len(natural) > 100
    assert 0.5 < sum(verb.startswith("appear") for verb in natural) / len(natural) < 0.7


@pytest.mark.parametrize(
    ("first", "second", "pattern"),
    [
        ("Two huts are built.", "some cottages appear", r"[A-Z].*[a-z]\."),
        ("two huts are built . ", "Some cottages appear", r"[a-z].*[a-z] \."),
        ("two huts are built", "Some cottages appear.", r"[a-z].*[a-z]"),
        ("There is no difference.", "the scene is the same as before", r"[A-Z].*[a-z]\."),
        ("there is no difference . ", "The scene is the same as before", r"[a-z].*[a-z] \."),
        ("there is no difference", "The scene is the same as before.", r"[a-z].*[a-z]"),
    ],
)
def test_what_is_added_is_written_as_the_first_reference_is(first: str, second: str, pattern: str) -> None:
    found = [n for seed in range(4) for n in replacements([first, second], 4, seed, variant="ours")]
    added = [n.text for n in found if n.kind in {"no_change", "invented"}]
    assert len(added) >= 4
    assert all(re.fullmatch(pattern, text) for text in added), added


def test_no_denial_is_rejected_where_a_person_denies() -> None:
    references = ["a hut is built on the left", "there is no difference"]
    found = replacements(references, 4, 0, variant="ours")
    assert found
    assert not any(negative.kind == "no_change" for negative in found)


def test_variant_ours_adds_one_no_change_sentence() -> None:
    found = replacements(HUTS, 4, 0, variant="ours")
    assert [negative.kind == "no_change" for negative in found] == [False, False, False, True]
    assert parse(found[-1].text).changed is False
    assert not any(negative.kind == "no_change" for negative in replacements(HUTS, 4, 0))


def test_what_cannot_be_changed_safely_gives_nothing() -> None:
    assert replacements([], 3, 0) == []
    assert replacements(["an aeroplane flies past"], 3, 0) == []
    assert replacements(["a hut is built"], 0, 0) == []


def test_own_words_join_their_group(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("objects:\n  road:\n    write: [canopy walk/canopy walks]\n", encoding="utf-8")
    found = replacements(["a hut is removed"], 40, 0, weights={("object",): 1}, words=load_words(own))
    assert all("canopy walk" not in negative.text for negative in made(["a hut is removed"], "object"))
    pool = {n.text for seed in range(8) for n in replacements(["a hut is removed"], 9, seed, words=load_words(own))}
    assert found
    assert any("canopy walk" in text for text in pool)


def test_real_captions(shared_data: Path) -> None:
    path = shared_data / "levir_cc_captions_train_val.json"
    if not path.is_file():
        pytest.skip("the captions of LEVIR-CC are not here")
    images = [i for i in json.loads(path.read_text(encoding="utf-8"))["images"] if i["changeflag"]][:600:5]
    without = 0
    for number, image in enumerate(images):
        references = [sentence["raw"].strip() for sentence in image["sentences"]]
        known = support(references)
        found = replacements(references, 4, number)
        without += not found
        for negative in found:
            assert negative.text not in references
            assert any(not known.supports(fact) for fact in parse(negative.text).facts), negative
            assert not re.search(r"\ba [aeio]|\ban [^aeiou]|\b(a|an) \w+s are\b", negative.text), negative
    assert without / len(images) < 0.1


def test_an_article_before_a_word_that_was_not_swapped_stays() -> None:
    found = replacements(["an H-shaped building appears in the upper left corner"], 6, 0)
    assert any("H-shaped" in one.text for one in found)
    assert not any("a H-shaped" in one.text for one in found)
