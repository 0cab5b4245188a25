"""A trust root with real keys, and a store on a free loopback port."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from control_plane.errors import NotFound
from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, Envelope, Signature, pae
from control_plane.log.statements import Change, ChangeSet, change_set
from control_plane.manifests.documents import blob, content, sealed
from control_plane.trust.state import LogIdentity, restore
from control_plane_store import tokens
from control_plane_store.audit import Audit
from control_plane_store.database import Database
from control_plane_store.listening import Listen, listen_at
from control_plane_store.sequencer import Sequencer
from control_plane_store.service import Store, create_app, new_runner
from control_plane_store.transactions import Log

NOW_MS = 1_760_000_000_000
GAP = 1 << 20
EXPIRES = datetime(2040, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved; milliseconds."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


class Person:
    """A key holder."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.signer = CryptoSigner(self.private)
        self.key = self.signer.public_key
        self.key_id = self.key.keyid

    def sign(self, envelope: Envelope) -> Envelope:
        value = self.private.sign(envelope.pae())
        return envelope.with_signature(Signature(self.key_id, value))


@dataclass
class Installation:
    """Who may do what in ``production`` and ``staging``, as signed TUF metadata."""

    root_holder: Person = field(default_factory=Person)
    alice: Person = field(default_factory=Person)
    bob: Person = field(default_factory=Person)
    oncall: Person = field(default_factory=Person)
    author: Person = field(default_factory=Person)
    stranger: Person = field(default_factory=Person)
    environments: tuple[str, ...] = ("production", "staging")
    roots: list[bytes] = field(default_factory=list)
    targets: bytes = b""
    targets_version: int = 0
    continues: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log_keys = {name: Ed25519PrivateKey.generate() for name in self.environments}
        self.signers = {
            name: LogSigner(f"test/{name}/1", key) for name, key in self.log_keys.items()
        }
        self.held_keys = list(self.log_keys.values())
        self.new_root()
        self.new_targets()

    def own(self) -> Installation:
        """The same people and keys; what is signed from here on is the copy's own."""
        own = copy.copy(self)
        own.roots, own.held_keys = list(self.roots), list(self.held_keys)
        own.signers, own.continues = dict(self.signers), dict(self.continues)
        return own

    def log_signer(self, log: LogIdentity) -> LogSigner:
        """The signer of a log whose key is held."""
        for key in self.held_keys:
            if key.public_key().public_bytes_raw() == log.public:
                return LogSigner(log.origin, key)
        raise NotFound(f"expected the log key of {log.origin}, found none")

    def new_epoch(
        self,
        log: Log,
        *,
        epoch: int | None = None,
        key: Ed25519PrivateKey | None = None,
        generation: int | None = None,
        **other: Any,
    ) -> None:
        """Sign a root with which a log goes on in a new epoch; ``other`` is continued instead."""
        environment = log.environment
        self.continues[environment] = {
            "epoch": log.epoch,
            "size": log.frontier.size,
            "root": log.frontier.root().hex(),
            "generation": log.generation + GAP if generation is None else generation,
        } | other
        key = key or self.log_keys[environment]
        number = log.epoch + 1 if epoch is None else epoch
        self.signers[environment] = LogSigner(f"test/{environment}/{number}", key)
        self.new_root()

    def new_root(self, *, by: Person | None = None) -> None:
        """Sign the next root version."""
        people = (self.root_holder,)
        logs = {
            name: {
                "epoch": int(signer.origin.rpartition("/")[2]),
                "origin": signer.origin,
                "vkeys": signer.vkeys,
                "witnesses": {"vkeys": [], "threshold": 0},
                "continues": self.continues.get(name),
            }
            for name, signer in self.signers.items()
        }
        ids = [person.key_id for person in people]
        root = Root(
            version=len(self.roots) + 1,
            expires=EXPIRES,
            keys={person.key_id: person.key for person in people},
            roles={
                "root": Role(ids, 1),
                "targets": Role(ids, 1),
                "timestamp": Role([], 1),
                "snapshot": Role([], 1),
            },
            unrecognized_fields={"logs": logs},
        )
        self.roots.append(self._signed(Metadata(root), by))

    def new_targets(self, *, expires: datetime = EXPIRES, without: Sequence[Person] = ()) -> None:
        """Sign the next targets version, leaving out revoked keys."""
        rules = [
            ("oncall", [self.oncall], 1, ["production/kill/*"]),
            ("two", [self.alice, self.bob], 2, ["production/config/*"]),
            ("apply", [self.alice], 1, ["production/*/*", "staging/*/*"]),
            ("agents", [self.author], 1, ["author/agent/*", "author/tool/*"]),
        ]
        roles, keys = {}, {}
        for name, people, threshold, paths in rules:
            held = [person for person in people if person not in without]
            keys |= {person.key_id: person.key for person in held}
            roles[name] = DelegatedRole(
                name, [person.key_id for person in held], threshold, True, paths=paths
            )
        self.targets_version += 1
        targets = Targets(
            version=self.targets_version,
            expires=expires,
            targets={},
            delegations=Delegations(keys, roles),
        )
        self.targets = self._signed(Metadata(targets))

    def identities(self) -> list[LogIdentity]:
        policy = restore(self.roots[-1], self.targets)
        return [policy.log(name) for name in policy.environments]

    def _signed(self, metadata: Metadata[Any], by: Person | None = None) -> bytes:
        metadata.sign((by or self.root_holder).signer)
        return metadata.to_bytes()

    # Documents and change sets

    def agent(self, name: str = "support", version: str = "1.0.0", **metadata: Any) -> bytes:
        """The blob of an agent its author signed."""
        document = {
            "kind": "agent",
            "name": name,
            "version": version,
            "metadata": {"description": "answers questions", "tools": [], **metadata},
        }
        signature = self.author.private.sign(pae(MANIFEST_PAYLOAD_TYPE, content(document)))
        return blob(sealed(document, self.author.key_id, signature))

    @staticmethod
    def flag(name: str = "pilot", default: str = "off", **fields: Any) -> bytes:
        """A boolean flag's blob."""
        metadata = {"variants": {"on": True, "off": False}, "default": default, "enabled": True}
        return canonical({"kind": "flag", "name": name, "metadata": metadata | fields})

    @staticmethod
    def put(data: bytes, replaces: int | None = None) -> Change:
        """The change that publishes a blob."""
        document = json.loads(data)
        versioned = document["kind"] in ("agent", "tool")
        return Change(
            action="put",
            kind=document["kind"],
            name=document["name"],
            replaces=replaces,
            digest=sha256_hex(data),
            version=document["version"] if versioned else None,
            checksum=document.get("checksum_sha256") if versioned else None,
        )

    @staticmethod
    def kill(name: str = "pilot", replaces: int | None = None) -> Change:
        """The change that kills a flag."""
        return Change(
            action="put", kind="kill", name=name, replaces=replaces, value={"variant": None}
        )

    def envelope(
        self,
        *changes: Change,
        environment: str = "production",
        by: Sequence[Person] | None = None,
        not_after: int = NOW_MS + 3_600_000,
        created_at: int = NOW_MS,
        origin: str | None = None,
        reason: str = "test",
    ) -> Envelope:
        """A signed change set, by alice unless said otherwise."""
        statement, _ = change_set(
            origin or self.signers[environment].origin,
            changes,
            created_at=created_at,
            not_after=not_after,
            reason=reason,
            verb="apply",
        )
        envelope = statement.envelope()
        for person in (self.alice,) if by is None else by:
            envelope = person.sign(envelope)
        return envelope


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any


class Served:
    """A store that listens, and a client with its submit token."""

    def __init__(self, installation: Installation, database: Database, clock: Clock) -> None:
        self.installation = installation
        self.database = database
        self.clock = clock
        self.audit = Audit(database.path)
        self.secrets: dict[str, str] = {}
        self.url = ""
        self.session: aiohttp.ClientSession
        self.store: Store

    async def request(
        self, method: str, path: str, data: bytes | None = None, token: str | None = "submit"
    ) -> Answer:
        headers = {} if token is None else {"Authorization": f"Bearer {self.secrets[token]}"}
        async with self.session.request(
            method,
            self.url + path,
            data=None if data is None else io.BytesIO(data),
            headers=headers,
        ) as response:
            body = await response.read()
            if response.content_type == "application/json":
                return Answer(response.status, json.loads(body), response.headers)
            return Answer(response.status, body, response.headers)

    async def put_blob(self, data: bytes, environment: str = "production") -> str:
        digest = sha256_hex(data)
        answer = await self.request("PUT", f"/v1/{environment}/blob/sha256/{digest}", data)
        assert answer.status == 201, answer.body
        return digest

    async def submit(
        self, envelope: Envelope, environment: str = "production", *, dry_run: bool = False
    ) -> Answer:
        query = "?dry_run=1" if dry_run else ""
        return await self.request("POST", f"/v1/{environment}/changes{query}", envelope.encode())

    async def publish(self, data: bytes, replaces: int | None = None) -> int:
        """Put a blob and its change; the generation it got."""
        await self.put_blob(data)
        envelope = self.installation.envelope(self.installation.put(data, replaces))
        answer = await self.submit(envelope)
        assert answer.status == 201, answer.body
        return int(answer.body["generation"])

    async def offer(self, environment: str = "production", **other: Any) -> Answer:
        """Put the installation's newest trust metadata and tell the log of it."""
        kit = self.installation
        for data in (*kit.roots, kit.targets):
            await self.put_blob(data, environment)
        named = {
            "format": 1,
            "root": [sha256_hex(root) for root in kit.roots],
            "targets": sha256_hex(kit.targets),
        }
        return await self.request("POST", f"/v1/{environment}/trust", canonical(named | other))

    def log(self, environment: str = "production", epoch: int | None = None) -> Log:
        """A log as the database has it."""
        with self.database.read() as snapshot:
            log = snapshot.log(environment, epoch)
        assert log is not None
        return log

    async def follow(
        self,
        size: int,
        environment: str = "production",
        wait: int = 0,
        token: str = "follow",
        epoch: int = 1,
    ) -> dict[str, Any]:
        path = f"/v1/{environment}/follow?epoch={epoch}&size={size}&wait={wait}"
        answer = await self.request("GET", path, token=token)
        assert answer.status == 200, answer.body
        unpacked: dict[str, Any] = msgpack.unpackb(answer.body)
        return unpacked

    async def standing(self, environment: str = "production") -> dict[str, Any]:
        """Everything a refused request must leave as it was."""
        heads = (await self.request("GET", f"/v1/{environment}/heads")).body
        epoch = heads["epoch"]
        checkpoint = (await self.request("GET", f"/{environment}/{epoch}/checkpoint")).body
        waiting = (await self.request("GET", f"/v1/{environment}/pending")).body["pending"]
        return {"heads": heads, "tree": checkpoint.split(b"\n\n")[0], "pending": waiting}


@pytest.fixture(scope="session")
def _template() -> Installation:
    return Installation()


@pytest.fixture
def installation(_template: Installation) -> Installation:
    """Keys are made once; metadata a test adds is its own."""
    return _template.own()


@pytest.fixture(scope="session")
def template(_template: Installation) -> Installation:
    """The installation that ``new_store`` is of; take ``own()`` of it before signing."""
    return _template


@pytest.fixture(scope="session")
def new_store(_new_store: Path) -> Path:
    """A closed new store's file, to be copied."""
    return _new_store


@pytest.fixture(scope="session")
def writer_of() -> Callable[[Database, Installation], Sequencer]:
    """Open the writer of any database, not started."""
    return lambda database, kit: new_sequencer(database, kit, Clock())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def _new_store(tmp_path_factory: pytest.TempPathFactory, _template: Installation) -> Path:
    """A closed new store's file, which tests copy."""
    path = tmp_path_factory.mktemp("template") / "new.sqlite3"
    created = Database.create(path)
    sequencer = new_sequencer(created, _template, Clock())
    begun = sequencer.begin_logs(_template.identities(), _template.roots, _template.targets)
    sequencer.work()
    begun.result()
    sequencer.publish_all()
    created.close()
    return path


@pytest.fixture(scope="session")
def _lived_in_store(
    tmp_path_factory: pytest.TempPathFactory, _new_store: Path, _template: Installation
) -> Path:
    """As above, with a live flag, a deleted one, one reverted to its first bytes, and an agent."""
    path = tmp_path_factory.mktemp("template") / "lived-in.sqlite3"
    shutil.copy(_new_store, path)
    opened = Database.open(path)
    sequencer = new_sequencer(opened, _template, Clock())

    def take(change: Change, data: bytes = b"") -> None:
        if data:
            sequencer.put_blob("production", sha256_hex(data), data)
        envelope = _template.envelope(change)
        statement = ChangeSet.from_payload(envelope.payload)
        taken = sequencer.submit("production", envelope, statement)
        sequencer.work()
        taken.result()

    kit = _template
    take(kit.put(kit.flag("pilot")), kit.flag("pilot"))
    take(kit.put(kit.flag("gone")), kit.flag("gone"))
    take(Change(action="delete", kind="flag", name="gone", replaces=3))
    take(kit.put(kit.flag("moved")), kit.flag("moved"))
    take(kit.put(kit.flag("moved", default="on"), 5), kit.flag("moved", default="on"))
    take(kit.put(kit.flag("moved"), 6), kit.flag("moved"))
    take(kit.put(kit.agent()), kit.agent())
    sequencer.publish_all()
    opened.close()
    return path


@pytest.fixture
def database(tmp_path: Path, _new_store: Path) -> Iterator[Database]:
    """A new store's database: index 0 and a first checkpoint of each environment."""
    shutil.copy(_new_store, tmp_path / "store.sqlite3")
    opened = Database.open(tmp_path / "store.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
async def lived_in(
    tmp_path: Path, _lived_in_store: Path, installation: Installation, clock: Clock
) -> AsyncIterator[Served]:
    """A store whose production log stands at generation 8."""
    shutil.copy(_lived_in_store, tmp_path / "lived-in.sqlite3")
    opened = Database.open(tmp_path / "lived-in.sqlite3")
    async with serving(opened, installation, clock) as running:
        yield running
    opened.close()


def new_sequencer(
    database: Database,
    installation: Installation,
    clock: Clock,
    published: Callable[..., None] = lambda environment, log: None,
) -> Sequencer:
    return Sequencer(
        database,
        installation.log_signer,
        audit=Audit(database.path),
        now_ms=clock,
        published=published,
    )


@contextlib.asynccontextmanager
async def serving(
    database: Database, installation: Installation, clock: Clock, *, public: bool = False
) -> AsyncIterator[Served]:
    """A store on a free port until the block ends."""
    served = Served(installation, database, clock)
    store = Store(database, public=public, now_ms=clock)
    store.sequencer = new_sequencer(database, installation, clock, store.published)
    served.store = store
    runner = new_runner(create_app(store))
    await runner.setup()
    served.url = await listen_at(runner, Listen.parse("127.0.0.1:0"), None)
    served.session = aiohttp.ClientSession()
    for may in tokens.MAY:
        served.secrets[may] = tokens.new_secret(may.encode().ljust)
        with contextlib.suppress(Exception):
            tokens.issue(
                database,
                served.audit,
                name=may,
                environments=installation.environments,
                may=may,
                secret=served.secrets[may],
                now_ms=clock(),
            )
    try:
        yield served
    finally:
        await served.session.close()
        await runner.cleanup()


@pytest.fixture
def serve(
    database: Database, installation: Installation, clock: Clock
) -> Callable[..., contextlib.AbstractAsyncContextManager[Served]]:
    """Serve this test's database for as long as a block lasts, as often as wanted."""
    return functools.partial(serving, database, installation, clock)


@pytest.fixture
def sequencer(
    database: Database, installation: Installation, clock: Clock
) -> Callable[..., Sequencer]:
    """Open the writer of this test's database, not started."""
    return functools.partial(new_sequencer, database, installation, clock)


@pytest.fixture
async def served(
    database: Database, installation: Installation, clock: Clock
) -> AsyncIterator[Served]:
    async with serving(database, installation, clock) as running:
        yield running
