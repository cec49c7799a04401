"""The recipes that come with the package: in a checkout `recipes/`, in an installed package a copy of it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def recipes_folder() -> Path:
    """Where the shipped recipes lie."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent.parent / "recipes"


def recipe_path(path: Path) -> Path:
    """`path`; or where nothing is there and it reads `recipes/...`, the shipped file of that name.

    So the commands of the documents work in any folder, with the package installed from a wheel too.
    """
    if path.exists() or path.is_absolute() or path.parts[:1] != ("recipes",):
        return path
    shipped = recipes_folder().joinpath(*path.parts[1:])
    return shipped if shipped.is_file() and ".." not in path.parts else path
