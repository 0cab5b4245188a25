"""A real store process under clients that are slow, large or out of form: others are answered."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control_plane.publish.keyfiles import create_trust
from control_plane_store.command import store

DESCRIPTORS = 512
CROWD = 700
KNOWN = {200, 201, 202, 400, 401, 403, 404, 405, 408, 409, 410, 413, 431}


class Running:
    """A store process with few descriptors, and the tokens of its first start."""

    def __init__(self, url: str, process: subprocess.Popen[str], tokens: dict[str, str]) -> None:
        self.process = process
        host, _, port = url.removeprefix("http://").partition(":")
        self.address = (host, int(port))
        self.tokens = tokens

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=15)

    def say(self, data: bytes, *, end: bool = False) -> bytes:
        """Everything that is answered to these bytes, until the store hangs up.

        ``end`` says that no more will come, as a client does that goes away.
        """
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            return _rest(connection)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, Any]:
        """One request in form, as the client with the submit token."""
        lines = [
            f"{method} {path} HTTP/1.1", "Host: store", "Connection: close",
            f"Authorization: Bearer {self.tokens['submit']}", f"Content-Length: {len(body)}",
            *headers,
        ]  # fmt: skip
        answer = self.say("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, content = answer.partition(b"\r\n\r\n")
        with contextlib.suppress(ValueError):
            return int(head.split(b" ")[1]), json.loads(content)
        return int(head.split(b" ")[1]), content

    def is_well(self) -> bool:
        return self.ask("GET", "/v1/production/heads")[0] == 200

    def memory_mib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(each for each in status.splitlines() if each.startswith("VmRSS"))
        return int(line.split()[1]) >> 10


def _rest(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return data


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """This process opens more connections than the store may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CROWD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("store")
    trust = create_trust(folder / "made", environments=("production",))
    database, tokens = folder / "store.sqlite3", folder / "tokens"
    made = CliRunner().invoke(
        store,
        ["init", "--database", str(database), "--trust", str(trust.trust_directory), "--keys",
         str(trust.keys_directory), "--tokens", str(tokens)],
    )  # fmt: skip
    assert made.exception is None, made.output
    process = subprocess.Popen(
        [sys.executable, "-m", "control_plane", "store", "--database", database,
         "--keys", trust.keys_directory, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("store ready at ")
        secrets = {path.stem: path.read_text().strip() for path in tokens.iterdir()}
        yield Running(line.removeprefix("store ready at ").strip(), process, secrets)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "said", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "]
)
def test_connections_that_say_too_little_take_no_place(served: Running, said: bytes) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(CROWD):
            connection = held.enter_context(served.connect())
            with contextlib.suppress(ConnectionError):
                connection.sendall(said)
        assert served.is_well()
        assert served.is_well()


def test_connections_that_asked_once_and_stay_take_no_place(served: Running) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(CROWD):
            connection = held.enter_context(served.connect())
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: store\r\n\r\n")
        assert served.is_well()


def test_long_polls_outlive_a_crowd_of_silent_connections(served: Running) -> None:
    wait = "GET /v1/production/follow?epoch=1&size=1&wait=4 HTTP/1.1\r\nHost: store\r\n"
    wait += f"Authorization: Bearer {served.tokens['follow']}\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as held:
        polls = [held.enter_context(served.connect()) for _ in range(8)]
        for poll in polls:
            poll.sendall(wait.encode())
        assert served.is_well()
        for _ in range(CROWD):
            held.enter_context(served.connect())
        assert [_rest(poll)[:15] for poll in polls] == [b"HTTP/1.1 200 OK"] * 8


def test_a_body_that_trickles_keeps_nobody_waiting(served: Running) -> None:
    digest = "0" * 64
    head = f"PUT /v1/production/blob/sha256/{digest} HTTP/1.1\r\nHost: store\r\n"
    head += f"Authorization: Bearer {served.tokens['submit']}\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(24):
            held.enter_context(served.connect()).sendall(head.encode() + b"x")
        assert served.is_well()
        assert served.ask("POST", "/v1/production/changes", b"{}")[0] == 400


@pytest.mark.parametrize(
    "headers",
    [["Content-Length: 99999999999"], ["Transfer-Encoding: chunked"]],
    ids=["promised", "chunked"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", f"/v1/production/blob/sha256/{'0' * 64}"), ("POST", "/v1/production/changes")],
)
def test_an_oversized_body_is_refused_in_bounded_memory(
    served: Running, method: str, path: str, headers: list[str]
) -> None:
    before = served.memory_mib()
    lines = [f"{method} {path} HTTP/1.1", "Host: store", *headers]
    lines += [f"Authorization: Bearer {served.tokens['submit']}", "", ""]
    chunk = b"x" * (1 << 20)
    framed = b"%x\r\n%s\r\n" % (len(chunk), chunk) if "chunked" in headers[0] else chunk
    with served.connect() as connection:
        connection.sendall("\r\n".join(lines).encode())
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(96):
                connection.sendall(framed)
        assert b" 413 " in connection.recv(32)
    assert served.memory_mib() - before < 80
    assert served.is_well()


def test_requests_out_of_form_are_answered_in_form(served: Running) -> None:
    long = b"x" * 200_000
    for said in (
        b"\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + long,
        b"GET / HTTP/1.1\r\n" + long + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + long + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"\x16\x03\x01\x02\0\x01" + long,
        b"POST /v1/production/changes HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"PRI * HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ):  # fmt: skip
        answer = served.say(said, end=True)
        assert not answer or int(answer.split(b" ")[1]) in KNOWN, (said[:60], answer[:200])
    assert served.is_well()


PARTS = (
    "v1", "production", "staging", "heads", "history", "follow", "pending", "changes", "blob",
    "sha256", "0" * 64, "checkpoint", "tile", "entries", "0", "63", "x001", "000.p", "255", "256",
    "1", "2", "9999999999", "..", ".", "", "%00", "%2e%2e", "%2F", "%ff", "%ed%a0%80", "%C2%85",
    "~", "é", "'", "%27%20OR%201=1--", "a" * 5000, "-1", "1e9", "٣", "key=flag/x", "flag%2Fx%20%00",
)  # fmt: skip
NAMES = ("epoch", "size", "wait", "key", "kind", "name", "prefix", "after", "part", "before",
         "limit", "dry_run")  # fmt: skip


def test_paths_and_queries_of_any_parts_are_answered_in_form(served: Running) -> None:
    chance = random.Random(8)
    for _ in range(400):
        start = chance.choice(("/v1/production/", "/production/1/", "/", "/production/1/tile/"))
        path = start + "/".join(chance.choices(PARTS, k=chance.randrange(4)))
        query = "&".join(
            f"{chance.choice(NAMES)}={chance.choice(PARTS)}" for _ in range(chance.randrange(4))
        )
        method = chance.choice(("GET", "GET", "GET", "PUT", "POST", "DELETE", "HEAD"))
        if "wait=" in query:
            query += "&size=0"
        status, body = served.ask(method, f"{path}?{query}".replace("wait=", "wait=0&x="))
        assert status in KNOWN, (method, path, query, body)


def test_thousands_of_keys_in_one_query_are_answered(served: Running) -> None:
    keys = "&".join(f"key=a/{index:x}" for index in range(5_000))
    assert served.ask("GET", f"/v1/production/heads?{keys}")[0] == 200


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer  ", "Basic eDp5", "Bearer " + "x" * 5000, "Bearer \x80\xff", "bearer\t",
     "Bearer cpt_\u00e9", ", ".join(["Bearer a"] * 50)],
)  # fmt: skip
def test_a_token_out_of_form_is_refused(served: Running, authorization: str) -> None:
    head = f"GET /v1/production/heads HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n"
    answer = served.say((head + "Connection: close\r\n\r\n").encode("latin-1"))
    assert int(answer.split(b" ")[1]) in (400, 401), answer[:200]


def test_a_thousand_requests_at_once_on_one_connection_are_answered(served: Running) -> None:
    before = served.memory_mib()
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = served.say(request * 999 + last)
    assert 1 <= answer.count(b"HTTP/1.1 200 OK") <= 1000
    assert served.memory_mib() - before < 40


def test_nothing_of_all_this_was_an_error_of_the_store(served: Running) -> None:
    assert served.is_well()
    assert served.process.poll() is None
