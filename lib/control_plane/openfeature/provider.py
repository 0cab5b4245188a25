"""The OpenFeature provider: what an evaluation here is in the words of the OpenFeature SDK.

- Nothing is fetched, so nothing is waited for: with a replica on the node the provider is ready
  when `set_provider` returns, and not only when the SDK's own thread has called `initialize`.
  Without one `initialize` fails with PROVIDER_NOT_READY, callers get their defaults, and the
  provider becomes ready when the replica appears.
- An answer has the flag's value, variant, reason and metadata, or the caller's default with an
  error code. Reasons and codes are OpenFeature's (`control_plane.feature_flags.evaluation`).
  TARGETING_KEY_MISSING is none of them: a rule that lacks its unit does not match.
- A flag's number is asked for as integer or float: 2.0 is the integer 2, 2.5 is none. A bool is
  no number. Asked for an object, a mapping as default wants a mapping and a list wants a list;
  None takes either. What is handed out is a copy.
- The context's targeting key is the ``targeting_key`` of rules, its attributes are attributes;
  ``user_id`` and ``tenant_id`` are among them. An empty targeting key is none, as the SDK has it.
- A client that was lent is used and left open; one that was made here is closed by `shutdown`,
  and made anew should the provider be set again.

Coroutines call straight through: an evaluation takes a microsecond and never waits.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, FeatureProvider, Metadata
from openfeature.track import TrackingEventDetails

from control_plane.client import ControlPlaneClient
from control_plane.feature_flags.evaluation import (
    FLAG_NOT_FOUND,
    INVALID_CONTEXT,
    PARSE_ERROR,
    PROVIDER_NOT_READY,
    TYPE_MISMATCH,
)
from control_plane.feature_flags.evaluator import MISMATCH, converted
from control_plane.openfeature.events import Events, details_of

if TYPE_CHECKING:
    # Has another name in older SDKs.
    from openfeature.flag_evaluation import FlagValueType

    Structure = Sequence[FlagValueType] | Mapping[str, FlagValueType]

Track = Callable[[str, EvaluationContext | None, TrackingEventDetails | None], object]
OnEmit = Callable[[FeatureProvider, ProviderEvent, ProviderEventDetails], None]

METADATA: Final = Metadata(name="control-plane")
_REASONS: Final = {reason.value: reason for reason in Reason}
_MESSAGES: Final = {
    FLAG_NOT_FOUND: "expected a flag, found none",
    INVALID_CONTEXT: "expected a mapping of attributes, found a context that is none",
    PARSE_ERROR: (
        "expected a flag that this process can read, found another; the log line of"
        " control_plane.feature_flags says why"
    ),
}
_OTHER_MESSAGE: Final = (
    "expected an answer, found an error; the log line of control_plane.feature_flags says which"
)
_log = logging.getLogger("control_plane.openfeature")


class ControlPlaneProvider(AbstractProvider):
    """Answers the OpenFeature SDK from the replica on this node.

    Args:
        client: one to share; the provider does not close it.
        replica, environment, require_trusted: as `ControlPlaneClient`, where none is shared.
        events: tell the SDK of changes, by one daemon thread from `initialize` to `shutdown`;
            False: no thread, and the SDK is told of the start only.
        on_track: called by the SDK's ``track`` with name, context and details, in the caller's
            thread; without it tracking does nothing.
        provenance: add to each flag's metadata ``generation`` (the one that last changed the flag)
            and ``rule`` (the one that decided, if one did), and OpenFeature's own ``flagSetId``
            (the environment) and ``version`` (the generation as text). What the flag itself says
            under such a name wins.

    Raises:
        TypeError: a client was given, and a place or a requirement that only it decides.
        TrustError: as `ControlPlaneClient`.
        ValueError: as `ControlPlaneClient`.
    """

    def __init__(
        self,
        client: ControlPlaneClient | None = None,
        *,
        replica: str | PathLike[str] | None = None,
        environment: str | None = None,
        require_trusted: bool = False,
        events: bool = True,
        on_track: Track | None = None,
        provenance: bool = False,
    ) -> None:
        super().__init__()
        if client is not None and (replica, environment, require_trusted) != (None, None, False):
            raise TypeError("expected a client, or replica and environment; found both")
        self._place = (replica, environment, require_trusted)
        self._lent = client
        self._tells = events
        self._on_track = on_track
        self._provenance = provenance
        self._attached = 0
        self._events: Events | None = None
        self._opened = False
        # The SDK sets providers in the caller's thread, initialises and shuts them down in others.
        self._lock = threading.RLock()
        self._open()
        PROVIDERS.add(self)

    # What the SDK calls around evaluations.

    def get_metadata(self) -> Metadata:
        """The provider's name, ``control-plane``."""
        return METADATA

    def attach(self, on_emit: OnEmit) -> None:
        """Begin to be a provider of the SDK's: ready at once when there is a replica."""
        with self._lock:
            super().attach(on_emit)
            self._attached += 1
            self._open()
            if self._events is not None:
                # What changes from here on is told, however late the SDK calls `initialize`.
                self._events.mark()
            health = self._client.health()
        if health.ready:
            # `initialize` is called in a thread of the SDK's, before which it would have callers
            # get their defaults; it tells of readiness once more when that has ended.
            self.emit(ProviderEvent.PROVIDER_READY, details_of(health))

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Start to tell events; never waits.

        Raises:
            ProviderNotReadyError: there is no replica to read yet; says what is missing.
        """
        with self._lock:
            self._open()
            health = self._client.health()
            if self._events is not None:
                self._events.start(ready=health.ready)
        if not health.ready:
            raise ProviderNotReadyError("; ".join(health.reasons))

    def shutdown(self) -> None:
        """Stop telling events, and close the client unless it was lent."""
        with self._lock:
            # One that was replaced and is set again may be attached anew before the SDK comes to
            # shut it down: what it holds is then in use.
            self._attached = max(self._attached - 1, 0)
            if self._attached:
                return
            if self._events is not None:
                self._events.stop()
            self._opened = False
            if self._lent is None:
                self._client.close()

    def detach(self) -> None:
        """Tell the SDK no more."""
        with self._lock:
            if not self._attached:
                super().detach()

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Hand the event to ``on_track``; whatever that raises is logged."""
        if self._on_track is None:
            return
        try:
            self._on_track(tracking_event_name, evaluation_context, tracking_event_details)
        except Exception:
            # The application's own code, of which this call must not fail.
            _log.exception(
                "tracking %r: on_track raised; the event may be lost", tracking_event_name
            )

    # Evaluations; the SDK calls these by keyword.

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """The value of a boolean flag."""
        return self._resolved("bool", flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """The value of a string flag."""
        return self._resolved("string", flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """The value of a number flag that is whole."""
        return self._resolved("int", flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """The value of a number flag."""
        # The SDK insists on a float, and takes an int as default.
        if default_value.__class__ is int:
            default_value = float(default_value)
        return self._resolved("float", flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Structure,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Structure]:
        """A copy of the value of a flag of objects or arrays, as the default is one."""
        wanted = "structure"
        if isinstance(default_value, Mapping):
            wanted = "object"
        elif isinstance(default_value, Sequence):
            wanted = "array"
        return self._resolved(wanted, flag_key, default_value, evaluation_context)

    def _resolved(
        self, wanted: str, name: str, default: Any, evaluated: EvaluationContext | None
    ) -> FlagResolutionDetails[Any]:
        flags = self._flags
        context: Any = None
        if evaluated is not None:
            context, key = evaluated.attributes, evaluated.targeting_key
            if key:
                # Not ``suppress``, which would cost each evaluation more than the rest of this.
                try:  # noqa: SIM105
                    context = {**context, "targeting_key": key}
                except TypeError:
                    # No mapping, which the evaluation will find as well.
                    pass
        details, told = flags.decided(name, None, None, context)
        value, variant, reason, rule, error, generation = details
        told = self._traced(told, rule, generation) if self._provenance else told.copy()
        if variant is None:
            if error is not None:
                return self._failed(name, default, error, _MESSAGES.get(error), told)
            return FlagResolutionDetails(default, None, None, _REASONS[reason], None, told)
        if value.__class__ is not bool or wanted != "bool":
            found = value
            value = _structure(value) if wanted == "structure" else converted(value, wanted)
            if value is MISMATCH:
                message = f"expected {wanted}, found {type(found).__name__.lower()}"
                return self._failed(name, default, TYPE_MISMATCH, message, told)
        flags.count(name, variant)
        # By position: by keyword it takes twice as long.
        return FlagResolutionDetails(value, None, None, _REASONS[reason], variant, told)

    def _traced(self, told: dict[str, Any], rule: str | None, generation: int) -> dict[str, Any]:
        traced: dict[str, Any] = {"generation": generation, "version": str(generation)}
        environment = self._client.environment
        if environment is not None:
            traced["flagSetId"] = environment
        if rule is not None:
            traced["rule"] = rule
        return traced | told

    def _failed(
        self, name: str, default: Any, error: str, message: str | None, told: dict[str, Any]
    ) -> FlagResolutionDetails[Any]:
        if error == PROVIDER_NOT_READY:
            message = str(self._client.source.error or "expected a replica, found none")
        where = f"flag/{name} ({self._client.environment})"
        return FlagResolutionDetails(
            default,
            ErrorCode(error),
            f"{where}: {message or _OTHER_MESSAGE}",
            Reason.ERROR,
            None,
            told,
        )

    def _open(self) -> None:
        """Have a client that is open, and its events."""
        if self._opened:
            return
        self._client = self._lent or ControlPlaneClient(*self._place)
        self._flags = self._client.flags
        self._events = Events(self._client, self.emit) if self._tells else None
        self._opened = True

    # Held over a fork, so that the child finds nothing half done, and no thread of this provider.

    def _before_fork(self) -> None:
        self._lock.acquire()
        if self._events is not None:
            self._events.pause()

    def _after_fork(self) -> None:
        try:
            if self._events is not None:
                self._events.resume()
        finally:
            self._lock.release()


class Providers:
    """The providers of this process, each of which is held over a fork.

    The interpreter is told of them once and for all: what it is told of forks it never forgets.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakSet[ControlPlaneProvider] = weakref.WeakSet()
        # By thread: two may be about to fork, and one made meanwhile is held by neither.
        self._held: dict[int, list[ControlPlaneProvider]] = {}

    def add(self, provider: ControlPlaneProvider) -> None:
        """Hold this one, too, for as long as anybody has it."""
        self._known.add(provider)

    def before_fork(self) -> None:
        """Have nothing half done, and no thread, until the fork is over."""
        # In one order: two threads that fork never wait for each other.
        self._held[threading.get_ident()] = held = sorted(self._known, key=id)
        for provider in held:
            provider._before_fork()

    def after_fork(self) -> None:
        """Let those go on that were held; in the parent and in the child."""
        held = self._held.pop(threading.get_ident(), [])
        for provider in held:
            provider._after_fork()


PROVIDERS: Final = Providers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=PROVIDERS.before_fork,
        after_in_parent=PROVIDERS.after_fork,
        after_in_child=PROVIDERS.after_fork,
    )


def _structure(value: Any) -> Any:
    """A copy of an object or an array, else MISMATCH."""
    found = converted(value, "object")
    return converted(value, "array") if found is MISMATCH else found
