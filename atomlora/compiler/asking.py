"""From documents to drafts with questions: what a compile does before it trains, and all that `questions` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from atomlora.atom import Atom
from atomlora.compiler.drafts import Draft, of_tenant
from atomlora.compiler.given import Given
from atomlora.compiler.progress import Teller
from atomlora.corpora import Passage, SkippedFile, read_corpus, split_document
from atomlora.errors import InputError, StoreError
from atomlora.questions.types import AtomText, Question, QuestionWriter
from atomlora.store import Store


def read_passages(sources: Sequence[Path | str], teller: Teller) -> tuple[list[Passage], list[SkippedFile]]:
    """All passages of files and folders, and the files that are not read. Raises InputError where there are none."""
    passages, skipped, reason = _read(sources, teller)
    if reason:
        raise InputError(reason)
    return passages, skipped


def read_replacing(
    sources: Sequence[Path | str], store: Path | str, tenant: str | None, allow_empty: bool, teller: Teller
) -> tuple[list[Passage], list[SkippedFile]]:
    """The same of documents that replace those of `tenant` in a store. With `allow_empty` there may be none, if no file
    had to be skipped: one that cannot be read today is not gone. The InputError names that option where the store has
    documents that it would take away."""
    passages, skipped, reason = _read(sources, teller)
    if reason and skipped:
        raise InputError(reason)
    if reason and not allow_empty:
        of = "" if tenant is None else f" of {tenant!r}"
        remedy = f"; to take away those that the store has{of}, add --allow-empty" if _holds(store, tenant) else ""
        raise InputError(reason + remedy)
    return passages, skipped


def _read(sources: Sequence[Path | str], teller: Teller) -> tuple[list[Passage], list[SkippedFile], str]:
    """Passages, skipped files, and why there is no passage ("": there is). InputError for a source that is none."""
    passages: list[Passage] = []
    skipped: list[SkippedFile] = []
    names = ", ".join(str(source) for source in sources)
    reason = f"{names}: no sentence to learn from in these documents; give documents with running text"
    documents = read_corpus(sources)
    teller.tell("read", 0, 0)
    try:
        for number, document in enumerate(documents, start=1):
            if isinstance(document, SkippedFile):
                skipped.append(document)
            else:
                passages += split_document(document)
            teller.tell("read", number, number)
    except InputError as error:  # at the end, where none of them could be used
        reason = str(error)
    return passages, skipped, "" if passages else reason


def _holds(store: Path | str, tenant: str | None) -> bool:
    """Whether a store's version has documents of the tenant."""
    try:
        with Store.open(store) as opened:
            return bool(of_tenant(opened.atoms(), tenant))
    except StoreError:  # the run will say so, or there is none yet
        return False


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
