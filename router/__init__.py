"""Which atoms matter to a question, how much, and whether any does.

    embedder = load_embedder("minilm")
    calibration = fit_calibration(embedder, embeddings, positions, texts)
    router = Router(embedder, embeddings, positions, atom_ids, texts, calibration)
    router.route("When was the ferry built?")

The names below are loaded when first used: importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlora.router.calibrate import Calibration, fit_calibration
    from atomlora.router.embedder import DEFAULT_EMBEDDER, Embedder, TokenEmbedder, load_embedder
    from atomlora.router.filters import EVERYTHING, AtomAttributes, Place, RouteFilter
    from atomlora.router.general_questions import GENERAL_QUESTIONS
    from atomlora.router.keys import key_texts
    from atomlora.router.router import Route, RoutedAtom, Router
    from atomlora.router.settings import RouterSettings

_HOMES = {
    "AtomAttributes": "filters",
    "EVERYTHING": "filters",
    "Place": "filters",
    "RouteFilter": "filters",
    "Calibration": "calibrate",
    "fit_calibration": "calibrate",
    "DEFAULT_EMBEDDER": "embedder",
    "Embedder": "embedder",
    "TokenEmbedder": "embedder",
    "load_embedder": "embedder",
    "GENERAL_QUESTIONS": "general_questions",
    "key_texts": "keys",
    "Route": "router",
    "RoutedAtom": "router",
    "Router": "router",
    "RouterSettings": "settings",
}

__all__ = [
    "DEFAULT_EMBEDDER",
    "EVERYTHING",
    "GENERAL_QUESTIONS",
    "AtomAttributes",
    "Calibration",
    "Embedder",
    "Place",
    "Route",
    "RouteFilter",
    "RoutedAtom",
    "Router",
    "RouterSettings",
    "TokenEmbedder",
    "fit_calibration",
    "key_texts",
    "load_embedder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
