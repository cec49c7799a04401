"""Other people's vision-language models, their own classes at small size: prompts, batches, refusals."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from families import FAMILIES, published, save_family
from rsiccllm.errors import InputError
from rsiccllm.model.stock import VisionLanguageModel, encode_questions, load_stock_processor

PROMPT = "What changed?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in found.items():
        save_family(family, folder)
        # Published checkpoints also name a video processor, which must not stand in the way.
        path = folder / "processor_config.json"
        config = json.loads(path.read_text())
        config["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
        path.write_text(json.dumps(config))
    return found


def image(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# What stands for a 64 x 64 image, by each family's published rule and the sizes of these tiny checkpoints.
# Qwen: sides rounded to 28 (56 x 56), 28 x 28 a token. InternVL: tiles of 56, 1 x 1 being nearest in shape: one tile of
# image_seq_length. LLaVA-OneVision with several images: one tile each, num_image_tokens and a newline.
FILLED = {
    "qwen2_5_vl": "<|vision_start|>" + 4 * "<|image_pad|>" + "<|vision_end|>",
    "qwen3_vl": "<|vision_start|>" + 4 * "<|image_pad|>" + "<|vision_end|>",
    "internvl": "<img>" + 4 * "<IMG_CONTEXT>" + "</img>\n",
    "llava_onevision": 17 * "<image>" + "\n",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_the_published_one_token_for_token(folders: dict[str, Path], family: str) -> None:
    processor = load_stock_processor(str(folders[family]))
    batch = encode_questions(processor, [((image(0), image(1)), PROMPT)])
    expected = published(family, PROMPT, FILLED[family])
    assert processor.tokenizer.decode(batch["input_ids"][0]) == expected
    assert batch["input_ids"][0].tolist() == processor.tokenizer(expected)["input_ids"]
    if family.startswith("qwen"):  # else M-RoPE falls back to one dimension without a word
        assert int(batch["mm_token_type_ids"].sum()) == 2 * 4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_our_templates_write_what_the_published_files_write(folders: dict[str, Path], family: str) -> None:
    """TRL carries the published templates of the Qwen families; the other two were read in their conversion scripts."""
    pytest.importorskip("trl")
    text = (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")
    processor = load_stock_processor(str(folders[family]))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": PROMPT}]
    message = [{"role": "user", "content": content}]
    found = processor.apply_chat_template(message, chat_template=text, tokenize=False, add_generation_prompt=True)
    assert found == published(family, PROMPT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_as_each_question_alone(folders: dict[str, Path], family: str) -> None:
    model = VisionLanguageModel.load(str(folders[family]))
    questions = [((image(0), image(1)), PROMPT), ((image(2), image(3)), "What changed between the two images?")]
    together = model.answers(questions, 8)
    alone = [answer for question in questions for answer in model.answers([question], 8)]
    assert together == alone
    assert all(together)
    other = model.answers([((image(2), image(3)), PROMPT)], 8)
    swapped = model.answers([((image(1), image(0)), PROMPT)], 8)
    assert len({together[0], other[0], swapped[0]}) == 3  # both images are seen, and in their order


def test_what_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_family("llava_onevision", folder)
    with pytest.raises(InputError, match="no model could be loaded"):
        VisionLanguageModel.load(str(tmp_path / "none"))

    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'][2]['text'] }}{% endfor %}")
    model = VisionLanguageModel.load(str(folder))
    with pytest.raises(InputError, match="left 0 image places, expected 2"):
        model.answers([((image(0), image(1)), PROMPT)], 2)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no usable chat template"):
        VisionLanguageModel.load(str(folder)).answers([((image(0), image(1)), PROMPT)], 2)

    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="num_hidden_layers"):
        VisionLanguageModel.load(str(folder))
    config["text_config"]["layer_types"] = 3 * ["full_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights do not fit"):
        VisionLanguageModel.load(str(folder))

    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="'bert' has no image-and-text processor"):
        VisionLanguageModel.load(str(folder))
