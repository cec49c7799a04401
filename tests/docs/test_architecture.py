"""The order of the packages, and the picture of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture", DOCS / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_import_goes_down(architecture: ModuleType) -> None:
    assert architecture.wrong_way(architecture.imports()) == []


def test_the_picture_is_that_of_the_code(architecture: ModuleType) -> None:
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == architecture.picture(architecture.imports()), "run python docs/architecture.py"


def test_a_backward_import_and_an_unknown_part_are_seen(architecture: ModuleType) -> None:
    edges = architecture.imports()
    edges["model"] = edges["model"] | {"training"}
    edges["facts"] = edges["facts"] | {"keywords"}  # a part of its own layer
    edges["new"] = {"files"}
    assert architecture.wrong_way(edges) == [
        "new: in no layer of docs/architecture.py",
        "facts imports keywords, which is not below it",
        "model imports training, which is not below it",
    ]


def test_nothing_of_the_stages_imports_the_command_and_the_model_knows_no_data(architecture: ModuleType) -> None:
    edges = architecture.imports()
    assert [part for part, others in edges.items() if "cli" in others] == []
    assert edges["model"].isdisjoint({"records", "sources", "pairs", "rsici", "rsicp", "training"})
