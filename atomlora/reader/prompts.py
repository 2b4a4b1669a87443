"""The reader's prompt, the same in training and in use: plain text, so that every base has the same and none pays for
a chat template's preamble."""

from __future__ import annotations

from typing import Any

from atomlora.prompts import end_of_turn


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of the prompt's beginning, which all questions about a text share."""
    return list(tokenizer.encode(f"Text: {text.strip()}\n", add_special_tokens=True))


def question_ids(tokenizer: Any, question: str) -> list[int]:
    """Token ids of what follows the text."""
    asked = f"Question: {' '.join(question.split())}\nAnswer:"
    return list(tokenizer.encode(asked, add_special_tokens=False))


def reader_prompt(tokenizer: Any, question: str, text: str) -> list[int]:
    """Token ids of the whole prompt. Both parts are tokenised on their own, as in training."""
    return text_ids(tokenizer, text) + question_ids(tokenizer, question)


def short_answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Ids of an answer behind the prompt, with the end-of-turn id at the end."""
    spoken = tokenizer.encode(f" {' '.join(answer.split())}", add_special_tokens=False)
    return [*spoken, end_of_turn(tokenizer)]
