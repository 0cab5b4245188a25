"""What one request reads: one generation, for one caller.

- *Generation*: taken with the request's first question and held for HOLD_SECONDS. A request that
  goes on longer (a stream, a WebSocket, a task of an hour) then moves to the newest as a whole,
  holds that one, and so on: a kill reaches it, and never is one answer older than another.
  It moves earlier only when the node gave the snapshot up, which takes a restarted daemon.
- *Caller*: ``bind`` is called with the first question, so that what inner middleware learnt about
  the caller is there. `RequestView.bind` adds to it. What a call names itself wins.
- After ``close``, and where there is no snapshot, questions go to the client itself: code that
  outlives its request reads the newest generation, for the same caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from control_plane.configs.merged import ABSENT
from control_plane.configs.settings import checked_path
from control_plane.configs.views import Section
from control_plane.errors import ViewExpired
from control_plane.feature_flags.evaluator import BoundFlags
from control_plane.integrations.snapshots import HOLD_SECONDS
from control_plane.registries.registry_manager import _Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from control_plane.client import ControlPlaneClient, PinnedView
    from control_plane.configs.origin import Origin
    from control_plane.configs.settings import Key, PinnedConfig
    from control_plane.feature_flags.evaluator import FlagEvaluator
    from control_plane.integrations.snapshots import Snapshot, Snapshots
    from control_plane.registries.manifests import Loaded
    from control_plane.replica.reader import View

    Answer = TypeVar("Answer")
    Bind = Callable[[], Mapping[str, Any] | None]


class _Hold:
    """A snapshot that a request holds for a time; the first that follows it follows for all.

    So threads that look at once, and are overtaken by a publication, still agree on one. It is a
    mapping's ``setdefault`` that decides, and no lock, which a fork could leave locked.
    """

    __slots__ = ("_next", "snapshot", "until")

    def __init__(self, snapshot: Snapshot | None = None, until: float = 0.0) -> None:
        self.snapshot = snapshot
        self.until = until
        self._next: dict[None, _Hold] = {}

    def followed_by(self, hold: _Hold) -> _Hold:
        """The hold that follows this one: the given one, unless another came first."""
        return self._next.setdefault(None, hold)


class RequestView:
    """Flags, configuration and registry for one request; ``flags`` and ``config`` are bound.

    Safe to use from several threads and coroutines of one request.
    """

    __slots__ = ("_bind", "_bound", "_closed", "_hold", "_snapshots")

    def __init__(self, snapshots: Snapshots, bind: Bind | None = None) -> None:
        """``bind`` gives the caller: ``user_id``, ``tenant_id`` and any other attributes."""
        self._snapshots = snapshots
        self._bind = bind
        self._bound: dict[str, Any] | None = None
        self._hold = _Hold()
        self._closed = False

    @property
    def client(self) -> ControlPlaneClient:
        """The client this request reads through."""
        return self._snapshots.client

    @property
    def flags(self) -> BoundFlags:
        """The flags, for this caller; it may be kept as long as the request."""
        return RequestFlags(self)

    @property
    def config(self) -> RequestConfig:
        """The configuration, for this caller's tenant; it may be kept as long as the request."""
        return RequestConfig(self)

    @property
    def registry(self) -> RequestRegistry:
        """The agents and tools; it may be kept as long as the request."""
        return RequestRegistry(self)

    @property
    def generation(self) -> int:
        """The generation of the next answer; 0 without a replica."""
        snapshot = self._held() or self._snapshots.newest()
        return 0 if snapshot is None else snapshot.generation

    @property
    def context(self) -> Mapping[str, Any]:
        """What is bound: ``user_id``, ``tenant_id`` and other attributes, as they were given."""
        if self._bound is None:
            given = self._bind() if self._bind is not None else None
            self._bound = {} if given is None else dict(given)
        return self._bound

    def bind(self, **context: Any) -> None:
        """Add to the caller, in place of what was bound by the same name."""
        # A new mapping: whoever filled in the old one compares identities.
        self._bound = {**self.context, **context}

    def renew(self) -> None:
        """Let the next question be answered from the newest generation, and those after it."""
        self._hold = _Hold()

    def close(self) -> None:
        """End the request; may be called again."""
        self._closed = True
        self._hold = _Hold()

    def pinned(self) -> PinnedView | ControlPlaneClient:
        """What answers now, unbound: the generation held, or the client itself."""
        snapshot = self._held()
        return self._snapshots.client if snapshot is None else snapshot.view

    def asked(self, ask: Callable[[PinnedView | ControlPlaneClient], Answer]) -> Answer:
        """What ``ask`` finds, on the next generation if this one is given up meanwhile."""
        try:
            return ask(self.pinned())
        except ViewExpired:
            self.renew()
            return ask(self.pinned())

    def _held(self) -> Snapshot | None:
        if self._closed:
            return None
        hold, now = self._hold, self._snapshots.clock()
        while hold.snapshot is None or now >= hold.until or not hold.snapshot.is_whole():
            snapshot = self._snapshots.newest()
            if snapshot is None:
                return None
            mine = _Hold(snapshot, now + HOLD_SECONDS)
            self._hold = hold = hold.followed_by(mine)
            if hold is mine:
                break
        return hold.snapshot


class RequestFlags(BoundFlags):
    """Flags of the generation its request holds now, for the caller that is bound now."""

    __slots__ = ("_caller", "_view")

    def __init__(self, view: RequestView) -> None:
        self._view = view
        self._caller: tuple[Mapping[str, Any], BoundFlags] | None = None

    @property
    def _flags(self) -> FlagEvaluator:  # type: ignore[override]  # another one as time passes
        return self._view.pinned().flags

    def _filled(self, user_id: Any, tenant_id: Any, context: Any) -> tuple[Any, Any, Any]:
        bound = self._view.context
        caller = self._caller
        if caller is None or caller[0] is not bound:
            self._caller = caller = bound, BoundFlags(self._flags, bound)
        return caller[1]._filled(user_id, tenant_id, context)


class RequestConfig:
    """Configuration of the generation its request holds now, for the tenant that is bound now."""

    __slots__ = ("_view",)

    def __init__(self, view: RequestView) -> None:
        self._view = view

    def get(
        self,
        key: Key,
        default: Any = ABSENT,
        environment: str | None = None,
        tenant_id: str | None = None,
    ) -> Any:
        """As `ConfigManager.get`; another environment than the client's is read as it is now.

        Raises:
            KeyNotFoundError: no value and no default; names the nearest keys.
            ReplicaUnavailable: no replica and no default.
        """
        client, tenant = self._view.client, self._tenant(tenant_id)
        if environment not in (None, client.environment):
            return client.config.get(key, default, environment, tenant)
        return self._view.asked(lambda held: held.config.get(key, default, None, tenant))

    def section(self, prefix: Key) -> Section:
        """The same calls with every key read below ``prefix``."""
        return Section(cast("PinnedConfig", self), checked_path(prefix))

    def origin(
        self, key: Key, environment: str | None = None, tenant_id: str | None = None
    ) -> Origin:
        """As `ConfigManager.origin`; another environment than the client's is read as it is now.

        Raises:
            KeyNotFoundError: no value, or a mapping: each of its values has an origin of its own.
            ReplicaUnavailable: no replica.
        """
        client, tenant = self._view.client, self._tenant(tenant_id)
        if environment not in (None, client.environment):
            return client.config.origin(key, environment, tenant)
        return self._view.asked(lambda held: held.config.origin(key, None, tenant))

    def _tenant(self, named: str | None) -> str | None:
        return _tenant(self._view.context.get("tenant_id")) if named is None else named


class RequestRegistry(_Registry):
    """Agents and tools of the generation its request holds now."""

    __slots__ = ("_view",)

    def __init__(self, view: RequestView) -> None:
        self._view = view

    def _load(self, kind: str, name: str, version: str | None) -> Loaded:
        return self._view.asked(lambda held: held.registry._load(kind, name, version))

    def _with_view(self, ask: Callable[[View], Any]) -> Any:
        return self._view.asked(lambda held: held.registry._with_view(ask))


def _tenant(bound: object) -> str | None:
    """The tenant of configuration: text; flags take a number, too, and mean its digits."""
    if isinstance(bound, int) and not isinstance(bound, bool):
        return str(bound)
    return bound if isinstance(bound, str) else None
