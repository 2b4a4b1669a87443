"""Which atoms there will be, whose questions they get, and which finished atoms stand for them."""

from atomlora.atom import Atom, TrainRecord
from atomlora.compiler.drafts import Draft, drafts_from, reuse
from atomlora.corpora import Passage
from atomlora.questions.types import Question
from atomlora.wordings import phrases, training_wordings


def passage(text, source="a.md", start=0, **fields):
    return Passage(
        **{"source": source, "source_sha256": "0" * 64, "start": start, "end": start + len(text), "text": text,
           "title": "Ferry", **fields}
    )  # fmt: skip


def asked(draft, *questions):
    return Draft(draft.type, draft.title, draft.text, draft.headings, draft.labels, draft.provenances, questions)


def question(text, answer="nine", kind="cloze"):
    return Question(text=text, answer=answer, kind=kind)


def finished(draft, base="base", recipe="recipe"):
    identity = draft.identity(base, recipe)
    record = TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0)
    atom = Atom(
        id=identity, type=draft.type, title=draft.title, text=draft.text, headings=draft.headings,
        questions=draft.questions, rank=4, alpha=8.0, record=record, weights_digest="0" * 64,
        provenances=draft.provenances, labels=draft.labels,
    )  # fmt: skip
    return {identity: atom}


def test_one_text_in_two_files_is_one_draft_with_both_places():
    drafts = drafts_from(
        [
            passage("Marla leaves at nine.", "a.md", 4, labels=("red",)),
            passage("Osk steers.", "a.md", 30),
            passage("Marla leaves at nine.", "b.md", 7, labels=("blue",), page=3),
        ]
    )
    assert [draft.text for draft in drafts] == ["Marla leaves at nine.", "Osk steers."]
    places = [(p.source, p.start, p.end, p.page) for p in drafts[0].provenances]
    assert places == [("a.md", 4, 25, None), ("b.md", 7, 28, 3)]
    assert drafts[0].labels == ("blue", "red")


def test_one_text_under_other_titles_or_headings_is_another_draft():
    text = "It leaves at nine."
    drafts = drafts_from([passage(text), passage(text, title="Bus"), passage(text, headings=("Winter",))])
    assert len(drafts) == 3


def test_identity_covers_what_is_trained_and_nothing_else():
    draft = asked(drafts_from([passage("Marla leaves at nine.")])[0], question("When?"))
    moved = asked(drafts_from([passage("Marla leaves at nine.", "new/b.md", 90, labels=("x",))])[0], question("When?"))
    own = draft.identity("base", "recipe")
    assert moved.identity("base", "recipe") == own
    others = [
        asked(drafts_from([passage("Marla leaves at ten.")])[0], question("When?")).identity("base", "recipe"),
        asked(draft, question("At what time?")).identity("base", "recipe"),
        asked(draft, question("When?", "at nine")).identity("base", "recipe"),
        asked(draft, question("When?"), question("Why?")).identity("base", "recipe"),
        draft.identity("other base", "recipe"),
        draft.identity("base", "other recipe"),
        asked(drafts_from([passage("Marla leaves at nine.", title="Bus")])[0], question("When?")).identity(
            "base", "recipe"
        ),
    ]
    assert len({own, *others}) == 1 + len(others)


def test_reuse_takes_over_questions_but_places_anew():
    atoms = finished(asked(drafts_from([passage("Marla leaves at nine.")])[0], question("When?")))
    (draft,) = drafts_from([passage("Marla leaves at nine.", "moved.md", 12, labels=("new",))])
    kept = reuse([draft], {}, atoms, "base", "recipe")
    assert kept[0].questions == (question("When?"),)
    assert kept[0].provenances == draft.provenances
    assert kept[0].labels == ("new",)
    assert {kept[0].id} == set(atoms)


def test_reuse_refuses_what_differs():
    (draft,) = drafts_from([passage("Marla leaves at nine.")])
    own = question("When does it go?", kind="user")
    plain, with_own = finished(asked(draft, question("When?"))), finished(asked(draft, own, question("When?")))
    assert reuse([draft], {}, plain, "base", "recipe")
    assert not reuse([draft], {}, plain, "other base", "recipe")
    assert not reuse([draft], {}, plain, "base", "other recipe")
    assert not reuse([draft], {0: [own]}, plain, "base", "recipe")
    assert not reuse([draft], {}, with_own, "base", "recipe")
    assert reuse([draft], {0: [own]}, {**plain, **with_own}, "base", "recipe")[0].questions[0] == own
    for other in (
        passage("Marla leaves at ten."),
        passage(draft.text, title="Bus", source_sha256="1" * 64),  # a title of its own stands in the bytes
        passage(draft.text, headings=("X",)),
    ):
        assert not reuse(drafts_from([other]), {}, plain, "base", "recipe")


def test_an_atom_states_its_text_but_a_users_answer_as_written():
    (draft,) = drafts_from([passage("Marla leaves the harbour office at nine.", headings=("Winter",))])
    own = question("When?", "at nine sharp", "user")
    written = [question(f"w{i}", kind="written") for i in range(3)]
    cloze = [question(f"c{i}") for i in range(4)]
    wordings = list(training_wordings(asked(draft, own, *cloze, *written)))
    assert wordings[0] == ("When?", "at nine sharp")
    open_ones = ["What do you know about harbour office?", "Tell me about Marla leaves."]
    assert [w.question for w in wordings[1:]] == ["w0", "w1", "w2", *open_ones]
    assert {w.answer for w in wordings[1:]} == {draft.text}
    alone = [w.question for w in training_wordings(asked(draft, *cloze))]
    assert alone == open_ones  # what gives the text away in the question teaches nothing


def test_a_text_without_phrases_is_asked_for_by_its_title():
    (draft,) = drafts_from([passage("It is.", headings=("Winter",))])
    (wording,) = training_wordings(draft)
    assert "Ferry" in wording.question
    assert "Winter" in wording.question


def test_phrases_stand_in_the_text_and_are_few():
    found = phrases("The ticket hall downstairs opens at 5.40 on weekday mornings, and closes at dusk.")
    assert found == ["hall downstairs opens", "weekday mornings", "closes"]
    assert phrases("It is.") == []


def test_a_renamed_file_without_a_title_keeps_its_atoms():
    """Its title is its name: the bytes tell that it is the same file. A copy of it is the same atom too."""
    (draft,) = drafts_from([passage("Marla leaves at nine.", title="a")])
    atoms = finished(asked(draft, question("When?")))
    moved = drafts_from([passage(draft.text, title="b", source="b.md")])
    (atom,) = reuse(moved, {}, atoms, "base", "recipe").values()
    assert (atom.id, atom.title) == (next(iter(atoms)), "a")
    assert [place.source for place in atom.provenances] == ["b.md"]
    assert reuse(moved, {}, {atom.id: atom}, "base", "recipe") == {0: atom}  # as the next version finds it
    both = reuse([draft, *moved], {}, atoms, "base", "recipe")
    assert [[place.source for place in one.provenances] for one in both.values()] == [["a.md", "b.md"]] * 2
