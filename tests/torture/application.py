"""A WSGI application for ``gunicorn --preload``: each request reads and answers its counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from preloaded import read_on


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """``/READS`` reads so much."""
    body = json.dumps(read_on(int(environ["PATH_INFO"][1:]))).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
