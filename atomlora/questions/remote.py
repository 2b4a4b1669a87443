"""`--question-writer http://…`: a model behind an OpenAI-compatible endpoint writes the questions."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from atomlora.errors import AtomLoraError, QuestionWriterError, UsageError
from atomlora.questions.endpoint import Endpoint, RefusedText
from atomlora.questions.structured import VERSION, Pair, checked, messages, parse_reply
from atomlora.questions.types import AtomText, Question, Written
from atomlora.settings import EndpointSettings

_TRIES = 2  # of one text, where the reply is no JSON
_HOPELESS = 3  # texts without a usable reply, before any with one, after which the model is given up
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
        does a text that the server refuses or about which the model replied no JSON."""
        results: list[list[Question]] = [[] for _ in atoms]
        for done, written in enumerate(self.stream(atoms, max_questions), start=1):
            results[written.number] = written.questions
            if progress is not None:
                progress(done, len(atoms))
        return results

    def stream(self, atoms: Sequence[AtomText], max_questions: int, proven: bool = False) -> Iterator[Written]:
        """What `write` collects, text by text as replies come in. Raises QuestionWriterError where the server cannot
        be used, or has no usable reply about the first three texts unless it is `proven` by earlier ones; closing the
        iterator stops all requests that have not begun."""
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
                except RefusedText as error:
                    replies.put((number, error))
                except AtomLoraError as error:
                    replies.put((number, error))
                    return
                except Exception as error:  # a thread's traceback would be lost, and the run would wait for ever
                    replies.put((number, QuestionWriterError(f"{self._endpoint.address}: {error!r}")))
                    return

        # Daemons: an interrupted run does not wait for a server's timeout.
        for _ in range(min(self.settings.concurrency, len(atoms))):
            threading.Thread(target=work, daemon=True).start()
        bad, unused, said, most = 0, 0, "no JSON", max_questions * self.rounds
        try:
            for _ in atoms:
                number, found = replies.get()
                if isinstance(found, AtomLoraError) and not isinstance(found, RefusedText):
                    raise found
                if isinstance(found, list):
                    proven = True
                    questions = checked(atoms[number], found, most)
                    unused += bool(found) and all(question.kind != "written" for question in questions)
                    yield Written(number, questions, True)
                    continue
                bad += 1
                if bad >= _HOPELESS and not proven:
                    raise found or QuestionWriterError(
                        f"{self._endpoint.address}: {self.model!r} replied no JSON about {bad} texts; "
                        "take a model that follows instructions"
                    )
                said = str(found or said)
                yield Written(number, checked(atoms[number], (), most), False)
        finally:
            while not waiting.empty():
                try:
                    waiting.get_nowait()
                except queue.Empty:
                    break
        if bad:
            _log.warning(
                "%s: no usable reply about %d of %d texts (%s); fill-in-the-blank questions stand in, and `atomlora "
                "questions` asks about them again", self._endpoint.address, bad, len(atoms), said,
            )  # fmt: skip
        if unused:
            _log.warning(
                "%s: no question of the model passed about %d of %d texts; fill-in-the-blank questions stand in. A "
                "question must be an English or German one whose answer is words of the text and not in the question",
                self._endpoint.address, unused, len(atoms),
            )  # fmt: skip

    def _ask(self, atom: AtomText, max_questions: int) -> list[Pair] | None:
        """The model's pairs of all rounds, None where no reply of the first was JSON. Raises RefusedText there too."""
        found = self._round(atom, max_questions, ())
        for _ in range(self.rounds - 1):
            if not found:
                break
            try:
                found = [*found, *(self._round(atom, max_questions, found) or ())]
            except RefusedText:  # longer by what was asked before: keep that
                break
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
