"""Qwen2.5-VL and Qwen3-VL with the difference path, as ordinary transformers models.

`from_pretrained` takes a plain base checkpoint (the difference weights start fresh) or one of ours; `save_pretrained`,
`generate`, PEFT and the Trainer work as for any other model. The whole addition lives in one place: the features of the
images pass through the difference module before they become tokens.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
)
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import is_bitsandbytes_available
from transformers.vision_utils import get_vision_window_index

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import WEIGHTS_ONLY, check_whole, load_config
from rsiccllm.model.difference import ChangeMap, Comparison, DifferencePath, ZeroLinear
from rsiccllm.model.fusion import Fusion
from rsiccllm.model.variants import VARIANTS, Variant

if TYPE_CHECKING:
    _Mixin = Any  # what the mixins are mixed into is known to transformers alone
else:
    _Mixin = object


OLDEST = "5.19"
"""Of transformers. Before 5.18 images that are encoded beforehand are dropped without a word: a model answers as if it
had seen none. In 5.18 beams over images of several sizes go wrong."""


def refuse_old(version: str = transformers.__version__) -> None:
    """Raise InputError for a release of transformers before `OLDEST`."""
    if Version(version) < Version(OLDEST):
        raise InputError(f"transformers {version}: expected {OLDEST} or newer; pip install -U transformers")


@dataclass
class PairOutput(CausalLMOutputWithPast):
    """A causal LM's output; logits are [predictions, vocab] with `predict_at`. maps, facts: as in DifferenceOutput."""

    maps: list[Tensor] | None = None
    facts: list[Tensor] | None = None


class _LinearPatches(_Mixin):
    """Stands for the patch embedding's Conv3d, whose kernel covers its input exactly: the same product as a Linear.

    On CPU, Conv3d is several times slower than the equal matrix product.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight
        return nn.functional.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


class _Body(_Mixin):
    """The base model's body, whose image features carry the difference. Mixed in before a Qwen-VL body class.

    Everything that encodes images goes through `get_image_features`: forward, generate, and caches of features.
    """

    def __init__(self, config: Any) -> None:
        refuse_old()
        super().__init__(config)
        vision, settings = config.vision_config, config.difference or {}
        variant = settings.get("variant", "none")
        if variant not in VARIANTS:
            raise InputError(f"difference.variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
        patches = self.visual.patch_embed
        patches.__class__ = type("LinearPatches", (_LinearPatches, type(patches)), {})
        self.difference: DifferencePath | None = None
        shape = (vision.out_hidden_size, vision.spatial_merge_size, vision.patch_size)
        options = {name: value for name, value in settings.items() if name != "variant"}
        if variant == "ours":
            self.difference = ChangeMap(*shape, tower=vision.hidden_size, **options)
            if not all(0 <= depth < vision.depth for depth in self.difference.depths):
                raise InputError(
                    f"difference.depths: {list(self.difference.depths)}; expected layers of the vision tower, "
                    f"0 to {vision.depth - 1}"
                )
        elif variant != "none":
            self.difference = Fusion(*shape, variant, **options)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Comparison):  # its own weight alone: transformers knows how to begin its layers
            if module.sharpness is not None:
                init.zeros_(module.sharpness)
        else:
            super()._init_weights(module)

    def tower_features(self, pixel_values: Tensor, image_grid_thw: Tensor, **kwargs: Any) -> Any:
        """As the base class gives them, each image for itself, without the difference.

        And `within`, where the difference path reads the tower's layers: for each of its depths [tokens, width of the
        tower] an image, the mean over the patches of a token.
        """
        depths = () if self.difference is None else self.difference.depths
        kwargs |= {"return_dict": True} | ({"output_hidden_states": True} if depths else {})
        encoded = super().get_image_features(pixel_values, image_grid_thw, **kwargs)
        encoded.within = [self._tokens(encoded.hidden_states[1 + depth], image_grid_thw) for depth in depths]
        return encoded

    def _tokens(self, patches: Tensor, grids: Tensor) -> tuple[Tensor, ...]:
        """Patches [patches, width] within the tower as tokens in reading order, [tokens, width] an image."""
        vision = self.config.vision_config
        tokens = patches.unflatten(0, (-1, vision.spatial_merge_size**2)).mean(1)
        if hasattr(vision, "window_size"):  # Qwen2.5-VL's tower walks over windows
            order, _ = get_vision_window_index(grids, vision.spatial_merge_size, vision.window_size, vision.patch_size)
            tokens = tokens[order.argsort()]
        return tokens.split((grids.prod(1) // vision.spatial_merge_size**2).tolist())

    def get_image_features(
        self, pixel_values: Tensor, image_grid_thw: Tensor, encoded: Any = None, **kwargs: Any
    ) -> Any:
        """As the base class gives them, with the difference added; and maps, facts and looks as in DifferenceOutput.

        encoded: what `tower_features` gave for these images, where it is known already.
        """
        if encoded is None:
            encoded = self.tower_features(pixel_values, image_grid_thw, **kwargs)
        else:
            encoded = copy(encoded)  # given once more, to a reference, it has no difference in it yet
        encoded.maps = encoded.facts = encoded.looks = None
        if self.difference is not None:
            merge = self.config.vision_config.spatial_merge_size
            grids = [(int(rows) // merge, int(cols) // merge) for _, rows, cols in image_grid_thw.tolist()]
            enhanced = self.difference.enhance(list(encoded.pooler_output), pixel_values, grids, encoded.within)
            encoded.pooler_output = tuple(enhanced.features)
            encoded.maps, encoded.facts, encoded.looks = enhanced.maps, enhanced.facts, enhanced.looks
        return encoded


class PairQwen2_5_VLBody(_Body, Qwen2_5_VLModel):
    """Qwen2.5-VL without its head, reading pairs."""


class PairQwen3VLBody(_Body, Qwen3VLModel):
    """Qwen3-VL without its head, reading pairs."""


class _WithDifference(_Mixin):
    """A Qwen-VL class with the difference path. Mixed in before the transformers class it extends."""

    _base: Any
    _body: Any

    def __init__(self, config: Any) -> None:
        # The base class's own __init__, with our body in place of its body.
        super(self._base, self).__init__(config)
        self.model = self._body(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        predict_at: Tensor | None = None,
        answer_ids: Tensor | None = None,
        answer_mask: Tensor | None = None,
        answer_positions: Tensor | None = None,
        answer_rows: Tensor | None = None,
        encoded: Any = None,
        **kwargs: Any,
    ) -> PairOutput:
        """As the base class's, and:

        predict_at: [predictions] positions in the flattened [batch * length] sequence whose next-token logits are
        wanted; the head then runs on these alone. Without it, logits are the base class's.
        answer_*: answers over the prompts that input_ids holds, as PackingCollator gives them with share="cache";
        predict_at then counts in the flattened [answers, 1 + tokens] of the prompt's last token and the answer's.
        encoded: the images' features as the body's `tower_features` gives them, where they are known already.
        input_ids None and no inputs_embeds: the images alone, through the difference path; no logits.
        """
        maps: list[Tensor] | None = None
        facts: list[Tensor] | None = None
        if pixel_values is not None and mm_encoder_outputs is None:
            mm_encoder_outputs = {"image": self.model.get_image_features(pixel_values, image_grid_thw, encoded)}
            maps, facts = mm_encoder_outputs["image"].maps, mm_encoder_outputs["image"].facts
        if input_ids is None and inputs_embeds is None:
            return PairOutput(maps=maps, facts=facts)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
            "mm_encoder_outputs": mm_encoder_outputs,
            **kwargs,
        }
        if predict_at is None:
            output = super().forward(**inputs, labels=labels, logits_to_keep=logits_to_keep)
            # Releases differ in what else their outputs hold (rope_deltas, image_outputs).
            shared = {field.name: output.get(field.name) for field in fields(CausalLMOutputWithPast)}
            return PairOutput(**shared, maps=maps, facts=facts)
        if answer_ids is None:
            hidden = self.model(**inputs)[0]
        else:
            assert attention_mask is not None
            assert answer_mask is not None
            prompt = self.model(**{**inputs, "use_cache": True})
            cache = prompt.past_key_values
            cache.batch_select_indices(answer_rows)
            answers = self.model(
                input_ids=answer_ids,
                attention_mask=torch.cat([attention_mask[answer_rows], answer_mask], 1),
                position_ids=answer_positions,
                past_key_values=cache,
                use_cache=True,
            )
            hidden = torch.cat([prompt[0][answer_rows, -1:], answers[0]], 1)  # [answers, 1 + tokens, width]
        return PairOutput(logits=self.lm_head(hidden.flatten(0, 1)[predict_at]), maps=maps, facts=facts)


class PairQwen2_5_VLConfig(Qwen2_5_VLConfig):
    """Qwen2.5-VL's configuration and two fields.

    difference: {"variant": ...} and the settings of that class (ChangeMap, Fusion). provenance: stage, base and data
    that made the weights.
    """

    model_type = "rsiccllm_qwen2_5_vl"
    difference: dict | None = None
    provenance: dict | None = None


class PairQwen3VLConfig(Qwen3VLConfig):
    """Qwen3-VL's configuration, with the same two fields."""

    model_type = "rsiccllm_qwen3_vl"
    difference: dict | None = None
    provenance: dict | None = None


class PairQwen2_5_VL(_WithDifference, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL that reads two images and their difference."""

    _base, _body = Qwen2_5_VLForConditionalGeneration, PairQwen2_5_VLBody
    config_class = PairQwen2_5_VLConfig
    config: PairQwen2_5_VLConfig


class PairQwen3VL(_WithDifference, Qwen3VLForConditionalGeneration):
    """Qwen3-VL that reads two images and their difference."""

    _base, _body = Qwen3VLForConditionalGeneration, PairQwen3VLBody
    config_class = PairQwen3VLConfig
    config: PairQwen3VLConfig


_CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (PairQwen2_5_VLConfig, PairQwen2_5_VL),
    "qwen3_vl": (PairQwen3VLConfig, PairQwen3VL),
    "rsiccllm_qwen2_5_vl": (PairQwen2_5_VLConfig, PairQwen2_5_VL),
    "rsiccllm_qwen3_vl": (PairQwen3VLConfig, PairQwen3VL),
}
for _config, _model in {_CLASSES["qwen2_5_vl"], _CLASSES["qwen3_vl"]}:
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageTextToText.register(_config, _model)

# Published Qwen2.5-VL checkpoints name their weights otherwise than the class does. The renaming goes by class name, so
# ours needs its own, which leaves the difference alone.
register_checkpoint_conversion_mapping(
    "PairQwen2_5_VL",
    [
        WeightRenaming(r"^visual", "model.visual"),
        WeightRenaming(r"^model(?!\.(language_model|visual|difference))", "model.language_model"),
    ],
)


def load_model(
    checkpoint: str | Path,
    variant: Variant | None = None,
    dtype: torch.dtype = torch.float32,
    four_bit: bool = False,
    attention: str = "sdpa",
    settings: dict[str, Any] | None = None,
) -> Any:
    """Load a model from a folder or hub name: ours, or a plain Qwen2.5-VL or Qwen3-VL to which the difference is added.

    variant: the difference path; None keeps what the checkpoint says ("none" for a plain base). four_bit: hold the
    language model's linear layers in 4 bits (NF4) and compute with them in dtype; the rest stays in dtype.
    attention: transformers' name of the attention kernel. settings: of the difference path's class, where it starts
    fresh; those of a checkpoint that has one stay.
    Raises InputError where there is no checkpoint, it is of another architecture or has other settings, or bitsandbytes
    is not there.
    """
    name = str(checkpoint)
    config, model_class = _config_of(name, variant, settings)
    check_whole(name)
    options = {**WEIGHTS_ONLY, **({"quantization_config": _four_bit(dtype)} if four_bit else {})}
    try:
        model, report = model_class.from_pretrained(
            name, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True, **options
        )
    except (OSError, RuntimeError, SafetensorError) as error:  # none there, of other shapes, cut short
        reason = str(error).splitlines()[0]
        if "ignore_mismatched_sizes" in reason:
            reason = "they have other shapes than config.json and this version's model"
        raise InputError(f"{name}: the weights could not be loaded ({reason})") from None
    # A weight that silently starts at random is the worst of faults: only the difference path may be new, where the
    # checkpoint has none.
    new = "model.difference." if _variant_of(load_config(name)) == "none" else "nothing"
    missing = [key for key in report["missing_keys"] if not key.startswith(new)]
    if missing or report["unexpected_keys"]:
        raise InputError(
            f"{name}: the weights do not fit the model (first: {(missing or sorted(report['unexpected_keys']))[0]})"
        )
    return model


def _four_bit(dtype: torch.dtype) -> Any:
    if not is_bitsandbytes_available():
        raise InputError("load_in_4bit: needs bitsandbytes, which is not there; expected `pip install rsiccllm[qlora]`")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "model.difference", "lm_head"],
    )


def empty_model(checkpoint: str | Path, variant: Variant | None = None, settings: dict[str, Any] | None = None) -> Any:
    """The model without weights (on torch's meta device): its parts and their sizes, from the configuration alone.

    Arguments and errors as for `load_model`.
    """
    config, model_class = _config_of(str(checkpoint), variant, settings)
    with torch.device("meta"):
        return model_class(config)


def _variant_of(config: Any) -> str:
    """Of the difference path that a checkpoint has."""
    return str((getattr(config, "difference", None) or {}).get("variant", "none"))


def _config_of(name: str, variant: Variant | None, settings: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Our configuration of a checkpoint, ours or plain, with the difference path asked for, and the model's class."""
    config = load_config(name)
    if config.model_type not in _CLASSES:
        raise InputError(
            f"{name}: model type {config.model_type!r} is not supported, expected one of {sorted(_CLASSES)}"
        )
    config_class, model_class = _CLASSES[config.model_type]
    if not isinstance(config, config_class):
        fields = config.to_dict()
        fields.pop("model_type")
        config = config_class(**fields)
    held = _variant_of(config)
    if variant is not None and held not in {"none", variant}:
        raise InputError(f"{name}: was trained with variant {held!r}, expected {variant!r} or a base without one")
    for option, value in (settings or {}).items():
        if held != "none" and (config.difference or {}).get(option) != value:
            own = config.difference.get(option, "its default")
            raise InputError(f"{name}: was trained with difference.{option}={own}, not {value}")
    if variant is not None:
        config.difference = {**(settings or {}), **(config.difference or {}), "variant": variant}
    return config, model_class
