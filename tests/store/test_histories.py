"""Whatever is done to a store, in whatever order: who replays its log comes to its heads.

Random histories of changes, rotations, new epochs and restarts, some of which refuse themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.log.canonical import sha256_hex
from control_plane.log.epochs import begin_epoch, first_identity
from control_plane.log.fold import snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Change, Key, parse_statement
from control_plane.log.steps import Accepted, Batch, Position, check_batch, judge
from control_plane_store import feed
from control_plane_store.database import Database
from control_plane_store.transactions import Snapshot

NAMES = ("a", "b")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["put", "delete", "kill"]), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.sampled_from(["restart", "root", "targets", "work", "publish"])),
    st.tuples(st.just("epoch"), st.integers(1, 3), st.sampled_from([-1, 0, 0, 0])),
)


class History:
    """A store whose writer works when told, and what its authors were answered."""

    def __init__(self, open_writer: Callable[[], Any], kit: Any, database: Database) -> None:
        self.open_writer, self.kit, self.database = open_writer, kit, database
        self.writer = open_writer()
        self.generations = [1]

    def take(self, step: tuple[Any, ...]) -> None:
        """Do one thing; a refusal is an answer like any other."""
        kind, *rest = step
        getattr(self, f"_{kind}")(*rest)

    def end(self) -> None:
        self._work()
        self.writer.publish_all()

    def _work(self) -> None:
        self.writer.work()

    def _publish(self) -> None:
        self._work()
        self.writer.publish_all()

    def _restart(self) -> None:
        """As after a kill: what was committed stands, whether it was published or not."""
        self._work()
        self.writer = self.open_writer()

    def _change(self, change: Change, data: bytes = b"") -> None:
        if data:
            self.writer.put_blobs("production", {sha256_hex(data): data})
        envelope = self.kit.envelope(change)
        self.writer.submit("production", envelope, parse_statement(envelope))

    def _replaced(self, kind: str, name: str) -> int | None:
        self._work()
        log = self.writer.position("production").log
        with self.database.read() as snapshot:
            found = snapshot.heads(log, [Key(kind, name)])
        return next((row.head.generation for row in found.values()), None)

    def _put(self, name: str, on: bool) -> None:
        data = self.kit.flag(name, default="on" if on else "off")
        self._change(self.kit.put(data, self._replaced("flag", name)), data)

    def _delete(self, name: str, _: bool) -> None:
        replaces = self._replaced("flag", name)
        self._change(Change(action="delete", kind="flag", name=name, replaces=replaces))

    def _kill(self, name: str, _: bool) -> None:
        change = self.kit.kill(name, self._replaced("kill", name))
        envelope = self.kit.envelope(change, by=(self.kit.oncall,))
        self.writer.submit("production", envelope, parse_statement(envelope))

    def _offer(self) -> Any:
        answer = self.writer.append_trust("production", self.kit.roots, self.kit.targets)
        self._work()
        return answer

    def _root(self) -> None:
        self.kit.new_root()
        assert self._offer().exception() is None

    def _targets(self) -> None:
        self.kit.new_targets()
        assert self._offer().exception() is None

    def _epoch(self, step: int, beside: int) -> None:
        self._work()
        log = self.writer.position("production").log
        kept = (self.kit.roots[:], dict(self.kit.signers), dict(self.kit.continues))
        size = log.frontier.size + beside
        self.kit.new_epoch(log, epoch=log.epoch + step, size=size)
        answer = self._offer()
        if beside:
            assert answer.exception().code == "epoch_diverged"
            self.kit.roots, self.kit.signers, self.kit.continues = kept
        else:
            assert answer.exception() is None


def replayed(snapshot: Snapshot) -> tuple[dict[Key, Any], Position, Any]:
    """What a node comes to that follows every epoch from its first entry."""
    position, policy, heads = Position(""), None, dict[Key, Any]()
    blobs: dict[str, bytes] = {}

    def state() -> tuple[int, str]:
        return snapshot_root(snapshot_line(*each) for each in heads.items())

    for log in reversed(snapshot.epochs("production")):
        answer = msgpack.unpackb(feed.part(snapshot, log, 0))
        assert not answer["more"]
        blobs |= answer["blobs"]
        first = Leaf.decode(answer["entries"][0])
        if policy is None:
            named = first_identity("production", first, blobs.get)
            position = Position(named.origin)
        else:
            position, named = begin_epoch(position, policy, "production", first, blobs.get)
        before = position.generation
        batch = Batch(0, tuple(answer["entries"]), answer["checkpoint"])
        checked = check_batch(position, batch, named.vkeys)
        for generation, leaf in enumerate(checked.leaves, before + 1):
            verdict = judge(
                generation,
                leaf,
                origin=named.origin,
                environment="production",
                policy=policy,
                heads=heads.get,
                blobs=blobs.get,
                state=state,
            )
            assert isinstance(verdict, Accepted)
            policy = verdict.policy
            heads.update(verdict.heads or {})
        position = checked.position
    return heads, position, policy


@settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(steps=st.lists(STEPS, max_size=14))
def test_who_replays_any_history_comes_to_the_stores_heads(
    new_store: Path, tmp_path: Path, template: Any, writer_of: Any, steps: list[tuple[Any, ...]]
) -> None:
    path = tmp_path / "store.sqlite3"
    path.unlink(missing_ok=True)
    shutil.copy(new_store, path)
    database, kit = Database.open(path), template.own()
    try:
        history = History(lambda: writer_of(database, kit), kit, database)
        for step in steps:
            history.take(step)
        history.end()
        log = history.writer.position("production").log
        with database.read() as snapshot:
            heads, position, policy = replayed(snapshot)
            kept = {row.key: row.head for row in snapshot.heads_from(log, b"")}
        assert heads == kept
        assert (position.origin, position.generation) == (log.origin, log.generation)
        assert policy.digest == history.writer.position("production").policy.digest
    finally:
        database.close()
