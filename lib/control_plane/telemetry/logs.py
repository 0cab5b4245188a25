"""The log lines of services: JSON for machines, a readable line at a terminal.

What this module decides:

- Modules log through the standard library; here alone it is settled what a line looks like. Each
  line has ``timestamp`` (UTC, ISO 8601), ``level``, ``logger`` and ``event``; what an event
  concerns stands beside it in fields of its own: ``environment``, ``generation``, ``change`` (the
  identity of the change set), ``traceparent`` (of the author's trace) and what else `FIELDS` names.
- One line an event: line ends and other control characters in a text are escaped, a traceback
  stands in ``exception``.
- No line holds a secret. Whatever looks like a token of ours, the value of an ``Authorization``
  header, the user part of a URL or a private key's PEM is taken out of every text, wherever it
  came from.
- No line holds a value of a flag or configuration either. That cannot be seen from a text, so an
  error that may quote a document is logged up to what was found (`without_values`), and so is one
  whose traceback is shown: its frames say where, an unforeseen exception's own words may be data.
  One exception: ``daemon --from`` tells an author what is wrong in the author's own files.

Needs structlog, which each service's extra brings.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from control_plane.errors import ControlPlaneError, InputInvalid
from control_plane.replica.apply import Unservable
from control_plane.shown import shown

FIELDS: Final = (
    "change", "code", "environment", "epoch", "generation", "origin", "traceparent", "verb",
)  # fmt: skip
"""What an event may say beside its text, as ``extra`` of the call that logs it."""

TAKEN_OUT: Final = "[taken out]"
MAX_TEXT: Final = 4000
_SECRETS: Final = (
    re.compile(r"cpt_[A-Za-z0-9_-]{8,}"),
    re.compile(r"(?i)(?<=bearer )\S+"),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S
    ),
)


def set_up_logging(stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (stderr); called once, by a command."""
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter(human=out.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def formatter(*, human: bool) -> logging.Formatter:
    """What makes lines of log records."""
    before: list[Callable[..., Any]] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=FIELDS),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback_without_values,
        without_secrets,
    ]
    last: list[Callable[..., Any]] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if human:
        last += [structlog.dev.ConsoleRenderer()]
    else:
        last += [structlog.processors.JSONRenderer(ensure_ascii=False, sort_keys=True)]
    return structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=before)


def without_secrets(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    """The event with every secret taken out of its texts, and texts that cannot forge a line."""
    for name, value in event.items():
        if isinstance(value, str) and not name.startswith("_"):
            text = value
            for secret in _SECRETS:
                text = secret.sub(TAKEN_OUT, text)
            # A traceback has line ends of its own; JSON and the console each show them as such.
            event[name] = text if name == "exception" else shown(text, MAX_TEXT)
    return event


def without_values(error: BaseException) -> str:
    """An error's text as a log may have it: without what was found in a document.

    ``flag/x: expected a number, found 'hunter2' at metadata.default`` becomes
    ``flag/x: expected a number``. Other errors of this package, and those of the operating system,
    quote no document and stay whole; of any other only the type is told.
    """
    text = " ".join(str(error).split())
    if isinstance(error, InputInvalid):
        return text.partition(", found ")[0]
    if isinstance(error, ControlPlaneError | OSError | Unservable):
        return text
    return type(error).__name__


def _traceback_without_values(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_described(each) for each in _chain(error))
    return event


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what led to it, the first cause first."""
    chain = [error]
    while (cause := _cause(chain[-1])) is not None and cause not in chain:
        chain.append(cause)
    return chain[::-1]


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _described(error: BaseException) -> str:
    name, text = type(error).__name__, without_values(error)
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{frames}{name}: {text}" if text != name else f"{frames}{name}"
