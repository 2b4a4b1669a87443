"""From documents to drafts with questions: what a compile does before it trains, and all that `questions` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from atomlora.atom import Atom
from atomlora.compiler.drafts import Draft
from atomlora.compiler.given import Given
from atomlora.compiler.progress import Teller
from atomlora.corpora import Passage, SkippedFile, read_corpus, split_document
from atomlora.errors import InputError
from atomlora.questions.types import AtomText, Question, QuestionWriter


def read_passages(sources: Sequence[Path | str], teller: Teller) -> tuple[list[Passage], list[SkippedFile]]:
    """All passages of files and folders, and the files that are not read. Raises InputError where there are none."""
    passages: list[Passage] = []
    skipped: list[SkippedFile] = []
    teller.tell("read", 0, 0)
    for number, document in enumerate(read_corpus(sources), start=1):
        if isinstance(document, SkippedFile):
            skipped.append(document)
        else:
            passages += split_document(document)
        teller.tell("read", number, number)
    if not passages:
        names = ", ".join(str(source) for source in sources)
        raise InputError(f"{names}: no sentence to learn from in these documents; give documents with running text")
    return passages, skipped


def ask(
    given: Given, kept: Mapping[int, Atom], writer: QuestionWriter, max_questions: int, teller: Teller
) -> list[Draft]:
    """The drafts with their questions: those of a finished atom where one stands for the draft, all of a question
    file's where it covers the draft, else the user's own and then the writer's."""
    missing = [i for i in range(len(given.drafts)) if i not in kept and i not in given.covered]
    texts = [AtomText(title=d.title, text=d.text, headings=d.headings) for d in (given.drafts[i] for i in missing)]
    written: list[list[Question]] = []
    if texts:
        teller.tell("questions", 0, len(texts))
        written = writer.write(texts, max_questions, lambda done, all_: teller.tell("questions", done, all_))
    found = dict(zip(missing, written, strict=True))
    return [
        replace(draft, questions=kept[i].questions if i in kept else (*given.questions.get(i, ()), *found.get(i, ())))
        for i, draft in enumerate(given.drafts)
    ]
