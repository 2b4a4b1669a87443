"""The two plain-text prompts of the question writer, shared by its training and its use.

Both tasks begin with the same prefix (title path and text), so that the prefix's K/V is computed once per
atom and every candidate answer adds only a short suffix. Each part is tokenized on its own: the parts meet
at line ends, and training and use then see the same token ids whatever follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPAN_SEPARATOR = " | "
SPAN_SUFFIX = "Answers:"


def squeeze(text: str) -> str:
    """The text on one line: runs of white space become one space."""
    return " ".join(text.split())


def title_path(title: str, headings: Sequence[str]) -> str:
    """`A / B / C` without empty parts and without a part that repeats the one before it."""
    parts: list[str] = []
    for part in (title, *headings):
        clean = squeeze(part)
        if clean and (not parts or parts[-1] != clean):
            parts.append(clean)
    return " / ".join(parts)


def prefix_prompt(path: str, text: str) -> str:
    """The shared beginning of both tasks; without a title path the title line is left out."""
    head = f"Title: {path}\n" if path else ""
    return f"{head}Text: {squeeze(text)}\n"


def question_suffix(answer: str) -> str:
    """What follows the prefix to ask for one question whose answer is `answer`."""
    return f"Answer: {squeeze(answer)}\nQuestion:"


def question_target(question: str) -> str:
    return f" {squeeze(question)}\n"


def span_target(spans: Sequence[str]) -> str:
    """The answer of the span task: spans in the order of their appearance."""
    return f" {SPAN_SEPARATOR.join(squeeze(span) for span in spans)}\n"


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of one part of a prompt, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
