"""The base model of the demonstration: random weights that learn to caption single scenes, as a VLM does before us."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from rsiccllm.files import inside, read_jsonl
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import build_tiny_processor, load_processor
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import open_image
from rsiccllm.records import PAIRS, ImagePair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources.scenes.plan import plan_scene
from rsiccllm.sources.scenes.words import single
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.run import claim_output, train_and_save
from rsiccllm.training.sft import SFTTrainer

PROMPT = "Describe the image in one short sentence."


class SingleScenes(Dataset):
    """Each date of the rendered pairs under `root` alone, with a caption of what is in it. easy: as they were made."""

    def __init__(self, root: Path, easy: bool, split: str = "train") -> None:
        self.root, self.easy = root, easy
        self.pairs = [pair for pair in read_jsonl(root / PAIRS, ImagePair) if pair.split == split]
        self.seen = frozenset(f"{pair.before.split('/')[1]}/{pair.split}" for pair in self.pairs)

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair, date = self.pairs[index // 2], index % 2
        image = open_image(inside(self.root, (pair.before, pair.after)[date]))
        return Sample(f"{pair.id}/{date}", [image], PROMPT, [single_captions(pair, self.easy)[date]])


def single_captions(pair: ImagePair, easy: bool) -> tuple[str, str]:
    """What each date of a rendered pair shows, from the seed and the index in its id."""
    _, seed, index = pair.id.split("_")
    return single(plan_scene(int(seed), int(index), easy))


def new_model(
    data: Path,
    folder: Path,
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl",
    easy: bool = True,
    max_side: int | None = None,
) -> None:
    """Write a model with random weights to `folder`, its tokenizer learnt from the texts of `data`.

    easy: whether its scenes are. max_side: larger images are made as small as a square of so many pixels a side.
    """
    pairs = read_jsonl(data / PAIRS, ImagePair)
    captions = [caption for pair in pairs for caption in (*pair.captions, *single_captions(pair, easy))]
    processor = build_tiny_processor([*captions, *PROMPTS.values(), PROMPT], vocabulary=640, patch_size=14)
    if max_side is not None:
        processor.image_processor.size["longest_edge"] = max_side**2
    save_model(build_tiny_model(processor, family), processor, folder)


def train_base(random: Path, data: Path, out: Path, steps: int, easy: bool = True) -> Path:
    """Teach the random model to caption single scenes. Returns the base checkpoint."""
    recipe = SFTRecipe(
        model=str(random), data=data, out=out, variant="none", max_steps=steps, batch_size=32, learning_rate=1e-3,
        bf16=fast_bf16(), save_steps=50, fact_weight=0,
    )  # fmt: skip
    if claim_output(recipe):
        return out / "model"
    processor = load_processor(random)
    collator = PackingCollator(processor, recipe.max_tokens)
    trainer = SFTTrainer(recipe, load_model(random, "none"), processor, SingleScenes(data, easy), collator)
    return train_and_save(trainer, processor)
