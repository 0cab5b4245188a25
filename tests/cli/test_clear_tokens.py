"""A token that would cross the network in the clear is told of, and sent all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from control_plane.cli.root import root
from control_plane.cli.settings import is_in_clear, tell_of_clear_token

Cli = Callable[..., Any]
WARNING = (
    "warning: http://0.0.0.0:1: the token crosses the network in the clear, where others can read"
    " it; name the store by https"
)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"cpt_{'A' * 43}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://store.example:7840", True),
        ("HTTP://store", True),
        ("http://10.0.0.7", True),
        ("http://[2001:db8::1]:7840", True),
        ("http://localhost.example", True),
        ("http://127.0.0.1.example", True),
        ("https://store.example", False),
        ("http://localhost:7840", False),
        ("http://127.0.0.1:7840", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:7840/below", False),
        ("unix:/run/store.sock", False),
        ("http://[", False),
    ],
)
def test_plain_http_beyond_this_host_is_in_the_clear(url: str, clear: bool) -> None:
    assert is_in_clear(url) is clear


def test_a_verb_tells_it_in_one_line_and_goes_on(cli: Cli, token: Path) -> None:
    ran = cli("pending", "-e", "production", "--store", "http://0.0.0.0:1", "--token-file", token)
    told = ran.err.splitlines()
    assert told[0] == WARNING
    assert told[1].startswith("control-plane: http://0.0.0.0:1: expected a store, found connection")
    assert (len(told), ran.code, ran.out) == (2, 4, "")


def test_without_a_token_or_on_this_host_nothing_is_told(cli: Cli, token: Path) -> None:
    pending = ("pending", "-e", "production", "--store")
    assert "warning" not in cli(*pending, "http://0.0.0.0:1").err
    assert "warning" not in cli(*pending, "http://127.0.0.1:1", "--token-file", token).err


def test_it_is_told_once_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with click.Context(root).scope():
            tell_of_clear_token("http://0.0.0.0:1")
            tell_of_clear_token("http://0.0.0.0:1")
    assert capsys.readouterr().err == f"{WARNING}\n" * 2


def test_a_daemon_tells_it_when_it_starts(command: Cli, token: Path) -> None:
    # It ends at once: what it was enrolled with cannot be read.
    trust = token.with_name("trust.json")
    trust.write_text("{}")
    daemon = ("daemon", "--store", "http://0.0.0.0:1", "--trust", trust, "--token-file", token)
    ran = command(*daemon, "--replica", token.with_name("replica"))
    assert ran.code == 1
    assert ran.err.splitlines()[0] == WARNING
