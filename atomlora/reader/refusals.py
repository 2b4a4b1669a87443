"""Questions that a text does not answer, drawn from the examples themselves, so that a reader learns to say so.

After SQuAD 2.0 (Rajpurkar, Jia and Liang, arXiv 1806.03822), whose unanswerable questions are about the passage that
they are asked of. Here they are other texts' questions: most are asked of a text that shares words with them, as a
router would give it, some of any text. A text that holds all words of the answer is never taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from atomlora.metrics import normalise
from atomlora.reader.examples import ReaderExample
from atomlora.reader.prompts import short_answer_ids
from atomlora.router.lexical import LexicalIndex, words

_NEAREST = 12  # texts that share most with a question, of which one is drawn
_FOREIGN = 0.25  # share of questions that are asked of any text
_TRIES = 8


def with_refusals(examples: Sequence[ReaderExample], share: float, seed: int) -> list[ReaderExample]:
    """The examples, and so many unanswerable ones (`answer` None) behind them that they make up `share` of all, those
    that were there before included; fewer where too few texts lack the answers. The same for the same seed."""
    answered = [one for one in examples if one.answer is not None]
    wanted = round(share * len(answered) / (1 - share)) - (len(examples) - len(answered))
    texts = list(dict.fromkeys(one.text for one in examples))
    generator, index = random.Random(f"refusals {seed}"), LexicalIndex(texts)
    known, drawn = set(examples), list[ReaderExample]()
    order = generator.sample(answered, len(answered))
    for one in (order * (wanted // max(len(order), 1) + 1))[: max(wanted, 0)]:
        for text in _candidates(one.question, texts, index, generator):
            asked = ReaderExample(text=text, question=one.question, answer=None)
            if asked not in known and not may_answer(text, str(one.answer)):
                known.add(asked)
                drawn.append(asked)
                break
    return [*examples, *drawn]


def refusal_step(tokenizer: Any, refusal: str) -> tuple[int, int]:
    """(step, token id): where an answer and the refusal part, counted from the answer's first token, and what the
    refusal says there. A tokenizer that puts a mark of its own before every text makes that the second token."""
    said, other = short_answer_ids(tokenizer, refusal), short_answer_ids(tokenizer, "a")
    step = next(at for at, (mine, theirs) in enumerate(zip(said, other, strict=False)) if mine != theirs)
    return step, said[step]


def may_answer(text: str, answer: str) -> bool:
    """Whether all words of the answer occur in the text, whatever their endings."""
    wanted, held = set(words(answer)) or set(normalise(answer)), {*words(text), *normalise(text)}
    return wanted <= held


def _candidates(question: str, texts: Sequence[str], index: LexicalIndex, generator: random.Random) -> list[str]:
    if generator.random() < _FOREIGN:
        return [generator.choice(texts) for _ in range(_TRIES)]
    scores = index.score(question)
    # Half of what is nearest holds the answer, so more is looked at than is drawn from.
    count = min(len(texts), 4 * _NEAREST)
    nearest = np.argpartition(-scores, count - 1)[:count]
    ranked = sorted(nearest.tolist(), key=lambda number: (-scores[number], number))
    first = generator.randrange(_NEAREST)
    return [texts[number] for number in [*ranked[first:], *ranked[:first]]]
