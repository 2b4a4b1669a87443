"""atomlora: documents become knowledge atoms, atoms become micro-LoRAs, a router stacks the right ones.

Names are loaded on first use, so that `import atomlora` (and `atomlora --help`) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlora.answers import Answer
    from atomlora.compiler.compile import compile_corpus
    from atomlora.compiler.progress import CompileReport
    from atomlora.compiler.questionnaire import corpus_questions
    from atomlora.model import AtomLoRA
    from atomlora.settings import CompileSettings

_HOMES = {
    "Answer": "atomlora.answers",
    "AtomLoRA": "atomlora.model",
    "CompileReport": "atomlora.compiler.progress",
    "CompileSettings": "atomlora.settings",
    "compile_corpus": "atomlora.compiler.compile",
    "corpus_questions": "atomlora.compiler.questionnaire",
}
__all__ = ["Answer", "AtomLoRA", "CompileReport", "CompileSettings", "compile_corpus", "corpus_questions"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'atomlora' has no attribute {name!r}")
