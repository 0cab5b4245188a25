"""The commands of operators and authors, killed at each of their effects.

After each kill: what has its final name is whole, nothing that took effect is missing from the
audit file, and no secret can be read by others. In every row the command is run again, and then all
is as if nothing had happened.

Each table has every effect of its command by name; a new effect has no row and fails a test.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.pulled import RECORD
from control_plane.manifests.loader import load_file
from control_plane.manifests.validation import signature_of
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import NEVER, load_public, load_signer, new_key
from control_plane.publish.replay import replay
from control_plane.publish.sign import check_checksum
from control_plane.publish.static_log import FolderFiles, StaticLog, export
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.embedded import prepare
from control_plane_store.database import Database
from control_plane_store.tokens import sha256_of

Table = Sequence[tuple[str, str, str]]
"""(effect, what a crash right before or after it leaves, who picks it up)"""

TOKEN_NEW: Table = (
    ("* audit.jsonl", "a line of a token that never held", "nobody: the file decides nothing"),
    ("commit tokens", "a token in force that nobody was shown", "token revoke, by its name"),
    ("close store.sqlite3", "a token in force that nobody was shown", "token revoke, by its name"),
    ("mkdir *", "a token in force that nobody was shown", "token revoke, by its name"),
    ("* *ci.token", "a token that is cut short, or whole", "the next token new names the file"),
)
TOKEN_REVOKE: Table = (
    ("* audit.jsonl", "a line of a token that holds still", "the next token revoke"),
    ("commit tokens", "a token that holds, or does not", "the next token revoke"),
    ("close store.sqlite3", "a write-ahead log", "SQLite, at the next open"),
)
FORGET: Table = (
    ("* audit.jsonl", "a line of a blob that is there still", "the next store forget"),
    ("commit blobs", "a blob that is there, or is not", "the next store forget"),
    ("close store.sqlite3", "a write-ahead log", "SQLite, at the next open"),
)
EXPORT: Table = (
    ("mkdir *", "an empty folder", "the next export"),
    ("open *.new", "an empty file of another name", "the next export writes it again"),
    ("replace */blob/*", "more blobs than the checkpoint needs", "the next export"),
    ("replace */tile/*", "more tiles than the checkpoint needs", "the next export"),
    ("replace *", "the old checkpoint, or the new one", "nobody need"),
)
PULL: Table = (
    ("mkdir *", "an empty folder", "the next pull"),
    ("open .control-plane-pulled.json.new", "an empty file of another name", "the next pull"),
    ("replace .control-plane-pulled.json", "the files without a record, or with", "the next pull"),
    ("open *.new", "an empty file of another name", "the next pull writes it again"),
    ("replace *", "some files new, some old, and the old record", "the next pull"),
)
SIGN: Table = (
    ("mkdir *", "the folder that is there", "nobody need"),
    ("open *.new", "an empty file of another name", "the next sign writes it again"),
    ("replace *", "some files signed, some not", "the next sign"),
)
BEGIN_LOGS: Table = (
    ("* store.sqlite3.lock", "no holder's name, or another's", "hold"),
    ("bind s", "the dead process's socket, or none", "listening._clear"),
    ("commit *entries*", "the old logs alone, or all of them", "publish_all; the next start"),
    ("commit logs", "a log without a note", "publish_all"),
    ("close store.sqlite3", "a write-ahead log", "SQLite, at the next open"),
)
STATE: Table = (
    ("mkdir state.new*", "a folder beside that nobody opens", "_make removes it"),
    ("* state.new/keys*", "a folder beside that nobody opens", "_make removes it"),
    ("* state.new/trust*", "a folder beside that nobody opens", "_make removes it"),
    ("rename state", "a folder beside, or the whole state", "_make removes it"),
)


def flag(name: str, default: str = "off") -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": default}
    return {"kind": "flag", "name": name, "metadata": metadata}


def tool(name: str) -> str:
    """A tool's file, unsigned, with a comment."""
    return (
        f"# ours\nkind: tool\nname: {name}\nversion: 1.0.0\n"
        "metadata: {description: d, inputs_schema: {type: object}}\n"
    )


@dataclass
class Scene:
    """One run's folder and command, and what is looked at afterwards."""

    root: Path
    arguments: list[object]
    whole: Callable[[], object]
    again: Callable[[], object]
    done: Callable[[], object]


@dataclass
class Tools:
    """An installation with a history, once stopped and once served, and each command's scene."""

    world: Any
    stopped: Any
    served: Any
    older: Path
    superseded: str
    traces: dict[str, list[str]] = field(default_factory=dict)

    def kill(self, name: str, at: tuple[str, int] | None, when: str) -> list[str]:
        """Run a command to its death at an effect, or to its end; what it reached."""
        scene: Scene = getattr(self, name)()
        died = self.world.launcher.run(scene.root, *scene.arguments, at=at, when=when, umask=0)
        assert died.code == (0 if at is None else -signal.SIGKILL), died.complained()
        scene.whole()
        scene.again()
        scene.done()
        shutil.rmtree(scene.root)
        return list(died.effects())

    def trace(self, name: str) -> list[str]:
        """The effects of a run to its end."""
        if name not in self.traces:
            self.traces[name] = self.kill(name, None, "before")
        return self.traces[name]

    def run(self, scene_root: Path, arguments: Sequence[object]) -> Any:
        return self.world.launcher.run(scene_root, *arguments)

    # The store's database

    def _database_command(self, *arguments: object) -> tuple[Any, list[object]]:
        installation = self.world.copy(self.stopped)
        return installation, [*arguments, "--database", installation.database]

    def token_new(self) -> Scene:
        installation, command = self._database_command(
            "token", "new", "ci", "-e", "production", "--may", "follow"
        )
        out = installation.place / "made" / "ci.token"
        command += ["--out", out]

        def whole() -> None:
            told = audited(installation, "token-new", "token", "ci")
            assert not tokens_of(installation, "ci") or told
            if out.exists():
                assert out.stat().st_mode & 0o077 == 0
                assert out.read_text() == "" or holds(installation, out.read_text())

        def again() -> None:
            ran = self.run(installation.place, command)
            if ran.code:
                assert f"{out}: expected no file, found one" in ran.complained()
                out.unlink()
                assert self.run(installation.place, command).code == 0

        def done() -> None:
            assert holds(installation, out.read_text())
            revoke = ["token", "revoke", "ci", "--database", installation.database]
            assert self.run(installation.place, revoke).code == 0
            assert not any(in_force for in_force in tokens_of(installation, "ci"))

        return Scene(installation.place, command, whole, again, done)

    def token_revoke(self) -> Scene:
        installation, command = self._database_command("token", "revoke", "submit")

        def whole() -> None:
            told = audited(installation, "token-revoked", "token", "submit")
            assert all(tokens_of(installation, "submit")) or told

        def again() -> None:
            ran = self.run(installation.place, command)
            assert ran.code == 0 or "expected a token 'submit' in force" in ran.complained()

        def done() -> None:
            assert not any(tokens_of(installation, "submit"))
            assert audited(installation, "token-revoked", "token", "submit")

        return Scene(installation.place, command, whole, again, done)

    def forget(self) -> Scene:
        installation, command = self._database_command("store", "forget", self.superseded)

        def whole() -> None:
            told = audited(installation, "blob-forgotten", "digest", self.superseded)
            assert has_blob(installation, self.superseded) or told

        def again() -> None:
            ran = self.run(installation.place, command)
            assert ran.code == 0, ran.complained()

        def done() -> None:
            assert not has_blob(installation, self.superseded)
            assert audited(installation, "blob-forgotten", "digest", self.superseded)

        return Scene(installation.place, command, whole, again, done)

    # A store that is served

    def _store_options(self) -> list[object]:
        token = self.served.place / "tokens" / "follow.token"
        return ["-e", "production", "--store", self.served.url, "--token-file", token]

    def export(self) -> Scene:
        root = self.world.new()
        out = root / "out"
        shutil.copytree(self.older, out)
        trust = self.served.place / "trust.json"
        command = ["log", "export", out, *self._store_options(), "--trust", trust]
        sizes = {verified(self.older, self.served), len(self.served.leaves())}
        assert len(sizes) == 2

        def whole() -> None:
            assert verified(out, self.served) in sizes

        def again() -> None:
            token = (self.served.place / "tokens" / "follow.token").read_text().strip()
            with StoreClient(self.served.url, token) as client:
                export(client, "production", self.served.enrolment(), out)

        def done() -> None:
            assert verified(out, self.served) == max(sizes)
            assert list(out.rglob("*.new")) == []

        return Scene(root, command, whole, again, done)

    def pull(self) -> Scene:
        root = self.world.new()
        (root / "a.yaml").write_text("# ours\n" + json.dumps(flag("a", "off")) + "\n")
        old = contents(root)
        command = ["pull", root, *self._store_options()]

        def whole() -> None:
            for path, data in contents(root).items():
                assert data == old.get(path) or data == self.pulled[path]
            if (root / RECORD).exists():
                assert contents(root) == self.pulled

        def again() -> None:
            ran = self.run(root, command)
            assert ran.code == 0, ran.complained()

        def done() -> None:
            assert contents(root) == self.pulled
            assert list(root.rglob("*.new")) == []

        return Scene(root, command, whole, again, done)

    @property
    def pulled(self) -> dict[str, bytes]:
        """What an undisturbed pull leaves."""
        if "pulled" not in self.__dict__:
            root = self.world.new()
            (root / "a.yaml").write_text("# ours\n" + json.dumps(flag("a", "off")) + "\n")
            ran = self.run(root, ["pull", root, *self._store_options()])
            assert ran.code == 0, ran.complained()
            self.__dict__["pulled"] = contents(root)
        found: dict[str, bytes] = self.__dict__["pulled"]
        return found

    # Files alone

    def sign(self) -> Scene:
        root = self.world.new()
        files = [root / f"{name}.yaml" for name in ("one", "two")]
        for file in files:
            file.write_text(tool(file.stem))
        command = ["sign", root, "--in-place", "--key", self.stopped.keys / "alice.pem"]

        def whole() -> None:
            for file in files:
                if file.read_text() != tool(file.stem):
                    check_signed(file)

        def again() -> None:
            ran = self.run(root, command)
            assert ran.code == 0, ran.complained()

        def done() -> None:
            for file in files:
                check_signed(file)
            assert sorted(root.iterdir()) == sorted(files)

        return Scene(root, command, whole, again, done)


def check_signed(file: Path) -> None:
    """A file is signed, whole, and as its author wrote it but for two lines."""
    document: Any = load_file(file).value
    check_checksum(document)
    assert signature_of(document) is not None
    assert file.read_text().startswith(tool(file.stem))


def contents(folder: Path) -> dict[str, bytes]:
    """Files that have their final names."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".new")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def verified(folder: Path, installation: Any) -> int:
    """The size of the log in a folder, all of it replayed, with the blobs of its heads."""
    log = StaticLog(FolderFiles(folder))
    history = replay(log, "production", installation.enrolment())
    log.check_tiles()
    for change in history.changes.values():
        if change.digest:
            log.blob("production", change.digest)
    return history.position.size


def audited(installation: Any, event: str, name: str, value: str) -> bool:
    """Whether the audit file tells of an event."""
    lines = (installation.place / "audit.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    return any(line.get("event") == event and line.get(name) == value for line in told)


def tokens_of(installation: Any, name: str) -> list[bool]:
    """For each token of a name, whether it is in force."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            return [row.revoked_at is None for row in snapshot.tokens() if row.name == name]
    finally:
        database.close()


def holds(installation: Any, text: str, environment: str = "production") -> bool:
    """Whether a token file's content is a token in force."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            found = snapshot.token(sha256_of(text.strip()), environment)
            return found is not None and found.revoked_at is None
    finally:
        database.close()


def has_blob(installation: Any, digest: str) -> bool:
    """Whether the store still has a blob's bytes."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            return snapshot.blob("production", digest) is not None
    finally:
        database.close()


def rows_without(table: Table, trace: list[str]) -> tuple[list[str], list[str]]:
    """Effects without a row, and rows without an effect."""
    alone = [e for e in dict.fromkeys(trace) if not any(fnmatch(e, row[0]) for row in table)]
    firsts = {next((row[0] for row in table if fnmatch(e, row[0])), "") for e in trace}
    return alone, [row[0] for row in table if row[0] not in firsts]


@pytest.fixture(scope="module")
def tools(world: Any) -> Tools:
    stopped = world.installation()
    stopped.start_store()
    author = world.author(stopped)
    author.publish(lambda change: change.put(flag("a")))
    superseded = stopped.leaves()[-1]
    (change,) = world.statement(superseded).changes
    older = world.new() / "older"
    token = (stopped.place / "tokens" / "follow.token").read_text().strip()
    with StoreClient(stopped.url, token) as client:
        export(client, "production", stopped.enrolment(), older)
    author.publish(lambda change: change.put(flag("a", "on")))
    author.publish(lambda change: [change.put(flag("b")), change.put(flag("c"))])
    stopped.stop_store()
    served = world.copy(stopped)
    served.start_store()
    return Tools(world, stopped, served, older, change.digest)


TABLES = {
    "token_new": TOKEN_NEW, "token_revoke": TOKEN_REVOKE, "forget": FORGET, "export": EXPORT,
    "pull": PULL, "sign": SIGN,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_killed_command_leaves_whole_files_and_is_run_again(
    tools: Tools, one_a_row: Any, name: str
) -> None:
    table, trace = TABLES[name], tools.trace(name)
    assert rows_without(table, trace) == ([], [])
    for when in ("before", "after"):
        for effect in one_a_row(table, trace, when):
            tools.kill(name, effect, when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", TABLES)
def test_a_command_killed_anywhere_leaves_whole_files_and_is_run_again(
    tools: Tools, numbered: Any, name: str, when: str
) -> None:
    for effect in numbered(tools.trace(name)):
        tools.kill(name, effect, when)


# A store that is started with one more environment


def name_staging(installation: Any) -> None:
    """Put a root that also names staging into the trust folder, and make its log's key."""
    key = new_key(installation.keys / "log-staging.pem")
    public = {
        name: load_public(installation.keys / f"{name}.pem").public
        for name in ("root", "targets", "log-production")
    }
    root = authoring.new_root(
        version=2, expires=NEVER, root_keys=[public["root"]], targets_keys=[public["targets"]],
        logs=[
            authoring.new_log("a", "production", public["log-production"]),
            authoring.new_log("a", "staging", key.public),
        ],
    )  # fmt: skip
    data = authoring.signed(root, [load_signer(installation.keys / "root.pem")])
    (installation.place / "trust" / "2.root.json").write_bytes(data)
    installation.options = ("--trust", installation.place / "trust")


def sizes(installation: Any) -> dict[str, tuple[int, int]]:
    """How many entries each environment's log has, and how many its note covers."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            return {log.environment: (log.frontier.size, log.note_size) for log in snapshot.logs()}
    finally:
        database.close()


def begin_killed(tools: Tools, at: tuple[str, int] | None, when: str) -> list[str]:
    installation = tools.world.copy(tools.stopped)
    before = sizes(installation)["production"][0]
    name_staging(installation)
    store = installation.start_store(at=at, when=when)
    code = store.end()
    reached = at is not None and store.effects().count(at[0]) >= at[1]
    # How often notes are renewed is not always the same.
    assert code == (-signal.SIGKILL if reached else 0), store.complained()
    left = sizes(installation)
    # Both logs have the new root, or neither; the new one never without its first entry.
    assert left["production"][0] == before + len(left) - 1
    assert left.get("staging", (1,))[0] == 1
    again = installation.start_store()
    assert again.end() == 0, again.complained()
    assert sizes(installation) == {"production": (before + 1,) * 2, "staging": (1, 1)}
    shutil.rmtree(installation.place)
    return list(store.effects())


def test_a_store_killed_while_it_begins_a_log_has_it_whole_or_not_at_all(
    tools: Tools, numbered: Any
) -> None:
    trace = begin_killed(tools, None, "before")
    assert rows_without(BEGIN_LOGS, trace) == ([], [])
    for when in ("before", "after"):
        for effect in numbered(trace):
            if effect[0].startswith("commit"):
                begin_killed(tools, effect, when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_anywhere_while_it_begins_a_log_has_it_whole_or_not_at_all(
    tools: Tools, numbered: Any, when: str
) -> None:
    for effect in numbered(begin_killed(tools, None, "before")):
        begin_killed(tools, effect, when)


# A daemon that makes its own store


def state_killed(world: Any, at: tuple[str, int] | None, when: str) -> list[str]:
    root = world.new()
    (root / "manifests").mkdir()
    place = root / "state"
    arguments = ["--from", root / "manifests", "--state", place, "--replica", root / "r"]
    daemon = world.launcher.start(root, "daemon", *arguments, at=at, when=when, umask=0)
    daemon.wait_until(lambda: "rename state" in daemon.effects() and place.exists())
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    trace = daemon.effects()
    secrets = [path for path in root.rglob("*") if path.suffix in (".pem", ".token")]
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []
    made = prepare(place, ["development"])
    assert place.stat().st_mode & 0o777 == 0o700
    assert not (root / "state.new").exists()
    Enrolment.decode((place / "trust.json").read_bytes())
    for may in ("follow", "submit"):
        assert holds(made, made.token(may), "development")
    shutil.rmtree(root)
    return list(trace[: trace.index("rename state") + 1]) if at is None else list(trace)


def test_a_daemon_killed_while_it_makes_its_state_makes_it_again(
    world: Any, one_a_row: Any
) -> None:
    trace = state_killed(world, None, "before")
    assert rows_without(STATE, trace) == ([], [])
    for effect in one_a_row(STATE, trace, "after")[-2:]:
        state_killed(world, effect, "after")


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_daemon_killed_anywhere_while_it_makes_its_state_makes_it_again(
    world: Any, numbered: Any, when: str
) -> None:
    for effect in numbered(state_killed(world, None, "before")):
        state_killed(world, effect, when)
