"""Question writers: from an atom's text to the questions it is trained on.

`writer_for(name, model, tokenizer)` picks a writer; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlora.questions.files import QuestionLine, load_question_file
    from atomlora.questions.registry import writer_for
    from atomlora.questions.types import AtomText, Question, QuestionWriter

_PLACES = {
    "AtomText": "types",
    "Question": "types",
    "QuestionWriter": "types",
    "QuestionLine": "files",
    "load_question_file": "files",
    "writer_for": "registry",
}
__all__ = ["AtomText", "Question", "QuestionLine", "QuestionWriter", "load_question_file", "writer_for"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
