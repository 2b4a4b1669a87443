"""Whole compiles that are refused: nothing is trained, and the store stays as it was."""

import pytest

from atomlora.compiler.compile import compile_corpus
from atomlora.errors import BaseModelError, InputError, StoreError, UsageError
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store
from atomlora.training.trainer import Trainer

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=4, layers="late:2"),
    train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=8, silence_rows=1, silence_tokens=2),
    question_writer="none",
    max_questions=2,
)


@pytest.fixture
def trained(monkeypatch):
    """Whether anything was trained."""
    seen = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, jobs: seen.append(self) or run(self, jobs))
    return seen


@pytest.fixture
def compile_(tiny_world, documents, tmp_path):
    """Compile the documents into the test's store."""

    def run(sources=None, settings=SETTINGS, **options):
        options = {"base": tiny_world.base, "device": "cpu", **options}
        return compile_corpus(sources or [documents], tmp_path / "store", settings, **options)

    return run


def test_a_store_behind_an_address_is_refused(tiny_world, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"s3://bucket/store: addresses are read-only.*atomlora push"):
        compile_corpus([documents], "s3://bucket/store", SETTINGS, base=tiny_world.base, device="cpu")
    assert not (tmp_path / "s3:").exists()


@pytest.mark.parametrize("content", ["nothing", "binary", "missing"])
def test_nothing_to_learn_from(compile_, tmp_path, content):
    version = compile_().version
    folder = tmp_path / "other"
    if content != "missing":
        folder.mkdir()
    if content == "binary":
        (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
        (folder / "blob.bin").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        compile_([folder])
    with Store.open(tmp_path / "store") as store:
        assert store.version == version


def test_no_store_is_made_without_documents_or_base(compile_, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        compile_([tmp_path / "empty"])
    assert not (tmp_path / "store").exists()
    for base in ("no-such-base", str(tmp_path / "nowhere"), str(tmp_path / "empty")):
        with pytest.raises(BaseModelError, match="--base"):
            compile_(base=base)
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")


def test_bad_options_train_nothing(compile_, tmp_path, trained):
    bad = SETTINGS.model_copy(update={"adapter": AdapterSettings(layers="late:9")})
    with pytest.raises(UsageError, match="--layers late:9"):
        compile_(settings=bad)
    with pytest.raises(UsageError, match="--question-writer"):
        compile_(settings=SETTINGS.model_copy(update={"question_writer": "no-such-writer"}))
    assert not trained
    with pytest.raises(StoreError):
        Store.open(tmp_path / "store")


def test_two_compiles_at_once_are_refused(compile_, tmp_path):
    with Store.writer(tmp_path / "store"), pytest.raises(StoreError):
        compile_()
