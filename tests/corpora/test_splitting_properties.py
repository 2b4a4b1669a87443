"""What must hold for every text: exact spans, in order, nothing lost, no errors, the same every time."""

import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from atomlora.corpora import Document, SkippedFile, SplitSettings, read_corpus, split_document
from atomlora.corpora.readers import markdown, plain, restructured
from atomlora.corpora.sentences import sentence_spans
from atomlora.errors import InputError

_PIECES = st.sampled_from(
    [
        "The ferry Orla sank in 1934.",
        "It was raised.",
        "They left; the ship stayed.",
        "Hello!",
        "Dr. Ferro paid 3.5 million.",
        "# Heading",
        "Heading\n=======",
        "- an item",
        "  - inner item",
        "1. Open the valve.",
        "2. Close it.",
        "Key: value",
        "The rules are:",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "```\ncode()\n```",
        "これは文です。次の文。",
        "(approx. 5 km. away)",
        "Der 1. Vorsitzende und die Fa. Orla gehen am 5.",
        "Mai inkl. und bzw. Anl.",
        "3.",
        "word " * 70,
        "<b>x</b>",
        ".. note:: yes",
        "::",
        "\n",
        "\n\n",
        " ",
        "\t",
    ]
)
_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200),
    st.lists(_PIECES, max_size=12).map("\n".join),
    st.lists(_PIECES, max_size=12).map("\n\n".join),
)
_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _letters(text: str) -> list[str]:
    return [character for character in text if character.isalnum()]


def _check_spans(document: Document) -> None:
    passages = split_document(document)
    position = 0
    for passage in passages:
        assert position <= passage.start < passage.end <= len(document.text)
        position = passage.end
        span = document.text[passage.start : passage.end]
        assert span == span.strip(" \t\n") or passage.kind == "code"
        if passage.kind not in ("table_row", "code"):
            said = iter(passage.text)
            assert all(character in said for character in _letters(span))  # in this order
    assert passages == split_document(document)


@_QUICK
@given(_TEXTS)
def test_plain_text_spans_are_exact_and_nothing_is_lost(text: str) -> None:
    document = plain.parse(text, "a.txt", text.encode())
    assert document.text == text
    _check_spans(document)
    headings = [block for block in document.blocks if block.kind == "heading"]
    covered = sorted([(p.start, p.end) for p in split_document(document)] + [(b.start, b.end) for b in headings])
    blank = list(text)
    for start, end in covered:
        blank[start:end] = " " * (end - start)
    # What is left may be list numbers only.
    assert not [
        character for character in _letters("".join(blank)) if not character.isdigit() and character not in "stepSTEP"
    ]


@_QUICK
@given(_TEXTS)
def test_markdown_passages_hold_every_word_of_the_prose(text: str) -> None:
    document = markdown.parse(text, "a.md", text.encode())
    _check_spans(document)
    passages = split_document(document)
    for block in document.blocks:
        if block.kind in ("paragraph", "list_item", "step", "definition"):
            inside = [p for p in passages if p.start < block.end and p.end > block.start]
            spans = "".join(document.text[max(p.start, block.start) : min(p.end, block.end)] for p in inside)
            assert _letters(spans) == _letters(document.text[block.start : block.end])


@settings(_QUICK, max_examples=40)
@given(_TEXTS)
def test_restructured_text_spans(text: str) -> None:
    try:
        documents = list(restructured.read(text.encode(), "a.rst"))
    except InputError:  # refused for control characters
        assume(False)
    for document in documents:
        _check_spans(document)


@_QUICK
@given(_TEXTS, st.integers(10, 40))
def test_sentences_cover_every_character_but_blanks(text: str, max_words: int) -> None:
    spans = sentence_spans(text, max_words)
    rest, position = "", 0
    for start, end in spans:
        assert position <= start < end
        assert len(text[start:end].split()) <= max_words + 1
        rest += text[position:start]
        position = end
    assert not (rest + text[position:]).strip()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["txt", "md", "rst", "html", "pdf", "docx", "py", "js", "jsonl"]))
def test_any_bytes_give_documents_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / f"a.{suffix}").write_bytes(data)
    (folder / "z.txt").write_text("The harbour of Vennet opened in 1822.")
    for found in read_corpus([folder]):
        if isinstance(found, Document):
            _check_spans(found)
        else:
            assert isinstance(found, SkippedFile)
            assert found.reason


@pytest.mark.parametrize(
    "piece",
    ["word ", "The ship Orla sank in 1934. It was raised. ", "x", "(a. ", "1. ", "der 1. Tag und "],
    ids=["no-stop", "sentences", "no-blank", "brackets", "numbers", "ordinals"],
)
def test_a_megabyte_on_one_line_takes_time_in_proportion(piece: str) -> None:
    """Four times the text takes some four times the work, not sixteen times; CPU time, so that a busy machine may."""
    seconds = []
    for size in (250_000, 1_000_000):
        document = plain.parse(piece * (size // len(piece)), "a.txt", b"")
        began = time.process_time()
        passages = split_document(document)
        seconds.append(time.process_time() - began)
        assert max(len(passage.text) for passage in passages) < 12 * 120 * 4
    assert seconds[1] < 9 * seconds[0] + 0.5


def test_settings_are_replaceable() -> None:
    text = "The ship Orla sank in 1934. It was raised in 1936."
    document = plain.parse(text, "a.txt", b"")
    assert [p.text for p in split_document(document)] == [text]
    alone = split_document(document, SplitSettings(max_sentences=1))
    assert [p.start for p in alone] == [0, 28]
    assert {p.kind for p in split_document(document, classifier=lambda text, hint: "statement")} == {"statement"}
