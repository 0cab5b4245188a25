"""Trust metadata in one folder and many logs: look, bring level, add to all.

Each environment's log has its own copy of root and targets, and the trust folder has one more. A
command that makes the next version crosses them one after the other, so a crash leaves some behind.
What this module decides:

1. **Look**: every log is replayed from its first entry and believed only as far as the enrolment
   vouches for it. The newest root and targets are those of the highest version anywhere; two that
   share a version and differ are refused, for somebody else has signed beside us.
2. **Level**: what a log has and the folder lacks is kept in the folder first; what the folder has
   and a log lacks is handed in. A root that no log took is never in the folder, so this only
   repeats what was meant.
3. **Add**: new metadata goes to the first log, then to the others, then into the folder, then, with
   a new checkpoint of every log, into the enrolment file. A crash

   - before the first log took it leaves nothing, for the metadata was in memory only;
   - between two logs, or before the folder, is what *level* mends;
   - before the enrolment file leaves an enrolment older than what is in force: `is_behind` is how
     the same command knows that it was interrupted and that its work is done but for this.

So a command that runs again looks, levels, and goes on where it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.errors import EpochDiverged, Forked, NotFound, TrustError
from control_plane.log.canonical import sha256_hex
from control_plane.log.leaf import Leaf
from control_plane.log.statements import TrustStatement, parse_statement
from control_plane.publish.client import StoreClient, Submission
from control_plane.publish.durable import write_over
from control_plane.publish.replay import History, Progress, replay
from control_plane.publish.trustfolder import TrustFolder, write_trust
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.metadata import read_root, read_targets
from control_plane.trust.state import Policy, adopt, restore

Shown = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What was found: the newest metadata anywhere, and each environment's verified log.

    ``roots`` holds every known version; ``policy`` is the newest root with the newest targets.
    """

    policy: Policy
    roots: Mapping[int, bytes]
    histories: Mapping[str, History]

    def behind(self) -> list[str]:
        """The environments whose logs lack the newest root or targets."""
        newest = self.policy.digest
        return [name for name, each in self.histories.items() if _policy(each).digest != newest]


@dataclass(slots=True)
class Levelling:
    """The logs of one store, the trust folder and the enrolment file of one installation.

    ``restored`` names an environment whose log may hold less than the enrolment knows, since its
    store was restored from a backup; logs beside it that hold less are left alone then, until they
    are named in their turn. ``shown`` gives the progress of replaying an environment.
    """

    client: StoreClient
    folder: Path
    enrolment_file: Path
    restored: str | None = None
    shown: Shown = lambda environment: nullcontext(lambda done, total: None)
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    diverged: dict[str, TrustError] = field(default_factory=dict)
    """Environments, beside the one restored, that need a new epoch of their own, and why."""

    def enrolment(self) -> Enrolment:
        """What the enrolment file says now.

        Raises:
            NotFound: there is none.
        """
        try:
            return Enrolment.decode(self.enrolment_file.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"{self.enrolment_file}: expected a trust.json, found none; name the one that"
                " 'store init --enrolment' wrote with --enrolment FILE"
            ) from error

    def look(self) -> Standing:
        """Replay the logs of all environments; nothing is written.

        Raises:
            TrustError: a log is not what the enrolment vouches for, or metadata contradict.
            StoreUnreachable, NotFound: the store does not answer, or lacks an environment.
        """
        folder = TrustFolder.read(self.folder)
        roots, histories = folder.versions(), dict[str, History]()
        targets = folder.targets
        waiting = list(restore(folder.roots[-1], folder.targets).environments)
        while waiting:
            environment = waiting.pop(0)
            history = self._replayed(environment, folder)
            histories[environment] = history
            roots = _merged(roots, history.roots, environment)
            targets = _newer(targets, _policy(history).targets_bytes, environment)
            newest = read_root(roots[max(roots)])
            waiting = sorted(set(newest.logs) - set(histories))
        return Standing(restore(roots[max(roots)], targets), roots, histories)

    def level(self, standing: Standing, *, but: str | None = None) -> Standing:
        """Bring folder and logs to the newest metadata; the standing after that.

        The log of the environment ``but`` gets nothing: a new epoch of it brings the roots along.

        Raises:
            EpochDiverged: a log does not lead to where the newest root lets it go on; not where
                ``but`` is given, then it is noted in ``diverged``.
        """
        write_trust(self.folder, standing.roots, standing.policy.targets_bytes)
        behind = [name for name in standing.behind() if name != but and name not in self.diverged]
        for environment in behind:
            self._hand_in(environment, standing, tolerant=but is not None)
        return self.look() if behind else standing

    def add(
        self, standing: Standing, *, root: bytes | None, targets: bytes, first: str | None = None
    ) -> Submission | None:
        """Hand new metadata to all logs, ``first`` first, then keep it in the folder.

        Gives what the first log made of it.

        Raises:
            TrustError: the metadata is not signed by enough keys, or is refused by the first log;
                nothing was written.
        """
        added = [] if root is None else [root]
        policy = adopt(standing.policy, added, targets, at_ms=self.now_ms())
        roots = {**standing.roots, **{read_root(data).version: data for data in added}}
        meant = Standing(policy, roots, standing.histories)
        order = sorted(
            set(standing.histories) - set(self.diverged), key=lambda name: (name != first, name)
        )
        submission = None
        for place, environment in enumerate(order):
            taken = self._hand_in(environment, meant, tolerant=place > 0 and first is not None)
            submission = taken if place == 0 else submission
        write_trust(self.folder, roots, targets)
        return submission

    def enrol(self) -> Standing:
        """Replay all logs once more and write a new enrolment file of where they stand now."""
        standing = self.look()
        self.write_enrolment(standing)
        return standing

    def write_enrolment(self, standing: Standing) -> None:
        """Write the enrolment file: the newest metadata and the checkpoint of each log."""
        notes = {
            name: history.checkpoint.note
            for name, history in standing.histories.items()
            if history.checkpoint is not None and name not in self.diverged
        }
        made = Enrolment(standing.policy.root_bytes, standing.policy.targets_bytes, notes)
        write_over(self.enrolment_file, made.encode(), 0o644)

    def is_behind(self, standing: Standing) -> bool:
        """Whether the enrolment file is older than the root in force: a run did not end."""
        return read_root(self.enrolment().root).version < standing.policy.root_version

    def _hand_in(self, environment: str, meant: Standing, *, tolerant: bool) -> Submission | None:
        held = _policy(meant.histories[environment]).root_version
        roots = [data for version, data in sorted(meant.roots.items()) if version > held]
        try:
            return self.client.post_trust(environment, roots, meant.policy.targets_bytes)
        except EpochDiverged as error:
            if not tolerant:
                raise
            self.diverged[environment] = error
            return None

    def _replayed(self, environment: str, folder: TrustFolder) -> History:
        enrolment = self.enrolment()
        named = environment in enrolment.policy().environments
        if environment == self.restored or environment in self.diverged or not named:
            # The enrolment knows too much of this log, or nothing: the folder has to do.
            return self._replay(environment, self._own_enrolment(environment, folder))
        try:
            return self._replay(environment, enrolment)
        except Forked as error:
            cure = f"run 'control-plane log new-epoch -e {environment} --restored'"
            told = Forked(f"{error}; if the store was restored from an older backup, {cure}")
            if self.restored is None:
                raise told from error
            self.diverged[environment] = told
            return self._replay(environment, self._own_enrolment(environment, folder))

    def _replay(self, environment: str, enrolment: Enrolment) -> History:
        with self.shown(environment) as moved:
            return replay(self.client, environment, enrolment, progress=moved)

    def _own_enrolment(self, environment: str, folder: TrustFolder) -> Enrolment:
        """What the log itself begins with, once its root is known to be one of this folder's."""
        answer = self.client.follow(environment, epoch=1, size=0)
        statement = parse_statement(Leaf.decode(answer["entries"][0]).envelope)
        if not isinstance(statement, TrustStatement):
            raise TrustError(f"{environment}: expected a trust entry first, found another")
        if statement.root[-1] not in {sha256_hex(root) for root in folder.roots}:
            raise Forked(
                f"{environment}: expected a log that begins with a root of {self.folder}, found"
                f" root {statement.root[-1]}"
            )
        root, targets = (
            answer["blobs"].get(digest) or self.client.blob(environment, digest, 1)
            for digest in (statement.root[-1], statement.targets)
        )
        return Enrolment(root, targets)


def _policy(history: History) -> Policy:
    assert history.policy is not None
    return history.policy


def _merged(
    known: Mapping[int, bytes], found: Mapping[int, bytes], environment: str
) -> dict[int, bytes]:
    for version in set(known) & set(found):
        if known[version] != found[version]:
            raise _contradiction(f"root version {version}", environment)
    return {**known, **found}


def _newer(known: bytes, found: bytes, environment: str) -> bytes:
    held, offered = read_targets(known).version, read_targets(found).version
    if held == offered and known != found:
        raise _contradiction(f"targets version {held}", environment)
    return found if offered > held else known


def _contradiction(what: str, environment: str) -> Forked:
    return Forked(
        f"{environment}: expected {what} as the trust folder or another log has it, found another;"
        " two people signed at once: bring their folders together before anything else is signed"
    )
