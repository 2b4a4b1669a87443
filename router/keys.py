"""Which texts an atom is found by."""

from __future__ import annotations

from collections.abc import Sequence


def key_texts(
    text: str,
    title: str = "",
    headings: Sequence[str] = (),
    questions: Sequence[str] = (),
    before: str = "",
    after: str = "",
) -> list[str]:
    """The keys of an atom, without repetitions, statements first.

    The bare text; the text under its title and headings, which names what "it" in the text is; the text
    between its neighbours `before` and `after` in the document; and its questions. On people's questions
    about the sample corpus the first two together find more than either alone, the third adds as much again,
    and questions keep the right atom among the first eight.
    """
    named = ". ".join(part.strip().rstrip(".") for part in (title, *headings) if part.strip())
    between = " ".join(part.strip() for part in (before, text, after) if part.strip())
    keys = [
        text.strip(),
        f"{named}. {text.strip()}" if named else "",
        between,
        *(q.strip() for q in questions),
    ]
    return list(dict.fromkeys(key for key in keys if key))
