"""`log export` and `log verify` of plain files: from a folder and from a plain file server."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import RolledBack
from control_plane.publish import Publisher, static_log
from control_plane.publish.publisher import Comparison
from control_plane.publish.static_log import FolderFiles, StaticLog, export
from control_plane.trust.enrolment import Enrolment

Cli = Callable[..., Any]
KILLS = 270  # more than one tile


@pytest.fixture(scope="module")
def long_log(project: Any) -> Any:
    """A project whose production log is longer than a tile."""
    token = (project.private / "tokens" / "submit.token").read_text().strip()
    key = str(project.private / "keys" / "author.pem")
    with Publisher(project.store, key, token=token) as author:
        for number in range(KILLS):
            proposal = author.change("production", "", verb="kill")
            proposal.kill(f"k{number}")
            changes = tuple(proposal.changes.values())
            author.submit(proposal, Comparison("acme/production/1", changes, {}, (), {}))
    return project


@pytest.fixture
def exported(cli: Cli, long_log: Any, tmp_path: Path) -> Path:
    done = cli("log", "export", tmp_path / "out", "-e", "production", cwd=long_log.folder)
    assert done.code == 0, done.err
    return tmp_path / "out"


def verify(cli: Cli, project: Any, *source: object) -> Any:
    return cli("log", "verify", *source, "-e", "production", "--json", cwd=project.folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_export_is_the_log_that_the_store_has(cli: Cli, long_log: Any, exported: Path) -> None:
    there, here = verify(cli, long_log), verify(cli, long_log, exported)
    assert here.code == 0, here.err
    same = ("origin", "size", "root", "policy", "heads_root", "accepted")
    assert {name: here.json[name] for name in same} == {name: there.json[name] for name in same}
    assert here.json["size"] > KILLS
    assert here.json["tiles"] == 3
    below = exported / "production" / "1"
    assert {"checkpoint", "tile", "blob"} == {path.name for path in below.iterdir()}
    assert (below / "tile" / "0" / "000").stat().st_size == 256 * 32
    assert (below / "tile" / "1" / "000.p" / "1").stat().st_size == 32


def test_a_plain_file_server_is_verified_by_its_tiles(
    cli: Cli, long_log: Any, exported: Path
) -> None:
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*server, "--directory", str(exported)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split("(")[1].split(")")[0].rstrip("/")
            served = verify(cli, long_log, url)
            missing = cli("log", "verify", url, "-e", "staging", cwd=long_log.folder)
        finally:
            process.terminate()
    assert (served.code, served.json["source"]) == (0, url), served.err
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "expected staging/1/checkpoint, found status 404" in missing.err


def test_a_stores_own_static_files_are_verified_alike(cli: Cli, long_log: Any) -> None:
    ran = verify(cli, long_log, long_log.store)
    assert (ran.code, ran.json["tiles"]) == (0, 3), ran.err


def test_an_export_again_adds_and_changes_no_tile(cli: Cli, long_log: Any, exported: Path) -> None:
    before = contents(exported)
    assert cli("kill", "late", "-e", "production", cwd=long_log.folder).code == 0
    again = cli("log", "export", exported, "-e", "production", "--json", cwd=long_log.folder)
    after = contents(exported)
    assert again.code == 0, again.err
    assert {name for name in before if after[name] != before[name]} == {"production/1/checkpoint"}
    assert verify(cli, long_log, exported).json["size"] == again.json["size"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("tile/entries/000", 6, "expected our history to lead to root"),
        ("tile/0/000", 6, "expected the hashes of the entries"),
        ("tile/1/000.p/1", 6, "expected the hashes of the entries"),
        ("checkpoint", 6, "checkpoint"),
        ("blob", 6, "expected blob"),
    ],
)
def test_a_file_that_was_changed_is_found(
    cli: Cli, long_log: Any, exported: Path, name: str, code: int, words: str
) -> None:
    below = exported / "production" / "1"
    path = below / name
    if name == "blob":
        path = next(iter(sorted((below / "blob" / "sha256").iterdir())))
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at] ^= 1
    if name == "checkpoint":
        origin, size, _, rest = path.read_bytes().split(b"\n", 3)
        data = bytearray(b"\n".join((origin, size, base64.b64encode(bytes(32)), rest)))
    path.write_bytes(data)
    ran = cli("log", "verify", exported, "-e", "production", cwd=long_log.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran.err
    assert words in ran.err


def test_a_file_that_is_missing_is_named(cli: Cli, long_log: Any, exported: Path) -> None:
    (exported / "production" / "1" / "tile" / "0" / "000").unlink()
    ran = cli("log", "verify", exported, "-e", "production", cwd=long_log.folder)
    assert (ran.code, "expected production/1/tile/0/000, found none" in ran.err) == (1, True)


def test_a_folder_of_another_log_is_left_as_it_is(cli: Cli, long_log: Any, exported: Path) -> None:
    (exported / "staging").mkdir()
    (exported / "production" / "1").rename(exported / "staging" / "1")
    before = contents(exported)
    ran = cli("log", "export", exported, "-e", "staging", cwd=long_log.folder)
    assert (ran.code, "export to another folder" in ran.err) == (1, True)
    assert contents(exported) == before


def test_a_log_shorter_than_exported_before_is_refused(
    cli: Cli, long_log: Any, exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "older")
    assert cli("kill", "later", "-e", "production", cwd=long_log.folder).code == 0
    assert cli("log", "export", exported, "-e", "production", cwd=long_log.folder).code == 0
    before = contents(exported)
    enrolment = Enrolment.decode((long_log.private / "trust.json").read_bytes())
    with pytest.raises(RolledBack):
        export(StaticLog(FolderFiles(tmp_path / "older")), "production", enrolment, exported)
    assert contents(exported) == before


def test_a_long_log_is_read_in_parts_that_its_tiles_prove(
    cli: Cli, long_log: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_log, "BUNDLES_A_PART", 1)
    assert verify(cli, long_log, exported).code == 0
    (path,) = (exported / "production" / "1" / "tile" / "0" / "001.p").iterdir()
    path.write_bytes(bytes(path.stat().st_size))
    ran = cli("log", "verify", exported, "-e", "production", cwd=long_log.folder)
    assert (ran.code, "expected our history to lead to root" in ran.err) == (6, True)
