"""The question writer that runs a LoRA trained by train_writer.py on a base model that is already loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomlora.errors import UsageError
from atomlora.questions.candidates import Candidate, merge
from atomlora.questions.cloze import cloze_questions
from atomlora.questions.decoder import PrefixDecoder, Prefixes
from atomlora.questions.filters import acceptable, gives_away, select
from atomlora.questions.loading import base_shape, read_deltas, read_shape
from atomlora.questions.prompts import (
    SPAN_SEPARATOR,
    SPAN_SUFFIX,
    prefix_prompt,
    question_suffix,
    question_target,
    squeeze,
    title_path,
    token_ids,
)
from atomlora.questions.sampling import sample, stop_ids, stream
from atomlora.questions.types import AtomText, Question
from atomlora.questions.words import has_number

_PROCEDURE = "1"  # part of the digest: raise it when the same text would get other questions
_BATCH_ATOMS = 16
_SPAN_LISTS = 2  # one greedy, the others sampled
_SPAN_TOKENS = 28
_QUESTION_TOKENS = 32
_MAX_PREFIX_TOKENS = 320
_RIVALS = 2
# By eye on 32 held-out sentences: below these most questions are wrong, above them most are right.
_MIN_MARGIN = 0.08  # nats per token
_MIN_MARGIN_SURE = 0.03  # for questions likelier than _SURE_SCORE
_SURE_SCORE = -0.4
_MIN_SCORE = -1.0


class AdapterWriter:
    """Lists answer spans, then asks for a question to each (prompts.py), with a trained LoRA on a Llama base.

    `model`, `tokenizer`: the loaded base, left untouched: the writer works on its own copy with the LoRA
    merged, in bfloat16 where the processor multiplies it natively (twice as fast), else in the model's
    type. That copy is made at the first `write` and dropped by `close`. Results depend on title, text and
    seed only, up to float noise. Raises UsageError if the base has another shape than the adapter's.
    """

    name = "adapter"

    def __init__(self, model: Any, tokenizer: Any, adapter_dir: Path | str, seed: int = 0) -> None:
        self.adapter_dir = Path(adapter_dir)
        wanted, found = read_shape(self.adapter_dir), base_shape(model.config)
        if wanted != found:
            differ = ", ".join(f"{k} {found.get(k)} instead of {v}" for k, v in wanted.items() if found.get(k) != v)
            raise UsageError(
                f"--question-writer {self.adapter_dir}: made for another base ({differ}); use base or none"
            )
        self._deltas, digest = read_deltas(self.adapter_dir)
        self._model, self.tokenizer, self.seed = model, tokenizer, seed
        self._dtype = _fast_dtype(model)
        self._decoder: PrefixDecoder | None = None
        self.digest = hashlib.sha256(f"{digest} {_PROCEDURE} {seed} {self._dtype}".encode()).hexdigest()
        self._stops = stop_ids(tokenizer)

    def close(self) -> None:
        """Free the merged copy; the next `write` makes it anew."""
        self._decoder = None

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` per atom; names and numbers that no written question covers get a cloze
        question."""
        if self._decoder is None:
            self._decoder = PrefixDecoder(self._model, self._deltas, self._dtype)
        prompts = [
            token_ids(self.tokenizer, prefix_prompt(title_path(a.title, a.headings), a.text))[-_MAX_PREFIX_TOKENS:]
            for a in atoms
        ]
        # Neighbours in length share a batch: least padding.
        order = sorted(range(len(atoms)), key=lambda i: (len(prompts[i]), i))
        results: list[list[Question]] = [[] for _ in atoms]
        for start in range(0, len(order), _BATCH_ATOMS):
            chosen = order[start : start + _BATCH_ATOMS]
            batch = _Batch(self, [atoms[i] for i in chosen], [prompts[i] for i in chosen], max_questions)
            for index, questions in zip(chosen, batch.run(), strict=True):
                results[index] = questions
            if progress is not None:
                progress(start + len(chosen), len(atoms))
        return results

    def generate(
        self,
        prefixes: Prefixes,
        atom: Sequence[int],
        suffixes: Sequence[str],
        draws: np.ndarray | None,
        limit: int,
    ) -> list[tuple[str, float]]:
        """One line for each row and its mean log-probability per token (the line's end included).

        `draws` (rows, limit) in [0, 1) are the random numbers of sampled rows; a NaN row decodes greedily.
        """
        assert self._decoder is not None
        if not atom:
            return []
        asked = [token_ids(self.tokenizer, suffix) for suffix in suffixes]
        rows = self._decoder.rows(prefixes, atom, max(len(a) for a in asked) + limit)
        logits = self._decoder.extend(prefixes, rows, asked)
        lines: list[list[int]] = [[] for _ in atom]
        sums, counts = [0.0] * len(atom), [0] * len(atom)
        alive = list(range(len(atom)))
        for step in range(limit):
            logs = logits.log_softmax(-1)
            picked = logs.argmax(-1)
            if draws is not None:
                sampled = [(at, row) for at, row in enumerate(alive) if not np.isnan(draws[row, step])]
                if sampled:
                    places = torch.tensor([at for at, _ in sampled], device=logs.device)
                    numbers = torch.tensor([float(draws[row, step]) for _, row in sampled], device=logs.device)
                    picked[places] = sample(logs[places], numbers)
            values = logs.gather(1, picked[:, None])[:, 0].tolist()
            tokens, going = picked.tolist(), []
            for at, row in enumerate(alive):
                sums[row] += values[at]
                counts[row] += 1
                if tokens[at] not in self._stops:
                    lines[row].append(tokens[at])
                    going.append(at)
            if not going or step == limit - 1:
                break
            if len(going) < len(alive):
                rows = rows.keep(torch.tensor(going, device=logs.device))
                alive = [alive[at] for at in going]
            logits = self._decoder.extend(prefixes, rows, [[tokens[at]] for at in going])
        texts = self.tokenizer.batch_decode(lines, skip_special_tokens=True)
        return [(squeeze(text), sums[row] / max(1, counts[row])) for row, text in enumerate(texts)]

    def score(
        self, prefixes: Prefixes, atom: Sequence[int], suffixes: Sequence[str], lines: Sequence[str]
    ) -> list[float]:
        """Mean log-probability per token of each given question (its line's end included)."""
        assert self._decoder is not None
        if not atom:
            return []
        asked = [token_ids(self.tokenizer, suffix) for suffix in suffixes]
        targets = [token_ids(self.tokenizer, question_target(line)) for line in lines]
        return self._decoder.mean_log_probability(prefixes, atom, asked, targets)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefixes:
        assert self._decoder is not None
        return self._decoder.prefill(prompts)


class _Batch:
    """The three passes over one batch of atoms: span lists, one greedy question a candidate, sampled
    wordings."""

    def __init__(
        self, writer: AdapterWriter, atoms: list[AtomText], prompts: list[list[int]], max_questions: int
    ) -> None:
        self.writer, self.atoms, self.prompts, self.max_questions = writer, atoms, prompts, max_questions
        self.streams = [stream(atom, writer.seed) for atom in atoms]
        self.contexts = [" ".join((a.title, *a.headings, a.text)) for a in atoms]
        self.candidates: list[list[Candidate]] = [[] for _ in atoms]
        self.found: list[list[Question]] = [[] for _ in atoms]

    def run(self) -> list[list[Question]]:
        prefixes = self.writer.prefill(self.prompts)
        self.candidates = self._candidates(prefixes)
        first = [(index, c) for index, listed in enumerate(self.candidates) for c in listed]
        self._ask(prefixes, first, sampled=False)
        self._ask(prefixes, self._again(), sampled=True)
        return [
            select(questions, self.max_questions, cloze_questions(atom, sure=True))
            or cloze_questions(atom)[: self.max_questions]
            for questions, atom in zip(self.found, self.atoms, strict=True)
        ]

    def _draws(self, atom: Sequence[int], limit: int, greedy: Sequence[bool]) -> np.ndarray:
        draws = np.full((len(atom), limit), np.nan)
        for row, index in enumerate(atom):
            if not greedy[row]:
                draws[row] = self.streams[index].random(limit)
        return draws

    def _candidates(self, prefixes: Prefixes) -> list[list[Candidate]]:
        atom = [index for index in range(len(self.atoms)) for _ in range(_SPAN_LISTS)]
        draws = self._draws(atom, _SPAN_TOKENS, [row % _SPAN_LISTS == 0 for row in range(len(atom))])
        lines = self.writer.generate(prefixes, atom, [SPAN_SUFFIX] * len(atom), draws, _SPAN_TOKENS)
        lists: list[list[list[str]]] = [[] for _ in self.atoms]
        for index, (line, _) in zip(atom, lines, strict=True):
            lists[index].append(line.split(SPAN_SEPARATOR.strip()))
        # Some questions will be dropped by the filters, so two more candidates than questions are asked.
        return [merge(a.text, spans, self.max_questions + 2) for a, spans in zip(self.atoms, lists, strict=True)]

    def _ask(self, prefixes: Prefixes, asked: Sequence[tuple[int, Candidate]], sampled: bool) -> None:
        atom = [index for index, _ in asked]
        draws = self._draws(atom, _QUESTION_TOKENS, [False] * len(atom)) if sampled else None
        suffixes = [question_suffix(candidate.text) for _, candidate in asked]
        lines = self.writer.generate(prefixes, atom, suffixes, draws, _QUESTION_TOKENS)
        passed = []
        for (index, candidate), (line, score) in zip(asked, lines, strict=True):
            question = Question(text=line, answer=squeeze(candidate.text), kind="written", score=round(score, 4))
            new = all(question.text != other.text for other in self.found[index])
            if new and score >= _MIN_SCORE and acceptable(question, self.contexts[index]):
                passed.append((index, question))
        self._verify(prefixes, passed)

    def _verify(self, prefixes: Prefixes, written: Sequence[tuple[int, Question]]) -> None:
        """Keep a question only if its own answer makes it likelier than other candidates do.

        By Bayes' rule and equal priors p(answer | question) is in proportion to p(question | answer), which
        the writer gives; so this asks whether the question would be answered by its answer. The two rivals
        are those most alike in kind, which is where writers go wrong.
        """
        pairs = [(at, rival) for at, (index, question) in enumerate(written) for rival in self._rivals(index, question)]
        scores = self.writer.score(
            prefixes,
            [written[at][0] for at, _ in pairs],
            [question_suffix(rival) for _, rival in pairs],
            [written[at][1].text for at, _ in pairs],
        )
        best: dict[int, float] = {}
        for (at, _), score in zip(pairs, scores, strict=True):
            best[at] = max(score, best.get(at, score))
        for at, (index, question) in enumerate(written):
            own = question.score if question.score is not None else 0.0
            margin = _MIN_MARGIN_SURE if own >= _SURE_SCORE else _MIN_MARGIN
            if at not in best or own - best[at] >= margin:
                self.found[index].append(question)

    def _rivals(self, index: int, question: Question) -> list[str]:
        others = [squeeze(c.text) for c in self.candidates[index]]
        open_ones = [o for o in others if o != question.answer and not gives_away(question.text, o)]
        return sorted(open_ones, key=lambda other: _kind(other) != _kind(question.answer))[:_RIVALS]

    def _again(self) -> list[tuple[int, Candidate]]:
        """Where there is room: first candidates that have no question yet, then those with the best
        questions."""
        chosen = []
        for index, listed in enumerate(self.candidates):
            best = {q.answer: q.score or 0.0 for q in self.found[index]}
            room = self.max_questions - len(best)
            bare = [c for c in listed if squeeze(c.text) not in best]
            rest = sorted((c for c in listed if squeeze(c.text) in best), key=lambda c: -best[squeeze(c.text)])
            chosen += [(index, candidate) for candidate in (bare + rest)[: max(0, room)]]
        return chosen


def _kind(answer: str) -> str:
    """Numbers, names and the rest: answers of one kind are taken for each other."""
    if has_number(answer):
        return "number"
    return "name" if any(word[0].isupper() for word in answer.split()) else "other"


def _fast_dtype(model: Any) -> torch.dtype:
    """bfloat16 on a CPU with native bfloat16 products, else the model's own type."""
    weight: torch.Tensor = model.model.embed_tokens.weight
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if weight.device.type == "cpu" and probe is not None and probe():
        return torch.bfloat16
    return weight.dtype
