"""What an endpoint sends back, read: completions, errors, how long to wait. The form is OpenAI's."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from rsiccllm.endpoint.settings import Endpoint
from rsiccllm.errors import InputError


class Fault(Exception):
    """One attempt that failed. again: whether another may help. wait: seconds the endpoint asks for, if it does."""

    def __init__(self, reason: str, detail: str, again: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.again, self.wait = reason, detail, again, wait


def read_completion(data: bytes) -> tuple[str, str, tuple[int, int] | None]:
    """(text, finish, tokens) of a chat completion. Raises Fault for a body that is not one or says nothing."""
    try:
        value = json.loads(data)
        choices = value["choices"]
        if not choices:
            raise Fault("empty", "no choices in the answer")
        message = choices[0]["message"]
        content, refusal = message.get("content"), message.get("refusal")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        finish = choices[0].get("finish_reason") or "stop"
        if not content and refusal:
            content, finish = refusal, "refusal"
        content = "" if content is None else content
        if not isinstance(content, str) or not isinstance(finish, str):
            raise TypeError
        if not content.strip():
            raise Fault("empty", "no text in the answer")
        (content + finish).encode("utf-8")  # half a surrogate pair could not be written again
        return content, finish, _tokens(value.get("usage"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise Fault("broken body", f"not a chat completion ({type(error).__name__})") from None


def answer_line(data: bytes, estimate: tuple[int, int], clean: Callable[[str], str]) -> dict[str, Any]:
    """A chat completion as its line of the journal, without the id; tokens by `estimate` where it does not count them.

    clean: takes the key out of a text. Raises Fault as `read_completion` does.
    """
    text, finish, tokens = read_completion(data)
    text, finish = clean(text), clean(finish)
    prompt, completion = tokens or (estimate[0], math.ceil(len(text) / 4))
    return {
        "text": text,
        "finish": finish,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "estimated": tokens is None,
    }


def refusal(
    endpoint: Endpoint, status: int, data: bytes, wait: float | None, answered: bool, line: Callable[[str], str]
) -> InputError | Fault:
    """What an answer with another status than 200 means; InputError where going on makes no sense.

    wait: seconds it asks for. answered: whether the endpoint has answered anything yet. line: makes a text fit for a
    message.
    """
    code, said = read_error(data)
    detail = line(f"status {status}" + (f", {said}" if said else ""))
    if code == "insufficient_quota" or status == 402:
        return InputError(f"{endpoint.url}: the quota is used up ({detail}). The answers so far are kept")
    if status == 429 or (status == 503 and wait is not None):
        return Fault("rate limit", detail, wait=wait)
    if status >= 500 or status in {408, 409, 425}:
        return Fault("server error", detail, wait=wait)
    if not answered and (status in {401, 403, 404} or 300 <= status < 400):
        hint = f"; the key is read from ${endpoint.key_variable}" if status in {401, 403} else ""
        return InputError(f"{endpoint.url}: refuses model '{endpoint.model}' ({detail}){hint}")
    return Fault("refused", detail, again=False)


def _tokens(usage: Any) -> tuple[int, int] | None:
    """(prompt, completion) as the endpoint counts them; None where it says nothing that can be."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:  # a bool is an int to isinstance
        return None
    return (prompt, completion) if 0 <= prompt < 10**8 and 0 <= completion < 10**8 else None


def read_error(data: bytes) -> tuple[str, str]:
    """(code, message) of an error body, as far as it has them."""
    try:
        error = json.loads(data)["error"]
        if isinstance(error, str):
            return "", error
        return str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", data.decode("utf-8", "replace")  # whole: the key is looked for in it before it is cut


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, a number or a date (RFC 9110, 10.2.3); None where it asks for none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
