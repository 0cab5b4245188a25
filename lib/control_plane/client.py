"""One object for an application: flags, configuration and registry over one shared replica.

- Making a client never fails for want of a replica: one that appears later is picked up within a
  second. Until then flags give defaults and ``health`` says what is missing.
- With ``require_trusted`` a replica marked *development* is refused: when it is there already the
  constructor raises, when it appears later it is treated as absent and ``health`` says why.
- A pinned view answers flags, configuration and registry of one generation.
- Nothing here waits for another process but ``wait_until_ready`` and ``wait_for``, which sleep.
"""

from __future__ import annotations

from _weakref import ref
from time import monotonic, sleep, time_ns

from control_plane.defaults import replica_root, replica_source, require_environment
from control_plane.errors import (
    ControlPlaneError,
    ReplicaUnavailable,
    TrustError,
    WaitTimeout,
)
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.header import (
    CHECKPOINT_TIME_S,
    CLOCK,
    COMMIT_TIME_NS,
    DEVELOPMENT,
    DISK,
    GENERATION,
    HEARTBEAT_NS,
    HELD,
    REJECTED,
    STALE,
    STATE,
    TRUST_EXPIRED,
    TXN_ID,
    empty_words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from typing import Any, Protocol, Self, TypeVar

    from control_plane.configs.settings import ConfigManager, PinnedConfig
    from control_plane.feature_flags.evaluation import Evaluation
    from control_plane.feature_flags.flag_manager import PinnedFlags
    from control_plane.registries.manifests import Agent, Tool
    from control_plane.registries.registry_manager import PinnedRegistry, RegistryManager
    from control_plane.replica.reader import View

    T = TypeVar("T")
    Context = Mapping[str, Any]

    class Manager(Protocol):
        """What reads through a client, as the client sees it."""

        def refresh(self) -> None: ...
        def close(self) -> None: ...


FRESH_SECONDS = 60.0
"""A replica whose newest checkpoint, or whose daemon's heartbeat, is older counts as stale."""

SHORTEST_SLEEP_SECONDS = 0.001
LONGEST_SLEEP_SECONDS = 0.02

STATE_REASONS = (
    (DEVELOPMENT, "development: written by a development daemon or a test kit, nothing is trusted"),
    (STALE, "stale: the store has not confirmed this generation for over a minute"),
    (HELD, "held: some changes could not be accepted here, their keys serve the last good value"),
    (REJECTED, "rejected: the newest part of the log was refused, the daemon's log says why"),
    (DISK, "disk: the daemon cannot write, no change arrives"),
    (TRUST_EXPIRED, "trust expired: only new trust metadata is accepted"),
    (CLOCK, "clock: this host's clock and the store's differ by more than a minute"),
)


class Health:
    """What a client can tell about the data it serves, taken at one moment.

    ``age_seconds`` is the time since the store last confirmed that this generation is the newest
    (since the last commit, when no store ever did); None without a replica. ``reasons`` has a
    sentence for everything that is not as it should be.
    """

    __slots__ = (
        "age_seconds",
        "development",
        "environment",
        "generation",
        "heartbeat_age_seconds",
        "held",
        "ready",
        "reasons",
        "rejected",
        "replica",
        "stale",
        "txn_id",
    )

    def __init__(
        self,
        environment: str | None,
        replica: str,
        words: memoryview | None,
        error: ControlPlaneError | None,
        now_ns: int,
    ) -> None:
        # Without a replica every word reads 0, which stands for "never" and "nothing wrong".
        header = empty_words() if words is None else words
        state: int = header[8 * STATE]
        self.environment = environment
        self.replica = replica
        self.generation: int = header[8 * GENERATION]
        self.txn_id: int = header[8 * TXN_ID]
        self.ready = self.generation > 0
        self.development = bool(state & DEVELOPMENT)
        self.held = bool(state & HELD)
        self.rejected = bool(state & REJECTED)
        confirmed_ns = header[8 * CHECKPOINT_TIME_S] * 1_000_000_000
        self.age_seconds = _age_seconds(confirmed_ns or header[8 * COMMIT_TIME_NS], now_ns)
        self.heartbeat_age_seconds = _age_seconds(header[8 * HEARTBEAT_NS], now_ns)
        unconfirmed = _is_old(_age_seconds(confirmed_ns, now_ns))
        silent = _is_old(self.heartbeat_age_seconds)
        self.stale = bool(state & STALE) or silent or unconfirmed
        reasons = [sentence for bit, sentence in STATE_REASONS if state & bit]
        if silent:
            age = f"{self.heartbeat_age_seconds:.0f} s old"
            reasons.append(f"silent: the daemon's last sign is {age}")
        if unconfirmed and not state & STALE:
            reasons.append(f"stale: the newest checkpoint is {self.age_seconds:.0f} s old")
        if error is not None:
            reasons.append(str(error))
        elif not self.ready:
            reasons.append("empty: the daemon has not written a first generation yet")
        self.reasons = tuple(reasons)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Health({fields})"


class _Shortcuts:
    """The flag calls, as a client and a pinned view both offer them."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def flags(self) -> FeatureFlagManager | PinnedFlags: ...

    def is_enabled(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: bool = False,
        rollout_percentage: float | None = None,
    ) -> bool:
        """Whether a boolean flag is on; as `FeatureFlagManager.is_enabled`."""
        return self.flags.is_enabled(name, user_id, tenant_id, context, default, rollout_percentage)

    def variant(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: str | None = None,
    ) -> str | None:
        """The name of the variant served; as `FeatureFlagManager.variant`."""
        return self.flags.variant(name, user_id, tenant_id, context, default)

    def value(
        self,
        name: str,
        default: T,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> T:
        """The value served, of the type of ``default``; as `FeatureFlagManager.value`."""
        found: T = self.flags.value(name, default, user_id, tenant_id, context)
        return found

    def evaluate(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Evaluation:
        """The value and how it came about; as `FeatureFlagManager.evaluate`."""
        return self.flags.evaluate(name, default, user_id, tenant_id, context)


class ControlPlaneClient(_Shortcuts):
    """Reads one environment's replica; safe from any thread, in asyncio, and after a fork.

    Args:
        replica: the folder that holds the environments' replicas.
        environment: which of them; `control_plane.defaults` says what counts without either.
        require_trusted: refuse a replica marked development.

    Raises:
        TrustError: a trusted replica is required and the one found is marked development.
        ValueError: ``environment`` is no environment's name.
    """

    __slots__ = ("_config", "_flags", "_managers", "_registry", "replica", "source")

    def __init__(
        self,
        replica: str | PathLike[str] | None = None,
        environment: str | None = None,
        require_trusted: bool = False,
    ) -> None:
        self.replica = replica_root(replica)
        self.source, _ = replica_source(self.replica, environment, require_trusted)
        if self.source.requires_trusted:
            self.source.open()
            if isinstance(self.source.error, TrustError):
                error = self.source.error
                self.source.close()
                raise error
        self._managers: set[ref[Manager]] = set()
        self._flags = FeatureFlagManager(self)
        self._config: ConfigManager | None = None
        self._registry: RegistryManager | None = None

    @property
    def environment(self) -> str | None:
        """The environment this client reads; None while that is undecided."""
        return self.source.environment

    @property
    def flags(self) -> FeatureFlagManager:
        """The flags of this client's environment."""
        return self._flags

    @property
    def config(self) -> ConfigManager:
        """The configuration of this client's environment."""
        if self._config is None:
            from control_plane.configs.settings import ConfigManager

            self._config = ConfigManager(self)
        return self._config

    @property
    def registry(self) -> RegistryManager:
        """The agents and tools of this client's environment."""
        if self._registry is None:
            from control_plane.registries.registry_manager import RegistryManager

            self._registry = RegistryManager(self)
        return self._registry

    def adopt(self, manager: Manager) -> None:
        """Let ``wait_for`` and ``close`` reach a manager of this client, as long as it is in use.

        A manager that is made with a client calls this itself.
        """
        self._managers.add(ref(manager, self._managers.discard))

    async def get_agent(
        self, name: str, version: str | None = None, tenant_id: str | None = None
    ) -> Agent:
        """As `RegistryManager.get_agent`, for code that awaits; it never blocks the loop."""
        return self.registry.get_agent(name, version, tenant_id)

    async def get_tool(
        self, name: str, version: str | None = None, tenant_id: str | None = None
    ) -> Tool:
        """As `RegistryManager.get_tool`, for code that awaits; it never blocks the loop."""
        return self.registry.get_tool(name, version, tenant_id)

    def pinned(self) -> PinnedView:
        """Flags, configuration and registry of one generation, to be used in a ``with`` block.

        It stays valid for at least 10 s; then a flag gives the default and the others raise
        ``ViewExpired``. Without a replica that can be read flags give defaults and the others
        raise.
        """
        replica = self.source.open()
        try:
            view = None if replica is None else replica.view()
        except ControlPlaneError as error:
            return PinnedView(self, None, error)
        return PinnedView(self, view, self.source.error)

    def health(self) -> Health:
        """What is served and how old it is; never raises."""
        replica = self.source.open()
        words = None if replica is None else self.source.words
        return Health(
            self.environment, self.source.folder, words, self.source.error, self._now_ns()
        )

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Return once there is a replica with a first generation.

        Raises:
            WaitTimeout: there is none in time; says what is missing.
        """
        self._wait(1, timeout_seconds)

    def wait_for(self, generation: int, timeout_seconds: float) -> None:
        """Return once this client's next call sees ``generation`` or a later one.

        Raises:
            WaitTimeout: it did not arrive in time; says which generation is served.
        """
        self._wait(generation, timeout_seconds)
        # A class's revision word moves after the generation: do not let a call slip in between.
        for manager in self._adopted():
            manager.refresh()

    def _adopted(self) -> list[Manager]:
        # A copy: a manager may be collected meanwhile.
        found = [reference() for reference in self._managers.copy()]
        return [manager for manager in found if manager is not None]

    def _now_ns(self) -> int:
        """The wall clock, ns since 1970; a test's client has its own."""
        return time_ns()

    def _wait(self, generation: int, timeout_seconds: float) -> None:
        deadline = monotonic() + timeout_seconds
        pause = SHORTEST_SLEEP_SECONDS
        while True:
            ready = self.source.open() is not None
            found = self.source.words[8 * GENERATION]
            if ready and found >= generation:
                return
            left = deadline - monotonic()
            if left <= 0:
                why = "" if self.source.error is None else f"; {self.source.error}"
                raise WaitTimeout(
                    f"{self.source.folder}: expected generation {generation} within "
                    f"{timeout_seconds:g} s, found {found}{why}"
                )
            sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_SLEEP_SECONDS)

    def close(self) -> None:
        """Stop watches and let go of the replica; flags give defaults then. May be called again."""
        for manager in self._adopted():
            manager.close()
        self.source.close()
        # Again: those another thread made meanwhile; from here on there is nothing to read.
        for manager in self._adopted():
            manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class PinnedView(_Shortcuts):
    """One generation of everything, held until it is closed."""

    __slots__ = ("_client", "_error", "_flags", "_view")

    def __init__(
        self, client: ControlPlaneClient, view: View | None, error: ControlPlaneError | None
    ) -> None:
        self._client = client
        self._view = view
        self._error = error
        self._flags = client.flags.pinned_to(view)

    @property
    def generation(self) -> int:
        """The generation of every answer; 0 without a replica.

        Raises:
            ViewExpired: the view outlived the grace period or was closed.
        """
        return 0 if self._view is None else self._view.generation

    @property
    def flags(self) -> PinnedFlags:
        """The flags of this generation."""
        return self._flags

    @property
    def config(self) -> PinnedConfig:
        """The configuration of this generation.

        Raises:
            ReplicaUnavailable: there was no replica to pin.
        """
        from control_plane.configs.settings import PinnedConfig

        view, environment = self._pinned()
        return PinnedConfig(view, environment, self._client.config.overrides)

    @property
    def registry(self) -> PinnedRegistry:
        """The agents and tools of this generation.

        Raises:
            ReplicaUnavailable: there was no replica to pin.
        """
        return self._client.registry.pinned_to(self._pinned()[0], self._flags)

    def close(self) -> None:
        """Drop the snapshot; later reads raise ``ViewExpired``, flags give defaults."""
        if self._view is not None:
            self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pinned(self) -> tuple[View, str]:
        environment = require_environment(self._client.source)
        if self._view is None:
            raise ReplicaUnavailable(str(self._error))
        return self._view, environment


def _age_seconds(since_ns: int, now_ns: int) -> float | None:
    """Seconds since then; None for 0, which means never."""
    return max(now_ns - since_ns, 0) / 1e9 if since_ns else None


def _is_old(age_seconds: float | None) -> bool:
    return age_seconds is not None and age_seconds > FRESH_SECONDS
