"""SBS with a small real model made from a config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rsiccllm.benchmark import similarity
from rsiccllm.benchmark.scores import score
from rsiccllm.benchmark.similarity import SentenceEncoder, similarities
from rsiccllm.errors import InputError


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        *["a", "house", "houses", "road", "is", "are", "built", "removed", "no", "change", "has", "occurred", "tree"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_mean_pooling_by_hand(encoder_folder: Path) -> None:
    encoder = SentenceEncoder(str(encoder_folder))
    texts = ["a house is built", "no change", "", "a road"]
    vectors = encoder.encode(texts, batch_size=2)
    assert vectors.shape == (4, 32)
    for text, vector in zip(texts, vectors, strict=True):
        if not text:
            assert not vector.any()
            continue
        tokens = encoder.tokenizer(text, return_tensors="pt")  # alone, so without padding
        with torch.inference_mode():
            mean = encoder.model(**tokens).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-6)


def test_sbs_is_the_cosine_with_the_nearest_reference(encoder_folder: Path) -> None:
    encoder = SentenceEncoder(str(encoder_folder))
    captions = ["a house is built", "a road", ""]
    references = [["no change", "a house is built"], ["a tree", "houses are removed"], ["a tree"]]
    found = similarities(encoder, captions, references)
    assert found[0] == pytest.approx(1, abs=1e-6)
    one, tree, houses = encoder.encode(["a road", "a tree", "houses are removed"])
    assert found[1] == pytest.approx(max(one @ tree, one @ houses), abs=1e-6)
    assert found[2] == 0
    assert similarities(encoder, ["a house " * 400], [["a tree"]]).shape == (1,)  # longer than the model reads


def test_scores_name_the_model(encoder_folder: Path) -> None:
    references = {"a": ["A house is built.", "a tree"], "b": ["no change has occurred"]}
    captions = {"a": "a house is built", "b": "no change"}
    found = score(captions, references, {"a": True, "b": False}, meteor=False, sbs=str(encoder_folder))
    assert found.sbs_model == str(encoder_folder)
    assert found.segments.sbs is not None
    assert found.overall.sbs == pytest.approx(100 * np.mean(found.segments.sbs))
    assert found.segments.sbs[0] == pytest.approx(1, abs=1e-6)  # lower case, no final full stop
    assert found.changed_only is not None
    assert found.changed_only.sbs == pytest.approx(100, abs=1e-4)
    assert "sbs" in found.segments.interval_95
    assert not found.notes
    cut = score(captions, references, meteor=False, sbs=str(encoder_folder), tokenisation="character")
    assert cut.overall.sbs == pytest.approx(found.overall.sbs)  # it is always of words


def test_without_a_model_sbs_is_absent_with_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(similarity, "local_model", lambda: None)
    found = score({"a": "x"}, {"a": ["x"]}, meteor=False)
    assert found.overall.sbs is None
    assert found.notes == (similarity.ABSENT,)
    assert "\n" not in similarity.ABSENT
    assert score({"a": "x"}, {"a": ["x"]}, meteor=False, sbs=False).notes == ()
    with pytest.raises(InputError, match=r"no config\.json in it"):
        score({"a": "x"}, {"a": ["x"]}, meteor=False, sbs=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InputError, match="cannot be loaded as a sentence-embedding model"):
        score({"a": "x"}, {"a": ["x"]}, meteor=False, sbs=str(tmp_path))


@pytest.mark.parametrize(("said", "told"), [("first\nsecond", "(first)"), ("", "(OSError)")])
def test_why_a_model_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, encoder_folder: Path, said: str, told: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(said)

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", fail)
    with pytest.raises(InputError) as caught:
        SentenceEncoder(str(encoder_folder))
    assert str(caught.value).endswith(told)


def test_the_usual_model_is_found_in_the_cache_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert similarity.local_model() is None
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert similarity.local_model() == similarity.USUAL
