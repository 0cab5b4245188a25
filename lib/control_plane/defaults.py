"""Which replica and which environment are meant when a caller names none.

- Replica root: the argument, ``CONTROL_PLANE_REPLICA``, ``/var/lib/control-plane/replica`` when it
  exists, else ``~/.local/share/control-plane/replica``. A writer run by root takes the system path
  whether it exists or not; everything else is the same for writers.
- Environment: the argument, ``CONTROL_PLANE_ENVIRONMENT``, else the only one that has a replica
  under the root. With none or several the choice stays open: the source looks again, at most once
  a second, when it is asked for a replica, and keeps the first answer it gets.
- ``CONTROL_PLANE_REQUIRE_TRUSTED`` set to 1, true or yes refuses replicas marked *development*,
  for every client and manager of the process.

This is the only module of the library, beside the command line, that reads the environment of the
process.
"""

from __future__ import annotations

import os
from time import monotonic, perf_counter_ns, time

from control_plane.errors import ReplicaUnavailable, TrustError
from control_plane.replica.header import DEVELOPMENT, STATE, empty_words
from control_plane.replica.source import LOOK_INTERVAL_SECONDS, ReplicaSource
from control_plane.usage.process import ProcessUsage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from typing import Any

    from control_plane.replica.reader import Replica, View

SYSTEM_ROOT = "/var/lib/control-plane/replica"
USER_ROOT = "~/.local/share/control-plane/replica"

SYSTEM_USAGE = "/run/control-plane/usage"

_OVERRIDE = "CONTROL_PLANE__"
_YES = ("1", "true", "yes")
_NO = ("0", "false", "no", "off")


class TrustedReplica:
    """A replica of which nothing is read that a development writer committed.

    The mark is looked at after each copy, and for a view after its snapshot has begun: a writer
    marks the replica before its first commit to it, so what was read from one without the mark is
    no development writer's.
    """

    __slots__ = ("_replica", "words")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.words = replica.words

    def read(self, *keys: bytes) -> tuple[int, list[bytes | None]]:
        """As `Replica.read`; raises ``ReplicaUnavailable`` for a marked replica, too."""
        found = self._replica.read(*keys)
        self._check()
        return found

    def get(self, key: bytes) -> tuple[int, bytes | None]:
        """As `Replica.get`; raises ``ReplicaUnavailable`` for a marked replica, too."""
        found = self._replica.get(key)
        self._check()
        return found

    def view(self) -> View:
        """As `Replica.view`; raises ``ReplicaUnavailable`` for a marked replica, too."""
        view = self._replica.view()
        try:
            self._check()
        except ReplicaUnavailable:
            view.close()
            raise
        return view

    def database(self, name: str) -> Any:
        """As `Replica.database`."""
        return self._replica.database(name)

    def _check(self) -> None:
        if _is_development(self.words):
            raise ReplicaUnavailable(_untrusted(self._replica.directory))


wall_clock = time
"""The clock that schedules go by where a caller gives none: seconds since 1970."""

nanoseconds = perf_counter_ns
"""The clock that the latency of evaluations is taken by."""


class ChosenSource(ReplicaSource):
    """A replica source that also decides which environment it is of, and whether it is trusted.

    ``environment`` is None until it is decided, and then stays. ``usage`` tells the node's daemon
    what those who read from here have served.
    """

    __slots__ = ("_choose_at", "_root", "environment", "requires_trusted", "usage")

    def __init__(
        self,
        root: str,
        environment: str | None,
        require_trusted: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(os.path.join(root, environment or ""), clock)
        self._root = root
        self.requires_trusted = require_trusted
        self._choose_at: float | None = None
        self.environment = environment
        self.usage = ProcessUsage(usage_folder(), lambda: self.environment)
        self._choose()

    def close(self) -> None:
        """As `ReplicaSource.close`; what was counted is told first."""
        self.usage.close()
        super().close()

    def open(self) -> Replica | TrustedReplica | None:  # type: ignore[override]  # reads alike
        """As `ReplicaSource.open`; also None while the choice is open or the replica untrusted.

        Where trust is required the replica goes on refusing what a development writer commits.
        """
        if not self._choose():
            return None
        replica = super().open()
        if replica is None or not self.requires_trusted:
            return replica
        if _is_development(replica.words):
            self.words = empty_words()
            self.error = TrustError(_untrusted(self.folder))
            return None
        self.words = replica.words
        return TrustedReplica(replica)

    def _choose(self) -> bool:
        """Whether the environment is decided; looks at the root at most once a second."""
        if self.environment is not None:
            return True
        now = self._clock()
        if self._choose_at is not None and now < self._choose_at:
            return False
        self._choose_at = now + LOOK_INTERVAL_SECONDS
        found = environments(self._root)
        if len(found) == 1:
            self.folder = os.path.join(self._root, found[0])
            self.environment = found[0]
            return True
        self.error = ReplicaUnavailable(
            f"expected one environment, found {', '.join(found)}; "
            "set CONTROL_PLANE_ENVIRONMENT or pass environment="
            if found
            else (
                f"{self._root}: expected a replica, found none; start control-plane daemon, "
                "or set CONTROL_PLANE_REPLICA"
            )
        )
        return False


def _is_development(words: memoryview) -> bool:
    """Whether the header's writer, or the one that is about to write, is a development one."""
    return bool(words[8 * STATE] & DEVELOPMENT)


def _untrusted(place: str) -> str:
    return (
        f"{place}: expected a replica that follows a trusted log, found one marked development; "
        "follow a store with control-plane daemon --store, or do not require a trusted one"
    )


def replica_root(replica: str | PathLike[str] | None = None) -> str:
    """The folder that holds one folder per environment, for a reader."""
    chosen = replica or os.environ.get("CONTROL_PLANE_REPLICA")
    if chosen:
        return os.fspath(chosen)
    return SYSTEM_ROOT if os.path.isdir(SYSTEM_ROOT) else os.path.expanduser(USER_ROOT)


def writer_root(replica: str | PathLike[str] | None = None) -> str:
    """The folder that holds one folder per environment, for a writer."""
    chosen = replica or os.environ.get("CONTROL_PLANE_REPLICA")
    if not chosen and hasattr(os, "geteuid") and os.geteuid() == 0:
        return SYSTEM_ROOT
    return replica_root(chosen)


def environments(root: str) -> tuple[str, ...]:
    """The environments that have a replica under ``root``, sorted."""
    try:
        names = os.listdir(root)
    except OSError:
        return ()
    return tuple(sorted(n for n in names if os.path.isdir(os.path.join(root, n, "v1"))))


def replica_source(
    replica: str | PathLike[str] | None = None,
    environment: str | None = None,
    require_trusted: bool = False,
) -> tuple[ChosenSource, str | None]:
    """What a manager reads from, and the environment it is of when that is decided already.

    Never raises for want of a replica; ``source.error`` says what is missing.

    Raises:
        ValueError: ``environment`` is no environment's name.
    """
    named = environment or os.environ.get("CONTROL_PLANE_ENVIRONMENT") or None
    trusted = require_trusted or _set("CONTROL_PLANE_REQUIRE_TRUSTED")
    source = ChosenSource(replica_root(replica), _checked(named), trusted)
    return source, source.environment


def require_environment(source: ChosenSource) -> str:
    """The environment of a source, once it is decided.

    Raises:
        ReplicaUnavailable: there are none or several and no one said which.
    """
    source.open()
    if source.environment is None:
        raise ReplicaUnavailable(str(source.error))
    return source.environment


def config_overrides() -> dict[tuple[str, ...], str]:
    """``CONTROL_PLANE__DATABASE__URL=…`` of this process as ``{("database", "url"): "…"}``."""
    return {
        tuple(variable[len(_OVERRIDE) :].lower().split("__")): text
        for variable, text in sorted(os.environ.items())
        if variable.startswith(_OVERRIDE) and len(variable) > len(_OVERRIDE)
    }


def counts_usage() -> bool:
    """Whether this process counts which variants it serves: unless ``CONTROL_PLANE_USAGE`` is 0."""
    return os.environ.get("CONTROL_PLANE_USAGE", "").lower() not in _NO


def usage_folder() -> str | None:
    """The folder that usage files lie in: ``CONTROL_PLANE_USAGE``, else the system's; None: none.

    It is the daemon that makes it; without it nothing is told.
    """
    chosen = os.environ.get("CONTROL_PLANE_USAGE", "")
    if chosen.lower() in _NO:
        return None
    return SYSTEM_USAGE if chosen.lower() in ("", *_YES) else chosen


def _set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in _YES


def _checked(environment: str | None) -> str | None:
    """The name, if it is one: it becomes a part of a path."""
    if environment is None:
        return None
    letters = environment.replace("-", "0") if isinstance(environment, str) else ""
    if letters.isascii() and letters.isalnum() and letters.islower() and letters[0].isalpha():
        return environment
    raise ValueError(f"expected an environment like production, found {environment!r}")
