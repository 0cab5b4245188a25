"""A task runs for the caller of the request that sent it, and on its generation or a later one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from hypothesis import given
from hypothesis import strategies as st
from tests.integrations import celery_application

from control_plane.integrations import current
from control_plane.integrations.celery import (
    HEADER,
    IMPATIENT_SECONDS,
    Carried,
    TaskCarrier,
    connect,
    header_of,
    parse_header,
)
from control_plane.testing import ReplicaKit, replica

WAIT = 20
SENT: list[dict[str, Any]] = []


@pytest.fixture
def carrier(kit: ReplicaKit) -> Iterator[TaskCarrier]:
    made = connect(wait_seconds=0.05)
    yield made
    made.disconnect()


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    """A worker in a thread of this process, behind a broker in memory."""
    made = Celery("tests", broker="memory://", backend="cache+memory://")
    made.conf.broker_transport_options = {"polling_interval": 0.01}

    @made.task(shared=False, name="answers")  # type: ignore[untyped-decorator]
    def answers() -> list[object]:
        return seen()

    @made.task(shared=False, name="outer")  # type: ignore[untyped-decorator]
    def outer() -> None:
        answers.apply_async(task_id="inner")

    @made.task(shared=False, name="again", bind=True, max_retries=1)  # type: ignore[untyped-decorator]
    def again(self: Any) -> list[object]:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return seen()

    @made.task(shared=False, name="broken")  # type: ignore[untyped-decorator]
    def broken() -> None:
        raise ZeroDivisionError(str(seen()))

    # A worker sets up the logging of its process, which is the one of all other tests.
    setup_logging.connect(nothing)
    with start_worker(made, perform_ping_check=False, shutdown_timeout=30):
        yield made
    setup_logging.disconnect(nothing)
    made.close()


def nothing(**sent: Any) -> None:
    """Receive a signal, and so do in place of Celery what it would do."""


def seen() -> list[object]:
    flags = current.flags()
    return [flags.is_enabled("theirs"), current.config().get("db.url"), current.generation()]


def result(app: Celery, name: str, **options: Any) -> Any:
    return app.tasks[name].apply_async(**options).get(timeout=WAIT, interval=0.01)


def test_a_task_runs_for_the_caller_of_the_request_that_sent_it(
    app: Celery, carrier: TaskCarrier
) -> None:
    with current.request(tenant_id="acme", user_id="u1"):
        assert result(app, "answers") == [True, "theirs", 1]
    assert result(app, "answers") == [False, "base", 1]


def test_a_task_sent_by_a_task_runs_for_the_same_caller(app: Celery, carrier: TaskCarrier) -> None:
    with current.request(tenant_id="acme"):
        result(app, "outer")
    assert app.AsyncResult("inner").get(timeout=WAIT, interval=0.01)[0] is True


def test_a_task_tried_again_runs_for_the_same_caller(app: Celery, carrier: TaskCarrier) -> None:
    with current.request(tenant_id="acme"):
        assert result(app, "again")[0] is True


def test_after_a_task_that_raised_nothing_is_bound(app: Celery, carrier: TaskCarrier) -> None:
    with current.request(tenant_id="acme"), pytest.raises(ZeroDivisionError, match="True"):
        result(app, "broken")
    assert result(app, "answers")[0] is False


def test_a_task_run_in_place_belongs_to_the_request_around_it(
    app: Celery, carrier: TaskCarrier, kit: ReplicaKit
) -> None:
    with current.request(tenant_id="acme"):
        assert app.tasks["answers"].apply().get()[2] == 1
        kit.set_flag("x", False)
        assert app.tasks["answers"].apply().get() == [True, "theirs", 1]
    assert app.tasks["answers"].apply().get() == [False, "base", 2]
    assert current.VIEW.get() is None


@pytest.mark.parametrize(
    "header",
    [
        "text",
        [],
        {},
        {"generation": True},
        {"generation": -1},
        {"generation": 1 << 63},
        {"generation": 1, "environment": 7},
        {"generation": 1, "environment": "e" * 65},
        {"generation": 1, "tenant_id": {"acme": 1}},
        {"generation": 1, "tenant_id": "a" * 513},
        {"generation": 1, "user_id": 1.5},
        {"generation": 1, "user_id": 1 << 64},
    ],
)
def test_a_header_out_of_form_is_ignored_with_one_line(
    header: Any, app: Celery, carrier: TaskCarrier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "control_plane"):
        for _ in range(2):
            assert result(app, "answers", headers={HEADER: header}) == [False, "base", 1]
    [line] = [record.message for record in caplog.records if record.name.startswith("control")]
    assert line.startswith("task answers: header control_plane: ")
    assert len(line) < 200


def test_a_message_cannot_pass_for_what_a_task_holds(app: Celery, carrier: TaskCarrier) -> None:
    forged = {"control_plane_running": ["anything"]}
    assert result(app, "answers", headers=forged) == [False, "base", 1]
    task = Task()
    task.request.update(forged)
    # Nothing began, so nothing is let go of.
    carrier.end(task)


ids = st.one_of(st.text(), st.integers(), st.text(min_size=500, max_size=600))
names = st.sampled_from(["user_id", "tenant_id", "targeting_key"])


@given(st.dictionaries(names, ids), st.integers(0, (1 << 63) - 1))
def test_what_is_sent_is_what_is_read(bound: dict[str, Any], generation: int) -> None:
    header = header_of(Carried("production", generation, bound))
    found = parse_header(header)
    assert (found.environment, found.generation) == ("production", generation)
    assert found.ids.items() <= bound.items()
    assert header_of(found) == header


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | names, inner),
)
near = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("environment", "generation", "user_id", "tenant_id"), anything)
)


@given(anything | near)
def test_any_header_is_read_or_refused(header: Any) -> None:
    with suppress(ValueError):
        found = parse_header(header)
        assert all(type(value) in (int, str) for value in found.ids.values())


class Task:
    """What a worker hands to the signals, for tests of their order alone."""

    name = "answers"

    def __init__(self, header: Any = None) -> None:
        from celery.app.task import Context

        self.request = Context({HEADER: header})


def header(generation: int, environment: str = "test") -> dict[str, Any]:
    return {"generation": generation, "environment": environment, "tenant_id": "acme"}


def test_a_task_waits_for_its_generation_until_it_is_there(kit: ReplicaKit) -> None:
    carrier = TaskCarrier(5)
    waited: list[int] = []
    task = Task(header(2))
    with replacing(kit, "wait_for", lambda wanted, _: waited.append(kit.set_flag("x", False))):
        carrier.begin(task)
    assert (waited, current.generation()) == ([2], 2)
    assert (current.flags().is_enabled("x"), current.flags().is_enabled("theirs")) == (False, True)
    carrier.end(task)
    assert current.VIEW.get() is None


def test_a_task_does_not_wait_for_what_is_there_or_is_of_another_environment(
    kit: ReplicaKit,
) -> None:
    carrier = TaskCarrier(5)
    with replacing(kit, "wait_for", lambda *_: pytest.fail("waited")):
        for given_header in (header(1), header(9, "production"), None):
            task = Task(given_header)
            carrier.begin(task)
            carrier.end(task)


def test_a_node_that_is_cut_off_holds_up_one_task_and_says_so(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    carrier = TaskCarrier(0.01, lambda: now[0])
    waits: list[int] = []
    wait_for = kit.wait_for

    def counted(generation: int, timeout_seconds: float) -> None:
        waits.append(generation)
        wait_for(generation, timeout_seconds)

    with replacing(kit, "wait_for", counted), caplog.at_level(logging.WARNING, "control_plane"):
        for moment in (0.0, IMPATIENT_SECONDS - 0.1, IMPATIENT_SECONDS):
            now[0] = moment
            task = Task(header(5))
            carrier.begin(task)
            # It goes on with what there is, for its caller.
            assert (current.generation(), current.flags().is_enabled("theirs")) == (1, True)
            carrier.end(task)
    assert waits == [5, 5]
    assert [record.message.partition(";")[0][-24:] for record in caplog.records] == [
        "5 within 0.01 s, found 1"
    ] * 2


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a worker with a prefork pool, and ends it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(root: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, celery_application.__file__, str(tmp_path), root]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        # With its pool; a worker that is asked to end takes up to ten seconds over it.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def test_a_pool_of_forked_processes_runs_tasks_for_their_callers(
    tmp_path: Path, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    app = celery_application.made(tmp_path)
    flags = {"x": True, "theirs": for_acme()}
    with replica(flags=flags) as kit, current.using(kit):
        process = worker(kit.replica)
        sender = connect()
        try:
            with current.request(tenant_id="acme", plan="secret"):
                first = app.tasks["answers"].apply_async().get(timeout=WAIT, interval=0.02)
            kit.set_flag("x", False)
            with current.request(tenant_id="other", user_id=7):
                second = app.tasks["answers"].apply_async().get(timeout=WAIT, interval=0.02)
        finally:
            sender.disconnect()
        pool = {first.pop("process"), second.pop("process")}
        assert not pool & {process.pid, os.getpid()}
    app.close()
    ids = {"tenant_id": "acme"}
    assert first == {"x": True, "theirs": True, "generation": 1, "context": ids}
    ids = {"tenant_id": "other", "user_id": 7}
    assert second == {"x": False, "theirs": False, "generation": 2, "context": ids}


def for_acme() -> dict[str, Any]:
    rule = {"name": "acme", "when": {"tenant_id": "acme"}, "serve": "on"}
    return {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}


class replacing:
    """One call of a client replaced inside a block; it has no place for one of its own."""

    def __init__(self, kit: ReplicaKit, name: str, call: Any) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(type(kit), name, lambda _, *arguments: call(*arguments))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
