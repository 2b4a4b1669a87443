"""`AtomLoRA`: a store opened on its base. Question -> router -> composer -> kernels (in the base's layers)
-> statements -> reader -> answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atomlora.answers import Answer, Mode, OffTopic, Style
from atomlora.asking import Asked, How, answers, prepare, ready
from atomlora.conflicts.records import OnConflict, checked_choice
from atomlora.defaults import MAX_NEW_TOKENS, STEADY, TOP_K
from atomlora.errors import BaseModelError
from atomlora.opening import base_for, checked_off_topic, checked_steady, looks_again, policies_for
from atomlora.store import Store
from atomlora.turns import adds

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.bases import Base
    from atomlora.composer import Composer, Policy
    from atomlora.interference.policy import PolicySettings
    from atomlora.reader.mounted import Reader
    from atomlora.router import Embedder, Route, RouteFilter, Router, RouterSettings
    from atomlora.runtime.composed import ComposedModel

T = TypeVar("T")


class AtomLoRA:
    """One version of a store on its base model. Thread-safe; base, embedder and atoms are loaded when first
    needed.

    Modes of asking: `atoms` mounts the routed atoms, each of which leads one statement of the answer (see
    `atomlora.turns`), and puts no text in the prompt; `text` puts their texts in the prompt and mounts none of them;
    `both` states as atoms does, and where an atom loses its thread its text stands for it; `auto` is atoms or both, by
    the route (see `atomlora.modes`); `none` asks the bare base. Behaviour atoms stand beside every statement in all
    modes but none. A question that the router finds outside of the store is answered by the base without knowledge in
    every mode (`abstained`), or refused.

    Styles: `statement` gives what the base says; `short` has the reader read that, or the texts of mode text, or (mode
    both) what the atoms state and the texts, and answer shortly; `auto` is short where there is a reader that is sure
    of its answer and no behaviour takes part, whose tone it would lose, and else the statement.
    """

    def __init__(
        self,
        store: Store,
        base: Base | str | None = None,
        device: str = "auto",
        *,
        dtype: str = "auto",
        router: RouterSettings | None = None,
        embedder: Embedder | None = None,
        policies: Sequence[Policy] = (),
        on_conflict: OnConflict | None = None,
        interference: PolicySettings | str | None = None,
        reader: str | Path = "auto",
        capacity: int = 64,
        steady: float = STEADY,
        off_topic: OffTopic = "base",
        second_look: bool = True,
    ) -> None:
        """Use `AtomLoRA.open`."""
        self.store = store
        self._wanted_reader = str(reader)
        self._wanted_base: Base | str = base or store.manifest.base.name
        self._device, self._dtype = device, dtype
        self._router_settings, self._embedder = router, embedder
        self._policies, self._interference, self._capacity = policies, interference, capacity
        self._on_conflict = checked_choice(on_conflict)
        self.steady = checked_steady(steady)
        self.off_topic = checked_off_topic(off_topic)
        self.second_look = looks_again(store, second_look)
        self._parts: dict[str, Any] = {}
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls, store_path: str | Path, base: Base | str | None = None, device: str = "auto", **settings: Any
    ) -> AtomLoRA:
        """Open the store at `store_path`.

        `base`: name, folder or loaded `Base` (default: the one the store was compiled for); `device`: auto,
        cpu, cuda…. Settings: `version` (a digest or its start), `dtype` (auto: float32 on CPU, bfloat16 on
        GPU), `router` (RouterSettings), `embedder` (default: the store's), `policies` (see `Composer`),
        `on_conflict` (newest, warn or error: what becomes of routed atoms that contradict each other; default: as
        compiled), `interference` (PolicySettings, or its action: what is done about atoms that the store's records say
        disturb each other; the last policy), `reader` (auto: as compiled, or the shipped one of the base; none; a
        folder), `capacity` (atoms resident at once), `steady` (probability of a token below which an atom is asked
        again in a wording that it was trained on, see `atomlora.statements`; 0: never), `off_topic` (who answers what
        the store does not cover: base, or nobody: refuse), `second_look` (whether the embedded base reads the likeliest
        texts where the router's scores leave open if the store covers a question; other bases never do).
        Raises StoreError; UsageError for a setting out of its range; BaseModelError, naming both, when the base is not
        the store's: here where `base` is given, else when it is first needed.
        """
        store = Store.open(store_path, version=settings.pop("version", None))
        opened = cls(store, base, device, **settings)
        if base is not None:
            _ = opened.base
        return opened

    def ask(
        self,
        question: str,
        mode: Mode = "atoms",
        top_k: int = TOP_K,
        max_new_tokens: int = MAX_NEW_TOKENS,
        labels: Sequence[str] = (),
        style: Style | None = None,
        where: RouteFilter | None = None,
    ) -> Answer:
        """Answer one question, greedily, by statements of up to `max_new_tokens` tokens. `labels`: of the behaviour
        atoms to mount besides those that always are. `where`: which atoms may take part (default: those that belong
        to no tenant). Raises UsageError for an empty question, an unknown mode, style or label, top_k or
        max_new_tokens < 1, and style short without a reader."""
        return self.ask_batch([question], mode, top_k, max_new_tokens, labels, style, where)[0]

    def ask_batch(
        self,
        questions: Sequence[str],
        mode: Mode = "atoms",
        top_k: int = TOP_K,
        max_new_tokens: int = MAX_NEW_TOKENS,
        labels: Sequence[str] = (),
        style: Style | None = None,
        where: RouteFilter | None = None,
    ) -> list[Answer]:
        """Answer several questions, each as `ask` would; batches are made of prompts of like length."""
        from atomlora.statements import say

        how = How(mode, top_k, max_new_tokens, labels, style, where)
        start = ready(self, questions, how)
        asked = prepare(self, questions, how)
        statements = iter(say(self, [row for one in asked for row in one.rows], max_new_tokens))
        return answers(self, asked, [list(islice(statements, len(one.rows))) for one in asked], start)

    def stream(
        self,
        question: str,
        mode: Mode = "atoms",
        top_k: int = TOP_K,
        max_new_tokens: int = MAX_NEW_TOKENS,
        labels: Sequence[str] = (),
        style: Style | None = None,
        where: RouteFilter | None = None,
    ) -> Generator[str, None, Answer]:
        """The answer's text in pieces as they are decoded, from the second statement on whole statements, a reader's
        answer as a whole; the generator's return value is the `Answer`."""
        how = How(mode, top_k, max_new_tokens, labels, style, where)
        start = ready(self, [question], how)
        (asked,) = prepare(self, [question], how)
        return self._stream(asked, max_new_tokens, start)

    def route(self, question: str, top_k: int = TOP_K, where: RouteFilter | None = None) -> Route:
        """Which atoms matter to the question, of those that `where` admits (default: those that belong to no tenant).
        Needs the embedder, and the base for a second look alone."""
        return self.router.route(question, top_k, where)

    @contextmanager
    def compose(self, route: Route | Sequence[Route], labels: Sequence[str] = ()) -> Iterator[ComposedModel]:
        """A context in which the yielded model's `generate(...)` and calls are composed.

        One route serves every prompt of a batch; a list gives each prompt its own. Other threads, and the
        bare `base.model`, are not affected.
        """
        from atomlora.router import Route
        from atomlora.runtime.composed import ComposedModel

        routes = [route] if isinstance(route, Route) else list(route)
        selections = [self.composer.select(one, labels).whole() for one in routes]
        with self.composer.mounted(selections, [0] * len(selections)) as composition:
            slots = composition.slots.tolist() if composition else [[] for _ in routes]
            weights = composition.weights.tolist() if composition else [[] for _ in routes]
            yield ComposedModel(self.base.model, slots, weights, self.composer.pool)

    def close(self) -> None:
        """Take the atoms off the model and let go of the store's files."""
        with self._lock:
            if (composer := self._parts.pop("composer", None)) is not None:
                composer.close()
            self.store.close()

    def __enter__(self) -> AtomLoRA:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Parts, loaded when first needed

    def load(self, routed: bool = True) -> None:
        """Load now what the first question would load: the base, and where questions are routed the router and the
        composer. (A reader is loaded with the first question whose style wants one.)"""
        _ = self.base
        if routed:
            _ = self.router, self.composer

    @property
    def base(self) -> Base:
        """The base model; BaseModelError, naming both, when it is not the one the store was compiled for."""
        return self._part("base", lambda: base_for(self.store, self._wanted_base, self._device, self._dtype))

    @property
    def atoms(self) -> dict[str, Atom]:
        """The version's atoms by id, in the catalogue's order."""
        return self._part("atoms", lambda: {atom.id: atom for atom in self.store.atoms()})

    @property
    def router(self) -> Router:
        """The index over the version's keys; BaseModelError where the embedder is not the store's."""
        from atomlora.runtime.keys import open_router

        atoms, look = self.atoms, self._evidence if self.second_look else None
        return self._part(
            "router",
            lambda: open_router(self.store, list(atoms.values()), self._router_settings, self._embedder, look),
        )

    @property
    def composer(self) -> Composer:
        """What chooses from routes and mounts atoms on the base, which it loads."""
        from atomlora.composer import Composer

        return self._part(
            "composer",
            lambda: Composer(
                self.store,
                self.base.model,
                self.atoms,
                capacity=self._capacity,
                policies=policies_for(self.store, self.atoms, self._on_conflict, self._policies, self._interference),
            ),
        )

    @property
    def reader(self) -> Reader | None:
        """What answers shortly; None where there is none. UsageError for one that is not there or of another base."""
        from atomlora.reader.registry import reader_for

        recorded = str(self.store.manifest.settings.get("reader", "auto"))
        return self._part("reader", lambda: reader_for(self._wanted_reader, self.base, recorded))

    @property
    def default_style(self) -> Style:
        """How questions are answered unless they say so themselves: by the reader only where the user named one."""
        return "statement" if self._wanted_reader in ("auto", "none") else "auto"

    def _evidence(self, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
        from atomlora.runtime.evidence import evidence

        try:
            base = self.base
        except BaseModelError as error:
            raise BaseModelError(
                f"{error} (it is to read what the scores leave open; --no-second-look routes by the scores alone)"
            ) from error
        return evidence(base, questions, texts)

    def _part(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._parts:
                self._parts[name] = make()
            part: T = self._parts[name]
            return part

    def _stream(self, asked: Asked, max_new_tokens: int, start: float) -> Generator[str, None, Answer]:
        from atomlora.statements import say, stream

        if asked.reads or asked.refused:
            (answer,) = answers(self, [asked], [say(self, asked.rows, max_new_tokens)], start)
            yield answer.text
            return answer
        statements = [(yield from stream(self, asked.rows[0], max_new_tokens))]
        for row in asked.rows[1:]:  # may repeat an earlier one, which shows at its end
            (statement,) = say(self, [row], max_new_tokens)
            if adds(statement.text, [one.text for one in statements]):
                yield "\n" + statement.text
            statements.append(statement)
        (answer,) = answers(self, [asked], [statements], start)
        return answer
