"""BM25: against its formula word by word, within a part of the documents, and from its cache file."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.router import lexical as module
from atomlora.router.cache import write_cache
from atomlora.router.lexical import K1, B, LexicalIndex, open_lexical, words

VOCABULARY = ["amber", "ferries", "ferry", "the", "Żelazowa", "painted", "painting", "x9", "is", "quay's"]
texts = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)


def by_hand(question: str, documents: list[str], kept: list[int]) -> np.ndarray:
    """The formula, as if there were no documents but those that are kept."""
    held = {number: Counter(words(documents[number])) for number in kept}
    mean = max(np.mean([held[n].total() for n in kept]), 1.0) if kept else 1.0
    scores, best = np.zeros(len(documents)), 0.0
    for word in set(words(question)):
        holders = [n for n in kept if held[n][word]]
        rarity = np.log(1 + (len(kept) - len(holders) + 0.5) / (len(holders) + 0.5))
        best += rarity * (K1 + 1)
        for n in holders:
            count = held[n][word]
            scores[n] += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * held[n].total() / mean))
    return scores / best if best else scores


@settings(max_examples=100, deadline=None)
@given(texts, st.lists(texts, max_size=7), st.integers(0, 2**7))
def test_scores_are_the_formulas_in_the_whole_and_in_a_part(question: str, documents: list[str], bits: int) -> None:
    index = LexicalIndex(documents)
    np.testing.assert_allclose(index.score(question), by_hand(question, documents, [*range(len(documents))]), atol=1e-5)
    mask = np.array([bool(bits >> n & 1) for n in range(len(documents))], bool)
    part = index.score(question, within=index.collection(mask))
    np.testing.assert_allclose(part, by_hand(question, documents, np.flatnonzero(mask).tolist()), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=6), texts, st.integers(0, 5))
def test_a_replaced_document_scores_as_the_other_text_does(question, documents, text, at) -> None:
    at %= len(documents)
    index, other = LexicalIndex(documents), LexicalIndex([*documents[:at], text, *documents[at + 1 :]])
    other.mean_length = index.mean_length  # lengths are compared with the mean of the store as it is
    np.testing.assert_allclose(index.score(question, (at, text)), other.score(question), atol=1e-5)


DOCUMENTS = [f"amber {number} ferry {number % 7} quay {number % 11}" for number in range(60)]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "CACHED_FROM", 20)
    return tmp_path / "cache" / "keys.words"


def test_many_documents_are_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = open_lexical(DOCUMENTS, path).score("amber ferry 3")
    monkeypatch.setattr(module, "_stem", lambda _: pytest.fail("documents were read again"))
    index = open_lexical(DOCUMENTS, path)
    monkeypatch.undo()
    np.testing.assert_array_equal(index.score("amber ferry 3"), want)
    assert [p.name for p in path.parent.iterdir()] == ["keys.words"]


def test_few_documents_get_no_file_and_a_read_only_place_is_no_error(path: Path) -> None:
    open_lexical(DOCUMENTS[:19], path)
    assert not path.exists()
    path.parent.parent.joinpath("file").write_text("")
    assert open_lexical(DOCUMENTS, path.parent.parent / "file" / "keys.words").count == 60


def test_other_texts_and_damaged_files_are_read_anew(path: Path) -> None:
    open_lexical(DOCUMENTS, path)
    whole = path.read_bytes()
    want = open_lexical(DOCUMENTS, None).score("amber ferry 3")
    random = np.random.default_rng(3)
    damaged = [b"", whole[:40], whole[:-1], whole + b"x"]
    for place in random.integers(0, len(whole), 500 if os.environ.get("ATOMLORA_FAULTS") == "full" else 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        np.testing.assert_array_equal(open_lexical(DOCUMENTS, path).score("amber ferry 3"), want)
        assert path.read_bytes() == whole
    moved = open_lexical([*DOCUMENTS[1:], DOCUMENTS[0]], path)
    assert moved.score("amber ferry 3").argmax() == want.argmax() - 1


@pytest.mark.parametrize(
    "change", [{"starts": 0}, {"numbers": 60}, {"lengths": None}, {"words": b"a"}, {"counts": None}]
)
def test_arrays_that_do_not_belong_together_are_read_anew(path: Path, change: dict) -> None:
    """The hash is right, so somebody wrote them on purpose."""
    index = open_lexical(DOCUMENTS, path)
    arrays = module._as_arrays(index.postings)
    for name, value in change.items():
        if value is None:
            arrays[name] = arrays[name][:-1]
        elif isinstance(value, bytes):
            arrays[name] = np.frombuffer(value, np.uint8)
        else:
            arrays[name] = np.full_like(arrays[name], value)
    write_cache(path, path.read_bytes().split(b"\n")[0].decode().split('"stamp": "')[1].split('"')[0], arrays)
    np.testing.assert_array_equal(open_lexical(DOCUMENTS, path).score("amber 3"), index.score("amber 3"))


def test_letters_count_however_they_are_written() -> None:
    composed, apart = "Die Gebühr für Fährgäste", unicodedata.normalize("NFD", "Die Gebühr für Fährgäste")
    scores = LexicalIndex([composed, apart, "Die Ge\xadbühr für Fährgäste", "Pflaumen"]).score("GEBÜHR für Fährgäste")
    assert scores[0] == scores[1] == scores[2] > scores[3]
    assert words("Straße") == words("STRASSE")
