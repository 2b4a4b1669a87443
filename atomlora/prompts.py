"""One way to turn a question into token ids, shared by training and inference, so that both see the same
prompt."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from atomlora.errors import BaseModelError

CONTEXT_WORDING = "Use this text to answer.\n{context}\n\nQuestion: {question}"

# First characters of every class that tokenizers treat differently; questions are stripped, so none is white
# space.
_PROBES = ("What", "who", "7 of", '"So', "(a)", "¿Qué", "Über", "何", "'s", "- x", "<b>", "https")
_MARK = "Paris"
# Templates that print today's date or a reasoning preamble would give other prompts on other days, or no
# short answer.
TEMPLATE_SETTINGS = {"date_string": "26 Jul 2024", "enable_thinking": False}


def chat_prompt(tokenizer: Any, question: str, context: str | None = None) -> list[int]:
    """Token ids of one user message and the opening of the assistant's turn.

    The base's chat template is used where it has one, "Question: …\\nAnswer:" otherwise. `question` is
    stripped; `context` is text to answer from (classic retrieval).
    """
    return _encode(tokenizer, _prompt_text(tokenizer, question, context))


def common_prefix(tokenizer: Any) -> list[int]:
    """The ids with which every `chat_prompt` without context begins (found by comparing renderings)."""
    prompts = [chat_prompt(tokenizer, probe) for probe in _PROBES]
    first = prompts[0]
    length = min(len(prompt) for prompt in prompts)
    for column in range(length):
        if any(prompt[column] != first[column] for prompt in prompts):
            return first[:column]
    return first[:length]


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Ids of `answer` as it continues a `chat_prompt`, with the end-of-turn id at the end.

    The answer is tokenised behind a prompt and the prompt's ids are cut off, because SentencePiece
    tokenizers put a space before a text of its own. Where a tokenizer merges across the seam (so that the
    joined text begins with other ids than the prompt), the answer's own ids are taken: generation continues
    prompt ids, not prompt text.
    """
    prompt_text = _prompt_text(tokenizer, _MARK, None)
    prompt = _encode(tokenizer, prompt_text)
    text = answer.strip() if _has_template(tokenizer) else " " + answer.strip()
    joined = _encode(tokenizer, prompt_text + text)
    if joined[: len(prompt)] == prompt:
        ids = joined[len(prompt) :]
    else:
        ids = list(tokenizer.encode(text, add_special_tokens=False))
    return [*ids, end_of_turn(tokenizer)]


def end_of_turn(tokenizer: Any) -> int:
    """The id that closes an assistant turn: what the chat template writes after one, else the end-of-text id.

    Raises BaseModelError when the tokenizer has neither.
    """
    if _has_template(tokenizer):
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, **TEMPLATE_SETTINGS)
        tail = rendered.rpartition(_MARK)[2]
        special = _special_ids(tokenizer)
        for token in tokenizer.encode(tail, add_special_tokens=False):
            if token in special:
                return int(token)
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            "the base's tokenizer has no end-of-text token and its chat template closes no turn; set its eos_token"
        )
    return int(tokenizer.eos_token_id)


def end_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Ids that end an answer: the end of the turn first, then those of the generation config and the
    tokenizer."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    candidates: list[int | None] = [end_of_turn(tokenizer)]
    candidates += list(configured) if isinstance(configured, Iterable) else [configured]
    candidates.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in candidates if token is not None))


def _has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _prompt_text(tokenizer: Any, question: str, context: str | None) -> str:
    content = question.strip()
    if context is not None:
        content = CONTEXT_WORDING.format(context=context.strip(), question=content)
    if not _has_template(tokenizer):
        return content + "\nAnswer:" if context is not None else f"Question: {content}\nAnswer:"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=False,
        **TEMPLATE_SETTINGS,
    )
    return str(text)


def _encode(tokenizer: Any, text: str) -> list[int]:
    # A chat template writes the start-of-text token itself.
    return list(tokenizer.encode(text, add_special_tokens=not _has_template(tokenizer)))


@lru_cache(maxsize=8)
def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return frozenset(added | set(tokenizer.all_special_ids))
