"""Requests on kept connections, as a process of its own: closed loop, or at a fixed rate.

A closed loop sends a connection's next request when it has the answer to the last. At a rate each
request has the moment it is intended for, whether a connection is free then or not, and its latency
counts from that moment (Tene's coordinated omission). Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence

from benchmarks.harness import percentile


class _Connections:
    """Non-blocking connections to one port; `wait` gives those that have their whole answer."""

    def __init__(self, port: int, count: int, request: bytes) -> None:
        self._request = request
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[connection.fileno()] = connection
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def numbers(self) -> list[int]:
        return list(self._open)

    def send(self, number: int) -> None:
        self._received[number] = b""
        self._open[number].sendall(self._request)

    def wait(self, seconds: float) -> list[int]:
        whole = []
        for number, _ in self._poll.poll(seconds):
            data = self._received[number] + self._open[number].recv(1 << 20)
            self._received[number] = data
            if not data:
                raise RuntimeError("expected an answer, found the connection closed")
            if _is_whole(data):
                if not data.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"expected 200, found {data[:200]!r}")
                whole.append(number)
        return whole

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._poll.close()


def _is_whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def closed(port: int, connections: int, seconds: float, request: bytes) -> float:
    """Answers a second, each connection asking again at once."""
    standing = _Connections(port, connections, request)
    for number in standing.numbers():
        standing.send(number)
    answers, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for number in standing.wait(1.0):
            answers += 1
            standing.send(number)
    rate = answers / (time.perf_counter() - began)
    standing.close()
    return rate


def at_rate(
    port: int, connections: int, seconds: float, request: bytes, rate: float
) -> list[float]:
    """Seconds from each intended start to the whole answer."""
    standing = _Connections(port, connections, request)
    free = deque(standing.numbers())
    intended: dict[int, float] = {}
    latencies: list[float] = []
    began, sent = time.perf_counter(), 0
    total = int(rate * seconds)
    while len(latencies) < total:
        now = time.perf_counter()
        while free and sent < total and began + sent / rate <= now:
            number = free.popleft()
            intended[number] = began + sent / rate
            standing.send(number)
            sent += 1
        # Without a pause: a timer would wake up later than it was asked to.
        for number in standing.wait(0):
            latencies.append(time.perf_counter() - intended.pop(number))
            free.append(number)
    standing.close()
    return latencies


def main(arguments: Sequence[str]) -> None:
    """``PORT CORE CONNECTIONS SECONDS RATE``; rate 0 is a closed loop; the request on stdin."""
    port, core, connections = (int(text) for text in arguments[:3])
    seconds, rate = (float(text) for text in arguments[3:5])
    os.sched_setaffinity(0, {core})
    request = sys.stdin.buffer.read()
    if not rate:
        print(json.dumps({"rate": closed(port, connections, seconds, request)}))
        return
    found = [latency * 1e3 for latency in at_rate(port, connections, seconds, request, rate)]
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    print(json.dumps({name: percentile(found, share) for name, share in shares.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
