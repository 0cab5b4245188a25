"""What is seen while a command waits: nothing on a pipe, a bar on a terminal after a second."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.output import progress

Cli = Callable[..., Any]


@pytest.fixture
def slow_store() -> Iterator[tuple[str, threading.Event]]:
    """A store that answers once it is let."""
    let = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            let.wait(20)
            body = b'{"pending": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", let
    let.set()
    server.shutdown()
    server.server_close()
    thread.join()


def asked(url: str) -> list[str]:
    return [sys.executable, "-m", "control_plane", "pending", "-e", "x", "--store", url]


def test_a_slow_store_is_shown_on_a_terminal_and_taken_away(
    slow_store: tuple[str, threading.Event], tmp_path: Path
) -> None:
    url, let = slow_store
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        asked(url), stderr=theirs, stdout=subprocess.PIPE, cwd=tmp_path, env=env
    ) as child:
        os.close(theirs)
        seen = b""
        while b"waiting for " + url.encode() not in seen:
            seen += os.read(ours, 4096)
        let.set()
        assert child.stdout is not None
        assert child.stdout.read() == b"x: no change set waits for signatures\n"
    os.close(ours)
    assert child.returncode == 0


def test_a_slow_store_is_not_mentioned_on_a_pipe(
    slow_store: tuple[str, threading.Event], tmp_path: Path
) -> None:
    url, let = slow_store
    threading.Timer(1.5, let.set).start()
    done = subprocess.run(asked(url), capture_output=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"x: no change set waits for signatures\n"


class Terminal:
    """A stderr that says it is a terminal and keeps what is written."""

    def __init__(self) -> None:
        self.text = ""
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        if "2/4" in self.text:
            self.drawn.set()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def test_steps_fill_the_bar_once_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("production: changes", after_seconds=0.0) as moved:
        moved(2, 4)
        assert terminal.drawn.wait(10)
    assert "production: changes" in terminal.text


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("production: changes", after_seconds=60.0) as moved:
        moved(2, 4)
    assert terminal.text == ""
