"""The exact words of typical mistakes, as ``errors.txt`` has them.

After a message was changed on purpose: ``WRITE_ERRORS=1 make test T=tests/errors``, then read the
diff as the person would who made the mistake.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from control_plane import ControlPlaneClient
from control_plane.errors import KeyNotFoundError
from control_plane.publish.keyfiles import new_key
from control_plane.replica.header import CLOCK, HEARTBEAT_NS, STATE, HeaderWriter

EXPECTED = Path(__file__).with_name("errors.txt")
FLAG = (
    'kind: flag\nname: {}\nmetadata:\n  variants: {{"on": true, "off": false}}\n  default: "off"\n'
)
TOOL = (
    "kind: tool\nname: {}\nversion: {}\nmetadata:\n  description: a tool\n"
    "  inputs_schema: {{type: object}}\n"
)
CONFIG = "kind: config\nname: database\nmetadata:\n  values: {pool: {size: 5}}\n"


def applied(desk: Any, name: str, text: str) -> str:
    path: str = desk.write(f"{name}.yaml", text)
    desk.must("apply", "-f", path, "-e", "production")
    return path


def caught_up(desk: Any) -> None:
    """Wait until the replica has what the store has."""
    deadline = time.monotonic() + 20
    while True:
        with ControlPlaneClient(desk.project.replica, "production") as client:
            if client.flags.evaluate("new_ai_model", False).error_code != "FLAG_NOT_FOUND":
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def aged(desk: Any, *, silent: bool) -> str:
    """A replica like this node's after an hour without its daemon, or with a wrong clock."""
    copy = desk.folder / "replica"
    shutil.copytree(desk.project.replica, copy, symlinks=True)
    header = HeaderWriter(str(copy / "production" / "v1" / "current" / "header"))
    try:
        if silent:
            header[HEARTBEAT_NS] = time.time_ns() - 3600 * 10**9
        else:
            header[STATE] = CLOCK
    finally:
        header.close()
    return str(copy)


def lines(text: str, *words: str) -> str:
    """The lines that hold one of the words: the rest of a table has the node's own numbers."""
    kept = [line for line in text.splitlines() if any(word in line for word in words)]
    return "".join(f"{line}\n" for line in kept)


def a_missing_replica(desk: Any) -> str:
    return str(desk.ran("eval", "x", "-e", "production", "--replica", str(desk.folder / "none")))


def a_dead_daemon(desk: Any) -> str:
    ran = desk.ran("status", "--replica", aged(desk, silent=True), "--store", "unix:/none.sock")
    return lines(ran, "silent:", "next:", "exit")


def a_wrong_clock(desk: Any) -> str:
    ran = desk.ran("status", "--replica", aged(desk, silent=False), "--store", "unix:/none.sock")
    return lines(ran, "clock:", "next:", "exit")


def a_misspelt_flag(desk: Any) -> str:
    applied(desk, "flag", FLAG.format("new_ai_model"))
    caught_up(desk)
    return str(desk.ran("eval", "new_ai_modle", "-e", "production"))


def a_misspelt_document(desk: Any) -> str:
    applied(desk, "flag", FLAG.format("new_ai_model"))
    return str(desk.ran("get", "flag/new_ai_mode", "-e", "production"))


def a_misspelt_configuration_key(desk: Any) -> str:
    applied(desk, "flag", FLAG.format("new_ai_model"))
    applied(desk, "config", CONFIG)
    caught_up(desk)
    with ControlPlaneClient(desk.project.replica, "production") as client:
        deadline = time.monotonic() + 20
        while client.config.get("database.pool.size", default=None) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(KeyNotFoundError) as missing:
            client.config.get("database.pool.siez")
    return str(desk.told(f">>> client.config.get('database.pool.siez')\n{missing.value}\n"))


def a_misspelt_verb(desk: Any) -> str:
    return str(desk.ran("aply", "-f", "manifests"))


def an_unquoted_version(desk: Any) -> str:
    path = desk.write("tool.yaml", TOOL.format("crm_tool", "1.0"))
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def an_unknown_field(desk: Any) -> str:
    path = desk.write("flag.yaml", FLAG.format("f") + "  colour: blue\n")
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def a_duplicate_key(desk: Any) -> str:
    path = desk.write("flag.yaml", FLAG.format("f") + '  default: "on"\n')
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def a_default_that_is_no_variant(desk: Any) -> str:
    path = desk.write("flag.yaml", FLAG.format("f").replace('default: "off"', "default: none"))
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def a_file_that_is_not_there(desk: Any) -> str:
    return str(desk.ran("apply", "-f", str(desk.folder / "flags.yaml"), "-e", "production"))


def no_environment(desk: Any) -> str:
    return str(desk.ran("kill", "new_ai_model"))


def a_percentage_in_words(desk: Any) -> str:
    return str(desk.ran("flag", "rollout", "new_ai_model", "half", "-e", "production"))


def a_foreign_key(desk: Any) -> str:
    new_key(desk.folder / "mine.pem")
    key = str(desk.folder / "mine.pem")
    return str(desk.ran("kill", "new_ai_model", "-e", "production", "--key", key))


def a_key_that_others_can_read(desk: Any) -> str:
    key = desk.folder / "mine.pem"
    new_key(key)
    key.chmod(0o644)
    return str(desk.ran("kill", "new_ai_model", "-e", "production", "--key", str(key)))


def no_key(desk: Any) -> str:
    kill = ("kill", "new_ai_model", "-e", "production", "--store", desk.project.store)
    return str(desk.ran(*kill, cwd=desk.folder))


def no_trust(desk: Any) -> str:
    verify = ("log", "verify", "-e", "production", "--store", desk.project.store)
    return str(desk.ran(*verify, cwd=desk.folder))


def a_file_that_is_no_token(desk: Any) -> str:
    path = desk.write("token", "secret\n")
    return str(desk.ran("pending", "-e", "production", "--token-file", path))


def an_unknown_token(desk: Any) -> str:
    path = desk.write("token", f"cpt_{'A' * 43}\n")
    return str(desk.ran("pending", "-e", "production", "--token-file", path))


def a_token_that_may_only_follow(desk: Any) -> str:
    token = str(desk.project.private / "tokens" / "follow.token")
    return str(desk.ran("kill", "new_ai_model", "-e", "production", "--token-file", token))


def a_token_in_the_clear(desk: Any) -> str:
    path = desk.write("token", f"cpt_{'A' * 43}\n")
    store = ("--store", "http://0.0.0.0:1")
    return str(desk.ran("pending", "-e", "production", *store, "--token-file", path))


def a_clock_that_is_ahead(desk: Any) -> str:
    path, change = desk.write("flag.yaml", FLAG.format("ahead")), str(desk.folder / "change.json")
    later = time.time_ns() + 3600 * 10**9
    with mock.patch.object(time, "time_ns", return_value=later):
        desk.must("apply", "-f", path, "-e", "production", "--out", change)
    return str(desk.ran("submit", change)).replace("HEX", "TIME")


def a_conflict(desk: Any) -> str:
    path = desk.write("flag.yaml", FLAG.format("raced"))
    change = str(desk.folder / "change.json")
    desk.must("apply", "-f", path, "-e", "production", "--out", change)
    desk.must("apply", "-f", path, "-e", "production")
    return re.sub(r"found \d+", "found N", desk.ran("submit", change))


def a_flag_that_was_switched_off(desk: Any) -> str:
    path = applied(desk, "flag", FLAG.format("switched"))
    desk.must("flag", "off", "switched", "-e", "production")
    desk.write("flag.yaml", FLAG.format("switched").replace('default: "off"', 'default: "on"'))
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def a_changed_version(desk: Any) -> str:
    path = applied(desk, "tool", TOOL.format("kept_tool", '"1.0.0"'))
    desk.write("tool.yaml", TOOL.format("kept_tool", '"1.0.0"').replace("a tool", "another"))
    return str(desk.ran("apply", "-f", path, "-e", "production"))


def a_deletion_without_version(desk: Any) -> str:
    applied(desk, "tool", TOOL.format("listed_tool", '"1.0.0"'))
    return str(desk.ran("delete", "tool/listed_tool", "-e", "production"))


def a_generation_that_never_was(desk: Any) -> str:
    ran = desk.ran("revert", "-e", "production", "--to", "9999")
    return re.sub(r"from 1 to \d+", "from 1 to N", str(ran))


def a_store_that_is_down(desk: Any) -> str:
    return str(desk.ran("pending", "-e", "production", "--store", "unix:/none/store.sock"))


def a_port_in_use(desk: Any) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = desk.ran("up", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    return str(ran)


def an_epoch_that_nobody_offered(desk: Any) -> str:
    return str(desk.ran("replica", "accept-epoch", "-e", "production"))


def a_fork_that_nobody_saw(desk: Any) -> str:
    return str(desk.ran("log", "prove-fork", "-e", "production"))


def a_second_daemon(desk: Any) -> str:
    daemon = (
        "daemon", "--store", desk.project.store, "-e", "production",
        "--trust", str(desk.project.private / "trust.json"),
        "--token-file", str(desk.project.private / "tokens" / "follow.token"),
        "--replica", str(desk.project.replica),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "control_plane", *daemon],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    told = f"$ control-plane {' '.join(daemon)}\n{done.stdout}{done.stderr}exit {done.returncode}\n"
    return str(desk.told(told))


def a_missing_extra(desk: Any) -> str:
    program = (
        "import sys; sys.modules['click'] = None\n"
        "from control_plane.cli import main\nsys.exit(main(['list', '-e', 'production']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return f"$ control-plane list -e production\n{done.stderr}exit {done.returncode}\n"


MISTAKES = (
    a_missing_replica, a_dead_daemon, a_wrong_clock, a_misspelt_flag, a_misspelt_document,
    a_misspelt_configuration_key, a_misspelt_verb, an_unquoted_version, an_unknown_field,
    a_duplicate_key, a_default_that_is_no_variant, a_file_that_is_not_there, no_environment,
    a_percentage_in_words, a_foreign_key, a_key_that_others_can_read, no_key, no_trust,
    a_file_that_is_no_token, an_unknown_token, a_token_that_may_only_follow, a_token_in_the_clear,
    a_clock_that_is_ahead, a_conflict, a_flag_that_was_switched_off,
    a_changed_version, a_deletion_without_version, a_generation_that_never_was,
    a_store_that_is_down, a_port_in_use, an_epoch_that_nobody_offered,
    a_fork_that_nobody_saw, a_second_daemon, a_missing_extra,
)  # fmt: skip


def title(mistake: Any) -> str:
    return str(mistake.__name__).replace("_", " ")


def read_expected() -> dict[str, str]:
    parts = EXPECTED.read_text(encoding="utf-8").split("== ")[1:]
    return {name: text.rstrip("\n") + "\n" for name, _, text in (p.partition("\n") for p in parts)}


def write_expected(words: dict[str, str]) -> None:
    names = [name for name in map(title, MISTAKES) if name in words]
    EXPECTED.write_text("\n".join(f"== {name}\n{words[name]}" for name in names), encoding="utf-8")


def test_every_mistake_has_its_words_and_no_words_are_left_over() -> None:
    assert list(read_expected()) == [title(mistake) for mistake in MISTAKES]
    assert len(MISTAKES) >= 25


@pytest.mark.parametrize("mistake", MISTAKES, ids=title)
def test_a_mistake_is_told_in_these_words(mistake: Any, desk: Any) -> None:
    told = mistake(desk)
    if "WRITE_ERRORS" in os.environ:
        write_expected(read_expected() | {title(mistake): told})
    assert told == read_expected()[title(mistake)]
