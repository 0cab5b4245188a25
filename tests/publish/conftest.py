"""A key, and an HTTP server on loopback that answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from control_plane.publish.keyfiles import KeySigner, load_signer, new_key


@pytest.fixture
def signer(tmp_path: Path) -> KeySigner:
    """A new key of an author."""
    path = tmp_path / "author.pem"
    new_key(path)
    return load_signer(path)


@dataclass
class Answering:
    """A server that gives every request the answers listed, the last one for ever."""

    url: str
    answers: list[tuple[int, object]]
    asked: list[str] = field(default_factory=list)
    close_after_each: bool = False

    def next(self) -> tuple[int, object]:
        """The next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def answering() -> Iterator[Callable[..., Answering]]:
    """Start servers that answer (status, JSON value or bytes) pairs."""
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: tuple[int, object], close_after_each: bool = False) -> Answering:
        state = Answering("", list(answers), close_after_each=close_after_each)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        return state

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(state: Answering) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append(f"{self.command} {self.path}")
            status, value = state.next()
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            # Closed without a word, as a restarted server closes the connections it had.
            self.close_connection = state.close_after_each

        do_GET = do_PUT = do_POST = answer

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    return Handler
