"""What documents of offices hold: merged cells, content controls, German words, old encodings, pages made of tables."""

import io
import json
import unicodedata

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from atomlora.corpora import Document, split_document
from atomlora.corpora.dates import named_date, stated_date
from atomlora.corpora.encoding import decode
from atomlora.corpora.readers import reader_for


def texts(name: str, data: bytes | str) -> list[str]:
    """The passages of a file."""
    reader = reader_for(name)
    assert reader is not None
    found = list(reader(data.encode() if isinstance(data, str) else data, name))
    assert all(isinstance(one, Document) for one in found), found
    return [passage.text for one in found if isinstance(one, Document) for passage in split_document(one)]


def saved(document) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def test_word_shows_controls_insertions_and_fields_and_no_deletions() -> None:
    document = docx.Document()
    spaces = nsdecls("w")
    inner = (
        run("The contract starts on ")
        + f'<w:ins w:id="1" w:author="a">{run("1 March 2024")}</w:ins>'
        + f'<w:del w:id="2" w:author="a"><w:r><w:delText>1 May</w:delText></w:r></w:del>{run(" and ends after ")}'
        + f"<w:sdt><w:sdtContent>{run('three')}</w:sdtContent></w:sdt>{run(' years with ')}"
        + f'<w:fldSimple w:instr="x">{run("Acme GmbH")}</w:fldSimple>{run(".")}'
    )
    paragraph = f"<w:p>{run('This whole paragraph stands in a control.')}</w:p>"
    whole = f"<w:sdt {spaces}><w:sdtContent>{paragraph}</w:sdtContent></w:sdt>"
    body = document.element.body
    for xml in (f"<w:p {spaces}>{inner}</w:p>", whole):
        body.insert(len(body) - 1, parse_xml(xml))
    said = " ".join(texts("contract.docx", saved(document)))
    assert "starts on 1 March 2024 and ends after three years with Acme GmbH." in said
    assert "This whole paragraph stands in a control." in said
    assert "1 May" not in said


def test_a_templates_own_heading_style_is_one() -> None:
    document = docx.Document()
    style = document.styles.add_style("House Chapter", 1)
    style.base_style = document.styles["Heading 1"]
    document.add_paragraph("Travel costs", style="House Chapter")
    document.add_paragraph("The rate is 30 crowns.")
    document.add_paragraph("Leave", style="House Chapter")
    document.add_paragraph("There are 28 days of it a year.")
    (first, second) = texts("rules.docx", saved(document))
    assert first == "Travel costs: The rate is 30 crowns."
    assert second == "Travel costs – Leave: There are 28 days of it a year."


def test_two_columns_are_names_and_values_unless_the_header_is_bold() -> None:
    document = docx.Document()
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("Partner", "Acme GmbH", "Start", "1 March 2024"), strict=True):
        cell.text = text
    assert [text.split(": ", 1)[-1] for text in texts("contract.docx", saved(document))] == [
        "Partner: Acme GmbH",
        "Start: 1 March 2024",
    ]
    for cell in table.rows[0].cells:
        cell.paragraphs[0].runs[0].bold = True
    (row,) = texts("contract.docx", saved(document))
    assert row.endswith("Partner: Start; Acme GmbH: 1 March 2024")


def test_merged_cells_leave_values_below_their_headers() -> None:
    rows = (
        "<table><tr><th>Zone</th><th>Type</th><th>Price</th></tr>"
        "<tr><td rowspan=2>A</td><td>Adult</td><td>9</td></tr><tr><td>Child</td><td>5</td></tr>"
        "<tr><td colspan=2>Dog</td><td>3</td></tr></table>"
    )
    found = [text.split(": ", 1)[-1] if text.startswith("Fares") else text for text in texts("fares.html", rows)]
    assert [text[text.index("Zone") :] for text in found] == [
        "Zone: A; Type: Adult; Price: 9",
        "Zone: A; Type: Child; Price: 5",
        "Zone: Dog; Price: 3",
    ]
    document = docx.Document()
    table = document.add_table(2, 3)
    for cell, text in zip(table._cells, ("Zone", "Type", "Price", "Dog", "", "3"), strict=True):
        cell.text = text
    table.cell(1, 0).merge(table.cell(1, 1))
    (row,) = texts("fares.docx", saved(document))
    assert row.endswith("Zone: Dog; Price: 3")


def test_a_blank_header_row_is_none() -> None:
    found = texts("contract.md", "# Contract\n\n|  |  |\n|--|--|\n| Partner | Acme |\n| Start | 1 March 2024 |\n")
    assert found == ["Contract: Partner: Acme", "Contract: Start: 1 March 2024"]


def test_markdown_breaks_and_entities() -> None:
    found = texts("a.md", "# Hours\n\n| Day | Hours |\n|--|--|\n| Mon<br>Tue | 8-12<br/>14-17 |\n")
    assert found == ["Hours: Day: Mon Tue; Hours: 8-12 14-17"]
    assert texts("b.md", "<div>\nM&uuml;ller &amp; Co pays 30&nbsp;&euro; a year.\n</div>\n") == [
        "Müller & Co pays 30 € a year."
    ]
    deep = "".join(f"{'  ' * level}- level {level} costs {level + 10} crowns\n" for level in range(14))
    assert "23 crowns" in " ".join(texts("deep.md", deep))


def test_records_of_a_text_file_are_no_headings() -> None:
    found = texts(
        "contact.txt", "Contact\n\nPhone: 0431 12345\n\nIBAN: DE12 3456\n\nQ: How much luggage?\nA: 23 kilograms.\n"
    )
    said = " ".join(found)
    assert all(part in said for part in ("Phone: 0431 12345", "IBAN: DE12 3456", "How much luggage? A: 23 kilograms"))
    assert not any(text.startswith("IBAN") and "luggage" in text for text in found)
    assert any("Phone 0431 12345" in text for text in texts("hours.txt", "Hours\n\nMon-Fri 8-17\n\nPhone 0431 12345\n"))


@pytest.mark.parametrize(
    "text", ["The fee is £30", "It costs £5", "Preis: 30 €", "±5 µm at 20 °C", "Viele Grüße", "a naïve café", "Straße"]
)
def test_western_bytes(text: str) -> None:
    assert decode(text.encode("cp1252")) == text


def test_other_bytes_are_not_taken_for_western() -> None:
    russian = "Паром отправляется из порта в девять часов утра каждый день, кроме воскресенья."
    polish = "Wszystkie łodzie i żaglówki muszą być zacumowane. Zażółć gęślą jaźń. Żółta łódź wraca późnym wieczorem."
    assert decode(russian.encode("cp1251")) == russian
    assert decode(polish.encode("cp1250")) == polish


def test_superscripts_struck_text_and_forms() -> None:
    page = (
        "<html><body><form id=all><h1>Fares</h1>"
        "<p>Bags may weigh 30<sup>1</sup> kg, and tanks 10<sup>6</sup> litres.</p>"
        "<p>A trip costs <del>15</del> 20 euros.</p></form><form><input name=q> Search</form></body></html>"
    )
    said = " ".join(texts("fares.html", page))
    assert "30^1 kg" in said
    assert "10^6 litres" in said
    assert "costs 20 euros" in said
    assert "Search" not in said


def test_a_table_that_places_a_page_is_none() -> None:
    page = "<table><tr><td><h1>Fares</h1><p>A trip costs 20 euros.</p><p>Dogs travel free.</p></td></tr></table>"
    assert texts("page.html", page) == ["A trip costs 20 euros. Dogs travel free."]


def test_letters_are_as_people_type_them() -> None:
    page = f"<p>Das Fahr&shy;rad steht im {unicodedata.normalize('NFD', 'Gebäude')} an der o\ufb03ziellen Stelle.</p>"
    assert texts("a.html", page) == ["Das Fahrrad steht im Gebäude an der offiziellen Stelle."]


def test_jsonl_lines_end_where_json_lines_end() -> None:
    line = json.dumps({"id": "a", "text": "The fee is 5 euros.\u2028It rises in 2030."}, ensure_ascii=False)
    odd = json.dumps({"id": "b", "text": "Plums grow in Orvane.", "date": "0001-01-01T00:00:00+01:00"})
    assert texts("a.jsonl", f"{line}\n{odd}\n")[-1] == "Plums grow in Orvane."


def test_dates_as_germans_write_them() -> None:
    assert [stated_date(text) for text in ("15. Januar 2024", "3. März 2024", "12.03.2024", "Mai 2024")] == [
        "2024-01-15",
        "2024-03-03",
        "2024-03-12",
        "2024-05",
    ]
    assert named_date("", "Budget 2024-25.docx") == "2024"
    document = docx.Document()
    document.add_paragraph("Bags may weigh 30 kilograms.")
    reader = reader_for("a.docx")
    assert reader is not None
    (found,) = reader(saved(document), "a.docx")
    assert isinstance(found, Document)
    assert found.date != "2013-12-23T23:15:00Z"  # python-docx's template


def test_german_sentences_that_point_back() -> None:
    said = "Die Kestrin Linie zahlt Reisekosten. Sie erstattet 0,30 Kronen je Kilometer. Diese Regel gilt seit 2023."
    assert len(texts("regeln.txt", said)) == 1
