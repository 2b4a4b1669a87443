"""A tiny random Llama, and a real HTTP server that plays an OpenAI-compatible endpoint, with faults put in."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from endpoint_replies import QUICK
from tiny_base import spread_llama

from atomlora.questions.endpoint import KEY_VARIABLE
from atomlora.questions.remote import EndpointWriter


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's `state`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        state = self.server.state
        with state.lock:
            state.seen.append((self.path, body))
            state.times.append(time.monotonic())
            state.auth.append(self.headers["Authorization"])
            state.at_once += 1
            state.most = max(state.most, state.at_once)
            found = state.replies.pop(0) if state.replies else state.always
        time.sleep(state.delay)
        status, value, *headers = found(body) if callable(found) else found
        with state.lock:
            state.at_once -= 1
        if status is None:
            self.close_connection = True
            return
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        given = {"Content-Length": str(len(data))} | (headers[0] if headers else {})
        for name, content in given.items():
            self.send_header(name, content)
        if int(given["Content-Length"]) > len(data):
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing on stderr."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients that gave up are no errors of a test."""


@pytest.fixture
def server():
    """`replies` are taken one by one, then `always` is given: (status, body[, headers]) or a function of the request's
    body that returns such. A status of None closes the connection, and so does a body that is shorter than the
    Content-Length of its headers. `delay` seconds come first. `seen`, `times`, `auth`
    and `most` (at once) tell of the requests."""
    state = SimpleNamespace(
        replies=[], always=(200, {}), delay=0.0, seen=[], times=[], auth=[], at_once=0, most=0, lock=threading.Lock()
    )
    with Server(("127.0.0.1", 0), Handler) as listening:
        listening.state = state
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        state.address = f"http://127.0.0.1:{listening.server_address[1]}/v1"
        yield state
        listening.shutdown()
        thread.join()


@pytest.fixture
def tiny():
    """A random Llama over bytes, its logits spread so that errors show."""
    return spread_llama(layers=3, tie_word_embeddings=True)


@pytest.fixture
def writer(server, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def make(settings=QUICK, model="m/1"):
        return EndpointWriter(f"{server.address}#{model}", settings)

    return make
