"""When a document is from, by reader and by rule."""

import json
import os
from datetime import datetime

import docx
import pytest

from atomlora.corpora import Document, read_corpus, split_document
from atomlora.corpora.dates import named_date, stated_date


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-03-12", "2024-03-12"),
        ("2024-3-2", "2024-03-02"),
        ("12 March 2024", "2024-03-12"),
        ("1st of May 2015", "2015-05-01"),
        ("March 12, 2024", "2024-03-12"),
        ("Sept 2019", "2019-09"),
        ("2019", "2019"),
        ("2024-03-12T10:30:00+02:00", "2024-03-12T08:30:00Z"),
        ("2024-02-31", None),
        ("soon", None),
    ],
)
def test_stated_dates(text, date):
    assert stated_date(text) == date


@pytest.mark.parametrize(
    ("title", "source", "date"),
    [
        ("Luggage Policy (2015)", "x.md", "2015"),
        ("Minutes of March 2024", "2023-01-board.docx", "2024-03"),
        ("Board", "minutes/2024-03-board.docx", "2024-03"),
        ("Board", "20240312_board.txt", "2024-03-12"),
        ("Board", "notes.jsonl#squad-1987", None),
        ("Boeing 747", "route-2999.md", None),
    ],
)
def test_named_dates(title, source, date):
    assert named_date(title, source) == date


def test_readers_find_what_documents_say_of_their_date(tmp_path):
    (tmp_path / "a.md").write_text("---\ntitle: Rules\ndate: 2020-01-02\nupdated: 3 May 2021\n---\n\nDogs may come.\n")
    page = "<html><head><meta name='date' content='2019-07-01'></head><body><p>Dogs may come in.</p></body></html>"
    (tmp_path / "b.html").write_text(page)
    (tmp_path / "c.rst").write_text("Rules\n=====\n\n:Date: 2018-02-03\n\nDogs may come in.\n")
    lines = [{"id": "x", "text": "Dogs may come in.", "date": "2017-05"}, {"id": "y", "text": "Cats.", "date": "soon"}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = list(read_corpus([tmp_path]))
    dates = {one.source: (one.date, one.date_origin) for one in found if isinstance(one, Document)}
    assert dates == {
        "a.md": ("2021-05-03", "document"),
        "b.html": ("2019-07-01", "document"),
        "c.rst": ("2018-02-03", "document"),
        "d.jsonl#x": ("2017-05", "document"),
    }
    assert [one.reason for one in found if not isinstance(one, Document)] == [
        'line 2 has a "date" that is no date: write it like "2024-03-12"'
    ]


def test_a_name_goes_before_properties_and_these_before_the_files_own_time(tmp_path):
    for name in ("plan.docx", "plan-2016.docx"):
        made = docx.Document()
        made.add_paragraph("The plan has four parts and one end.")
        made.core_properties.modified = datetime(2022, 5, 6, 7, 8, 9)
        made.save(tmp_path / name)
    (tmp_path / "note.txt").write_text("The plan has four parts and one end.")
    os.utime(tmp_path / "note.txt", (1_600_000_000, 1_600_000_000))
    found = {one.source: one for one in read_corpus([tmp_path]) if isinstance(one, Document)}
    assert {name: (one.date, one.date_origin) for name, one in found.items()} == {
        "plan.docx": ("2022-05-06T07:08:09Z", "properties"),
        "plan-2016.docx": ("2016", "name"),
        "note.txt": ("2020-09-13T12:26:40Z", "file"),
    }
    (passage,) = split_document(found["note.txt"])
    assert (passage.date, passage.date_origin) == ("2020-09-13T12:26:40Z", "file")
