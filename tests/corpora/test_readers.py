"""Each format: headings, pronouns, lists and tables come out as blocks with exact offsets."""

import io
import json

import docx
import pypdf
import pytest
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from atomlora.corpora import Document, Passage, SkippedFile, split_document
from atomlora.corpora.readers import reader_for
from atomlora.errors import InputError


def one(name: str, data: bytes | str) -> Document:
    reader = reader_for(name)
    assert reader is not None
    (document,) = reader(data.encode() if isinstance(data, str) else data, name)
    assert isinstance(document, Document)
    return document


def split(document: Document) -> list[Passage]:
    return split_document(document)


def make_pdf(pages: list[list[tuple[str, float, str]]], password: str = "") -> bytes:
    """Pages of lines `(text, size, font)` written top down with 6 points between paragraphs marked by ""."""
    writer = pypdf.PdfWriter()
    for lines in pages:
        page = writer.add_blank_page(400, 600)
        fonts = DictionaryObject()
        for name, base in (("F1", "Times-Roman"), ("F2", "Helvetica-Bold")):
            font = DictionaryObject()
            for key, value in (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", f"/{base}")):
                font[NameObject(key)] = NameObject(value)
            fonts[NameObject(f"/{name}")] = font
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        y, drawn = 560.0, []
        for text, size, font_name in lines:
            if text:
                drawn.append(f"BT /{font_name} {size} Tf 1 0 0 1 40 {y} Tm ({text}) Tj ET")
            y -= 14
        stream = StreamObject()
        stream.set_data("\n".join(drawn).encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_plain_text_headings_lists_and_offsets() -> None:
    text = (
        "The Loss of the Ondine\n======================\n\nThe Ondine sank. She was "
        "new.\n\nRULES\n\n1. Row.\n2. Bail.\n\n* one\n* two\n"
    )
    document = one("a.txt", text)
    assert document.title == "The Loss of the Ondine"
    assert document.text == text
    kinds = [block.kind for block in document.blocks]
    assert kinds == ["heading", "paragraph", "heading", "step", "step", "list_item", "list_item"]
    assert split(document)[0].text == "The Ondine sank. She was new."
    assert split(document)[1].headings == ("RULES",)


def test_a_year_at_the_start_of_a_line_is_no_procedure() -> None:
    document = one("a.txt", "The war began in August of the year\n1914. It was long.\n\n12. Night came.\n")
    assert [block.kind for block in document.blocks] == ["paragraph", "paragraph"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("\ufeffGrüße aus Köln.".encode(), "Grüße"),
        ("Grüße aus Köln.".encode("utf-16"), "Grüße"),
        (
            ("Die Straße führt über die Brücke nach Köln, und Grüße kommen zurück. " * 5).encode("cp1252"),
            "Straße",
        ),
        (b"One line.\r\nTwo lines.", "One line.\nTwo"),
    ],
)
def test_encodings(data: bytes, word: str) -> None:
    document = one("a.txt", data)
    assert word in document.text
    assert "\ufeff" not in document.text


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0", b"\x01\x02\x03\x04" * 50, b"\xff\xfea\xd8"])
def test_binary_data_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        one("a.txt", data)


def test_markdown() -> None:
    source = "---\ntitle: Fleet\n---\n# Ships\n\nThe *Orla* is [old](http://x.y). <!-- no -->\n\n> She sails.\n"
    document = one("a.md", source)
    assert document.title == "Fleet"
    assert split(document)[0].text == "The Orla is old. She sails."
    assert split(document)[0].headings == ("Ships",)


RST = """\
Handbook
========

Engines
-------

The *Orla* has two.

1. Warm up.
2. Start.

term
  a meaning

.. comment

.. include:: /etc/passwd

==== =====
Ship Built
==== =====
Orla 1998
==== =====
"""


def test_restructured_text() -> None:
    document = one("a.rst", RST)
    assert document.title == "Handbook"
    assert [p.text for p in split(document)] == [
        "The Orla has two.",
        "Handbook – Engines, step 1: Warm up.",
        "Handbook – Engines, step 2: Start.",
        "term: a meaning",
        "Handbook – Engines: Ship: Orla; Built: 1998",
    ]


def test_html() -> None:
    source = (
        "<html><head><title>T</title><script>bad()</script></head><body><nav>menu</nav><h1>Fares</h1>"
        "<p>All fares of the Orla are in <b>crowns</b>.<br>They are "
        "low.</p><h2>List</h2><ul><li>adult<ul><li>single</li>"
        "</ul></li></ul><ol><li>Pay.</li></ol><dl><dt>Stub</dt><dd>half a ticket</dd></dl>"
        "<table><caption>Prices</caption><tr><th>Who</th><th>Crowns</th></tr><tr><td>Adult"
        "</td><td>8</td></tr></table>"
        "<pre>a\n  b</pre></body></html>"
    )
    document = one("a.html", source)
    assert document.title == "Fares"
    assert "bad" not in document.text
    assert "menu" not in document.text
    found = [(p.kind, p.text) for p in split(document)]
    assert found[0][1] == "All fares of the Orla are in crowns. They are low."
    assert found[1][1] == "Fares – List: adult"
    assert found[2][1] == "Fares – List – adult: single"
    assert found[3:] == [
        ("procedure", "Fares – List, step 1: Pay."),
        ("definition", "Stub: half a ticket"),
        ("table_row", "Fares – List – Prices: Who: Adult; Crowns: 8"),
        ("code", "Fares – List:\na\n  b"),
    ]


def test_deeply_nested_html() -> None:
    document = one("a.html", "<div>" * 50_000 + "<p>The Orla is plum in colour.</p>")
    assert "The Orla is plum in colour." in document.text


def test_pdf_headings_pages_and_paragraphs() -> None:
    body = ("F1",)
    first = [
        ("Refit of the Orla", 16, "F2"),
        ("", 0, ""),
        ("The Orla spent eleven weeks at the yard, where the com-", 10, *body),
        ("pany of Moxley renewed her plates.", 10, *body),
        ("", 0, ""),
        ("Trials", 12, "F2"),
        ("", 0, ""),
        ("She reached 15.2 knots off Gannet Point.", 10, *body),
    ]
    document = one("refit.pdf", make_pdf([first, [("Anna Brask signed the papers in 2020.", 10, "F1")]]))
    assert document.title == "Refit of the Orla"
    passages = split(document)
    assert [(p.page, p.text) for p in passages] == [
        (1, "The Orla spent eleven weeks at the yard, where the company of Moxley renewed her plates."),
        (1, "Refit of the Orla – Trials: She reached 15.2 knots off Gannet Point."),
        (2, "Anna Brask signed the papers in 2020."),
    ]


def test_running_heads_of_a_pdf_are_left_out() -> None:
    pages = [
        [(f"Kestrin Line, page {n}", 9, "F1"), ("", 0, ""), (f"Ship number {n} is plum.", 10, "F1")]
        for n in range(1, 5)
    ]
    document = one("a.pdf", make_pdf(pages))
    assert "page" not in document.text
    assert "Ship number 3 is plum." in document.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_pdf([[("Secret words.", 10, "F1")]], password="x"), "password"),
        (make_pdf([[]]), "OCR"),
        (b"%PDF-1.7 broken", "not a valid PDF"),
    ],
)
def test_pdfs_that_cannot_be_used(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        one("a.pdf", data)


def test_docx() -> None:
    word = docx.Document()
    word.add_heading("Minutes", 0)
    word.add_heading("Ship", 1)
    word.add_paragraph("The Orla was approved. It is new.")
    word.add_paragraph("Sign the form.", style="List Number")
    word.add_paragraph("plum paint", style="List Bullet")
    table = word.add_table(rows=2, cols=2)
    for cell, text in zip((c for row in table.rows for c in row.cells), ("Ship", "Built", "Orla", "1998"), strict=True):
        cell.text = text
    table.style = "Light List"
    out = io.BytesIO()
    word.save(out)
    document = one("a.docx", out.getvalue())
    assert document.title == "Minutes"
    assert [p.text for p in split(document)] == [
        "The Orla was approved. It is new.",
        "Minutes – Ship, step 1: Sign the form.",
        "Minutes – Ship: plum paint",
        "Minutes – Ship: Ship: Orla; Built: 1998",
    ]
    with pytest.raises(InputError, match=r"not a valid \.docx"):
        one("b.docx", b"PK nonsense")


def test_python_source() -> None:
    source = (
        '"""Tides at Hask."""\n\n# depth in metres\nDEPTH = 1.9\nPLAIN = 2  # trailing '
        'words\n\n\nclass Gate:\n    """A gate."""\n\n'
        '    def open(self, tide: float) -> bool:\n        """Whether it opens; größer."""\n  '
        "      return tide > DEPTH\n\n\n"
        "def bare(x):\n    return x + 1\n"
    )
    document = one("harbour/tide.py", source)
    passages = split(document)
    assert [p.text for p in passages] == [
        "module `harbour.tide`: Tides at Hask.",
        "`harbour.tide.DEPTH = 1.9`: depth in metres",
        "`harbour.tide.PLAIN = 2`: trailing words",
        "class `harbour.tide.Gate`: A gate.",
        "function `harbour.tide.Gate.open(self, tide: float) -> bool`: Whether it opens; größer.",
        "function `harbour.tide.bare(x)`: def bare(x): return x + 1",
    ]
    assert document.text[passages[3].start : passages[3].end] == 'class Gate:\n    """A gate."""'
    assert {p.kind for p in passages} == {"code"}


def test_python_that_does_not_parse_is_read_by_its_comments() -> None:
    document = one("a.py", "# The tide table of Hask\nprint 'x'\n")
    assert split(document)[0].text == "a.py, `print 'x'`: The tide table of Hask"


def test_other_code() -> None:
    source = (
        "// The limit of the gate,\n// in metres.\nconst LIMIT = 4;\n\n/** Opens the gate.\n "
        "* Slowly.\n */\nfunction open() {}\n"
    )
    document = one("gate.js", source)
    assert [p.text for p in split(document)] == [
        "gate.js, `const LIMIT = 4;`: The limit of the gate, in metres.",
        "gate.js, `function open() {}`: Opens the gate. Slowly.",
    ]


def test_jsonl() -> None:
    lines = [
        json.dumps({"id": "a", "text": "The Orla is old.", "title": "Orla", "labels": ["x"], "other": 1}),
        "not json",
        json.dumps({"text": "no id"}),
        json.dumps({"id": 7, "text": "# Tansy\n\nThe Tansy is new."}),
        json.dumps({"id": "a", "text": "again"}),
        json.dumps({"id": "e", "text": " "}),
        json.dumps({"id": "n", "text": "a\0b"}),
        json.dumps({"id": "plain", "text": "It sank."}),
    ]
    reader = reader_for("c.jsonl")
    assert reader is not None
    found = list(reader("\n".join(lines).encode(), "c.jsonl"))
    documents = [one for one in found if isinstance(one, Document)]
    assert [(d.source, d.title, d.labels) for d in documents] == [
        ("c.jsonl#a", "Orla", ("x",)),
        ("c.jsonl#7", "Tansy", ()),
        ("c.jsonl#plain", "plain", ()),
    ]
    assert split(documents[0])[0].labels == ("x",)
    skipped = [one for one in found if isinstance(one, SkippedFile)]
    assert [s.source for s in skipped] == [
        "c.jsonl#line-2",
        "c.jsonl#line-3",
        "c.jsonl#a",
        "c.jsonl#e",
        "c.jsonl#line-7",
    ]
