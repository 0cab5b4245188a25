"""A tool's manifest kept at run time: what passes between a caller and the handler behind a tool.

For every call, in this order:

1. The contract is the newest of the version asked for, or of the one on channel ``stable``. It is
   looked up at each call and compiled once for each manifest; a call that began ends with the
   contract it began with. While the replica cannot be read, the last contract stands.
2. What the registry does not give out is not called: once the stable version is yanked, or the
   tool deleted, the next call raises `NotFound`. A binding that names its version keeps it when it
   is yanked.
3. The input fits ``inputs_schema``, or the handler is not called.
4. An attempt passes the breaker of that version (``circuit_breaker_threshold``), which a new
   version begins closed.
5. The attempt has ``timeout_ms``. A coroutine is cancelled then, and one that will not end holds
   its caller. A plain function runs in a thread of its own and is no longer waited for, but *it
   runs on*: see `workers`. Without ``timeout_ms`` a plain function runs in the caller's thread.
6. The output fits ``outputs_schema``, where there is one.
7. What the handler raised, and a coroutine's timeout, is tried again up to ``retry_attempts``
   times, after a random time up to a bound that doubles (100 ms, 200 ms, … at most 10 s; "full
   jitter"), as long as the breaker is not open. A wrong output is not: the effect has happened and
   asking again would not change the handler. A plain function's timeout is not: it still runs.

A failure of the tool, for its breaker, is an exception of the handler, a timeout or a wrong
output; never an invalid input or a call its caller cancelled. Each attempt counts.

The handler's own exceptions reach the caller as they are. Errors of this module name the place and
what the schema expects there, and hold nothing of the values: keys that the schema does not name
are values too and become ``*``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from functools import partial
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, ParamSpec, Self, TypeVar

from control_plane.errors import (
    CircuitOpen,
    ManifestInvalid,
    MissingExtra,
    ReplicaInvalid,
    ToolInputInvalid,
    ToolOutputInvalid,
    ToolTimeout,
    Unavailable,
)
from control_plane.names import MAX_DEPTH
from control_plane.registries.breaker import Breaker, State
from control_plane.registries.workers import MAX_GIVEN_UP, TookTooLong, TooManyGivenUp, Workers

try:
    from tenacity import (
        AsyncRetrying,
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    from control_plane.manifests.json_schema import CompiledSchema, compile_schema, written_path
except ModuleNotFoundError as error:
    if (error.name or "control_plane").startswith("control_plane"):
        raise
    raise MissingExtra.of(error.name, "contracts") from error

if TYPE_CHECKING:
    from control_plane.registries.manifests import Loaded

    Load = Callable[[str, str, str | None], Loaded]

P = ParamSpec("P")
R = TypeVar("R")

OPEN_SECONDS: Final = 30.0
FIRST_WAIT_SECONDS: Final = 0.1
MAX_WAIT_SECONDS: Final = 10.0
MAX_VALUES: Final = 1_000_000
"""How many values one input or output may hold; a list may hold itself twice."""
_MAX_PLACES: Final = 10_000
UNNAMED: Final = "*"
"""What stands for a key that only the value has."""

Path = tuple[str | int, ...]


class Counts(NamedTuple):
    """What became of a binding's calls since it was made, over all versions."""

    calls: int = 0
    succeeded: int = 0
    failed: int = 0
    """Attempts in which the handler raised."""
    timed_out: int = 0
    """Attempts that took longer than ``timeout_ms``."""
    invalid_inputs: int = 0
    invalid_outputs: int = 0
    retried: int = 0
    """Attempts after the first."""
    refused: int = 0
    """Attempts not made: the breaker was open, or too many given-up ones still ran."""
    opened: int = 0
    """How often the breaker opened."""


class _Tally:
    """Counts that any thread may add to."""

    __slots__ = ("_counted", "_lock")

    def __init__(self) -> None:
        self._lock = Lock()
        self._counted = dict.fromkeys(Counts._fields, 0)

    def add(self, *names: str) -> None:
        with self._lock:
            for name in names:
                self._counted[name] += 1

    def snapshot(self) -> Counts:
        with self._lock:
            return Counts(**self._counted)


class _Shape:
    """A schema that judges values and words its refusals without them."""

    __slots__ = ("_compiled", "_names", "first_finding")

    def __init__(self, schema: Any, path: Path) -> None:
        self._compiled: CompiledSchema = compile_schema(schema, path=path)
        self.first_finding = self._compiled.first_finding
        self._names = frozenset(_named(schema))

    def problem(self, value: Any) -> tuple[str, Path] | None:
        """``expected a string, found a number at customer.id``, with the path; None when it fits.

        What is no JSON, or is too deep for the engine's stack, is a problem too.
        """
        if not _is_json(value):
            path = tuple(self._known(step) for step in _place_of_other(value))
            place = f" at {written_path(path)}" if path else ""
            return (
                f"expected JSON at most {MAX_DEPTH} levels deep, found something else{place}",
                path,
            )
        try:
            finding = self.first_finding(value)
        except ValueError:
            # Half a surrogate pair, say, or a class derived from str. Its words hold the value.
            return "expected Unicode text and plain values, found something else", ()
        if finding is None:
            return None
        path = tuple(self._known(step) for step in finding.path)
        expected = "no other field" if finding.keyword in _KEYS else finding.expected
        place = f" at {written_path(path)}" if path else ""
        found = _kind_at(value, finding.path) if finding.keyword == "type" else "something else"
        if finding.keyword == "required":
            found = "none"
        return f"expected {expected}, found {found}{place}", path

    def _known(self, step: str | int) -> str | int:
        return step if isinstance(step, int) or step in self._names else UNNAMED


_KEYS: Final = frozenset(("additionalProperties", "unevaluatedProperties", "falseSchema"))


class _Contract:
    """One manifest, compiled."""

    __slots__ = (
        "breaker", "inputs", "loaded", "outputs", "reference", "retries", "timeout_seconds",
    )  # fmt: skip

    def __init__(self, loaded: Loaded, breaker: Callable[[int | None], Breaker]) -> None:
        document = loaded.document
        metadata = document["metadata"]
        self.loaded = loaded
        self.reference = f"{loaded.kind}/{document['name']}@{document['version']}"
        if "inputs_schema" not in metadata:
            raise _unbindable(self.reference, metadata)
        try:
            self.inputs = _Shape(metadata["inputs_schema"], ("metadata", "inputs_schema"))
            schema = metadata.get("outputs_schema")
            self.outputs = (
                None if schema is None else _Shape(schema, ("metadata", "outputs_schema"))
            )
        except ManifestInvalid as error:
            raise ManifestInvalid(f"{self.reference}: {error}", error.path) from error
        milliseconds = metadata.get("timeout_ms")
        self.timeout_seconds: float | None = milliseconds and milliseconds / 1000
        self.retries: int = metadata.get("retry_attempts", 0)
        self.breaker = breaker(metadata.get("circuit_breaker_threshold"))

    def late(self, ending: str) -> ToolTimeout:
        milliseconds = self.loaded.document["metadata"]["timeout_ms"]
        return ToolTimeout(
            f"{self.reference}: expected an answer within {milliseconds} ms, found none; {ending}"
        )


class _Attempt:
    """One attempt's passage through the breaker, and what its end says about the tool."""

    __slots__ = ("_breaker", "_contract", "_period", "_tally")

    def __init__(self, contract: _Contract, tally: _Tally) -> None:
        self._contract = contract
        self._breaker = contract.breaker
        self._tally = tally
        self._period = 0

    def __enter__(self) -> None:
        period = self._breaker.admit()
        if period is None:
            self._tally.add("refused")
            seconds = self._breaker.retry_after_seconds()
            raise CircuitOpen(
                f"{self._contract.reference}: expected a closed circuit, found it"
                f" {self._breaker.state} after failures; call again in {seconds:.1f} s",
                seconds,
            )
        self._period = period

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._breaker.succeeded(self._period)
            self._tally.add("succeeded")
            return
        if not isinstance(error, Exception) or isinstance(error, _NotAttempted):
            self._breaker.abandoned(self._period)
            return
        self._tally.add(_COUNTED.get(type(error), "failed"))
        if self._breaker.failed(self._period):
            self._tally.add("opened")


class _NotAttempted(CircuitOpen):
    """Refused after the breaker let it pass; says nothing about the tool."""


_COUNTED: Final[dict[type[BaseException], str]] = {
    ToolTimeout: "timed_out",
    ToolOutputInvalid: "invalid_outputs",
}


class _Bound(Generic[P, R]):
    """What bindings of functions and of coroutine functions have in common."""

    _RETRIED_TIMEOUTS: bool

    def __init__(
        self,
        load: Load,
        name: str,
        handler: Callable[P, Any],
        version: str | None = None,
        *,
        open_seconds: float = OPEN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        """Compile the contract now, so that what cannot be bound fails here.

        Raises:
            NotFound: there is no such tool or version.
            ManifestInvalid: the tool has no ``inputs_schema``.
        """
        self.handler = handler
        self._load = load
        self._name = name
        self._version = version
        self._open_seconds = open_seconds
        self._clock = clock
        self._sleep = sleep
        self._tally = _Tally()
        self._began()
        self._contract = self._compiled(load("tool", name, version))

    def _began(self) -> None:
        """What belongs to this process; a fork leaves locks and threads behind."""
        self._process = os.getpid()
        self._compiling = Lock()

    @property
    def reference(self) -> str:
        """``tool/NAME@VERSION`` of the contract that the last call was held to."""
        return self._contract.reference

    @property
    def state(self) -> State:
        """The breaker of that version: closed, open or half-open."""
        return self._contract.breaker.state

    @property
    def counts(self) -> Counts:
        """What became of the calls so far."""
        return self._tally.snapshot()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.reference} {self.state}>"

    def _compiled(self, loaded: Loaded) -> _Contract:
        return _Contract(
            loaded, lambda threshold: Breaker(threshold, self._open_seconds, self._clock)
        )

    def _current(self) -> _Contract:
        """The contract for a call that begins now."""
        if os.getpid() != self._process:
            self._after_fork()
        contract = self._contract
        try:
            loaded = self._load("tool", self._name, self._version)
            return contract if loaded is contract.loaded else self._followed()
        except (Unavailable, ReplicaInvalid):
            # Old data is served: calls go on under the contract they went under.
            return contract

    def _followed(self) -> _Contract:
        """The contract of what there is to read now; compiled only for another manifest."""
        with self._compiling:
            # Read again under the lock: a thread that was held up must not bring back what it saw.
            loaded = self._load("tool", self._name, self._version)
            contract = self._contract
            if loaded is contract.loaded:
                return contract
            if loaded.hash == contract.loaded.hash:
                contract.loaded = loaded
                return contract
            self._contract = contract = self._compiled(loaded)
            return contract

    def _after_fork(self) -> None:
        """In a child: locks that other threads held, and their attempts, are gone."""
        self._began()
        self._tally = _Tally()
        self._contract = self._compiled(self._contract.loaded)

    def _begun(self, inputs: dict[str, Any]) -> _Contract:
        """The contract of a call whose input fits it."""
        contract = self._current()
        problem = contract.inputs.problem(inputs)
        if problem is None:
            self._tally.add("calls")
            return contract
        self._tally.add("calls", "invalid_inputs")
        text, path = problem
        raise ToolInputInvalid(f"{contract.reference}: {text}", path)

    def _fitting(self, contract: _Contract, output: Any) -> Any:
        problem = contract.outputs and contract.outputs.problem(output)
        if not problem:
            return output
        text, path = problem
        raise ToolOutputInvalid(
            f"{contract.reference}: {text} in the handler's answer; mend the handler", path
        )

    def _worth_another(self, contract: _Contract, error: BaseException) -> bool:
        if not isinstance(error, Exception) or isinstance(error, (ToolOutputInvalid, CircuitOpen)):
            return False
        if isinstance(error, ToolTimeout) and not self._RETRIED_TIMEOUTS:
            return False
        return contract.retries > 0 and contract.breaker.state != "open"

    def _again(self, contract: _Contract) -> dict[str, Any]:
        """How tenacity goes on, in its words; made for each failed call, as it keeps state."""
        return {
            "stop": stop_after_attempt(contract.retries + 1),
            "wait": wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=MAX_WAIT_SECONDS),
            "retry": retry_if_exception(partial(self._worth_another, contract)),
            "reraise": True,
            **({"sleep": self._sleep} if self._sleep else {}),
        }


class BoundTool(_Bound[P, R]):
    """A function held to a tool's contract; call it as the function, with keywords.

    It may be called from any thread. Close it to let its idle threads end at once.
    """

    _RETRIED_TIMEOUTS = False

    def _began(self) -> None:
        super()._began()
        self._workers = Workers()

    def close(self) -> None:
        """Let idle threads end."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, /, *args: P.args, **inputs: P.kwargs) -> R:
        """Call the handler.

        Raises:
            ToolInputInvalid: the handler was not called.
            ToolOutputInvalid: the handler's answer does not fit.
            ToolTimeout: no answer in time; the handler may still be running.
            CircuitOpen: the handler was not called.
            NotFound: the tool was deleted, or its channel has no version that may be used.
        """
        _check_keywords(args)
        contract = self._begun(inputs)
        try:
            return self._once(contract, inputs)
        except Exception as error:
            if not self._worth_another(contract, error):
                raise
            first = [error]

        def attempt() -> R:
            # The first attempt is made above: a call that succeeds pays nothing for retrying.
            if first:
                raise first.pop()
            self._tally.add("retried")
            return self._once(contract, inputs)

        return Retrying(**self._again(contract))(attempt)

    def _once(self, contract: _Contract, inputs: dict[str, Any]) -> R:
        with _Attempt(contract, self._tally):
            if contract.timeout_seconds is None:
                output = self.handler(**inputs)  # type: ignore[call-arg]
            else:
                output = self._timed(contract, contract.timeout_seconds, inputs)
            found: R = self._fitting(contract, output)
            return found

    def _timed(self, contract: _Contract, seconds: float, inputs: dict[str, Any]) -> Any:
        try:
            return self._workers.run(partial(self.handler, **inputs), seconds)
        except TookTooLong:
            raise contract.late("the handler is not waited for and still runs") from None
        except TooManyGivenUp:
            self._tally.add("refused")
            raise _NotAttempted(
                f"{contract.reference}: expected at most {MAX_GIVEN_UP} calls that nobody waits"
                " for, found as many still running; see why the handler hangs"
            ) from None


class AsyncBoundTool(_Bound[P, R]):
    """A coroutine function held to a tool's contract; await it with keywords, on any loop."""

    _RETRIED_TIMEOUTS = True

    async def __call__(self, /, *args: P.args, **inputs: P.kwargs) -> R:
        """Await the handler.

        Raises:
            ToolInputInvalid: the handler was not called.
            ToolOutputInvalid: the handler's answer does not fit.
            ToolTimeout: no answer in time; the handler was cancelled.
            CircuitOpen: the handler was not called.
            NotFound: the tool was deleted, or its channel has no version that may be used.
        """
        _check_keywords(args)
        contract = self._begun(inputs)
        try:
            return await self._once(contract, inputs)
        except Exception as error:
            if not self._worth_another(contract, error):
                raise
            first = [error]

        async def attempt() -> R:
            if first:
                raise first.pop()
            self._tally.add("retried")
            return await self._once(contract, inputs)

        return await AsyncRetrying(**self._again(contract))(attempt)

    async def _once(self, contract: _Contract, inputs: dict[str, Any]) -> R:
        with _Attempt(contract, self._tally):
            scope = asyncio.timeout(contract.timeout_seconds)
            try:
                async with scope:
                    output = await self.handler(**inputs)  # type: ignore[call-arg]
            except TimeoutError:
                # The handler may have raised one of its own.
                if scope.expired():
                    raise contract.late("it was cancelled") from None
                raise
            if scope.expired():
                raise contract.late("it came after it was cancelled")
            found: R = self._fitting(contract, output)
            return found


def bound(
    load: Load, name: str, handler: Callable[..., Any], version: str | None, **options: Any
) -> BoundTool[..., Any] | AsyncBoundTool[..., Any]:
    """The binding of a handler: asynchronous for a coroutine function, else plain.

    Raises:
        TypeError: for a handler that cannot be called.
        ValueError: for ``open_seconds`` below 0.
    """
    if not callable(handler):
        raise TypeError(f"expected a handler that can be called, found {type(handler).__name__}")
    if not options.get("open_seconds", 0) >= 0:
        raise ValueError(f"expected open_seconds from 0, found {options['open_seconds']!r}")
    if _is_async(handler):
        return AsyncBoundTool(load, name, handler, version, **options)
    return BoundTool(load, name, handler, version, **options)


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004
    )


def _check_keywords(args: tuple[Any, ...]) -> None:
    if args:
        raise TypeError(f"expected inputs by keyword, found {len(args)} by position")


def _unbindable(reference: str, metadata: dict[str, Any]) -> ManifestInvalid:
    if "mcp" in metadata:
        return ManifestInvalid(
            f"{reference}: expected a tool with an inputs_schema to bind, found an MCP server;"
            " connect to it as metadata.mcp says, and bind the tools it lists",
            ("metadata", "inputs_schema"),
        )
    return ManifestInvalid(
        f"{reference}: expected an inputs_schema to bind, found none; publish a version with one",
        ("metadata", "inputs_schema"),
    )


def _is_json(value: Any) -> bool:
    """Whether a value is JSON, level by level; the engine recurses without a bound of its own."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind is dict or isinstance(each, dict):
                for key in each:
                    if type(key) is not str:
                        return False
                below.extend(each.values())
            elif kind is list or kind is tuple:
                below.extend(each)
            elif kind not in _SCALARS and not _is_scalar(each):
                return False
        if not below:
            return True
        count += len(below)
        if count > MAX_VALUES:
            return False
        level = below
    return False


def _is_scalar(value: Any) -> bool:
    # NaN and the infinities are no numbers of JSON's.
    return isinstance(value, (str, int)) or (isinstance(value, float) and value - value == 0)


def _place_of_other(value: Any) -> Path:
    """Where a value stops being JSON; the top when it is too deep or too large."""
    level: list[tuple[Path, Any]] = [((), value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[Path, Any]] = []
        for path, each in level:
            if isinstance(each, dict):
                if not all(type(key) is str for key in each):
                    return path
                below.extend(((*path, key), inner) for key, inner in each.items())
            elif type(each) in (list, tuple):
                below.extend(((*path, index), inner) for index, inner in enumerate(each))
            elif type(each) not in _SCALARS and not _is_scalar(each):
                return path
            if len(below) > _MAX_PLACES:
                return ()
        level = below
    return ()


def _named(schema: Any) -> list[str]:
    """Every property name that the schema itself says."""
    found: list[str] = []
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            properties = part.get("properties")
            if isinstance(properties, dict):
                found.extend(properties)
            required = part.get("required")
            if isinstance(required, list):
                found.extend(name for name in required if isinstance(name, str))
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return found


def _kind_at(value: Any, path: Path) -> str:
    """What there is at a place, as a word."""
    try:
        for step in path:
            value = value[step]
    except (LookupError, TypeError):
        return "something else"
    return _WORDS.get(type(value), "something else")


_SCALARS: Final = frozenset((str, int, bool, type(None)))
_WORDS: Final[dict[type, str]] = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number",
    list: "a list", tuple: "a list", dict: "a mapping", type(None): "null",
}  # fmt: skip
