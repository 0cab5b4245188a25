"""From set_provider to shutdown: readiness, domains, what is closed, processes that fork."""

from __future__ import annotations

import gc
import inspect
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ProviderNotReadyError
from openfeature.provider import ProviderStatus
from openfeature.provider.no_op_provider import NoOpProvider

import control_plane.openfeature
from control_plane.openfeature import ControlPlaneProvider
from control_plane.testing import ReplicaKit, replica
from openfeature import api

from .conftest import Heard

GETTERS = {"boolean": True, "string": "d", "integer": 7, "float": 0.7, "object": {"d": 1}}
THREAD = "control-plane-openfeature"


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(flags={"on": True, "off": False}) as kit:
        yield kit


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


def test_a_provider_answers_as_soon_as_it_is_set(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The SDK initialises in a thread of its own, which may come as late as it likes.
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    api.set_provider(ControlPlaneProvider(kit, events=False))
    client = api.get_client()
    assert client.get_boolean_value("on", False) is True
    assert client.get_provider_status() is ProviderStatus.READY


def test_it_is_called_control_plane(kit: ReplicaKit) -> None:
    api.set_provider_and_wait(ControlPlaneProvider(kit))
    assert api.get_provider_metadata().name == "control-plane"
    assert Heard().next("READY").provider_name == "control-plane"


def test_a_provider_finds_the_replica_of_the_process(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_REPLICA", kit.replica)
    api.set_provider(ControlPlaneProvider())
    assert api.get_client().get_boolean_value("on", False) is True
    api.set_provider(ControlPlaneProvider(environment="staging"), "staging")
    assert api.get_client("staging").get_boolean_value("on", False) is False


def test_domains_have_providers_of_their_own(kit: ReplicaKit) -> None:
    with replica(flags={"on": False}, environment="staging") as other:
        api.set_provider(ControlPlaneProvider(kit))
        api.set_provider(ControlPlaneProvider(other), "staging")
        assert api.get_client().get_boolean_value("on", False) is True
        assert api.get_client("staging").get_boolean_value("on", True) is False
        assert api.get_client("elsewhere").get_boolean_value("on", False) is True
        heard = Heard(api.get_client("staging"))
        kit.set_flag("on", False)
        other.set_flag("on", True)
        assert heard.next("CONFIGURATION_CHANGED").metadata["environment"] == "staging"


def test_without_a_replica_callers_get_defaults_until_it_appears(tmp_path: Path) -> None:
    heard = Heard()
    api.set_provider(ControlPlaneProvider(replica=tmp_path, environment="test"))
    error = heard.next("ERROR")
    assert error.error_code == "PROVIDER_NOT_READY"
    assert "expected a replica, found" in str(error.message)
    client = api.get_client()
    assert client.get_provider_status() is ProviderStatus.ERROR
    for kind, default in GETTERS.items():
        found = getattr(client, f"get_{kind}_details")("on", default)
        assert (found.value, found.error_code) == (default, "PROVIDER_NOT_READY")
        assert "expected a replica, found" in found.error_message
    with replica(flags={"on": True}) as kit:
        (tmp_path / "test").symlink_to(Path(kit.replica) / "test")
        heard.next("READY")
        assert client.get_provider_status() is ProviderStatus.READY
        assert client.get_boolean_details("on", False).value is True
        api.shutdown()


def test_waiting_for_a_replica_that_is_not_there_says_so_at_once(tmp_path: Path) -> None:
    provider = ControlPlaneProvider(replica=tmp_path, environment="test")
    with pytest.raises(ProviderNotReadyError) as caught:
        api.set_provider_and_wait(provider)
    assert "expected a replica, found" in str(caught.value.error_message)
    with replica(flags={"on": True}) as kit:
        (tmp_path / "test").symlink_to(Path(kit.replica) / "test")
        Heard().next("READY")
        assert api.get_client().get_boolean_value("on", False) is True
        api.shutdown()


def test_shutdown_closes_what_was_opened_and_not_what_was_lent(kit: ReplicaKit) -> None:
    lent = ControlPlaneProvider(kit)
    own = ControlPlaneProvider(replica=kit.replica, environment="test")
    api.set_provider_and_wait(lent)
    api.set_provider_and_wait(own, "own")
    assert threads() == [THREAD] * 2
    api.shutdown()
    assert threads() == []
    assert kit.is_enabled("on") is True
    answer = own.resolve_boolean_details("on", False)
    assert (answer.value, answer.error_code) == (False, "PROVIDER_NOT_READY")
    assert lent.resolve_boolean_details("on", False).value is True


def test_a_provider_that_was_shut_down_may_be_set_again(kit: ReplicaKit) -> None:
    own = ControlPlaneProvider(replica=kit.replica, environment="test")
    for _ in range(2):
        api.set_provider_and_wait(own)
        heard = Heard()
        assert api.get_client().get_boolean_value("on", False) is True
        kit.set_flag("off", not kit.is_enabled("off"))
        assert heard.changed() == ["off"]
        api.shutdown()


def test_a_provider_set_again_before_its_shutdown_came_stays_open(kit: ReplicaKit) -> None:
    own = ControlPlaneProvider(replica=kit.replica, environment="test")
    told: list[ProviderEvent] = []

    def emit(provider: object, event: ProviderEvent, details: object) -> None:
        told.append(event)

    for _ in range(2):
        own.attach(emit)
        own.initialize(EvaluationContext())
    own.shutdown()
    own.detach()
    assert own.resolve_boolean_details("on", False).value is True
    own.emit(ProviderEvent.PROVIDER_STALE, None)  # type: ignore[arg-type]
    assert told[-1] is ProviderEvent.PROVIDER_STALE
    assert threads() == [THREAD]
    own.shutdown()
    assert threads() == []


def test_a_replaced_provider_is_let_go(kit: ReplicaKit) -> None:
    api.set_provider_and_wait(ControlPlaneProvider(replica=kit.replica, environment="test"))
    [thread] = [each for each in threading.enumerate() if each.name == THREAD]
    api.set_provider(NoOpProvider())
    thread.join(10)
    assert threads() == []


def test_a_provider_without_events_has_no_thread(kit: ReplicaKit) -> None:
    api.set_provider_and_wait(ControlPlaneProvider(kit, events=False))
    assert threads() == []
    kit.set_flag("on", False)
    assert api.get_client().get_boolean_value("on", True) is False


def test_a_client_and_a_place_are_too_much(kit: ReplicaKit) -> None:
    for place in ({"replica": "x"}, {"environment": "x"}, {"require_trusted": True}):
        with pytest.raises(TypeError, match="found both"):
            ControlPlaneProvider(kit, **place)  # type: ignore[arg-type]


class Telling(ControlPlaneProvider):
    """Keeps which flags it told the SDK had changed."""

    def emit(self, event: ProviderEvent, details: ProviderEventDetails) -> None:
        if details.flags_changed is not None:
            self.told.put(details.flags_changed)
        super().emit(event, details)

    told: queue.Queue[list[str]]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_evaluates_at_once_and_tells_later_changes(
    kit: ReplicaKit, in_child: Callable[..., str]
) -> None:
    provider = Telling(replica=kit.replica, environment="test")
    provider.told = queue.Queue()
    api.set_provider_and_wait(provider)
    client = api.get_client()
    assert client.get_boolean_value("on", False) is True

    begun, beginning = os.pipe()

    def child() -> object:
        before = client.get_boolean_value("off", False), threads()
        os.write(beginning, b"!")
        # The SDK's own pool of handlers does not survive a fork: what it is told does.
        told = provider.told.get(timeout=10)
        return before, told, client.get_boolean_value("off", False)

    answer = in_child(child, lambda: os.read(begun, 1) and kit.set_flag("off", True))
    assert answer == str(((False, [THREAD]), ["off"], True))
    # The parent has a thread again as well, which tells the same.
    assert provider.told.get(timeout=10) == ["off"]
    assert threads() == [THREAD]
    os.close(begun)
    os.close(beginning)


HANDLERS_AFTER_THE_FORK = """
import os, queue, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
from openfeature import api
from openfeature.event import ProviderEvent, ProviderEventDetails
from control_plane.openfeature import ControlPlaneProvider
api.set_provider_and_wait(ControlPlaneProvider(replica=sys.argv[1], environment="test"))
if os.fork() == 0:
    told = queue.Queue()
    api.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, told.put)
    print("forked", flush=True)
    print(told.get(timeout=10).flags_changed, flush=True)
    os._exit(0)
os.wait()
"""


def test_handlers_of_a_child_are_called(kit: ReplicaKit) -> None:
    command = [sys.executable, "-c", HANDLERS_AFTER_THE_FORK, kit.replica]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        kit.set_flag("off", True)
        assert process.stdout.read() == "['off']\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_thread_of_the_provider_lives_through_a_fork(
    kit: ReplicaKit, in_child: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_fork: list[list[str]] = []
    provider = ControlPlaneProvider(kit)
    api.set_provider_and_wait(provider)
    events = provider._events
    assert events is not None
    resume = events.resume
    monkeypatch.setattr(events, "resume", lambda: (at_fork.append(threads()), resume()))
    assert in_child(lambda: (at_fork, threads())) == str(([[]], [THREAD]))
    assert at_fork == [[]]


MADE_DURING_A_FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
made = []
# What is registered first is called last before a fork: the provider's own part is done by then.
os.register_at_fork(before=lambda: made or made.append(ControlPlaneProvider(replica=sys.argv[1])))
from control_plane.openfeature import ControlPlaneProvider
first = ControlPlaneProvider(replica=sys.argv[1])
child = os.fork()
answers = [each.resolve_boolean_details("on", False).value for each in (first, *made)]
assert answers == [True, True], answers
for each in (first, *made):
    each.shutdown()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_provider_made_while_the_process_forks_disturbs_nobody(kit: ReplicaKit) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MADE_DURING_A_FORK, kit.replica],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_providers_that_come_and_go_leave_nothing_for_forks_to_call(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.append(hooks))
    provider = ControlPlaneProvider(kit)
    gone = weakref.ref(provider)
    provider.shutdown()
    del provider
    gc.collect()
    assert (gone(), registered) == (None, [])


GUNICORN = """
from openfeature import api
from control_plane.openfeature import ControlPlaneProvider
api.set_provider(ControlPlaneProvider(replica={replica!r}, environment="test"))
client = api.get_client()
assert client.get_boolean_value("on", False) is True

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(client.get_boolean_value("off", False)).encode()]
"""


def test_workers_of_a_preloaded_server_answer_and_follow(kit: ReplicaKit, tmp_path: Path) -> None:
    """gunicorn loads the application once, forks, and its workers see what comes later."""
    (tmp_path / "shop.py").write_text(GUNICORN.format(replica=kit.replica))
    address = tmp_path / "gunicorn.sock"
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind",
         f"unix:{address}", "shop:application"],
        # gunicorn leaves a socket in its home.
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert asked(address, server) == "False"
        kit.set_flag("off", True)
        assert {asked(address, server) for _ in range(8)} == {"True"}
    finally:
        server.terminate()
        output, _ = server.communicate(timeout=20)
    assert "Traceback" not in output, output


def asked(path: Path, server: subprocess.Popen[str]) -> str:
    """What the server behind a socket answers; waits until it does."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with connection.makefile("rb") as answer:
                    return answer.read().partition(b"\r\n\r\n")[2].decode()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


WITHOUT_THE_SDK = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refusing())
from control_plane import MissingExtra
try:
    import control_plane.openfeature
except MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["openfeature", "openfeature.provider"])
def test_without_the_sdk_the_extra_is_named(missing: str) -> None:
    program = WITHOUT_THE_SDK.format(missing=missing)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (
        run.stdout == "expected the package openfeature, found none; "
        "pip install 'control-plane[openfeature]'\n"
    )


def test_the_package_has_one_name_to_use() -> None:
    assert control_plane.openfeature.__all__ == ["ControlPlaneProvider"]
    parameters = inspect.signature(ControlPlaneProvider).parameters
    assert list(parameters) == [
        "client", "replica", "environment", "require_trusted", "events", "on_track", "provenance",
    ]  # fmt: skip
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert [name for name in parameters if parameters[name].kind is by_position] == ["client"]
