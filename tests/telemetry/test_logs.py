"""What a service's log lines look like, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid, StoreUnreachable
from control_plane.telemetry.logs import (
    TAKEN_OUT,
    formatter,
    set_up_logging,
    without_secrets,
    without_values,
)

TOKEN = "cpt_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    yield found
    found.handlers[:], found.level = handlers, level


def line(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    """The line that a call of the standard library's logger comes to."""
    record = logging.LogRecord("control_plane", logging.INFO, "f.py", 1, message, arguments, None)
    record.__dict__.update(more)
    text = formatter(human=False).format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_service_writes_json_with_the_change_and_generation_in_fields(
    root: logging.Logger,
) -> None:
    out = io.StringIO()
    set_up_logging(out)
    logging.getLogger("control_plane_daemon").info(
        "%s: entry %d applied", "production", 7,
        extra={"environment": "production", "generation": 7, "change": "ab" * 32},
    )  # fmt: skip
    told = json.loads(out.getvalue())
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "change": "ab" * 32, "environment": "production", "event": "production: entry 7 applied",
        "generation": 7, "level": "info", "logger": "control_plane_daemon",
    }  # fmt: skip


def test_a_person_at_a_terminal_reads_a_line_and_no_json(root: logging.Logger) -> None:
    out = Terminal()
    set_up_logging(out)
    logging.getLogger("x").warning("store gone", extra={"generation": 7})
    assert out.getvalue().count("\n") == 1
    assert "store gone" in out.getvalue()
    assert "{" not in out.getvalue()


def test_setting_up_twice_writes_each_line_once(root: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging(first)
    set_up_logging(second)
    logging.getLogger("x").warning("once")
    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)


def test_a_field_that_is_not_agreed_on_is_left_out() -> None:
    assert "value" not in line("x", value="hunter2", generation=1)


@pytest.mark.parametrize(
    "text",
    [
        f"token {TOKEN} was refused",
        f"GET with Authorization: Bearer {TOKEN[4:]}",
        f"http://author:{TOKEN[4:]}@store.internal/",
        f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{TOKEN[4:]}\n-----END ENCRYPTED PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{TOKEN[4:]}",
    ],
)
def test_a_secret_is_taken_out_of_every_text(text: str) -> None:
    told = line("found %s", text, origin=text)
    assert TOKEN[4:] not in json.dumps(told)
    assert TAKEN_OUT in told["event"]
    assert TAKEN_OUT in told["origin"]


def test_an_error_of_a_document_is_told_without_what_was_found_in_it() -> None:
    error = ManifestInvalid("flag/x: expected a number, found 'hunter2' at metadata.default")
    assert without_values(error) == "flag/x: expected a number"
    assert without_values(KeyError("hunter2")) == "KeyError"
    down = StoreUnreachable("http://s: expected a store, found connection refused")
    assert without_values(down) == str(down)


def test_a_traceback_shows_where_and_no_value() -> None:
    # Frames quote the source, so the value must not stand in it.
    value = "".join(["hun", "ter2"])
    try:
        try:
            raise ManifestInvalid(f"config/x: expected a port, found {value!r}")
        except ManifestInvalid as error:
            raise KeyError(value) from error
    except KeyError as error:
        told = line("unexpected", exc_info=(type(error), error, error.__traceback__))
    assert value not in told["exception"]
    assert "test_logs.py" in told["exception"]
    assert "ManifestInvalid: config/x: expected a port\n" in told["exception"]
    assert told["exception"].endswith("KeyError")


@given(st.text(max_size=300))
def test_whatever_a_text_holds_it_is_one_line_that_parses(text: str) -> None:
    told = without_secrets(None, "info", {"event": text})
    assert json.loads(json.dumps(told)).keys() == {"event"}
    assert str(told["event"]).isprintable()
