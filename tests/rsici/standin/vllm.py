"""As much of vLLM as Ray's stages call, where vLLM itself cannot be installed. It tells what reached the engine.

An engine answers with the prompt it was given, the sizes of the images and the settings, as JSON. A prompt that says
"fail" raises; one that says "long" is answered to the last token allowed.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import PIL.Image


class RequestOutput(SimpleNamespace):
    pass


class PoolingRequestOutput(SimpleNamespace):
    pass


class SamplingParams:
    def __init__(self, structured_outputs: None = None, **given: Any) -> None:
        unknown = given.keys() - {"temperature", "max_tokens", "seed"}
        assert not unknown, f"not settings of vLLM: {unknown}"
        self.given = given


class AsyncEngineArgs(SimpleNamespace):
    def create_engine_config(self) -> SimpleNamespace:
        scheduler = SimpleNamespace(max_num_seqs=4)
        return SimpleNamespace(scheduler_config=scheduler, parallel_config=SimpleNamespace(pipeline_parallel_size=1))


class AsyncLLMEngine:
    def __init__(self, arguments: AsyncEngineArgs) -> None:
        self.arguments = arguments

    @classmethod
    def from_engine_args(cls, arguments: AsyncEngineArgs, stat_loggers: Any = None) -> AsyncLLMEngine:
        return cls(arguments)

    async def generate(
        self, request_id: str, prompt: dict[str, Any], sampling_params: SamplingParams, lora_request: None
    ) -> AsyncIterator[RequestOutput]:
        text = prompt["prompt"]
        if "fail" in text:
            raise ValueError("the prompt is longer than max_model_len")
        told = {
            "prompt": text,
            "images": [image.size for image in prompt["multi_modal_data"]["image"]],
            "settings": sampling_params.given,
            "max_model_len": self.arguments.max_model_len,
        }
        tokens = [1] * (sampling_params.given["max_tokens"] if "long" in text else 3)
        said = SimpleNamespace(text=json.dumps(told), token_ids=tokens, logprobs=None)
        yield RequestOutput(
            finished=True, prompt=None, prompt_token_ids=[1] * 7, metrics=None, prompt_logprobs=None, outputs=[said]
        )

    async def do_log_stats(self) -> None:
        pass


async def parse_chat_messages_async(
    messages: list[dict[str, Any]], model_config: Any, content_format: str
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    assert content_format == "openai"
    conversation, images = [], []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "image_url":
                data = part["image_url"]["url"].partition("base64,")[2]
                images.append(PIL.Image.open(io.BytesIO(base64.b64decode(data))))
                parts.append({"type": "image"})
            else:
                assert part.keys() == {"type", "text"}, "the request was taken apart"
                parts.append(part)
        conversation.append({"role": message["role"], "content": parts})
    return conversation, {"image": images}, {"image": [None] * len(images)}


def _module(name: str, **content: Any) -> None:
    module = ModuleType(f"vllm.{name}")
    module.__dict__.update(content)
    sys.modules[f"vllm.{name}"] = module


outputs = SimpleNamespace(RequestOutput=RequestOutput, PoolingRequestOutput=PoolingRequestOutput)
_module("config", ModelConfig=SimpleNamespace)
_module("entrypoints")
_module("entrypoints.chat_utils", parse_chat_messages_async=parse_chat_messages_async)
_module("inputs")
_module("inputs.llm", TextPrompt=dict, TokensPrompt=dict)
_module("sampling_params")
_module("v1")
_module("v1.metrics")
_module("v1.metrics.ray_wrappers", RayPrometheusStatLogger=None)
