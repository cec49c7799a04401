"""The whole path on real pairs, which are never part of the project: skipped where they are absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from rsiccllm.benchmark.predict import predict
from rsiccllm.benchmark.run import run_score
from rsiccllm.caption.captioner import Captioner
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.pairs import open_pair
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.sources import open_source
from rsiccllm.sources.check import check_source
from rsiccllm.sources.show import show_source
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft


@pytest.fixture(scope="module")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT and DNPO of a small model on the 20 real training pairs, at 112 px."""
    folder = tmp_path_factory.mktemp("real")
    source = open_source(f"levir-cc:{shared_data / 'levir_cc'}")
    settings = BuildSettings(TaskSettings(("caption",), phrasings=1))
    build_rsici([f"levir-cc:{shared_data / 'levir_cc'}"], folder / "rsici", settings=settings)
    build_rsicp(folder / "rsici", folder / "rsicp")
    texts = [caption for pair in source.pairs for caption in pair.captions]
    processor = build_tiny_processor([*texts, *PROMPTS.values()], 500, patch_size=14)
    save_model(
        build_tiny_model(processor, width=128, layers=2, vision_width=64, vision_layers=2), processor, folder / "m"
    )
    common = {"max_pixels": 112 * 112, "min_pixels": 56 * 56, "batch_size": 20, "bf16": fast_bf16(), "save_steps": 1000}
    sft = SFTRecipe(
        model=str(folder / "m"), data=folder / "rsici", out=folder / "sft", max_steps=160, learning_rate=3e-3, **common
    )
    train_sft(sft)
    train_dnpo(
        DNPORecipe(
            model=str(sft.out),
            data=folder / "rsicp",
            out=folder / "dnpo",
            max_steps=80,
            learning_rate=1e-4,
            sft_weight=3.0,  # DPO alone pushes one of five sentences up and makes mixtures of the others
            **common,
        )
    )
    return folder


@pytest.mark.parametrize("stage", ["sft", "dnpo"])
def test_the_training_pairs_are_learnt_by_heart(trained: Path, stage: str) -> None:
    source = open_source(f"rsici:{trained / 'rsici'}")
    path = predict(str(trained / stage), f"rsici:{trained / 'rsici'}", "train", trained / f"bench_{stage}")
    said = {line["id"]: line["caption"] for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    pairs = source.select("train")
    assert len(said) == len(pairs) == 20
    wrong = [pair.id for pair in pairs if said[pair.id] not in pair.captions]
    assert not wrong
    assert (
        run_score(path, f"rsici:{trained / 'rsici'}", "train", meteor=False)
        .rows[0]
        .scores.to_dict()["overall"]["bleu_4"]
        > 90
    )


def test_caption_on_every_folder_of_any_size(trained: Path, shared_data: Path) -> None:
    captioner = Captioner.load(trained / "dnpo")
    folders = sorted(folder.parent for folder in shared_data.rglob("A") if folder.is_dir())
    assert len(folders) >= 11
    for folder in folders:
        first = sorted((folder / "A").iterdir())[0]
        pair = open_pair(first, folder / "B" / first.name, resize=True)
        caption = next(captioner.caption_all([pair]))
        assert caption.caption, folder
        assert caption.change_map is not None
        assert caption.change_map.shape == (pair.before.height, pair.before.width)


@pytest.mark.parametrize("name", ["levir-cc:levir_cc", "levir-cd:levir_cd"])
def test_check_and_show(shared_data: Path, tmp_path: Path, name: str) -> None:
    kind, folder = name.split(":")
    spec = f"{kind}:{shared_data / folder}"
    report = check_source(spec, progress=False)
    report.print(Console(quiet=True))
    assert report.ok
    page = show_source(spec, 12, tmp_path / "page.html")
    assert page.read_text(encoding="utf-8").count('<section class="card"') == 12
