"""The rank that a run chooses by its longest atom."""

import pytest

import atomlora.compiler.rank as module
from atomlora.atom import Provenance
from atomlora.compiler.compile import compile_corpus
from atomlora.compiler.drafts import Draft
from atomlora.compiler.given import Given
from atomlora.compiler.rank import RANKS, TOKENS_PER_RANK, longest_atom, rank_for
from atomlora.prompts import answer_ids
from atomlora.questions.types import Question
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store

SETTINGS = CompileSettings(
    adapter=AdapterSettings(layers="late:1"),
    auto_rank=True,
    train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=1, silence_tokens=2),
    question_writer="none",
    max_questions=2,
)


@pytest.fixture
def compile_(tiny_world, documents, tmp_path):
    def run(settings=SETTINGS):
        compile_corpus([documents], tmp_path / "store", settings, base=tiny_world.base, device="cpu")
        return Store.open(tmp_path / "store")

    return run


def draft(text):
    return Draft("prose", "Notes", text, (), (), (Provenance(source="a", start=0, end=1, source_sha256=""),))


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [(0, 2), (12, 2), (2 * TOKENS_PER_RANK, 2), (2 * TOKENS_PER_RANK + 1, 4), (2000, 8), (2201, 16), (10**6, 16)],
)
def test_more_tokens_get_more_rank_up_to_the_largest(tokens, rank):
    assert rank_for(tokens) == rank
    assert rank in RANKS


def test_tokens_are_those_of_all_that_an_atom_says(tiny_world):
    from atomlora.bases import load_base

    tokenizer = load_base(tiny_world.base, "cpu").tokenizer
    texts = ["The tower has nine walls.", "The ferry Marla carried slate from Orvane in the year of the long storm."]
    plain = Given([draft(text) for text in texts])
    assert longest_atom(plain, tokenizer) == len(answer_ids(tokenizer, texts[1]))
    own = (Question(text="How many walls?", answer="Nine walls it has.", kind="user"),)
    asked = Given(plain.drafts[:1], {0: own})
    both = len(answer_ids(tokenizer, texts[0])) + len(answer_ids(tokenizer, own[0].answer))
    assert longest_atom(asked, tokenizer) == both
    trained = tuple(q.model_copy(update={"trained": True}) for q in own)
    covered = Given(plain.drafts[:1], {0: trained}, frozenset([0]))
    assert longest_atom(covered, tokenizer) == len(answer_ids(tokenizer, own[0].answer))
    assert longest_atom(Given([]), tokenizer) == 0


def test_the_store_records_the_number_and_keeps_it_where_it_is_enough(compile_, documents, monkeypatch):
    store = compile_()
    assert store.manifest.settings["adapter"]["rank"] == 2
    assert {atom.rank for atom in store.atoms()} == {2}
    plain = CompileSettings.model_validate(
        SETTINGS.model_dump() | {"auto_rank": False, "adapter": {"rank": 2, "layers": "late:1"}}
    )
    assert plain.recipe() == store.manifest.stats["settings_recipe"]  # nothing but the number shapes an atom
    before = {atom.id for atom in store.atoms()}
    monkeypatch.setattr(module, "TOKENS_PER_RANK", 3)  # now the longest sentence asks for more
    larger = compile_()
    ranks = {atom.rank for atom in larger.atoms()}
    assert ranks == {larger.manifest.settings["adapter"]["rank"]}
    assert ranks < {4, 8, 16}
    assert before.isdisjoint(atom.id for atom in larger.atoms())
    monkeypatch.undo()
    kept = compile_()
    assert {atom.id for atom in kept.atoms()} == {atom.id for atom in larger.atoms()}
    assert kept.manifest.settings["adapter"]["rank"] == larger.manifest.settings["adapter"]["rank"]
