from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rsiccllm import doctor
from rsiccllm.cli import app


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    """The real one, of this machine."""
    return doctor.examine()


def test_this_machine(report: doctor.Report) -> None:
    assert report.ok
    names = {found.name: found for found in report.findings}
    assert names["torch"].detail == metadata.version("torch")
    assert names["the model in the package"].state == "ok"
    assert {f"extra {extra}, for {serves}" for extra, serves in doctor.SERVES.items()} <= names.keys()
    machine = report.machine
    assert machine.cpus >= 1
    assert 0 < machine.free <= machine.memory
    assert machine.disk_free > 0


def test_what_fits_by_hand(report: doctor.Report) -> None:
    need = {fit.what: fit.need for fit in report.fits}
    # The parameters as counted in the published checkpoint, 4 bytes each.
    assert need["caption, Qwen/Qwen2.5-VL-7B-Instruct"] == 4 * 8_292_166_656
    four, sixteen = need["train sft, qwen2_5_vl_7b_qlora"], need["train sft, qwen2_5_vl_7b_lora"]
    assert four < 0.6 * sixteen
    assert need["train dnpo, qwen2_5_vl_7b_lora_dnpo"] > sixteen
    # 8.3 billion weights with gradient and moments, 16 bytes each, over 8 GPUs: 16.6 GB and the activations.
    assert 16 * 8_292_166_656 / 8 < need["train sft, qwen2_5_vl_7b_full_fsdp"] < 20e9


def test_verdicts() -> None:
    fit = doctor.Fit("x", need=20, room=24)
    assert (fit.fits, fit.verdict) == (True, "yes")
    assert replace(fit, need=22).verdict == "no"  # a tenth is the allocator's
    assert replace(fit, devices=8).verdict == "with 8 of these"
    assert replace(fit, room=None).verdict == "needs a CUDA GPU"
    assert not replace(fit, room=None).fits


def test_what_is_missing_is_named_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in {"pyarrow", "rasterio"}:
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = doctor.examine()
    assert not found.ok
    assert found.fits == []  # nothing of ours may be imported then
    names = {item.name: item for item in found.findings}
    assert (names["pyarrow"].state, names["pyarrow"].mend) == ("missing", "pip install 'pyarrow>=20'")
    assert names["peft"].state == "fault"
    assert names["peft"].detail == "0.1, expected >=0.21"
    geo = names["extra geo, for map"]
    assert (geo.state, geo.needed, geo.mend) == ("missing", False, "pip install 'rsiccllm[geo]'")
    shown = Console(width=160)
    with shown.capture() as text:
        shown.print(found)
    assert "pip install 'rsiccllm[geo]'" in text.get()  # rich would take [geo] for markup
    assert "FAULT pyarrow" in text.get()


def test_the_command(report: doctor.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output and status, for the report that was made above: making it takes seconds."""
    monkeypatch.setattr(doctor, "examine", lambda: report)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert said["ok"] is True
    assert said["machine"]["cpus"] == report.machine.cpus
    assert {fit["fits"] for fit in said["fits"]} <= {True, False}
    lacking = doctor.Finding("pyarrow", "missing", "not installed", needed=True)
    monkeypatch.setattr(doctor, "examine", lambda: replace(report, findings=[lacking]))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
