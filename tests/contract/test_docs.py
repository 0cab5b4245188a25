"""README and docs: every code block runs as written, every command they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>[a-z]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# A block may use `await` as in `python -m asyncio`.
RUN = """\
import ast, asyncio, sys
code = compile(sys.stdin.read(), "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
value = eval(code, {"__name__": "__main__"})
if value is not None: asyncio.run(value)
"""


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(page and number, code) of each block in one of these languages."""
    return [
        (f"{page.name}-{number}", match["code"])
        for page in PAGES
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")))
        if match["language"] in languages
    ]


def of_a_clone(code: str) -> bool:
    """Whether a block stands for a fresh machine: its own tests run make and the first steps."""
    return code.startswith(("make ", "pip ", "control-plane kill new_ai_model"))


PYTHON = [pytest.param(code, id=name) for name, code in blocks("python")]
SHELL = [pytest.param(code, id=name) for name, code in blocks("sh") if not of_a_clone(code)]


@pytest.mark.parametrize("code", PYTHON)
def test_every_python_block_runs(code: str, project: object) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, cwd=project.folder, env=project.environment,  # type: ignore[attr-defined]
    )  # fmt: skip
    endless = "while True:" in code
    try:
        output, _ = process.communicate(code, timeout=3 if endless else 60)
        assert (process.returncode, endless) == (0, False), output
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        assert endless, output
        assert output.splitlines()[0] in ("True", "False"), output


@pytest.mark.parametrize("code", SHELL)
def test_every_shell_block_runs(code: str, project: object) -> None:
    run = subprocess.run(
        ["bash", "-euc", code], capture_output=True, text=True, check=False,
        cwd=project.folder, env=project.environment,  # type: ignore[attr-defined]
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_readme_opens_with_two_commands_that_make_knows() -> None:
    name, code = blocks("sh")[0]
    assert name == "README.md-0"
    targets = [line.split()[1] for line in code.splitlines()]
    assert targets == ["demo", "test"]
    subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)


def usages() -> set[tuple[str, str]]:
    """Every (verb, option) the pages show: ``control-plane verb --option`` or `verb --option`."""
    found = set()
    for page in PAGES:
        for span in re.findall(r"control-plane [^`\n]+|`[a-z]+ [^`\n]*`", page.read_text()):
            words = span.strip("`").removeprefix("control-plane ").split(" #")[0].split()
            verb = " ".join(words[:2] if len(words) > 1 and words[0] in GROUPS else words[:1])
            found.update((verb, word) for word in words if word.startswith("-"))
            found.add((verb, ""))
    found = {(verb, option) for verb, option in found if not verb.startswith(KEYS_OF_RECORDS)}
    return {(verb, option) for verb, option in found if verb.split()[0] in VERBS}


KEYS_OF_RECORDS = "config changes"
"""Keys of a replica's records that the page on its format names; they look like a verb."""


GROUPS = {
    "config", "flag", "import", "keys", "lock", "log", "replica", "schema", "segment", "store",
    "token",
}  # fmt: skip
VERBS = {
    "activate", "deprecate", "yank",
    "apply", "approve", "codegen", "compatibility", "daemon", "delete", "demo", "diff", "doctor",
    "eval", "get",
    "history", "init", "kill", "lint", "list", "pending", "promote", "pull", "revert", "sidecar",
    "sign", "status", "submit", "unkill", "up", "verify",
} | GROUPS  # fmt: skip


def test_every_measured_table_names_its_command() -> None:
    measured = (ROOT / "README.md").read_text().split("## Measured")[1].split("\n## ")[0]
    headers = re.findall(r"^(\|.*)\n\|-", measured, re.MULTILINE)
    commands = [re.search(r"`python -m benchmarks ([a-z]+)`", header) for header in headers]
    assert headers
    for command in commands:
        assert command is not None
        assert (ROOT / "benchmarks" / f"{command[1]}.py").is_file()


def test_every_message_that_operations_quotes_is_one_the_code_says() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    said = "".join(
        re.sub(r'"\s*f?"', "", file.read_text(encoding="utf-8"))
        for source in ("lib", "store", "daemon")
        for file in (ROOT / source).rglob("*.py")
    )
    quoted = re.findall(r'"([^"`]+)"', page)
    # What a message names, its numbers and names, stands between braces in the code.
    pieces = {
        piece.strip(" ,")
        for message in quoted
        for piece in re.split(r"…|\b\d+\b", " ".join(message.split()))
        if piece.strip(" ,")
    }
    assert len(quoted) >= 15
    assert {piece for piece in pieces if piece not in said} == set()


def test_every_verb_the_project_promises_has_help() -> None:
    listed = help_of([])
    assert {verb for verb in VERBS if not re.search(rf"^ +{verb} ", listed, re.MULTILINE)} == set()


GROUP_VERBS = {
    "keys init", "keys new", "keys list", "keys revoke", "keys rotate-root",
    "log verify", "log export", "log new-epoch", "config diff", "config edit", "config get",
    "config origin", "config promote", "config set", "config validate",
}  # fmt: skip


@pytest.mark.parametrize("verb", sorted(GROUP_VERBS))
def test_every_verb_of_keys_log_and_config_has_help(verb: str) -> None:
    assert f"Usage: control-plane {verb}" in help_of(verb.split())


def test_every_command_and_option_in_the_docs_is_in_its_help() -> None:
    shown = usages()
    assert {"apply", "kill", "log verify", "revert"} <= {verb for verb, _ in shown}
    for verb, option in sorted(shown):
        helped = help_of(verb.split())
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", helped), f"control-plane {verb}: {option}"


@cache
def help_text(words: tuple[str, ...]) -> str | None:
    tool = [sys.executable, "-m", "control_plane", *words, "--help"]
    run = subprocess.run(tool, capture_output=True, text=True, check=False)
    return run.stdout if run.returncode == 0 else None


def help_of(words: list[str]) -> str:
    """The help of a verb."""
    found = help_text(tuple(words))
    assert found is not None, f"control-plane {' '.join(words)}: no such command"
    return found
