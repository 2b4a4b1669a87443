"""Reader examples from SQuAD: `python -m atomlora.reader.squad --data SQUAD.jsonl -o EXAMPLES.jsonl`.

What a reader meets in use is made of the sentences that hold human answers: a sentence alone; among others, of the same
article mostly, as where several atoms speak or are retrieved; or garbled as a statement that lost its thread is: with
a run of words said again, or with another sentence's end behind it. And whole passages.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from atomlora.questions.prompts import squeeze
from atomlora.questions.squad import Passage, pairs_within, read_passages, sentence_spans, split_titles, tidy

_ALONE, _AMONG = 0.3, 0.65  # shares of what is drawn for a sentence, cumulated; the rest is garbled
_FIRST = 0.6  # how often the right statement comes first among others


class Sentences:
    """The sentences of passages, to draw distractors from."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.by_title: dict[str, list[str]] = {}
        for passage in passages:
            found = [squeeze(passage.text[start:end]) for start, end in sentence_spans(passage.text)]
            self.by_title.setdefault(passage.title, []).extend(found)
        self.all = [sentence for found in self.by_title.values() for sentence in found]

    def draw(self, title: str, but: str, count: int, generator: random.Random) -> list[str]:
        """`count` sentences or fewer that are not `but`, in two of three cases of the same article."""
        found = self.by_title[title] if generator.random() < 0.67 else self.all
        drawn = generator.sample(found, min(len(found), count + 1))
        return [sentence for sentence in drawn if sentence != but][:count]

    def tail(self, generator: random.Random) -> str:
        """The end of some sentence."""
        words = generator.choice(self.all).split()
        return " ".join(words[generator.randrange(len(words)) :])


def whole_passages(passages: Sequence[Passage]) -> Iterator[dict[str, Any]]:
    """Lines of a data file: every passage with all its questions."""
    for passage in passages:
        for question, answer in passage.questions:
            yield _line(passage.text, tidy(question), answer)


def statements(passages: Sequence[Passage], sentences: Sentences, generator: random.Random) -> Iterator[dict[str, Any]]:
    """Lines of a data file: every sentence that holds answers, in one of the ways in which it is met."""
    for passage in passages:
        for start, end in sentence_spans(passage.text):
            sentence = passage.text[start:end]
            pairs = pairs_within(passage, sentence)
            if not pairs:
                continue
            said = _said(passage.title, squeeze(sentence), [answer for _, answer in pairs], sentences, generator)
            for question, answer in pairs:
                yield {"statements": said, "question": question, "answer": answer}


def _said(
    title: str, sentence: str, answers: Sequence[str], sentences: Sentences, generator: random.Random
) -> list[str]:
    way = generator.random()
    if way < _ALONE:
        return [sentence]
    others = sentences.draw(title, sentence, generator.choice((1, 1, 2, 3)), generator)
    if way >= _AMONG:
        sentence = _garbled(sentence, answers, sentences, generator)
        others = others[:1] if generator.random() < 0.4 else []
    found = [sentence, *others]
    if generator.random() >= _FIRST:
        generator.shuffle(found)
    return found


def _garbled(sentence: str, answers: Sequence[str], sentences: Sentences, generator: random.Random) -> str:
    words, way = sentence.split(), generator.random()
    if way < 0.4 and len(words) > 8:
        start = generator.randrange(len(words) - 4)
        run = " ".join(words[start : start + generator.randrange(3, 8)])
        return " ".join([sentence, *[run] * generator.choice((1, 1, 2))])
    if way < 0.7:
        return f"{sentence} {sentences.tail(generator)}"
    last = max(sentence.find(squeeze(answer)) + len(squeeze(answer)) for answer in answers)
    return f"{sentence[:last]}, {sentences.tail(generator)}"


def _line(text: str, question: str, answer: str) -> dict[str, Any]:
    return {"text": squeeze(text), "question": question, "answer": answer.strip().rstrip(".,;:")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m atomlora.reader.squad", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD passages, jsonl")
    parser.add_argument("-o", "--out", type=Path, required=True, help="file of examples")
    parser.add_argument("--train-titles", type=int, default=16, help="titles (file order) to take")
    parser.add_argument("--draws", type=int, default=3, help="ways in which each sentence is met")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    passages, _ = split_titles(read_passages(args.data), args.train_titles)
    generator, sentences = random.Random(args.seed), Sentences(passages)
    lines = list(whole_passages(passages))
    for _ in range(args.draws):
        lines.extend(statements(passages, sentences, generator))
    args.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
