"""`rsiccllm doctor`: what is installed, what is missing and what mends it, and which large models fit this machine.

Nothing is downloaded and no weight is loaded. Memory is computed: weights from the published configurations, training
by the formulas of `train plan` on a pair of 256 x 256 px with five captions.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rsiccllm import __version__
from rsiccllm.shipped import recipes_folder

SERVES = {
    "geo": "map",
    "app": "app",
    "serve": "serve",
    "ray": "several machines",
    "stream": "training data from http(s) URLs",
    "bench": "scores beside sacreBLEU, in bench/",
    "qlora": "the 4-bit recipes",
}
"""The extras a user may want, and what needs them."""

ANSWERS = 5 * 20
"""Tokens of the answers of one pair in the estimates: five captions, as LEVIR-CC has."""

PROMPT = 60
"""Tokens of prompt and chat template around the images, in the estimates."""

SIDE = 256
"""Pixels a side of the images in the estimates."""

State = Literal["ok", "missing", "fault"]


@dataclass(frozen=True)
class Finding:
    """name: what was looked for. needed: whether nothing works without it. mend: the command that brings it."""

    name: str
    state: State
    detail: str
    mend: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Machine:
    """Memory and disk in bytes. memory: what a process may take, the container's limit counted in. free: of it, now.
    gpus: name and memory of each."""

    python: str
    system: str
    cpus: int
    memory: int
    free: int
    disk_free: int
    gpus: list[tuple[str, int]]

    @property
    def room(self) -> tuple[str, int]:
        """Where a model would lie, and how much fits there."""
        return max(self.gpus, key=lambda gpu: gpu[1]) if self.gpus else ("CPU", self.memory)


@dataclass(frozen=True)
class Fit:
    """Whether something fits into one device. what: a model to caption with, or a recipe. need: bytes, computed, on
    each of `devices` that share it. room: bytes of one device here; None where it takes a GPU and there is none."""

    what: str
    need: int
    room: int | None
    devices: int = 1

    @property
    def fits(self) -> bool:
        """With a tenth left to the allocator, as `train plan` has it."""
        return self.room is not None and self.need < 0.9 * self.room

    @property
    def verdict(self) -> str:
        """In words."""
        if self.room is None:
            return "needs a CUDA GPU"
        return "no" if not self.fits else "yes" if self.devices == 1 else f"with {self.devices} of these"


@dataclass(frozen=True)
class Report:
    """What `doctor` found. ok: nothing that is needed is missing."""

    findings: list[Finding]
    machine: Machine
    fits: list[Fit] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(found.needed and found.state != "ok" for found in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": __version__,
            "ok": self.ok,
            "machine": asdict(self.machine),
            "findings": [asdict(found) for found in self.findings],
            "fits": [{**asdict(fit), "fits": fit.fits} for fit in self.fits],
        }

    def __rich__(self) -> Group:
        """Tables, for rich's Console.print."""
        machine, (place, room) = self.machine, self.machine.room
        gpus = ", ".join(f"{name}, {size / 1e9:.0f} GB" for name, size in machine.gpus) or "no CUDA GPU"
        head = (
            f"rsiccllm {__version__}, Python {machine.python}, {machine.system}; {machine.cpus} CPUs, "
            f"{machine.memory / 1e9:.1f} GB of memory ({machine.free / 1e9:.1f} free), "
            f"{machine.disk_free / 1e9:.1f} GB of disk free here; {gpus}"
        )
        table = Table("", "found", "what mends it", title="Installed")
        for found in self.findings:
            mark = "ok" if found.state == "ok" else "FAULT" if found.needed or found.state == "fault" else "-"
            table.add_row(*map(escape, (f"{mark:5} {found.name}", found.detail, found.mend)))
        fits = Table("", "needs, estimated", "fits", title=f"Large models on {place}, {room / 1e9:.0f} GB")
        for fit in self.fits:
            each = f" on each of {fit.devices}" if fit.devices > 1 else ""
            fits.add_row(fit.what, f"{fit.need / 1e9:.1f} GB{each}", fit.verdict)
        return Group(head, table, fits)


def examine() -> Report:
    """Look at this Python and this machine. Takes seconds: torch and transformers are imported."""
    findings = list(_packages())
    machine = _machine()
    broken = any(found.needed and found.state != "ok" for found in findings)
    # Without what is needed nothing of ours can be imported; the findings say what to install first.
    return Report(findings, machine, [] if broken else _fits(machine))


def _packages() -> Iterator[Finding]:
    try:
        lines = metadata.requires("rsiccllm") or []
    except metadata.PackageNotFoundError:
        yield Finding("rsiccllm", "fault", "runs from its source, not installed", "pip install -e .", needed=True)
        return
    wanted = [Requirement(line) for line in lines]
    for found in (_installed(item) for item in wanted if item.marker is None):
        if found.state != "ok" or found.name in {"torch", "transformers"}:
            yield found
    for extra, serves in SERVES.items():
        parts = [item for item in wanted if item.marker is not None and item.marker.evaluate({"extra": extra})]
        parts = [item for item in parts if not item.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
        looked = [_installed(part, f"pip install 'rsiccllm[{extra}]'") for part in parts]
        lacking = [found for found in looked if found.state != "ok"]
        detail = ", ".join(f"{found.name} {found.detail}" for found in lacking or looked)
        state: State = lacking[0].state if lacking else "ok"
        mend = lacking[0].mend if lacking else ""
        yield Finding(f"extra {extra}, for {serves}", state, detail, mend)
    java = shutil.which("java")
    yield Finding("java, for METEOR", "ok" if java else "missing", java or "not on the PATH",
                  "" if java else "apt install default-jre-headless")  # fmt: skip
    weights = Path(__file__).resolve().parent / "embedded" / "model.safetensors"
    yield Finding("the model in the package", "ok" if weights.is_file() else "missing",
                  f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "this copy has none",
                  "" if weights.is_file() else "make embedded")  # fmt: skip


def _installed(wanted: Requirement, mend: str = "") -> Finding:
    """Whether a requirement of ours is met."""
    mend = mend or f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Finding(wanted.name, "missing", "not installed", mend, needed=True)
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding(wanted.name, "fault", f"{version}, expected {wanted.specifier}", mend, needed=True)
    return Finding(wanted.name, "ok", version, needed=True)


def _machine() -> Machine:
    memory = psutil.virtual_memory()
    limit = min(memory.total, _container_limit() or memory.total)
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=limit,
        free=min(memory.available, limit),
        disk_free=shutil.disk_usage(Path.cwd()).free,
        gpus=_gpus(),
    )


def _container_limit() -> int | None:
    """Bytes that the control group of this process may take; None where there is no such bound."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max" is no bound
            continue
    return None


def _gpus() -> list[tuple[str, int]]:
    try:
        import torch
    except ImportError:
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [(gpu.name, gpu.total_memory) for gpu in found]


def _fits(machine: Machine) -> list[Fit]:
    """The published models as captioners, and every shipped recipe that starts from one of them."""
    from rsiccllm.model.sizes import NAMES, published_config
    from rsiccllm.model.vlm import empty_model
    from rsiccllm.training.plan import memory_of
    from rsiccllm.training.recipe import DNPORecipe, SFTRecipe, load_recipe

    room = machine.room[1]
    gpu = room if machine.gpus else None  # of these sizes none has been trained on a CPU, nor would end there
    fits = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft about what transformers will rename
        places = {}
        for name, size in NAMES.items():
            places[name] = Path(folder) / size
            published_config(size).save_pretrained(places[name])
            weights = empty_model(places[name]).num_parameters()
            fits.append(Fit(f"caption, {name}", 4 * weights, room))
            fits.append(Fit("the same in Python, dtype=torch.bfloat16", 2 * weights, room))
        for path in sorted(recipes_folder().glob("*.yaml")):
            stage: Literal["sft", "dnpo"] = "dnpo" if "dnpo" in path.stem else "sft"
            start = next((name for name in NAMES if path.stem.startswith(NAMES[name])), None)
            if start is None:
                continue
            kind: type[SFTRecipe | DNPORecipe] = DNPORecipe if stage == "dnpo" else SFTRecipe
            recipe = load_recipe(path, kind, [f"model={places[start]}"])
            devices = 8 if recipe.fsdp else 1
            vision = published_config(NAMES[start]).vision_config
            images = 2 * SIDE**2 // (vision.patch_size * vision.spatial_merge_size) ** 2
            need = memory_of(recipe, images + PROMPT + ANSWERS, ANSWERS, devices)
            fits.append(Fit(f"train {stage}, {path.stem}", int(sum(need.values())), gpu, devices))
    return fits
