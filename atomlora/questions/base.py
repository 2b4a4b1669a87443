"""`--question-writer base`: the base model itself writes, shown three worked examples instead of being
trained.

For bases of half a billion parameters and more; with the embedded 135M base few questions survive the
filters and cloze questions take their place. Candidates come from the deterministic supplement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from atomlora.questions.candidates import Candidate, merge
from atomlora.questions.cloze import cloze_questions
from atomlora.questions.filters import acceptable, select
from atomlora.questions.prompts import prefix_prompt, question_suffix, question_target, squeeze, title_path
from atomlora.questions.types import AtomText, Question

# (path, text, answer, question): invented, so that nothing of a benchmark is in them.
_EXAMPLES = (
    (
        "Ardle Mill / History",
        "The mill was rebuilt by Greta Lindqvist in 1871 after a fire.",
        "Greta Lindqvist",
        "Who rebuilt Ardle Mill after a fire?",
    ),
    (
        "Field manual",
        "Sensors report every 20 minutes and run on two AA cells.",
        "20 minutes",
        "How often do the sensors of the field manual report?",
    ),
    (
        "Quill parser",
        "`strict_mode` rejects unknown keys and is off by default.",
        "strict_mode",
        "Which setting of the Quill parser rejects unknown keys?",
    ),
)
_NEW_TOKENS = 32
_BATCH_ROWS = 16


class BaseWriter:
    """Few-shot writer on any loaded causal LM (any device and dtype), greedy and therefore deterministic."""

    name = "base"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.digest = "base-1"
        self._shots = "\n".join(
            prefix_prompt(path, text) + question_suffix(answer) + question_target(question)
            for path, text, answer, question in _EXAMPLES
        )

    def close(self) -> None:
        """Nothing to free: the base is the caller's."""

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` per atom; names and numbers that no written question covers get a cloze
        question."""
        results = []
        for done, atom in enumerate(atoms, start=1):
            context = " ".join((atom.title, *atom.headings, atom.text))
            written = [q for q in self._ask(atom, merge(atom.text, [], max_questions + 2)) if acceptable(q, context)]
            kept = select(written, max_questions, cloze_questions(atom, sure=True))
            results.append(kept or cloze_questions(atom)[:max_questions])
            if progress is not None:
                progress(done, len(atoms))
        return results

    @torch.inference_mode()
    def _ask(self, atom: AtomText, candidates: Sequence[Candidate]) -> list[Question]:
        prefix = f"{self._shots}\n{prefix_prompt(title_path(atom.title, atom.headings), atom.text)}"
        questions = []
        for start in range(0, len(candidates), _BATCH_ROWS):
            chosen = candidates[start : start + _BATCH_ROWS]
            prompts = [prefix + question_suffix(c.text) for c in chosen]
            batch = self._tokenizer(
                prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
            )
            batch = {name: batch[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
            ids = self._model.generate(
                **batch,
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            lines = self._tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for candidate, line in zip(chosen, lines, strict=True):
                text = squeeze(line.strip().split("\n")[0]) if line.strip() else ""
                questions.append(Question(text=text, answer=squeeze(candidate.text), kind="written"))
        return questions
