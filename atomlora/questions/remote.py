"""`--question-writer http://…`: a model behind an OpenAI-compatible endpoint writes the questions."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from atomlora.errors import AtomLoraError, QuestionWriterError, UsageError
from atomlora.questions.endpoint import Endpoint
from atomlora.questions.structured import VERSION, Pair, checked, messages, parse_reply
from atomlora.questions.types import AtomText, Question, Written
from atomlora.settings import EndpointSettings

_TRIES = 2  # of one text, where the reply is no JSON
_HOPELESS = 6  # replies that are no JSON, without one that is, after which the model is given up
_TOKENS_EACH = 80  # of a question with its answer, as JSON
_Result = tuple[int, list[Pair] | AtomLoraError | None]
_log = logging.getLogger(__name__)


class EndpointWriter:
    """Asks for each text in one chat completion, several at a time.

    `address`: `http(s)://HOST/PATH#MODEL`; without `#MODEL` the server must list exactly one model. The digest covers
    address, model, prompt and rounds, not the key. Raises UsageError and QuestionWriterError.
    """

    name = "endpoint"
    of_base = False

    def __init__(self, address: str, settings: EndpointSettings | None = None, rounds: int = 1) -> None:
        place, _, model = address.partition("#")
        self.settings, self.rounds = settings or EndpointSettings(), rounds
        self._endpoint = Endpoint(place, self.settings)
        self.model = model or self._only_model()
        parts = ["endpoint", VERSION, self._endpoint.address, self.model, *([f"rounds {rounds}"] if rounds > 1 else [])]
        self.digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def close(self) -> None:
        """Nothing to free."""

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` per text and round; names and numbers without a question get a cloze question, and so
        does a text about which the model replied no JSON."""
        results: list[list[Question]] = [[] for _ in atoms]
        for done, written in enumerate(self.stream(atoms, max_questions), start=1):
            results[written.number] = written.questions
            if progress is not None:
                progress(done, len(atoms))
        return results

    def stream(self, atoms: Sequence[AtomText], max_questions: int) -> Iterator[Written]:
        """What `write` collects, text by text as replies come in. Raises QuestionWriterError where the server cannot
        be used; closing the iterator stops all requests that have not begun."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        replies: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        for number in range(len(atoms)):
            waiting.put(number)

        def work() -> None:
            while True:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    replies.put((number, self._ask(atoms[number], max_questions)))
                except AtomLoraError as error:
                    replies.put((number, error))
                    return
                except Exception as error:  # a thread's traceback would be lost, and the run would wait for ever
                    replies.put((number, QuestionWriterError(f"{self._endpoint.address}: {error!r}")))
                    return

        # Daemons: an interrupted run does not wait for a server's timeout.
        for _ in range(min(self.settings.concurrency, len(atoms))):
            threading.Thread(target=work, daemon=True).start()
        bad, most = 0, max_questions * self.rounds
        try:
            for done in range(len(atoms)):
                number, found = replies.get()
                if isinstance(found, AtomLoraError):
                    raise found
                bad += found is None
                if bad == done + 1 and (bad * _TRIES >= _HOPELESS or bad == len(atoms)):
                    raise QuestionWriterError(
                        f"{self._endpoint.address}: {self.model!r} replied no JSON {bad * _TRIES} times; "
                        "take a model that follows instructions"
                    )
                yield Written(number, checked(atoms[number], found or (), most), found is not None)
        finally:
            while not waiting.empty():
                try:
                    waiting.get_nowait()
                except queue.Empty:
                    break
        if bad:
            _log.warning(
                "%s: no usable reply about %d of %d texts; fill-in-the-blank questions stand in, and the same command "
                "asks again", self._endpoint.address, bad, len(atoms),
            )  # fmt: skip

    def _ask(self, atom: AtomText, max_questions: int) -> list[Pair] | None:
        """The model's pairs of all rounds, None where no reply of the first was JSON."""
        found = self._round(atom, max_questions, ())
        for _ in range(self.rounds - 1):
            found = [*found, *(self._round(atom, max_questions, found) or ())] if found else found
        return found

    def _round(self, atom: AtomText, max_questions: int, earlier: Sequence[Pair]) -> list[Pair] | None:
        body = {"model": self.model, "messages": messages(atom, max_questions, earlier)}
        for attempt in range(_TRIES):
            optional = {
                "temperature": 0.7 * attempt,  # the same reply again would help nobody
                "max_tokens": _TOKENS_EACH * (max_questions + 2),
                "response_format": {"type": "json_object"},
            }
            pairs = parse_reply(self._endpoint.chat(body, optional))
            if pairs is not None:
                return pairs
        return None

    def _only_model(self) -> str:
        names = self._endpoint.models()
        if len(names) != 1:
            listed = f"; it lists {', '.join(names[:10])}" if names else ""
            raise UsageError(f"--question-writer {self._endpoint.address}: name the model as …#MODEL{listed}")
        return names[0]
