"""Records and recipes over made-up values: what is written comes back, what is wrong is one clear line."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rsiccllm.errors import InputError
from rsiccllm.facts import Direction, Fact, Object, Place, Quantity
from rsiccllm.files import inside, read_jsonl, write_jsonl
from rsiccllm.model.variants import VARIANTS
from rsiccllm.records import ImagePair, Instruction, Preference, Rejected
from rsiccllm.training.recipe import DNPORecipe, Recipe, SFTRecipe, load_recipe

# A fault here must not fill the log with megabytes; forty cases a property find what these have to find.
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Any text that JSON can hold, line separators, emoji and nulls included; lone surrogates are no text.
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
words = any_text.filter(str.strip)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=12)
paths = st.lists(names.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=4).map("/".join)
facts = st.builds(
    Fact,
    object=st.sampled_from(get_args(Object)),
    direction=st.sampled_from(get_args(Direction)),
    verb=any_text,
    quantity=st.none() | st.sampled_from(get_args(Quantity)),
    place=st.none() | st.sampled_from(get_args(Place)),
)
images = {"before": paths, "after": paths, "mask": st.none() | paths}
known_facts = st.none() | st.lists(facts, max_size=3)
pairs = st.builds(
    ImagePair,
    id=words,
    split=words,
    **images,
    changed=st.none() | st.booleans(),
    captions=st.lists(words, max_size=5),
    description=st.none() | words,
    facts=known_facts,
)
instructions = st.builds(
    Instruction,
    id=words,
    pair=words,
    split=words,
    source=words,
    task=words,
    **images,
    changed=st.none() | st.booleans(),
    prompt=words,
    answers=st.lists(words, min_size=1, max_size=5),
    facts=known_facts,
)
rejected = st.builds(
    Rejected,
    text=words.map(lambda text: f"wrong {text}"),
    kind=words,
    changed=st.lists(any_text, max_size=3),
    similarity=st.none() | st.floats(0, 1),
)
preferences = st.builds(
    Preference,
    id=words,
    pair=words,
    split=words,
    source=words,
    **images,
    prompt=words,
    chosen=words.map(lambda text: f"right {text}"),
    rejected=st.lists(rejected, min_size=1, max_size=4),
    references=st.lists(words, min_size=1, max_size=5),
)
KINDS = {ImagePair: pairs, Instruction: instructions, Preference: preferences}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_written_comes_back(kind: type, tmp_path: Path) -> None:
    @QUICK
    @given(st.lists(KINDS[kind], max_size=4, unique_by=lambda record: record.id))
    def check(records: list[Any]) -> None:
        write_jsonl(tmp_path / "records.jsonl", records)
        assert read_jsonl(tmp_path / "records.jsonl", kind) == records

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_value_of_the_wrong_kind_is_one_line_that_names_its_field(kind: type[BaseModel], tmp_path: Path) -> None:
    """Any one field replaced by a JSON value that it cannot hold, or left out where it must be there."""
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    wrong = st.one_of(st.integers(), st.floats(allow_nan=False), st.dictionaries(any_text, any_text, min_size=1))

    @QUICK
    @given(KINDS[kind], st.data())
    def check(record: Any, data: st.DataObject) -> None:
        fields = json.loads(record.model_dump_json())
        field = data.draw(st.sampled_from(sorted(fields)))
        if field in required and data.draw(st.booleans()):
            del fields[field]
        else:
            fields[field] = data.draw(wrong if field != "changed" else wrong.filter(lambda value: value not in (0, 1)))
        path = tmp_path / "records.jsonl"
        path.write_text(record.model_dump_json() + "\n" + json.dumps(fields) + "\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_jsonl(path, kind)
        message = str(caught.value)
        assert message.startswith(f"{path}:2: field '{field}")
        assert len(message.splitlines()) == 1
        assert len(message) < 400 + len(str(path))

    check()


@QUICK
@given(st.lists(st.sampled_from(["a", "b.png", "..", ".", "", "/", "\\", "c d", "\0", "ä"]), max_size=5), st.data())
def test_a_path_is_refused_or_stays_inside(parts: list[str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(["/", ""])).join(parts)
    bad = set(path) & {"\\", "\0"}
    refused = not PurePosixPath(path).parts or path.startswith("/") or ".." in path.split("/") or bad
    with pytest.raises(ValidationError, match="stays inside the data root") if refused else nullcontext():
        placed = inside(tmp_root := Path("/nowhere"), ImagePair(id="x", before=path, after="a.png").before)
        assert tmp_root in placed.parents


def recipes(kind: type[Recipe]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a valid recipe, as YAML would give them."""
    numbers: dict[str, st.SearchStrategy[Any]] = {
        "learning_rate": st.floats(1e-8, 0.5),
        "batch_size": st.integers(1, 4096),
        "epochs": st.floats(0.01, 100),
        "max_steps": st.none() | st.integers(1, 10**6),
        "weight_decay": st.floats(0, 0.9),
        "warmup_steps": st.integers(0, 10**5),
        "bf16": st.booleans(),
        "seed": st.integers(0, 2**31),
        "lora_rank": st.none() | st.integers(1, 512),
        "workers": st.integers(0, 64),
    }
    if kind is DNPORecipe:
        numbers |= {"beta": st.floats(1e-3, 10), "kl_weight": st.floats(0, 10), "max_rejected": st.integers(1, 9)}
    else:
        numbers |= {"map_weight": st.floats(0, 10), "variant": st.sampled_from(VARIANTS)}
    required = {"model": words, "data": paths, "out": paths, "learning_rate": numbers.pop("learning_rate")}
    return st.fixed_dictionaries(required, optional=numbers)


@pytest.mark.parametrize("kind", [SFTRecipe, DNPORecipe])
def test_a_recipe_comes_back_from_yaml_and_from_the_command_line(kind: type[Recipe], tmp_path: Path) -> None:
    @QUICK
    @given(recipes(kind), st.data())
    def check(fields: dict[str, Any], data: st.DataObject) -> None:
        wanted = kind(**fields)
        path = tmp_path / "recipe.yaml"
        moved = data.draw(st.sets(st.sampled_from(sorted(fields.keys() - {"model", "data", "out"}))))
        path.write_text(yaml.safe_dump({k: v for k, v in fields.items() if k not in moved}), encoding="utf-8")
        assert load_recipe(path, kind, [f"{name}={json.dumps(fields[name])}" for name in moved]) == wanted
        # And what a run notes beside its checkpoints is the same recipe.
        assert kind(**json.loads(wanted.model_dump_json())) == wanted

    check()


@pytest.mark.parametrize("kind", [SFTRecipe, DNPORecipe])
def test_a_typo_in_a_recipe_names_it(kind: type[Recipe], tmp_path: Path) -> None:
    @QUICK
    @given(recipes(kind), st.data())
    def check(fields: dict[str, Any], data: st.DataObject) -> None:
        field = data.draw(st.sampled_from(sorted(fields)))
        at = data.draw(st.integers(0, len(field) - 1))
        typo = field[:at] + field[at + 1 :] if data.draw(st.booleans()) else field[:at] + "x" + field[at:]
        fields[typo] = fields.pop(field)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load_recipe(path, kind)
        assert str(caught.value).startswith(f"{path}: unknown field '{typo}'")
        assert len(str(caught.value).splitlines()) == 1

    check()
