"""Handlers held to their tool's contract: inputs, outputs, time, retries and the breaker."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import (
    CircuitOpen,
    ManifestInvalid,
    NotFound,
    ToolInputInvalid,
    ToolOutputInvalid,
    ToolTimeout,
)
from control_plane.registries.breaker import Breaker
from control_plane.registries.contracts import AsyncBoundTool, BoundTool, bound
from control_plane.testing import ReplicaKit, replica

INPUTS = {
    "type": "object",
    "properties": {
        "customer_id": {"type": "string", "minLength": 2},
        "limit": {"type": "integer", "maximum": 10},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "tree": {"$ref": "#/$defs/tree"},
    },
    "required": ["customer_id"],
    "additionalProperties": False,
    "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
}
OUTPUTS = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tool(version: str = "1.0.0", **metadata: Any) -> dict[str, Any]:
    schemas = {"inputs_schema": INPUTS, "outputs_schema": OUTPUTS}
    return {
        "name": "crm_tool",
        "version": version,
        "metadata": {"description": "asks", **schemas, **metadata},
    }


def named(customer_id: str, **more: Any) -> dict[str, Any]:
    return {"name": customer_id}


async def named_later(customer_id: str, **more: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"name": customer_id}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(tools=[tool()]) as kit:
        yield kit


def held(kit: ReplicaKit, handler: Callable[..., Any], **options: Any) -> BoundTool[..., Any]:
    """A binding with a clock of the test's and no waiting between attempts."""
    found = bound(
        kit.registry._load, "crm_tool", handler, None, sleep=lambda seconds: None, **options
    )
    assert isinstance(found, BoundTool)
    return found


def held_async(
    kit: ReplicaKit, handler: Callable[..., Any], **options: Any
) -> AsyncBoundTool[..., Any]:
    async def no_wait(seconds: float) -> None:
        await asyncio.sleep(0)

    found = bound(kit.registry._load, "crm_tool", handler, None, sleep=no_wait, **options)
    assert isinstance(found, AsyncBoundTool)
    return found


class Failing:
    """Raises as often as it is told, then answers."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.calls = 0

    def __call__(self, customer_id: str) -> dict[str, Any]:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise ConnectionError("the backend is away")
        return {"name": customer_id}


class FailingLater(Failing):
    async def __call__(self, customer_id: str) -> dict[str, Any]:  # type: ignore[override]
        return super().__call__(customer_id)


# What passes


def test_a_call_that_keeps_the_contract_is_the_handlers(kit: ReplicaKit) -> None:
    crm = kit.registry.bind("crm_tool", named)
    assert crm(customer_id="c1", limit=3) == {"name": "c1"}
    assert (crm.state, crm.counts.calls, crm.counts.succeeded) == ("closed", 1, 1)
    assert crm.reference == "tool/crm_tool@1.0.0"


async def test_a_coroutine_function_is_awaited(kit: ReplicaKit) -> None:
    crm = kit.registry.bind("crm_tool", named_later)
    assert await crm(customer_id="c1") == {"name": "c1"}
    assert crm.counts.succeeded == 1


def test_an_input_that_does_not_fit_never_reaches_the_handler(kit: ReplicaKit) -> None:
    handler = Failing(0)
    crm = kit.registry.bind("crm_tool", handler)
    with pytest.raises(ToolInputInvalid) as caught:
        crm(customer_id=7)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "tool/crm_tool@1.0.0: expected a string, found a whole number at customer_id"
    )
    assert caught.value.path == ("customer_id",)
    assert (handler.calls, crm.counts.invalid_inputs, crm.counts.failed) == (0, 1, 0)


def test_inputs_are_given_by_keyword(kit: ReplicaKit) -> None:
    with pytest.raises(TypeError, match="expected inputs by keyword, found 1 by position"):
        kit.registry.bind("crm_tool", named)("c1")


def test_an_answer_that_does_not_fit_is_refused_and_counts_as_failure(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", circuit_breaker_threshold=1, retry_attempts=5))
    crm = held(kit, lambda customer_id: {"name": 3})
    with pytest.raises(ToolOutputInvalid) as caught:
        crm(customer_id="c1")
    assert str(caught.value) == (
        "tool/crm_tool@1.1.0: expected a string, found a whole number at name in the handler's"
        " answer; mend the handler"
    )
    # Once: what the handler did has happened.
    assert crm.counts.invalid_outputs == 1
    assert crm.counts.retried == 0
    assert crm.state == "open"


@pytest.mark.parametrize("answer", [None, [], "x", object(), float("nan"), {1: 2}, b"x", {"name"}])
def test_an_answer_of_any_other_shape_is_an_error_of_ours(kit: ReplicaKit, answer: Any) -> None:
    with pytest.raises(ToolOutputInvalid):
        held(kit, lambda customer_id: answer)(customer_id="c1")


def test_values_too_deep_for_the_engine_are_refused(kit: ReplicaKit) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    doubling: list[Any] = []
    for _ in range(60):
        doubling = [doubling, doubling]
    crm = held(kit, named)
    for tree in (deep, endless, doubling):
        with pytest.raises(ToolInputInvalid, match="expected JSON at most 64 levels deep"):
            crm(customer_id="c1", tree=tree)
    # Python frees what is that deep step by step, too.
    while deep:
        deep = deep.pop()


# What errors say

_MARK = "s3cr3t"
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: _MARK + text)
_NUMBERS = st.integers(10**9, 10**12)
_VALUES = st.recursive(
    _TEXTS | _NUMBERS | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(("customer_id", "limit", "labels", "tree")) | _TEXTS


def _numbers(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


@pytest.fixture(scope="module")
def echoing() -> Iterator[Callable[..., Any]]:
    """A tool that answers with its input, so that what is wrong with an answer is told as well."""
    with replica(tools=[tool()]) as kit:
        yield kit.registry.bind("crm_tool", lambda **inputs: {"name": inputs.get("limit")})


def refusal(call: Callable[[], Any]) -> ToolInputInvalid | ToolOutputInvalid:
    with pytest.raises((ToolInputInvalid, ToolOutputInvalid)) as caught:
        call()
    return caught.value


@settings(max_examples=150)
@given(st.dictionaries(_FIELDS, _VALUES, max_size=4))
def test_an_error_holds_nothing_of_the_values(
    echoing: Callable[..., Any], inputs: dict[str, Any]
) -> None:
    # No input passes: where it fits, the answer has no name that is text.
    error = refusal(lambda: echoing(**inputs))
    told = "".join((str(error), repr(error), repr(error.path), repr(error.args)))
    assert (error.__cause__, error.__context__) == (None, None)
    assert _MARK not in told
    assert not [number for number in _numbers(inputs) if number in told]


def test_a_key_the_schema_does_not_name_is_a_value_too(kit: ReplicaKit) -> None:
    with pytest.raises(ToolInputInvalid) as caught:
        held(kit, named)(customer_id="c1", labels={"jane@example.org": 3})
    assert caught.value.path == ("labels", "*")
    assert "jane" not in str(caught.value)


def test_what_is_no_json_is_told_with_its_place(kit: ReplicaKit) -> None:
    with pytest.raises(ToolInputInvalid) as caught:
        held(kit, named)(customer_id="c1", labels={"a": object()})
    assert caught.value.path == ("labels", "*")
    for text in ("\ud800", type("Text", (str,), {})("c1")):
        with pytest.raises(ToolInputInvalid, match="expected Unicode text and plain values"):
            held(kit, named)(customer_id=text)


def test_what_the_handler_raises_is_its_own(kit: ReplicaKit) -> None:
    with pytest.raises(ConnectionError, match="the backend is away"):
        held(kit, Failing(1))(customer_id="c1")


# Time


def test_a_function_that_hangs_is_not_waited_for(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=30, retry_attempts=3))
    going = threading.Event()
    ended = threading.Event()

    def hangs(customer_id: str) -> dict[str, Any]:
        going.wait(20)
        ended.set()
        return {"name": customer_id}

    with held(kit, hangs) as crm:
        with pytest.raises(
            ToolTimeout, match="within 30 ms, found none; the handler is not waited"
        ):
            crm(customer_id="c1")
        # It was not tried again while it still runs, and runs on.
        assert crm.counts.timed_out == 1
        assert not ended.is_set()
        going.set()
        assert ended.wait(20)
        kit.put_tool(tool("1.2.0", timeout_ms=5_000))
        assert crm(customer_id="c1") == {"name": "c1"}


async def test_a_coroutine_that_hangs_is_cancelled_and_tried_again(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=20, retry_attempts=1))
    cancelled = []

    async def hangs(customer_id: str) -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(customer_id)
            raise
        return {}

    crm = held_async(kit, hangs)
    with pytest.raises(ToolTimeout, match="it was cancelled"):
        await crm(customer_id="c1")
    assert cancelled == ["c1", "c1"]
    assert (crm.counts.timed_out, crm.counts.retried) == (2, 1)


async def test_a_timeout_of_the_handlers_own_is_a_failure_like_others(kit: ReplicaKit) -> None:
    async def impatient(customer_id: str) -> dict[str, Any]:
        raise TimeoutError("mine")

    crm = held_async(kit, impatient)
    with pytest.raises(TimeoutError, match="mine"):
        await crm(customer_id="c1")
    assert (crm.counts.failed, crm.counts.timed_out) == (1, 0)


async def test_an_answer_after_its_cancellation_is_late(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=20))

    async def stubborn(customer_id: str) -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return {"name": customer_id}
        return {}

    with pytest.raises(ToolTimeout):
        await held_async(kit, stubborn)(customer_id="c1")


def test_a_function_in_time_sees_its_callers_context_variables(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=5_000))
    tenant = contextvars.ContextVar("tenant", default="none")
    tenant.set("acme")
    with held(kit, lambda customer_id: {"name": tenant.get()}) as crm:
        assert crm(customer_id="c1") == {"name": "acme"}


def test_given_up_calls_are_bounded(kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.registries.workers.MAX_GIVEN_UP", 2)
    kit.put_tool(tool("1.1.0", timeout_ms=5))
    going = threading.Event()

    def hangs(customer_id: str) -> dict[str, Any]:
        going.wait(20)
        return {"name": customer_id}

    with held(kit, hangs) as crm:
        for _ in range(2):
            with pytest.raises(ToolTimeout):
                crm(customer_id="c1")
        with pytest.raises(CircuitOpen, match="nobody waits"):
            crm(customer_id="c1")
        assert (crm.counts.timed_out, crm.counts.refused, crm.state) == (2, 1, "closed")
        going.set()
        deadline = time.monotonic() + 20
        while crm._workers._given_up:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        kit.put_tool(tool("1.2.0", timeout_ms=5_000))
        assert crm(customer_id="c1") == {"name": "c1"}


# Retries


def test_a_failed_call_is_tried_again_as_often_as_the_manifest_says(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", retry_attempts=2))
    handler = Failing(2)
    crm = held(kit, handler)
    assert crm(customer_id="c1") == {"name": "c1"}
    assert (handler.calls, crm.counts.retried, crm.counts.failed) == (3, 2, 2)
    handler.left = 3
    with pytest.raises(ConnectionError):
        crm(customer_id="c1")
    assert handler.calls == 6


async def test_a_coroutine_is_tried_again_too(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", retry_attempts=2))
    handler = FailingLater(2)
    crm = held_async(kit, handler)
    assert await crm(customer_id="c1") == {"name": "c1"}
    assert (handler.calls, crm.counts.retried) == (3, 2)


def test_the_time_between_attempts_is_random_below_a_bound_that_doubles(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", retry_attempts=9))
    waits: list[float] = []
    for _ in range(20):
        crm = bound(kit.registry._load, "crm_tool", Failing(9), None, sleep=waits.append)
        crm(customer_id="c1")
    bounds = [min(0.1 * 2**attempt, 10.0) for attempt in range(9)]
    for attempt, most in enumerate(bounds):
        found = waits[attempt::9]
        assert all(0 <= wait <= most for wait in found)
        assert len(set(found)) == 20


def test_no_attempt_follows_once_the_breaker_is_open(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", retry_attempts=50, circuit_breaker_threshold=3))
    handler = Failing(100)
    crm = held(kit, handler)
    with pytest.raises(ConnectionError):
        crm(customer_id="c1")
    assert (handler.calls, crm.state, crm.counts.opened) == (3, "open", 1)


# The breaker


def test_the_breaker_opens_probes_and_closes(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", circuit_breaker_threshold=2))
    clock, handler = Clock(), Failing(3)
    crm = held(kit, handler, clock=clock, open_seconds=30)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            crm(customer_id="c1")
    with pytest.raises(CircuitOpen, match=r"found it open after failures; call again in 30\.0 s"):
        crm(customer_id="c1")
    assert (handler.calls, crm.counts.refused) == (2, 1)
    clock.now += 30
    assert crm.state == "half-open"
    with pytest.raises(ConnectionError):
        crm(customer_id="c1")
    assert (crm.state, crm.counts.opened) == ("open", 2)
    clock.now += 30
    assert crm(customer_id="c1") == {"name": "c1"}
    assert crm.state == "closed"


def test_inputs_that_do_not_fit_never_open_it(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", circuit_breaker_threshold=1))
    crm = held(kit, named)
    for _ in range(3):
        with pytest.raises(ToolInputInvalid):
            crm()
    assert crm.state == "closed"


async def test_a_probe_that_its_caller_cancels_makes_way_for_the_next(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", circuit_breaker_threshold=1))
    clock = Clock()
    begun = asyncio.Event()
    answers: list[Any] = [ConnectionError("away"), None, {"name": "c1"}]

    async def answer(customer_id: str) -> Any:
        found = answers.pop(0)
        if found is None:
            begun.set()
            await asyncio.sleep(30)
        if isinstance(found, Exception):
            raise found
        return found

    crm = held_async(kit, answer, clock=clock)
    with pytest.raises(ConnectionError):
        await crm(customer_id="c1")
    clock.now += 30
    probe = asyncio.ensure_future(crm(customer_id="c1"))
    await begun.wait()
    with pytest.raises(CircuitOpen, match="half-open"):
        await crm(customer_id="c1")
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert await crm(customer_id="c1") == {"name": "c1"}
    assert crm.state == "closed"


# The manifest's life


def test_a_new_version_counts_from_the_next_call_and_is_compiled_once(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control_plane.registries import contracts

    compiled: list[Any] = []
    real = contracts.compile_schema

    def counting(schema: Any, *, path: Any = ()) -> Any:
        compiled.append(path[-1])
        return real(schema, path=path)

    monkeypatch.setattr(contracts, "compile_schema", counting)
    crm = held(kit, Failing(1))
    with pytest.raises(ConnectionError):
        crm(customer_id="c1")
    kit.put_tool(tool("1.1.0", inputs_schema={"type": "object", "required": ["customer_id"]}))
    assert crm(customer_id="c") == {"name": "c"}
    assert crm.reference == "tool/crm_tool@1.1.0"
    for number in range(5):
        kit.set_flag("other", number % 2 == 0)
        kit.put_tool({**tool(), "name": "another"})
        crm(customer_id="c")
    assert compiled == ["inputs_schema", "outputs_schema"] * 2


def test_a_new_version_begins_with_a_closed_breaker(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", circuit_breaker_threshold=1))
    crm = held(kit, Failing(1))
    with pytest.raises(ConnectionError):
        crm(customer_id="c1")
    assert crm.state == "open"
    kit.put_tool(tool("1.2.0", circuit_breaker_threshold=1))
    assert crm(customer_id="c1") == {"name": "c1"}
    assert crm.state == "closed"


def test_a_yanked_version_is_refused_unless_the_binding_names_it(kit: ReplicaKit) -> None:
    followed = kit.registry.bind("crm_tool", named)
    pinned = kit.registry.bind("crm_tool", named, "1.0.0")
    kit.set_status("tool", "crm_tool", "1.0.0", "yanked", reason="leaks", successor="1.1.0")
    for call in (lambda: followed(customer_id="c1"), lambda: kit.registry.bind("crm_tool", named)):
        with pytest.raises(NotFound, match=r"not yanked, found 1\.0\.0 \(leaks\)"):
            call()
    assert pinned(customer_id="c1") == {"name": "c1"}
    kit.put_tool(tool("1.1.0"))
    assert followed(customer_id="c1") == {"name": "c1"}


def test_what_cannot_be_bound_says_so_at_once(kit: ReplicaKit) -> None:
    bare = {"name": "bare", "metadata": {"description": "says nothing of its inputs"}}
    kit.put_tool(bare)
    with pytest.raises(ManifestInvalid, match="expected an inputs_schema to bind, found none"):
        kit.registry.bind("bare", named)
    with pytest.raises(NotFound):
        kit.registry.bind("nobody", named)
    with pytest.raises(TypeError, match="expected a handler that can be called, found int"):
        kit.registry.bind("crm_tool", 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="expected open_seconds from 0"):
        kit.registry.bind("crm_tool", named, open_seconds=-1)


def test_without_its_packages_binding_says_what_to_install(kit: ReplicaKit) -> None:
    program = (
        "import sys; sys.modules['tenacity'] = None\n"
        "from control_plane import RegistryManager\n"
        f"registry = RegistryManager(replica={str(kit.variables['CONTROL_PLANE_REPLICA'])!r})\n"
        "try:\n    registry.bind('crm_tool', print)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == (
        "MissingExtra expected the package tenacity, found none;"
        " pip install 'control-plane[contracts]'"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_calls_with_locks_and_threads_of_its_own(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=5_000, circuit_breaker_threshold=1))
    with held(kit, named) as crm:
        crm(customer_id="c1")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer = json.dumps([crm(customer_id="c2"), crm.counts.calls])
            except BaseException as error:
                answer = json.dumps(repr(error))
            os.write(writing, answer.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            assert json.loads(stream.read()) == [{"name": "c2"}, 1]
        os.waitpid(child, 0)


# Threads and asyncio at once


def test_of_all_that_come_at_once_one_is_the_probe() -> None:
    """Threads and coroutines on several loops ask the same breaker at the same moment."""
    clock = Clock()
    breaker = Breaker(1, 30, clock)
    rounds, threads, coroutines = 30, 4, 10
    admitted: list[int] = []
    start = threading.Barrier(threads + 2 + 1)
    end = threading.Barrier(threads + 2 + 1)

    def ask() -> None:
        period = breaker.admit()
        if period is not None:
            admitted.append(period)

    async def ask_later() -> None:
        await asyncio.sleep(0)
        ask()

    async def ask_together() -> None:
        await asyncio.gather(*(ask_later() for _ in range(coroutines)))

    def asking(once: Callable[[], None]) -> None:
        for _ in range(rounds):
            start.wait(20)
            once()
            end.wait(20)

    asks = [ask] * threads + [lambda: asyncio.run(ask_together())] * 2
    running = [threading.Thread(target=asking, args=(each,)) for each in asks]
    for thread in running:
        thread.start()
    first = breaker.admit()
    assert first is not None
    assert breaker.failed(first)
    for number in range(rounds):
        clock.now += 30
        admitted.clear()
        start.wait(20)
        end.wait(20)
        (probe,) = admitted
        if number % 3:
            assert breaker.failed(probe)
        else:
            # It closes, and one failure opens it again; what began before says nothing.
            breaker.succeeded(probe)
            period = breaker.admit()
            assert (breaker.state, period) == ("closed", probe + 1)
            assert not breaker.failed(probe)
            assert breaker.failed(probe + 1)
        assert breaker.state == "open"
    for thread in running:
        thread.join(20)


def test_calls_from_threads_and_loops_while_the_manifest_changes(kit: ReplicaKit) -> None:
    kit.put_tool(tool("1.1.0", timeout_ms=5_000, circuit_breaker_threshold=1_000_000))
    handled = [0]
    lock = threading.Lock()

    def handler(customer_id: str) -> dict[str, Any]:
        with lock:
            handled[0] += 1
            if handled[0] % 5 == 0:
                raise ConnectionError
        return {"name": customer_id}

    async def later(customer_id: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return handler(customer_id)

    answered: list[str] = []

    def calls(crm: Any) -> None:
        for number in range(200):
            try:
                assert crm(customer_id=f"c{number}") == {"name": f"c{number}"}
                answered.append("ok")
            except ConnectionError:
                answered.append("failed")

    async def gathered(crm: Any) -> None:
        for _ in range(10):
            found = await asyncio.gather(
                *(crm(customer_id=f"c{each}") for each in range(20)), return_exceptions=True
            )
            answered.extend("failed" if isinstance(each, Exception) else "ok" for each in found)

    with held(kit, handler) as plain:
        coroutine = held_async(kit, later)
        threads = [threading.Thread(target=calls, args=(plain,)) for _ in range(3)]
        threads += [
            threading.Thread(target=lambda: asyncio.run(gathered(coroutine))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for number in range(10):
            kit.put_tool(tool(f"1.2.{number}", timeout_ms=5_000))
        for thread in threads:
            thread.join(60)
        assert len(answered) == handled[0] == 1000
        plain(customer_id="the last")
    assert answered.count("failed") == 200
    counted = [plain.counts, coroutine.counts]
    assert sum(counts.succeeded for counts in counted) == 801
    assert sum(counts.failed for counts in counted) == 200
    assert sum(counts.calls for counts in counted) == 1001
    assert plain.reference == "tool/crm_tool@1.2.9"
