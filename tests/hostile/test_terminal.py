"""What a hostile file says reaches the terminal as text, never as commands to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.cli.failures import run

STEERING = {
    "escape": "\x1b[2J", "one-character escape": "\x9b2J", "backspace": "\b", "override": "\u202e",
    "delete": "\x7f", "bell": "\x07",
}  # fmt: skip


@pytest.mark.parametrize("steering", STEERING.values(), ids=STEERING)
@pytest.mark.parametrize("place", ['"kind": "flag%s"', '"%s": 1, "kind": "flag"'])
def test_a_refusal_quotes_a_file_in_printable_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steering: str, place: str
) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in steering)
    file = tmp_path / "bad.json"
    metadata = '"metadata": {"variants": {"on": true}, "default": "on"}'
    file.write_text('{"name": "bad", %s, %s}' % (metadata, place % escaped))  # noqa: UP031
    assert run(["verify", str(file)]) == 1
    printed = capsys.readouterr()
    assert printed.out.replace("\n", "").isprintable()
    assert printed.err.replace("\n", "").isprintable()
