"""Each rule of the splitter by an example that a reader can check."""

import pytest

from atomlora.corpora import SplitSettings, classify, split_document
from atomlora.corpora.anaphora import is_anaphoric, leading_name
from atomlora.corpora.readers import markdown, plain
from atomlora.corpora.sentences import sentence_spans


def texts(source: str, title: str = "", reader=markdown) -> list[str]:
    return [p.text for p in split_document(reader.parse(source, "notes.md", source.encode(), title=title))]


@pytest.mark.parametrize(
    "sentence",
    [
        "It was built in 1903.",
        "Its owner left.",
        "This made her famous.",
        "The company moved to Leith.",
        "The ship's bell was found.",
        "The old engine was sold.",
        "However, Ferro refused.",
        "In 1990 it moved to Leith.",
        "On trials off Gannet Point she reached 15 knots.",
        "During the war, the city became a ruin.",
        "Founded in 1903, it closed in 1950.",
    ],
)
def test_sentences_that_point_back(sentence: str) -> None:
    assert is_anaphoric(sentence, SplitSettings())


@pytest.mark.parametrize(
    "sentence",
    [
        "Torrisk has 1,930 inhabitants.",
        "The brother of Adolph Barbee is Andres Barbee.",
        "The Saxon Garden was a royal garden.",
        "The company of Anna Brask was sold.",
        "The ship Orla sank in 1934.",
        "When Chopin was seven, he moved to Warsaw.",
        "Most ferries of the Kestrin Line are plum.",
        "Dr. Ferro said it was late.",
        "In Warsaw the museum of posters opened in 1968.",
    ],
)
def test_sentences_that_stand_alone(sentence: str) -> None:
    assert not is_anaphoric(sentence, SplitSettings())


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("The Saxon Garden, covering 15.5 ha, was royal.", "The Saxon Garden"),
        ("Torrisk has a lighthouse.", "Torrisk"),
        ("Anna Brask of Leith left.", "Anna Brask of Leith"),
        ("Divers brought up the bell.", ""),
        ("", ""),
    ],
)
def test_leading_name(sentence: str, name: str) -> None:
    assert leading_name(sentence) == name


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Ferro paid 3.5 million. e.g. the bridge was built in 1903. He left at 5 p.m. on Monday.", 3),
        ("The cost (approx. 5 km. away) was fine. Born c. 1850, he died.", 2),
        ('He said "It works." Then she left.', 2),
        ("Ferro paid a fine in 1990. [citation needed] The bridge fell. [3]", 2),
        ("これは文です。次の文です。", 2),
        ("The U.S. Senate voted. Mr. J. R. Smith Jr. arrived on Jan. 5, 1999.", 2),
    ],
)
def test_sentence_boundaries(text: str, count: int) -> None:
    assert len(sentence_spans(text)) == count


def test_a_sentence_that_points_back_joins_the_one_before() -> None:
    assert texts("The Orla is a ferry. It was built in Leith. Anna Brask owns a mill.") == [
        "The Orla is a ferry. It was built in Leith.",
        "Anna Brask owns a mill.",
    ]


def test_three_sentences_are_the_limit_and_the_fourth_gets_the_name() -> None:
    source = "The Orla Grey is a ferry. It is old. It was built in Leith. It was sold in 1950. It sank in 1961."
    first, second = texts(source)
    assert first == "The Orla Grey is a ferry. It is old. It was built in Leith. It was sold in 1950."
    assert second == "The Orla Grey: It sank in 1961."


def test_first_under_a_heading_the_subject_is_put_in_front() -> None:
    assert texts("# Orla\n\n## Engine\n\nIt burns four tons of coal.") == ["Orla – Engine: It burns four tons of coal."]


def test_a_heading_that_asks_goes_with_its_answer() -> None:
    found = texts("# Help\n\n## How do I get a refund?\n\nWrite to the office at Leith.")
    assert found == ["How do I get a refund? Write to the office at Leith."]


def test_sentences_without_content_join_a_neighbour() -> None:
    assert texts("Hello!\n\nThe office opens at nine on Mondays. Thank you.") == [
        "Hello! The office opens at nine on Mondays. Thank you."
    ]


def test_records_by_line_are_passages_each() -> None:
    found = texts("# A\n\nThe brother of Ada Lee is Max Lee.\nThe hobby of Ada Lee is chess.\n")
    assert found == ["The brother of Ada Lee is Max Lee.", "The hobby of Ada Lee is chess."]
    assert texts("# Orla\n\nLength: 71 m\nBuilt: 2004\n") == ["Orla: Length: 71 m", "Orla: Built: 2004"]


def test_wrapped_lines_are_joined_and_the_span_keeps_them() -> None:
    source = "The steamer Ondine struck the\nrocks before dawn and sank\nwithin forty minutes."
    document = plain.parse(source, "a.txt", b"")
    (passage,) = split_document(document)
    assert passage.text == source.replace("\n", " ")
    assert document.text[passage.start : passage.end] == source


def test_table_rows_name_their_headers_and_heading() -> None:
    source = "# Fleet\n\n## Ships\n\n| Ship | Built |\n|---|---|\n| Orla | 1998 |\n| Tansy | |\n"
    document = markdown.parse(source, "fleet.md", source.encode())
    rows = split_document(document)
    assert [row.text for row in rows] == [
        "Fleet – Ships: Ship: Orla; Built: 1998",
        "Fleet – Ships: Ship: Tansy",
    ]
    assert {row.kind for row in rows} == {"table_row"}
    assert document.text[rows[0].start : rows[0].end] == "Orla | 1998"


def test_list_items_carry_their_lead_in_and_parents() -> None:
    found = texts("# Menu\n\nThe kitchen at Leith serves:\n\n- fish soup\n- bread\n  - rye\n")
    assert found == [
        "The kitchen at Leith serves: fish soup",
        "The kitchen at Leith serves: bread",
        "Menu – bread: rye",
    ]


def test_a_greeting_in_front_of_a_lead_in_is_no_passage() -> None:
    assert texts("# Notice\n\nDear all,\n\nThese rules hold in Leith:\n\n- no smoking\n") == [
        "Dear all, These rules hold in Leith: no smoking"
    ]


def test_steps_carry_the_heading_of_the_procedure() -> None:
    source = "# Fog\n\n1. Sound the horn.\n2. Post a lookout.\n"
    passages = split_document(markdown.parse(source, "fog.md", source.encode()))
    assert [p.text for p in passages] == ["Fog, step 1: Sound the horn.", "Fog, step 2: Post a lookout."]
    assert {p.kind for p in passages} == {"procedure"}


def test_glossary_lines_are_definitions() -> None:
    source = "# Glossary\n\n**Brasking**: ringing the bell three times.\n\n- Plum crew: the relief hands\n"
    passages = split_document(markdown.parse(source, "g.md", source.encode()))
    assert [(p.text, p.kind) for p in passages] == [
        ("Brasking: ringing the bell three times.", "definition"),
        ("Plum crew: the relief hands", "definition"),
    ]


def test_code_blocks_keep_their_lines() -> None:
    (passage,) = split_document(markdown.parse("# Setup\n\nRun:\n\n```\na\n  b\n```\n", "s.md", b""))
    assert passage.kind == "code"
    assert passage.text == "Setup: Run:\na\n  b"


def test_a_sentence_broken_by_a_paragraph_break_is_made_whole() -> None:
    assert texts("The board of the line met in\n\nthe sail loft at Torrisk.") == [
        "The board of the line met in the sail loft at Torrisk."
    ]


@pytest.mark.parametrize(
    ("text", "hint", "kind"),
    [
        ("The brother of Ada Lee is Max Lee.", "statement", "relation"),
        ("The occupation of Ada Lee is baker.", "statement", "attribute"),
        ("A ferry is a ship that carries cars.", "statement", "definition"),
        ("Brasking means ringing the bell.", "statement", "definition"),
        ("The Orla sank on 3 November 1934.", "statement", "event"),
        ("A share costs 25 crowns.", "statement", "quantity"),
        ("The funnel is plum.", "statement", "attribute"),
        ("Crews practise often.", "statement", "statement"),
        ("Ship: Orla; Built: 1998", "table_row", "table_row"),
        ("Sound the horn in 1998.", "procedure", "procedure"),
        ("", "statement", "statement"),
    ],
)
def test_classify(text: str, hint: str, kind: str) -> None:
    assert classify(text, hint) == kind
