"""`--question-writer base`: the base model itself writes.

A base that follows instructions (a chat template, and about a billion parameters or more) is asked for JSON like any
chat model, all questions about a text at once. A smaller one is shown three worked examples and asked for one question
for each answer candidate; of the embedded 135M base's questions few survive the filters, and cloze questions take their
place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jinja2 import TemplateError

from atomlora.prompts import TEMPLATE_SETTINGS
from atomlora.questions.candidates import Candidate, merge
from atomlora.questions.cloze import cloze_questions
from atomlora.questions.filters import acceptable, select
from atomlora.questions.prompts import prefix_prompt, question_suffix, question_target, squeeze, title_path
from atomlora.questions.structured import VERSION, Pair, agrees, answering, checked, messages, salvage_reply
from atomlora.questions.types import AtomText, Question
from atomlora.questions.wider import wider

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
_RENDERING = "2"  # part of the digest: raise it when the same chat would be put to the base in other words
_NEW_TOKENS = 32
_BATCH_ROWS = 16
_INSTRUCTED = 0.9e9  # parameters: what is sold as 1B has from 0.95e9 on
_CHAT_ROWS = 8
_ANSWER_TOKENS = 24
_TOKENS_EACH = 48  # of a question with its answer, as JSON


def follows_instructions(model: Any, tokenizer: Any) -> bool:
    """Whether a base can be asked for JSON: it has a chat template and about a billion parameters."""
    return getattr(tokenizer, "chat_template", None) is not None and model.num_parameters() >= _INSTRUCTED


class BaseWriter:
    """Any loaded causal LM (any device and dtype), greedy and therefore deterministic."""

    name = "base"
    of_base = True

    def __init__(self, model: Any, tokenizer: Any, rounds: int = 1, round_trip: bool = False) -> None:
        self._model, self._tokenizer, self.rounds = model, tokenizer, rounds
        self.instructed = follows_instructions(model, tokenizer)
        self.round_trip = round_trip and self.instructed
        self.digest = f"base-instructed-{VERSION}-{_RENDERING}" if self.instructed else "base-1"
        self.digest += (f"-rounds-{rounds}" if rounds > 1 else "") + ("-round-trip" if self.round_trip else "")
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
        """Up to `max_questions` per atom and round; names and numbers that no written question covers get a
        cloze question."""
        results: list[list[Question]] = []
        step = _CHAT_ROWS if self.instructed else 1
        for start in range(0, len(atoms), step):
            chosen = atoms[start : start + step]
            results += (
                self._replies(chosen, max_questions) if self.instructed else [self._shown(chosen[0], max_questions)]
            )
            if progress is not None:
                progress(len(results), len(atoms))
        return results

    def _replies(self, atoms: Sequence[AtomText], max_questions: int) -> list[list[Question]]:
        found: list[list[Pair]] = [[] for _ in atoms]
        for _ in range(self.rounds):
            asked = [messages(atom, max_questions, earlier) for atom, earlier in zip(atoms, found, strict=True)]
            replies = self._chat(asked, _TOKENS_EACH * (max_questions + 1))
            found = [[*earlier, *salvage_reply(reply)] for earlier, reply in zip(found, replies, strict=True)]
        most = max_questions * self.rounds
        if self.round_trip:
            found = [self._answered(atom, pairs) for atom, pairs in zip(atoms, found, strict=True)]
        return [checked(atom, pairs, most) for atom, pairs in zip(atoms, found, strict=True)]

    def _answered(self, atom: AtomText, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs whose question the base, shown the text, answers with their answer (round-trip filtering, arXiv
        1906.05416)."""
        kept = []
        for start in range(0, len(pairs), _CHAT_ROWS):
            part = pairs[start : start + _CHAT_ROWS]
            replies = self._chat([answering(atom, pair.question) for pair in part], _ANSWER_TOKENS)
            kept += [pair for pair, reply in zip(part, replies, strict=True) if agrees(pair.answer, reply)]
        return kept

    def _chat(self, chats: Sequence[list[dict[str, str]]], limit: int) -> list[str]:
        return self._generate([self._rendered(chat) for chat in chats], limit)

    def _rendered(self, chat: Sequence[dict[str, str]]) -> str:
        """The chat as the base's template writes it. Where that knows no system turn (Gemma 2), the first user turn
        begins with it."""
        render = partial(
            self._tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, **TEMPLATE_SETTINGS
        )
        try:
            return str(render(chat))
        except TemplateError:
            if chat[0]["role"] != "system":
                raise
            system, user, *rest = chat
            return str(render([{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]))

    def _shown(self, atom: AtomText, max_questions: int) -> list[Question]:
        context = " ".join((atom.title, *atom.headings, atom.text))
        candidates = merge(atom.text, [], max_questions + 2)
        if self.rounds > 1:
            more = wider(atom.text, [c.text for c in candidates])
            candidates += more[: (max_questions + 2) * (self.rounds - 1)]
        written = [q for q in self._ask(atom, candidates) if acceptable(q, context)]
        most = max_questions * self.rounds
        return select(written, most, cloze_questions(atom, sure=True)) or cloze_questions(atom)[:most]

    def _ask(self, atom: AtomText, candidates: Sequence[Candidate]) -> list[Question]:
        prefix = f"{self._shots}\n{prefix_prompt(title_path(atom.title, atom.headings), atom.text)}"
        questions = []
        for start in range(0, len(candidates), _BATCH_ROWS):
            chosen = candidates[start : start + _BATCH_ROWS]
            lines = self._generate([prefix + question_suffix(c.text) for c in chosen], _NEW_TOKENS)
            for candidate, line in zip(chosen, lines, strict=True):
                text = squeeze(line.strip().split("\n")[0]) if line.strip() else ""
                questions.append(Question(text=text, answer=squeeze(candidate.text), kind="written"))
        return questions

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], limit: int) -> list[str]:
        batch = self._tokenizer(
            list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        batch = {name: batch[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        ids = self._model.generate(
            **batch, max_new_tokens=limit, do_sample=False, pad_token_id=self._tokenizer.pad_token_id
        )
        return list(self._tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))
