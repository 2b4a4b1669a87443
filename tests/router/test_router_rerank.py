"""A cross-encoder in the router: a tiny random one, made here."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from atomlora.errors import BaseModelError
from atomlora.router import Router, RouterSettings
from atomlora.router.rerank import READ, Reranker
from atomlora.router.scores import Candidates

WORDS = ["amber", "anvil", "barge", "beacon", "canvas", "cedar", "copper", "ferry", "gannet", "harbour"]
TEXTS = [f"{a} {b} {c}" for a, b, c in zip(WORDS, WORDS[3:] + WORDS, WORDS[5:] + WORDS, strict=False)]


def save_cross_encoder(folder, outputs=1):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(WORDS) + 4, num_labels=outputs, initializer_range=1.0, **sizes)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


class WordVectors:
    """The sum of fixed random word vectors, of unit length."""

    name, fingerprint, dimension = "words", "words-1", 32

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                seed = int.from_bytes(word.encode()[:8].ljust(8), "little")
                row += np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def make_router(reranker, documents=None) -> Router:
    settings = RouterSettings(abstain=False, min_weight=0.0, reranker=reranker)
    positions, ids = np.arange(len(TEXTS), dtype=np.int32), [str(n) for n in range(len(TEXTS))]
    keys = WordVectors().encode(TEXTS)
    return Router(WordVectors(), keys, positions, ids, TEXTS, None, settings, documents=documents)


@pytest.mark.parametrize("documents", [None, [f"harbour {text}" for text in TEXTS]])
def test_the_order_is_the_models_and_the_scores_stay(cross_encoder: str, documents) -> None:
    from sentence_transformers import CrossEncoder

    question = "amber beacon"
    plain, ordered = make_router(None).route(question, 10), make_router(cross_encoder, documents).route(question, 10)
    given = documents or TEXTS
    scores = CrossEncoder(cross_encoder).predict([(question, given[int(atom.id)]) for atom in plain.atoms])
    wanted = [plain.atoms[n].id for n in np.argsort(-scores, kind="stable")]
    assert [atom.id for atom in ordered.atoms] == wanted
    assert wanted != [atom.id for atom in plain.atoms]
    assert [atom.score for atom in ordered.atoms] == [atom.score for atom in plain.atoms]
    assert ordered.confidence == pytest.approx(plain.confidence)


def test_only_the_first_are_read_and_every_part_moves_along(cross_encoder: str) -> None:
    size = READ + 5
    numbers = np.arange(size)
    parts = [(numbers + shift).astype(np.float32) for shift in (0, 100, 200, 300)]
    given = Candidates(numbers.astype(np.int32), np.sort(parts[0])[::-1], *parts[1:], late=parts[0])
    found = Reranker(cross_encoder).reorder("amber", given, lambda atom: TEXTS[atom % len(TEXTS)])
    assert sorted(found.atoms[:READ]) == list(range(READ))
    assert found.atoms[READ:].tolist() == list(range(READ, size))
    np.testing.assert_array_equal(found.fused, given.fused)
    for part, shift in ((found.late, 0), (found.dense_max, 100), (found.dense_mean, 200), (found.lexical, 300)):
        np.testing.assert_array_equal(part, found.atoms + shift)


def test_nothing_is_loaded_until_it_is_needed() -> None:
    router = make_router("/no/such/model")
    with pytest.raises(BaseModelError, match=r"/no/such/model.*cannot be loaded"):
        router.route("amber")


def test_a_model_of_several_outputs_is_refused(tmp_path) -> None:
    with pytest.raises(BaseModelError, match="single output"):
        make_router(save_cross_encoder(tmp_path, outputs=3)).route("amber")
