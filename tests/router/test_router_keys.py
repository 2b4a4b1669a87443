"""The texts an atom is found by."""

from atomlora.router import key_texts


def test_all_parts_in_order() -> None:
    keys = key_texts(
        "It carries 85.",
        "The fleet.",
        ("Ships", "Little Ferrule"),
        ["How many?", "Who?"],
        "Before it.",
        "After it.",
    )
    assert keys == [
        "It carries 85.",
        "The fleet. Ships. Little Ferrule. It carries 85.",
        "Before it. It carries 85. After it.",
        "How many?",
        "Who?",
    ]


def test_nothing_twice_and_nothing_empty() -> None:
    assert key_texts(" A fact. ") == ["A fact."]
    assert key_texts("A fact.", "", ["", " "], ["Why?", "Why? ", ""]) == ["A fact.", "Why?"]
    assert key_texts("A fact.", after="More.") == ["A fact.", "A fact. More."]
