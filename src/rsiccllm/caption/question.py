"""What a question of the user's own must be, wherever it comes from."""

from __future__ import annotations

from rsiccllm.errors import InputError


def check_question(question: object, where: str = "question") -> None:
    """Raise InputError for what is no text, an empty one, and one that no tokenizer takes: half a surrogate pair, as
    of a command line in another encoding."""
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: {'empty' if isinstance(question, str) else repr(question)[:80]}, expected a text")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: not UTF-8 at character {error.start + 1}; expected a text in Unicode") from None
