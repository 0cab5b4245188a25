"""The caller of a request, and its generation, go with the tasks it sends.

    from control_plane.integrations.celery import connect

    connect()    # where the Celery application is made: in the sender and in the worker

- A task that is sent while a request or another task runs gets one message header: the
  environment and generation in force, and the ids that are bound (``user_id``, ``tenant_id``,
  ``targeting_key``). Other attributes stay: they may be personal, and a broker is no place for
  them. Outside of a request nothing is added.
- The worker runs each task as a request of its own: `current` gives its flags and configuration,
  for those ids.
- *The promise about generations is "at least"*: a flag that the sender saw changed is changed for
  the task, too, if its node has heard of it within ``wait_seconds``. The same generation cannot be
  had: another node may hold a later one, and a task may run tomorrow. After that time the task
  goes on with what there is and a log line says so; then no task waits for IMPATIENT_SECONDS, so
  that a node that is cut off does not stop the queue.
- Generations of two environments are not compared: such a task does not wait.
- A header comes from whoever can write to the broker. One that is out of form is ignored as a
  whole, with one log line per process. One that is in form is believed, as the task's arguments
  are: whoever may send tasks says for whom they are.
- A task that is run in place (``apply``, ``task_always_eager``) belongs to the request around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from control_plane.errors import MissingExtra, WaitTimeout

try:
    from celery import signals
except ModuleNotFoundError as error:
    raise MissingExtra.of(error.name, "celery") from error

from control_plane.integrations import current
from control_plane.integrations.request_view import RequestView
from control_plane.shown import shown

if TYPE_CHECKING:
    from control_plane.integrations.snapshots import Snapshots

__all__ = [
    "TaskCarrier",
    "connect",
]

HEADER = "control_plane"
IDS = ("user_id", "tenant_id", "targeting_key")
MAX_ID_BYTES = 512
MAX_ENVIRONMENT_CHARACTERS = 64
MAX_NUMBER = 1 << 63
IMPATIENT_SECONDS = 30.0

_log = getLogger("control_plane.integrations.celery")


class Carried(NamedTuple):
    """What a header says: where and when the task was sent, and for whom."""

    environment: str | None
    generation: int
    ids: dict[str, str | int]


class Running(NamedTuple):
    """What a task that runs has to give back."""

    view: RequestView
    token: Token[RequestView | None]


def header_of(carried: Carried) -> dict[str, Any]:
    """The header as it is sent; ids that `parse_header` would not take are left out."""
    ids = {name: value for name, value in carried.ids.items() if _is_id(value)}
    return {"environment": carried.environment, "generation": carried.generation, **ids}


def parse_header(header: object) -> Carried:
    """What a header says; what it says beyond that is for later versions.

    Raises:
        ValueError: it is out of form; the message never repeats what was found in it.
    """
    if not isinstance(header, Mapping):
        raise ValueError(f"expected a mapping, found {type(header).__name__}")
    environment = header.get("environment")
    if environment is not None and not _is_text(environment, MAX_ENVIRONMENT_CHARACTERS):
        raise ValueError("environment: expected a name, found something else")
    generation = header.get("generation")
    if type(generation) is not int or not 0 <= generation < MAX_NUMBER:
        raise ValueError("generation: expected a number below 2^63, found something else")
    ids = {name: header[name] for name in IDS if header.get(name) is not None}
    for name, value in ids.items():
        if not _is_id(value):
            raise ValueError(f"{name}: expected a number or short text, found something else")
    return Carried(environment, generation, ids)


def connect(wait_seconds: float = 1.0) -> TaskCarrier:
    """Let tasks of this process carry their caller, and run for the one they carry.

    A task waits for the generation it was sent at, ``wait_seconds`` at most. Call this once;
    ``disconnect`` of what it returns ends it.
    """
    carrier = TaskCarrier(wait_seconds)
    # Held by the signals: who calls this keeps nothing.
    signals.before_task_publish.connect(carrier.send, weak=False)
    signals.task_prerun.connect(carrier.begin, weak=False)
    signals.task_postrun.connect(carrier.end, weak=False)
    return carrier


class TaskCarrier:
    """What is done when a task is sent, begins and ends; made by `connect`."""

    def __init__(self, wait_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._patient_at: float | None = None
        self._complained = False

    def send(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the header to a message that is about to be sent."""
        view = current.VIEW.get()
        if view is None or headers is None:
            return
        bound = view.context
        ids = {name: bound[name] for name in IDS if bound.get(name) is not None}
        headers[HEADER] = header_of(Carried(view.client.environment, view.generation, ids))

    def begin(self, task: Any = None, **_: Any) -> None:
        """Make a task that is about to run a request of its own."""
        if task.request.is_eager and current.VIEW.get() is not None:
            return
        carried = self._carried(task)
        snapshots = current.snapshots()
        if carried is not None:
            self._catch_up(snapshots, carried, task.name)
        view = RequestView(snapshots, lambda: {} if carried is None else carried.ids)
        # On the execution's own request: the same task may run in several threads.
        task.request.control_plane_running = Running(view, current.VIEW.set(view))

    def end(self, task: Any = None, **_: Any) -> None:
        """Let go of what `begin` took."""
        running = task.request.get("control_plane_running")
        # A message can name an attribute so; only what `begin` put there is ours.
        if isinstance(running, Running):
            task.request.control_plane_running = None
            current.VIEW.reset(running.token)
            running.view.close()

    def disconnect(self) -> None:
        """Carry nothing any more."""
        signals.before_task_publish.disconnect(self.send)
        signals.task_prerun.disconnect(self.begin)
        signals.task_postrun.disconnect(self.end)

    def _carried(self, task: Any) -> Carried | None:
        header = task.request.get(HEADER)
        if header is None:
            return None
        try:
            return parse_header(header)
        except ValueError as error:
            if not self._complained:
                self._complained = True
                _log.warning(
                    "task %s: header %s: %s; it is ignored, and so are others silently",
                    shown(task.name),
                    HEADER,
                    error,
                )
            return None

    def _catch_up(self, snapshots: Snapshots, carried: Carried, task: str) -> None:
        """Wait, not long, for the generation the task was sent at."""
        client = snapshots.client
        newest = snapshots.newest()
        if newest is not None and newest.generation >= carried.generation:
            return
        if client.environment != carried.environment:
            return
        now = self._clock()
        if self._patient_at is not None and now < self._patient_at:
            return
        try:
            client.wait_for(carried.generation, self._wait_seconds)
        except WaitTimeout as error:
            self._patient_at = now + IMPATIENT_SECONDS
            _log.warning(
                "task %s: %s; it goes on with what there is, and for %d s no task waits",
                shown(task),
                shown(error),
                IMPATIENT_SECONDS,
            )


def _is_id(value: object) -> bool:
    if type(value) is int:
        return -MAX_NUMBER <= value < MAX_NUMBER
    return _is_text(value, MAX_ID_BYTES)


def _is_text(value: object, limit: int) -> bool:
    """Whether it is text of at most so many bytes."""
    if not isinstance(value, str) or len(value) > limit:
        return False
    try:
        return len(value.encode()) <= limit
    except UnicodeEncodeError:
        return False
