"""What the sidecar costs beside a bare aiohttp handler that answers the same bytes.

Server and generator are processes of their own, each on one core; 200 flags, half of them plain,
half with two rules. Single evaluations: one flag with two rules, a context of four attributes, a
token in each request, 32 kept connections. Bare is an aiohttp handler that returns the bytes of the
same answer and reads nothing, with the same requests in the same run, taken before and after ours.

* closed loop: each connection asks again when it is answered. Limit: 60 % of bare.
* open loop at half of what the sidecar answered: latency from the intended start. Limit: p99 3 ms.
* bulk: all 200 flags, evaluated and answered; and 304 for who has them.

    python -m benchmarks.sidecar [--seconds 5] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.harness import circumstances, printed
from control_plane.testing import replica
from control_plane_sidecar.limits import Limits
from control_plane_sidecar.listening import listen, place_of
from control_plane_sidecar.service import CONCURRENT, Sidecar, new_runner
from control_plane_sidecar.tokens import Tokens

FLAGS = 200
CONNECTIONS = 32
TOKEN = "benchmark-token-of-the-sidecar"
UNLIMITED = 1_000_000
CONTEXT = {"targetingKey": "user-123", "tenant_id": "acme", "plan": "enterprise", "country": "CA"}
BODY = json.dumps({"context": CONTEXT}).encode()
ANSWER = b'{"key":"flag_1","reason":"TARGETING_MATCH","value":true,"variant":"on"}'
SINGLE, BULK = "/ofrep/v1/evaluate/flags/flag_1", "/ofrep/v1/evaluate/flags"


def main(arguments: Sequence[str] = ()) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidecar")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each loop")
    parser.add_argument("--rounds", type=int, default=3, help="closed loops of each kind")
    options = parser.parse_args(arguments)
    loads = [f"{os.getloadavg()[0]:.2f}"]
    bare, ours = [], []
    with _serving(_bare) as bare_port, _serving(_sidecar) as port:
        for _ in range(options.rounds):
            bare.append(_loaded(bare_port, options.seconds, _request(SINGLE))["rate"])
            ours.append(_loaded(port, options.seconds, _request(SINGLE))["rate"])
        bare.append(_loaded(bare_port, options.seconds, _request(SINGLE))["rate"])
        rate = statistics.median(ours) / 2
        late = _loaded(port, options.seconds, _request(SINGLE), rate)
        bare_late = _loaded(bare_port, options.seconds, _request(SINGLE), rate)
        bulk = _loaded(port, options.seconds, _request(BULK))["rate"]
    loads.append(f"{os.getloadavg()[0]:.2f}")
    share = statistics.median(ours) / statistics.median(bare)
    body: list[tuple[str, ...]] = [
        (
            "single, closed loop, answers/s",
            f"{statistics.median(ours):,.0f} ({share:.0%} of bare)",
            ">= 60 %",
            f"{statistics.median(bare):,.0f}",
        ),
        *(
            (
                f"single at {rate:,.0f}/s, {name}, ms",
                f"{late[name]:.2f}",
                "<= 3" if name == "p99" else "",
                f"{bare_late[name]:.2f}",
            )
            for name in ("p50", "p99", "p999")
        ),
        (f"bulk of {FLAGS}, closed loop, answers/s", f"{bulk:,.0f}", "", ""),
    ]
    head = ("what", "sidecar", "limit", "bare")
    title = f"Sidecar; load {loads[0]} before, {loads[1]} after. {circumstances(__name__)}"
    printed(title, head, body)
    return 0


def _request(path: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: sidecar\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def _loaded(port: int, seconds: float, request: bytes, rate: float = 0) -> dict[str, float]:
    core = min(os.sched_getaffinity(0))
    arguments = [str(port), str(core), str(CONNECTIONS), str(seconds), str(rate)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sidecar_load", *arguments],
        input=request, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def _serving(serve: Any) -> Iterator[int]:
    """A server in a process of its own on the highest core; its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(serve, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _run(serve: Any, port: Any) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asyncio.run(serve(port))


async def _bare(port: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=ANSWER, content_type="application/json")

    application = web.Application()
    application.router.add_post("/ofrep/v1/evaluate/flags/{key}", handler)
    await _forever(web.AppRunner(application, access_log=None), port)


async def _sidecar(port: Any) -> None:
    with replica(flags=_flags()) as client, tempfile.NamedTemporaryFile() as file:
        file.write(TOKEN.encode())
        file.flush()
        limits = Limits(UNLIMITED, CONCURRENT)
        gc.freeze()  # as the command does
        service = Sidecar(client, tokens=Tokens(Path(file.name)), limits=limits)
        await _forever(new_runner(service), port)


async def _forever(runner: web.AppRunner, port: Any) -> None:
    await runner.setup()
    url = await listen(runner, place_of("127.0.0.1:0"))
    port.send(int(url.rpartition(":")[2]))
    await asyncio.Event().wait()


def _flags() -> dict[str, Any]:
    ruled = {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [
            {"name": "germany", "when": {"country": "DE"}, "serve": "off"},
            {"name": "enterprise", "when": {"plan": "enterprise"}, "serve": "on"},
        ],
    }
    return {f"flag_{number}": ruled if number % 2 else True for number in range(FLAGS)}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
