"""What of a model learns by a recipe: what is frozen, adapters, and the finished model out of it."""

from __future__ import annotations

from typing import Any

import torch

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.variants import Variant
from rsiccllm.model.vlm import load_model
from rsiccllm.training.recipe import AnswerRecipe, DifferenceRecipe, Recipe, SFTRecipe


def difference_settings(recipe: Recipe) -> dict[str, Any]:
    """What a recipe settles of a fresh difference path besides its variant."""
    settled: dict[str, Any] = {}
    if isinstance(recipe, SFTRecipe) and recipe.texture_stride is not None:
        settled["stride"] = recipe.texture_stride
    if isinstance(recipe, SFTRecipe | DifferenceRecipe) and recipe.depths:
        settled["depths"] = list(recipe.depths)
    return settled


def load_to_train(checkpoint: str, recipe: AnswerRecipe, variant: Variant | None = None) -> Any:
    """The model with what the recipe does not train frozen, and LoRA where it asks for it. The difference path learns.

    Frozen weights are never updated, so under LoRA with bf16 they are held in bf16: half the memory, and what autocast
    computes with anyway. Whatever learns is held in float32, because small updates are lost in bf16.
    """
    light = recipe.bf16 and recipe.lora_rank is not None
    dtype = torch.bfloat16 if light else torch.float32
    model = load_model(checkpoint, variant, dtype, recipe.load_in_4bit, recipe.attention, difference_settings(recipe))
    if model.model.difference is not None:
        model.model.difference.float()
    freeze(model, recipe)
    if light:
        for part in (model.model.visual, *mergers(model)):
            if all(weight.requires_grad for weight in part.parameters()):
                part.float()
    return with_adapters(model, recipe)


def mergers(model: Any) -> list[torch.nn.Module]:
    """The projectors from the vision tower to the language model: one, and with Qwen3-VL one a deep layer."""
    visual = model.model.visual
    return [visual.merger, *getattr(visual, "deepstack_merger_list", [])]


def freeze(model: Any, recipe: AnswerRecipe) -> None:
    """Let learn what the recipe trains, before adapters."""
    for weight in model.parameters():
        if weight.is_floating_point():  # weights of 4 bits are held as bytes and cannot learn
            weight.requires_grad_(recipe.train_language)
    model.model.visual.requires_grad_(recipe.train_vision)
    for merger in mergers(model):
        merger.requires_grad_(recipe.train_vision or recipe.train_merger)
    if model.model.difference is not None:
        model.model.difference.requires_grad_(True)


def with_adapters(model: Any, recipe: AnswerRecipe) -> Any:
    """LoRA on the language model's linear layers where the recipe asks for it; what else learns, learns whole."""
    if not recipe.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    layers = r"model\.language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    whole = ["difference"] if model.model.difference is not None else []
    if recipe.train_vision:
        whole.append("visual")
    elif recipe.train_merger:
        whole += ["visual.merger", *(f"deepstack_merger_list.{at}" for at in range(len(mergers(model)) - 1))]
    return get_peft_model(
        model,
        LoraConfig(
            r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, use_dora=recipe.use_dora, target_modules=layers,
            modules_to_save=whole or None,
        ),
    )  # fmt: skip


def has_adapters(model: Any) -> bool:
    """Whether PEFT wraps this model."""
    return hasattr(model, "merge_and_unload")


def merged(model: Any, recipe: Recipe) -> Any:
    """The finished model without its adapters, where it has some.

    Adapters learnt over a 4-bit base are merged into the base as it was in 16 or 32 bits: in 4 the sum would be rounded
    once more, and most of what was learnt with it.
    """
    if not has_adapters(model):
        return model
    if isinstance(recipe, AnswerRecipe) and recipe.load_in_4bit:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        variant = (model.config.difference or {}).get("variant")
        whole = load_to_train(
            resolve_checkpoint(recipe.model), recipe.model_copy(update={"load_in_4bit": False}), variant
        )
        set_peft_model_state_dict(whole, get_peft_model_state_dict(model))
        model = whole
    return model.merge_and_unload()


def with_weights(recipe: AnswerRecipe, weights: dict[str, Any]) -> Any:
    """The finished model of a run from what learnt in it. weights: by their names in the model that trained.

    Raises InputError where they are not those of the recipe's model.
    """
    variant = recipe.variant if isinstance(recipe, SFTRecipe) else None
    model = load_to_train(resolve_checkpoint(recipe.model), recipe, variant)
    learnt = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if odd := sorted((learnt - weights.keys()) | (weights.keys() - model.state_dict().keys())):
        raise InputError(f"{recipe.out}: holds other weights than {recipe.model} trains (first: {odd[0]})")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{recipe.out}: holds weights of other shapes than {recipe.model} ({reason})") from None
    return merged(model, recipe)
