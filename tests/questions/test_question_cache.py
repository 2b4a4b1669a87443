"""The cache of written questions: nothing is asked twice, interruptions keep what is done, damage is only slower."""

import stat

import pytest

from atomlora.questions.cache import CachedWriter, QuestionCache
from atomlora.questions.types import AtomText, Question

ATOMS = [AtomText(title="T", text="x" * (1 + n % 7) + f" {n}") for n in range(150)]


class Writer:
    """Writes one question a text, and fails at the text `breaks`."""

    name, digest, of_base = "test", "1", True

    def __init__(self, breaks=None):
        self.asked, self.breaks = [], breaks

    def write(self, atoms, max_questions, progress=None):
        for done, atom in enumerate(atoms, start=1):
            if atom.text == self.breaks:
                raise KeyboardInterrupt
            self.asked.append(atom.text)
            progress(done, len(atoms))
        return [[Question(text=f"What, {a.text}?", answer=a.text, kind="written", score=-0.5)] for a in atoms]

    def close(self):
        self.asked = None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "questions.sqlite"


def write(writer, path, atoms=ATOMS, scope="base", most=3):
    told = []
    found = CachedWriter(writer, QuestionCache(path, scope)).write(atoms, most, lambda *now: told.append(now))
    return found, told


def test_a_text_is_asked_about_once(path):
    first, told = write(Writer(), path)
    assert [[q.answer for q in questions] for questions in first] == [[atom.text] for atom in ATOMS]
    assert [done for done, _ in told] == list(range(1, 151))
    writer = Writer()
    again, told = write(writer, path)
    assert (again, writer.asked, told) == (first, [], [(150, 150)])
    write(writer, path, [*ATOMS, AtomText(title="T", text="new")])
    assert writer.asked == ["new"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["scope", "most", "digest", "title"])
def test_whatever_questions_depend_on_is_in_the_key(path, change):
    write(Writer(), path, ATOMS[:2])
    writer, atoms, how = Writer(), ATOMS[:2], {}
    if change == "digest":
        writer.digest = "2"
    elif change == "title":
        atoms = [atom.model_copy(update={"title": "U"}) for atom in atoms]
    else:
        how = {"scope": "other"} if change == "scope" else {"most": 4}
    write(writer, path, atoms, **how)
    assert len(writer.asked) == 2


def test_an_interrupted_run_keeps_whole_chunks(path):
    breaks = sorted(ATOMS, key=lambda atom: len(atom.text))[100].text
    with pytest.raises(KeyboardInterrupt):
        write(Writer(breaks), path)
    writer = Writer()
    write(writer, path)
    assert len(writer.asked) == 150 - 64


def test_a_damaged_cache_only_costs_time(path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 50)
    found, _ = write(Writer(), path)
    assert len(found) == 150
    assert "cannot be cached" in caplog.text


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found, _ = write(Writer(), tmp_path / "file" / "questions.sqlite")
    assert len(found) == 150
    assert "cannot be cached" in caplog.text
