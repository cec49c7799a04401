"""Recipes: the typed settings of a training run, from a YAML file and `field=value` overrides."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from rsiccllm.errors import InputError
from rsiccllm.files import PlainLoader, describe_validation, parse_yaml, read_text
from rsiccllm.model.variants import Variant
from rsiccllm.shipped import recipe_path

PreferenceLoss = Literal["paper", "softmax", "positive", "anchored", "length-normalised", "ours"]


def _where_fast(value: object) -> object:
    if value != "auto":
        return value
    from rsiccllm.model.precision import fast_bf16  # torch takes seconds to import, and few recipes ask

    return fast_bf16()


def _place(value: object) -> object:
    """A path, or the URL of a folder: file names are joined to it, and it is written down, so it holds no secret."""
    if not isinstance(value, str):
        return value
    if "://" not in value:
        return Path(value)
    try:
        parts = urlsplit(value)
        secret = parts.username or parts.password
    except ValueError:
        raise ValueError("expected a folder, or a URL of one") from None
    if secret is not None or "::" in value or parts.query or parts.fragment:
        raise ValueError("expected the URL of a folder, with neither user, password, '::', '?' nor '#'")
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else value


class Recipe(BaseModel):
    """Settings that all stages share.

    model: folder or hub name of the checkpoint to start from. data: a folder that `rsici build` or `rsicp build` wrote,
    or several, each with its weight: how large a share of what is shown comes from it, whatever its size; or one folder
    or URL of what `data shards` wrote. shard_cache: a folder that keeps shards from a URL, up to shard_cache_gb; None:
    rsiccllm/shards in the user's cache folder.
    out: where checkpoints, logs and the finished model go. split: which part of the data is trained on.
    batch_size: image pairs a step on one device; accumulate: steps whose gradients are added before an update.
    max_steps: updates; where None, `epochs` passes over the data. warmup_steps: updates of linear rise to the learning
    rate, after which it falls to zero as a cosine. difference_learning_rate, merger_learning_rate,
    vision_learning_rate: of the difference path (but its last projection, which starts at zero), of the projector from
    the vision tower to the language model, and of the tower; None takes learning_rate. bf16: autocast to bfloat16;
    "auto": where this machine has instructions for it.
    ema: the finished model is the moving average of the weights that learn, with this decay an update; None: the last.
    min_pixels, max_pixels: the processor's limits on an image's area; None keeps the checkpoint's.
    save_steps: updates between checkpoints. train_vision: whether the vision tower learns too (and its projector).
    feature_cache: a folder that keeps what a frozen tower says of each image, up to feature_cache_gb; later epochs and
    runs read it.
    workers: processes that prepare batches beside the training process.
    process_timeout: seconds that the processes of `torchrun` wait for one another, after which the run ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    data: Path | str | dict[Path | str, Annotated[float, Field(gt=0)]]
    out: Path
    split: str = "train"
    batch_size: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(gt=0, lt=1)
    difference_learning_rate: float | None = Field(None, gt=0, lt=1)
    merger_learning_rate: float | None = Field(None, gt=0, lt=1)
    vision_learning_rate: float | None = Field(None, gt=0, lt=1)
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.01, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: Annotated[bool, BeforeValidator(_where_fast)] = False
    seed: int = Field(0, ge=0, lt=2**32)
    min_pixels: int | None = Field(None, ge=28 * 28)
    max_pixels: int | None = Field(None, ge=28 * 28)
    save_steps: int = Field(100, ge=1)
    log_steps: int = Field(10, ge=1)
    train_vision: bool = True
    ema: float | None = Field(None, gt=0, lt=1)
    feature_cache: Path | None = None
    feature_cache_gb: float = Field(20.0, gt=0)
    shard_cache: Path | None = None
    shard_cache_gb: float = Field(20.0, gt=0)
    workers: int = Field(0, ge=0, le=64)
    process_timeout: int = Field(1800, ge=1)

    @property
    def weights(self) -> dict[Path | str, float]:
        """The folders of data, or the URL, and their weights."""
        return self.data if isinstance(self.data, dict) else {self.data: 1.0}

    @field_validator("data", mode="before")
    @classmethod
    def _places(cls, value: object) -> object:
        return {_place(key): weight for key, weight in value.items()} if isinstance(value, dict) else _place(value)

    @model_validator(mode="after")
    def _data(self) -> Recipe:
        if not self.weights:
            raise ValueError("data: expected a folder, or folders with their weights")
        if self.feature_cache is not None and (self.train_vision or getattr(self, "train_merger", False)):
            raise ValueError("feature_cache: holds for a frozen tower; set train_vision=false and leave train_merger")
        return self

    @model_validator(mode="after")
    def _pixels(self) -> Recipe:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels={self.min_pixels} is over max_pixels={self.max_pixels}")
        return self


class DifferenceRecipe(Recipe):
    """The change map of variant "ours" alone, before fine-tuning (training/difference.py). Fields as for SFTRecipe.

    crop: learn from square parts of so many pixels of the processed image, a multiple of a token's side, most of them
    on a change; None takes whole images. nuisance: how far light, colour, sharpness, texture and registration are
    moved at random, each date on its own and in every epoch the same (training/nuisance.py); 0 leaves the images as
    they are.
    """

    stage: Literal["difference"] = "difference"
    depths: tuple[int, ...] = ()
    map_weight: float = Field(1.0, ge=0)
    fact_weight: float = Field(1.0, ge=0)
    train_vision: bool = False
    crop: int | None = Field(None, ge=28)
    nuisance: float = Field(0.0, ge=0, le=2)


class AnswerRecipe(Recipe):
    """Settings of the stages that learn from answers.

    What learns: the difference path always; the language model, whole or through adapters, unless train_language is
    false; the vision tower where train_vision; the projector where train_merger or train_vision.
    max_tokens: longest row, prompt and all answers; a longer one is an error before training starts.
    lora_rank: rank of LoRA adapters on the language model's linear layers, merged into the finished model; None trains
    all weights. use_dora: adapters that learn the length of each weight column apart (DoRA, Liu et al. 2024).
    load_in_4bit: the frozen language model under the adapters held in 4 bits (NF4; needs bitsandbytes); the adapters
    are merged into the 16-bit weights. gradient_checkpointing: activations computed again on the way back, not kept.
    fsdp: weights, gradients and moments split over the processes of `torchrun` (fully_shard), where one GPU cannot hold
    them; checkpoints are in parts that another number of processes reads (`rsiccllm train merge` makes them one).
    pack_tokens: several pairs share a row up to so many tokens; None gives each a row of its own. share: how answers
    share their prompt (training/packing.py); "mask" for sdpa, "cache" for kernels that take no mask of one's own.
    attention: the kernel; flash_attention_2 needs a CUDA GPU, bf16 and share: cache.
    validation: a folder that `rsici build` wrote. With it, before the first update and every eval_steps, answers of at
    most max_new_tokens to validation_pairs pairs of its validation_split (task validation_task) are generated and
    scored, and the finished model is that of the best evaluation, by best_by: similarity of key words to the nearest
    reference, fact_f1 of objects and directions, or log_prob of the references. Never a test split, nor what is
    trained on.
    texture_cache: a folder that keeps the line texture of each image, which the paper's variants need and never change;
    bounded by feature_cache_gb, apart from feature_cache.
    patience: training stops where so many evaluations one after another were no better than the best before them, or
    where the log-probability of the references fell at each; None never stops.
    """

    train_language: bool = True
    train_merger: bool = False
    max_tokens: int = Field(4096, ge=16)
    lora_rank: int | None = Field(None, ge=1)
    lora_alpha: float = Field(32.0, gt=0)
    use_dora: bool = False
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False
    fsdp: bool = False
    pack_tokens: int | None = Field(None, ge=16)
    share: Literal["mask", "cache"] = "mask"
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    validation: Path | None = None
    validation_split: str = "val"
    validation_task: str = "caption"
    validation_pairs: int = Field(100, ge=1)
    eval_steps: int = Field(50, ge=1)
    best_by: Literal["similarity", "fact_f1", "log_prob"] = "similarity"
    texture_cache: Path | None = None
    patience: int | None = Field(3, ge=1)
    max_new_tokens: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> AnswerRecipe:
        if "test" in self.validation_split.lower():
            raise ValueError(
                f"validation_split={self.validation_split}: a model chosen on a test split has no test left"
            )
        if self.validation is not None and self.validation_split == self.split:
            raise ValueError(f"validation_split={self.validation_split} is the split that is trained on")
        return self

    @model_validator(mode="after")
    def _adapters(self) -> AnswerRecipe:
        if self.vision_learning_rate is not None and not self.train_vision:
            raise ValueError("vision_learning_rate: with train_vision=false nothing would learn at it")
        if self.merger_learning_rate is not None and not (self.train_vision or self.train_merger):
            raise ValueError("merger_learning_rate: with train_vision and train_merger false nothing would learn at it")
        for name in ("use_dora", "load_in_4bit"):
            if getattr(self, name) and self.lora_rank is None:
                raise ValueError(f"{name}=true needs adapters: set lora_rank")
        if self.fsdp and (self.ema or self.load_in_4bit or self.validation or self.feature_cache):
            raise ValueError("fsdp: goes with neither ema, load_in_4bit, validation nor feature_cache")
        if self.ema and self.validation:
            raise ValueError("ema: goes without validation, whose best weights are what a run leaves behind")
        if self.lora_rank is not None and not self.train_language:
            raise ValueError(
                "lora_rank: adapters are on the language model, which train_language=false leaves as it is"
            )
        if self.attention != "sdpa" and (self.share == "mask" or not self.bf16):
            raise ValueError(
                f"attention={self.attention}: takes no mask of one's own and no float32; set share=cache, bf16=true"
            )
        if self.share == "cache" and (self.gradient_checkpointing or self.pack_tokens):
            raise ValueError(
                "share=cache: keeps keys and values a prompt; unset gradient_checkpointing and pack_tokens"
            )
        return self


class SFTRecipe(AnswerRecipe):
    """Supervised fine-tuning. variant: the difference path (docs/choices.md); map_weight, fact_weight: weights of
    the losses that teach it where (from masks) and what (from facts) changed, beside the answers' own.
    turns: show each pair turned or mirrored in one of eight ways, with the places in its captions turned along; an
    epoch stays as many updates as without, drawn with their turns from all: some pairs come twice, some not.
    nuisance: as for DifferenceRecipe; a pair is disturbed in one way, and with `turns` in one way each.
    texture_stride: pixels a side of the cells that vote in the paper's Hough transform (variants "paper" and its
    ablations); it divides a token's side. None: 4, or as the checkpoint has it.
    depths: layers of the vision tower, from 0, that a fresh change map (variant "ours") reads beside the tower's end.
    """

    stage: Literal["sft"] = "sft"
    variant: Variant = "ours"
    max_answers: int = Field(5, ge=1)
    turns: bool = False
    nuisance: float = Field(0.0, ge=0, le=2)
    map_weight: float = Field(1.0, ge=0)
    fact_weight: float = Field(0.3, ge=0)
    texture_stride: int | None = Field(None, ge=1)
    depths: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _of_the_variant(self) -> SFTRecipe:
        if self.variant in {"none", "ours"}:
            for name in ("texture_stride", "texture_cache"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: variant={self.variant} has no line texture; leave it out")
        if self.depths and self.variant != "ours":
            raise ValueError(f"depths: variant={self.variant} has no change map to read them; leave it out")
        return self


class DNPORecipe(AnswerRecipe):
    """Dual-negative preference optimisation.

    variant: the preference loss (docs/preferences.md). paper: DPO, each rejected answer against the chosen one.
    softmax: all rejected of a pair at once (S-DPO). positive: DPO-Positive. anchored: DPO and mDPO's anchored term.
    length-normalised: DPO over mean log-probabilities a token. ours: softmax and the anchored term. To each is added
    `kl_weight` times the reverse KL to the reference; kl_weight is the paper's lambda, which it leaves open.
    kl_on: answers, nats a token on the prefixes of the chosen and rejected; samples, nats an answer, on one that the
    current policy gives at each update to each pair (at most max_new_tokens), which costs its generation.
    beta: DPO's temperature. positive_weight: lambda of DPO-Positive. anchor_margin: delta of the anchored term.
    sft_weight: weight of the chosen answer's cross-entropy a token (0 is the paper's loss).
    max_rejected: negatives a pair. With kl_weight 0 the reference's log-probabilities are computed once and kept in
    `reference`, a file, by default in out; stored_reference false computes them anew with every batch.
    """

    stage: Literal["dnpo"] = "dnpo"
    variant: PreferenceLoss = "paper"
    beta: float = Field(0.1, gt=0)
    kl_weight: float = Field(0.1, ge=0)
    kl_on: Literal["answers", "samples"] = "answers"
    sft_weight: float = Field(0.0, ge=0)
    positive_weight: float = Field(50.0, ge=0)
    anchor_margin: float = 0.0
    max_rejected: int = Field(3, ge=1)
    stored_reference: bool = True
    reference: Path | None = None

    @model_validator(mode="after")
    def _reference_is_used(self) -> DNPORecipe:
        if self.kl_on == "samples" and self.kl_weight == 0:
            raise ValueError("kl_on=samples: answers would be drawn for a divergence of weight kl_weight=0")
        if self.kl_on == "samples" and self.fsdp:
            raise ValueError("kl_on=samples: processes draw answers of different lengths, which fsdp cannot")
        if self.reference is not None and (self.kl_weight > 0 or not self.stored_reference):
            raise ValueError(
                "reference: stored log-probabilities serve kl_weight=0 and stored_reference=true alone; the reverse KL "
                "needs the reference's whole distribution"
            )
        return self


Kind = TypeVar("Kind", bound=Recipe)


class _Loader(PlainLoader):
    """YAML 1.1 reads 1e-4 as text, 1.2 as a number; people write it all the time and mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def load_recipe(path: Path, kind: type[Kind], overrides: Sequence[str] = ()) -> Kind:
    """Read a recipe and apply `field=value` overrides (values are YAML).

    Raises InputError, naming the file and the field, for an unknown field, an impossible value or broken YAML.
    """
    text = read_text(recipe_path(path))
    texts = {name for name, field in kind.model_fields.items() if field.annotation in (str, Path)} | {"data"}
    fields = parse_yaml(text, path, _Loader)
    if isinstance(fields, dict) and texts & fields.keys():
        # Where text is expected, 0E0 is a name, as it is for whatever else reads and writes YAML.
        fields |= {name: value for name, value in parse_yaml(text, path).items() if name in texts}
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected `field: value` lines")
    for override in overrides:
        name, found, value = override.partition("=")
        if not found or not name:
            raise InputError(f"override {override!r}: expected field=value")
        # A folder may be named 2024, and a shell eats the quotes that would say so.
        plain = name in texts and not value.startswith("{")
        fields[name] = value if plain else parse_yaml(value, f"override {override!r}", _Loader)
    where = f"{path} (with {' '.join(overrides)})" if overrides else str(path)
    for name in fields:
        if name not in kind.model_fields:
            near = get_close_matches(str(name), kind.model_fields, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(
                f"{where}: unknown field '{name}'{meant} (expected one of {', '.join(sorted(kind.model_fields))})"
            )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        # A URL is refused that holds a password, and what tells of it may be kept in a log.
        raise InputError(re.sub(r"://[^/@\s]+@", "://...@", f"{where}: {describe_validation(error)}")) from None


def describe(kind: type[Recipe]) -> str:
    """Every field of a recipe with its type, bounds and default, one a line, and then what they mean."""
    lines = []
    for name, field in kind.model_fields.items():
        kinds = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
        text: str = kinds or str(field.annotation).replace("typing.", "")
        for bound in field.metadata:
            for name_, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
                if hasattr(bound, name_):
                    text += f", {sign} {getattr(bound, name_):g}"
        default = "required" if field.is_required() else f"default {field.default}"
        lines.append(f"{name:<26}{default:<20}{text}")
    meanings = [inspect.cleandoc(part.__doc__ or "") for part in reversed(kind.__mro__) if issubclass(part, Recipe)]
    return "\n".join([*lines, *(f"\n{meaning}" for meaning in meanings)])
