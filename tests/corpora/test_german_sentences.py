"""German ordinals and abbreviations end no sentence, and English text is split as without that rule."""

import re

import pytest

from atomlora.corpora import Document, read_corpus, sample_names, sample_path, sentences, split_document
from atomlora.corpora.german import is_german
from atomlora.corpora.sentences import sentence_spans


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    "sentence",
    [
        "Der Vertrag endet am 31. Dezember 2024.",
        "Der 1. Vorsitzende ist Herr Dr. Müller.",
        "Die Lieferung erfolgt ab dem 1. Januar 2025 bis spätestens 15. März 2025.",
        "Gem. § 5 Abs. 2 BGB gilt die Frist von 30 Tagen.",
        "Die Gebühr beträgt ca. 9,50 Euro inkl. MwSt. und ist bis zum 3. Werktag zu zahlen.",
        "Die Fa. Müller GmbH & Co. KG sitzt in der Str. 5 in Köln.",
        "Im 19. Jahrhundert stand hier ein Turm.",
        "Das Büro öffnet um 8.00 Uhr bzw. um 9.00 Uhr am Sa. und So. im Winter.",
        "Die Prüfung erfolgt im 2. Quartal nach Anl. 3.",
        "Der Betrag von 1.500,00 EUR wird zum 15. eines Monats fällig.",
        "Lieferung: 1. Januar 2025",
        "The invoice is due on 31. December 2024.",
        "The ferry sails from 1. May 2024 to 30. September 2024.",
        "The max. load is five tons.",
    ],
)
def test_what_stays_one_sentence(sentence: str) -> None:
    assert split(sentence) == [sentence]
    assert split(f"{sentence.rstrip('.')}. Danach gilt das nicht.") == [
        f"{sentence.rstrip('.')}.",
        "Danach gilt das nicht.",
    ]


@pytest.mark.parametrize(
    "said",
    [
        ["Die Miete ist fällig zum 15.", "Danach gilt eine Frist."],
        ["Wir treffen uns am 4.", "Montags ist zu."],
        ["Die Kasse öffnet von 9 bis 12.", "Sonntags ist zu."],
        ["Die Halle liegt in der Langen Str.", "Die Tür ist grün."],
        ["Es gilt § 5.", "Die Frist beträgt 3 Tage."],
        ["Das Programm ist neu.", "set_mode(2) stellt es um."],
        ["I am 5.", "You are 6."],
        ["The page is 31.", "December was cold."],
        ["She turned 31.", "December 2024 was cold."],
        ["We never die.", "12 of us stayed."],
        ["The quay is open on Sundays.", "closed in March."],
    ],
)
def test_what_stays_apart(said: list[str]) -> None:
    assert split(" ".join(said)) == said


@pytest.mark.parametrize(
    "text", ["", "Torrisk", "The articles der and die.", "Die Hard", "9 am, 10 am", "El barco es azul."]
)
def test_what_is_not_german(text: str) -> None:
    assert not is_german(text)


def test_the_samples_are_split_as_without_these_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Atoms' identities hang on it."""
    documents = [
        document
        for name in sample_names()
        for document in read_corpus([sample_path(name) / "documents"])
        if isinstance(document, Document)
    ]
    found = [split_document(document) for document in documents]
    monkeypatch.setattr(sentences, "runs_on", lambda *_: False)
    monkeypatch.setattr(sentences, "_DAY", re.compile(r"(?!)"))
    monkeypatch.setattr(sentences, "_SHORT", re.compile(r"(?!)"))
    assert sum(map(len, found)) > 100
    assert found == [split_document(document) for document in documents]
