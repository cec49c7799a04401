"""The wheel and the sdist, built and installed outside the tree. Slow: `make package` runs it, not `make test`.

The wheel is installed by pip into a fresh environment that holds links to what the wheel says it requires, and to
nothing else: what a test or an extra needs is not there to be imported by mistake.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

pytestmark = pytest.mark.package

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist), the wheel made from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source))
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def tracked(folder: Path) -> list[str]:
    """What git holds or would hold of a folder."""
    return run("git", "ls-files", "-co", "--exclude-standard", ".", cwd=folder).splitlines()


def run(*command: str, cwd: Path | None = None, **given: str) -> str:
    """Standard output. Fails with what the command said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**kept, **given}, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def required(wheel: Path) -> set[str]:
    """The distributions that the wheel needs without any extra, and theirs in turn."""
    with zipfile.ZipFile(wheel) as held:
        text = held.read(next(name for name in held.namelist() if name.endswith("METADATA"))).decode()
    waiting = [(Requirement(line), "") for line in re.findall(r"^Requires-Dist: (.*)$", text, re.M)]
    found: set[str] = set()
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, *wanted.extras) in found:
            continue
        found.add((name, *wanted.extras))  # type: ignore[arg-type]
        for line in metadata.requires(name) or []:
            waiting += [(Requirement(line), part) for part in ("", *wanted.extras)]
    return {entry[0] for entry in found}


@pytest.fixture(scope="module")
def fresh(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of the fresh environment."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in required(built[0]):
        distribution = metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or [] if ".." not in path.parts}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (site / top).exists():
                (site / top).symlink_to(target)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(built[0]))
    run(*pip, "check")
    return folder / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as held:
        names = held.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rsiccllm"}
    assert "rsiccllm/embedded/model.safetensors" in names
    assert "rsiccllm/py.typed" in names
    shipped = {name.removeprefix("rsiccllm/") for name in names if name.startswith("rsiccllm/recipes/")}
    assert shipped == {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "recipes").rglob("*.*")}
    source = REPOSITORY / "src" / "rsiccllm"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "."], cwd=source, capture_output=True, text=True, check=True
    ).stdout
    left_out = {f"rsiccllm/{name}" for name in tracked.splitlines() if (source / name).exists()} - set(names)
    assert left_out == set()
    assert not [name for name in names if "test" in Path(name).name or name.endswith((".tmp", ".pyc"))]


def test_the_sdist_makes_the_wheel_and_no_more(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    tops = {name.split("/")[0] for name in names if name}
    assert tops == {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "constraints.txt",
        "pyproject.toml", "recipes", "setup.cfg", "setup.py", "src",
    }  # fmt: skip


def test_it_captions(fresh: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(tmp_path / name)
    said = run(str(fresh / "rsiccllm"), "caption", "a.png", "b.png", "--json", cwd=tmp_path)
    assert json.loads(said)["caption"]
    where = run(str(fresh / "python"), "-c", "import rsiccllm; print(rsiccllm.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh.parent), "another copy was imported"


def test_its_doctor_finds_what_is_needed_and_no_extra(fresh: Path, tmp_path: Path) -> None:
    said = json.loads(run(str(fresh / "rsiccllm"), "doctor", "--json", cwd=tmp_path))
    assert said["ok"]
    states = {found["name"].partition(",")[0]: found["state"] for found in said["findings"]}
    assert states["the model in the package"] == "ok"
    assert states["extra geo"] == states["extra app"] == states["extra ray"] == "missing"
    assert any(fit["what"] == "train sft, qwen2_5_vl_7b_lora" for fit in said["fits"]), "recipes are not in the wheel"


def test_documented_commands_find_the_recipes(fresh: Path, tmp_path: Path) -> None:
    """They read as far as the data, which is not there."""
    command = [str(fresh / "rsiccllm"), "train", "sft", "recipes/tiny_sft.yaml", "model=none", "data=none", "out=o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none: no such" in done.stderr
    assert "yaml" not in done.stderr
