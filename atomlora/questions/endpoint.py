"""A client for chat completions as OpenAI's API and its many imitations serve them.

Connections, retries with exponential backoff and Retry-After are urllib3's; what is added is a pace in requests a
minute that retries keep too, retries of bodies that are broken, and errors that say what to do. The API key comes from
$ATOMLORA_WRITER_API_KEY; it is sent to the given address alone, and is neither stored nor shown.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from atomlora.errors import QuestionWriterError, UsageError
from atomlora.settings import EndpointSettings

KEY_VARIABLE = "ATOMLORA_WRITER_API_KEY"
_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_REFUSED = frozenset((400, 413, 422))  # may be due to one text: a content filter, or more tokens than the model takes
_LONGEST_WAIT = 120.0  # seconds; servers may ask for more
_SHOWN = 300  # characters of a server's message
_log = logging.getLogger(__name__)


class RefusedText(QuestionWriterError):
    """A request that the server does not take, perhaps for its text alone."""


class Pace:
    """Starts requests no faster than `per_minute`, over all threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self) -> None:
        """Wait for one's turn."""
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._gap
        time.sleep(mine - now)


class Endpoint:
    """One address, `http(s)://HOST[:PORT]/PATH`, up to and without `/chat/completions`. Thread-safe: a thread has its
    own connections. Raises UsageError for an address that cannot be one or that carries a password."""

    def __init__(self, address: str, settings: EndpointSettings) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--question-writer {address}: give an address such as http://localhost:8000/v1#MODEL")
        if parts.username or parts.password or parts.query:
            raise UsageError(
                f"--question-writer {parts.scheme}://{parts.hostname}…: an address is kept with the store, so that it "
                f"must carry no user, password or query; put the API key into ${KEY_VARIABLE}"
            )
        self.address = address.rstrip("/")
        self.settings, self.pace = settings, Pace(settings.requests_per_minute)
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key.isascii() or any(letter.isspace() for letter in self._key):
            raise UsageError(f"${KEY_VARIABLE}: a key is ASCII without spaces; set it to the key alone")
        if self._key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            _log.warning("%s: the API key is sent unencrypted; use https where the server has it", self.address)
        self._plain = False  # whether only what must be there is sent
        self._local = threading.local()

    def models(self) -> list[str]:
        """Names of the models that the server lists."""
        data = self._json(self._send("GET", "/models", None), "/models")
        listed = data.get("data")
        names = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return [name for name in names if isinstance(name, str)]

    def chat(self, body: dict[str, Any], optional: dict[str, Any]) -> str:
        """The reply's text to `body`, with what in `optional` the server takes: one that refuses the request (400 or
        422) is asked without it from then on. Raises QuestionWriterError; for 400, 413 and 422 RefusedText."""
        asked = body if self._plain else body | optional
        response = self._send("POST", "/chat/completions", asked)
        if response.status_code in (400, 422) and asked is not body:
            response = self._send("POST", "/chat/completions", body)
            self._plain = self._plain or response.status_code == 200
        data = self._json(response, "/chat/completions")
        try:
            content = data["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if data.get("choices") is None:
            raise QuestionWriterError(f"{self.address}: its reply is no chat completion; check the address (…/v1)")
        return _said(content)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        """A response of whatever status, after the retries. urllib3's end with the headers; a body that breaks off, or
        that is no JSON in spite of a 200, is asked for again here."""
        limits = (min(10.0, self.settings.timeout_s), self.settings.timeout_s)
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= self.settings.attempts
            self.pace.turn()
            try:
                response = self._session().request(
                    method, self.address + path, json=body, auth=self._authorise, timeout=limits, allow_redirects=False
                )
            except requests.exceptions.RequestException as error:
                if last or not isinstance(error, requests.exceptions.ChunkedEncodingError):
                    raise QuestionWriterError(self._redacted(self._reason(error))) from None
            else:
                if last or response.status_code != 200 or _object(response) is not None:
                    return response
            time.sleep(min(self.settings.backoff_s * 2 ** (attempt - 1), _LONGEST_WAIT))

    def _json(self, response: requests.Response, path: str) -> dict[str, Any]:
        if response.status_code != 200:
            kind = RefusedText if response.status_code in _REFUSED else QuestionWriterError
            raise kind(self._redacted(self._refusal(response, path)))
        data = _object(response)
        if data is None:
            raise QuestionWriterError(
                f"{self.address}{path}: replied something else than JSON; check the address (…/v1)"
            )
        return data

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            adapter = HTTPAdapter(max_retries=_paced(self.pace, self.settings))
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Also where there is no key, so that requests does not look for one in ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _reason(self, error: requests.exceptions.RequestException) -> str:
        times = f"after {self.settings.attempts} attempts"
        if "timed out" in str(error).lower():
            return (
                f"{self.address}: no answer within {self.settings.timeout_s:g} s {times}; a slow server needs "
                "--writer-timeout, a busy one a lower --writer-concurrency"
            )
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            return f"{self.address}: its reply broke off {times}; what was written is kept: try again later"
        cause: BaseException = error
        while (deeper := cause.args[0] if cause.args else None) is not None and isinstance(deeper, BaseException):
            cause = deeper
        cause = getattr(cause, "reason", cause)
        return f"{self.address}: cannot be reached {times} ({_short(str(cause))}); is the server running there?"

    def _refusal(self, response: requests.Response, path: str) -> str:
        status, said = response.status_code, _message(response)
        what = f"{self.address}{path}: {status}" + (f" ({said})" if said else "")
        if status in (401, 403):
            remedy = (
                f"the API key in ${KEY_VARIABLE} is not accepted" if self._key else f"set ${KEY_VARIABLE} to its key"
            )
        elif status == 404:
            remedy = "check the address (…/v1) and the model behind #"
        elif status == 429:
            remedy = "it asks for fewer requests: lower --writer-requests-per-minute; what was written is kept"
        elif status >= 500:
            remedy = f"the server failed {self.settings.attempts} times; what was written is kept: try again later"
        elif status in _REFUSED:
            remedy = "check the model, or shorten the text: a filter or its length may be why"
        else:
            remedy = "check the address and the model"
        return f"{what}; {remedy}"

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _paced(pace: Pace, settings: EndpointSettings) -> Retry:
    """urllib3's retries, which keep the pace too."""

    class Paced(Retry):
        def sleep(self, response: BaseHTTPResponse | None = None) -> None:
            asked = self.get_retry_after(response) if response is not None else None
            time.sleep(min(self.get_backoff_time() if asked is None else asked, _LONGEST_WAIT))
            pace.turn()

    return Paced(
        total=settings.attempts - 1,
        redirect=0,
        allowed_methods=None,  # POST too: a completion changes nothing
        status_forcelist=_RETRIED,
        backoff_factor=settings.backoff_s,
        backoff_jitter=settings.backoff_s / 2,
        raise_on_status=False,
    )


def _object(response: requests.Response) -> dict[str, Any] | None:
    """The JSON object that a response is; None where it is something else."""
    try:
        data = response.json()
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _said(content: object) -> str:
    """The text of a message's content, which some servers give in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _message(response: requests.Response) -> str:
    """What a server says of its error, as OpenAI's and its imitations do."""
    try:
        error: Any = response.json()
    except ValueError:
        return _short(response.text)
    for name in ("error", "detail", "message"):
        if isinstance(error, dict) and name in error:
            error = error[name]
    return _short(error if isinstance(error, str) else str(error))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
