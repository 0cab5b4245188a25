"""The Django app: middleware of both kinds, templates, settings, checks, and a prefork server."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import Context, Template, TemplateSyntaxError, engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import setup_test_environment, teardown_test_environment
from django.urls import path

from control_plane import ControlPlaneClient
from control_plane.integrations import current
from control_plane.integrations.django.middleware import ControlPlaneMiddleware
from control_plane.testing import ReplicaKit, replica

MIDDLEWARE = "control_plane.integrations.django.middleware.ControlPlaneMiddleware"
PROCESSOR = "control_plane.integrations.django.context_processors.flags"


def caller(request: Any) -> dict[str, Any]:
    """The tenant a request names in a header."""
    return {"tenant_id": request.headers.get("x-tenant")}


@pytest.fixture(scope="module", autouse=True)
def configured() -> Iterator[None]:
    """Django, once for this module: its settings cannot be taken back."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["control_plane.integrations.django"],
        MIDDLEWARE=[MIDDLEWARE],
        SECRET_KEY="only for tests",
        CONTROL_PLANE={"BIND": caller},
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": [PROCESSOR]},
            }
        ],
    )
    django.setup()
    setup_test_environment()
    # Test modules have no importable name here; an application's have.
    sys.modules["control_plane_test_callers"] = sys.modules[__name__]
    yield
    del sys.modules["control_plane_test_callers"]
    teardown_test_environment()
    current.provide(ControlPlaneClient)


CHANGE: list[Callable[[], object]] = []
"""What happens elsewhere while a view runs."""


@pytest.fixture
def changing(kit: ReplicaKit) -> Iterator[ReplicaKit]:
    """Every view turns ``x`` and ``y`` off for those who come later."""
    CHANGE.append(lambda: kit.set_flags({"x": False, "y": False}))
    yield kit
    CHANGE.clear()


def answers(request: Any) -> list[object]:
    before = request.flags.is_enabled("x")
    for change in CHANGE:
        change()
    inside = current.flags()
    return [before, inside.is_enabled("y"), inside.is_enabled("theirs"), url(request)]


def url(request: Any) -> object:
    return request.config.get("db.url", "none")


def plain(request: Any) -> JsonResponse:
    return JsonResponse(answers(request), safe=False)


async def awaited(request: Any) -> JsonResponse:
    await asyncio.sleep(0)
    return JsonResponse(await sync_to_async(answers)(request), safe=False)


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(answers(request)) for _ in range(2))


async def awaited_stream(request: Any) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield str(answers(request))

    return StreamingHttpResponse(parts())


def page(request: Any) -> TemplateResponse:
    return TemplateResponse(request, engines["django"].from_string(PAGE), {"name": "theirs"})


def file(request: Any) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"))


def broken(request: Any) -> HttpResponse:
    KEPT.append(request)
    assert request.flags.is_enabled("x")
    raise ZeroDivisionError


KEPT: list[Any] = []
PAGE = (
    "{% load control_plane %}"
    '{% flag "x" %}x{% else %}no x{% endflag %} '
    "{% flag name %}theirs{% else %}not theirs{% endflag %} "
    '{% flag "none" default=True %}default{% endflag %} '
    "{% if flags.y %}y{% endif %} "
    '{% flag_value "banner" "none" as banner %}{{ banner }}'
)
urlpatterns = [
    path(view.__name__, view)
    for view in (plain, awaited, stream, awaited_stream, page, file, broken)
]
ACME = {"x-tenant": "acme"}


@pytest.mark.parametrize("view", ["plain", "awaited"])
def test_a_request_is_answered_from_one_generation_for_its_caller(
    view: str, changing: ReplicaKit
) -> None:
    assert Client().get(f"/{view}", headers=ACME).json() == [True, True, True, "theirs"]
    assert Client().get(f"/{view}").json() == [False, False, False, "base"]
    assert current.VIEW.get() is None


@pytest.mark.parametrize("view", ["plain", "awaited"])
async def test_an_asynchronous_handler_does_the_same(view: str, changing: ReplicaKit) -> None:
    client = AsyncClient()
    assert (await client.get(f"/{view}", headers=ACME)).json() == [True, True, True, "theirs"]
    assert (await client.get(f"/{view}")).json() == [False, False, False, "base"]
    assert current.VIEW.get() is None


def test_a_stream_belongs_to_its_request_to_its_end(changing: ReplicaKit) -> None:
    response = Client().get("/stream", headers=ACME)
    found = b"".join(response.streaming_content).decode()
    assert found == str([True, True, True, "theirs"]) * 2
    assert current.VIEW.get() is None


async def test_an_asynchronous_stream_belongs_to_its_request_to_its_end(
    changing: ReplicaKit,
) -> None:
    response = await AsyncClient().get("/awaited_stream", headers=ACME)
    found = b"".join([part async for part in response.streaming_content]).decode()
    assert found == str([True, True, True, "theirs"]) * 2
    assert current.VIEW.get() is None


def test_between_two_parts_of_a_stream_nothing_is_the_current_request(kit: ReplicaKit) -> None:
    response = Client().get("/stream", headers=ACME)
    parts = iter(response.streaming_content)
    next(parts)
    assert current.VIEW.get() is None
    response.close()


def test_a_file_keeps_the_servers_short_cut(kit: ReplicaKit) -> None:
    response = ControlPlaneMiddleware(file)(RequestFactory().get("/file"))
    assert response.file_to_stream is not None
    response.close()


def test_a_request_is_let_go_of_when_its_view_raises(kit: ReplicaKit) -> None:
    with pytest.raises(ZeroDivisionError):
        Client().get("/broken")
    assert current.VIEW.get() is None
    kit.set_flag("x", False)
    assert not KEPT.pop().flags.is_enabled("x")


def test_templates_ask_for_the_caller(kit: ReplicaKit) -> None:
    kit.set_flag("banner", {"variants": {"a": "blue", "b": "red"}, "default": "a", "disabled": "a"})
    found = Client().get("/page", headers=ACME).content.decode()
    assert found == "x theirs default y blue"
    kit.set_flags({"x": False, "y": False, "banner": None})
    assert Client().get("/page").content.decode() == "no x not theirs default  none"


@pytest.mark.parametrize("words", ["", '"x" "y"', '"x" default=1 more'])
def test_a_tag_that_says_too_much_or_too_little_is_refused(words: str) -> None:
    with pytest.raises(TemplateSyntaxError, match="flag: expected a name and perhaps default="):
        Template(f"{{% load control_plane %}}{{% flag {words} %}}{{% endflag %}}")


def test_a_template_outside_of_requests_asks_for_nobody(kit: ReplicaKit) -> None:
    template = Template('{% load control_plane %}{% flag "x" %}x{% endflag %}')
    assert template.render(Context()) == "x"


def test_a_test_may_set_flags_for_a_block(kit: ReplicaKit) -> None:
    with kit.flags.override({"theirs": True}):
        assert Client().get("/plain").json()[2] is True
    assert Client().get("/plain").json()[2] is False


def test_a_test_may_change_the_setting(tmp_path: Path) -> None:
    with replica(flags={"x": True, "theirs": True}) as other:
        mine = {"REPLICA": other.replica, "ENVIRONMENT": "test"}
        with override_settings(CONTROL_PLANE=mine):
            # Nobody is bound any more, and another replica is read.
            assert Client().get("/plain", headers=ACME).json() == [True, False, True, "none"]
            assert current.client().replica == other.replica
    with override_settings(CONTROL_PLANE={"REPLICA": str(tmp_path)}):
        assert current.client().replica == str(tmp_path)


def ids() -> list[str]:
    return [each.id for each in run_checks() if each.id.startswith("control_plane")]


def test_check_is_content_with_a_fresh_replica(kit: ReplicaKit) -> None:
    assert ids() == []


def test_check_warns_of_a_missing_replica_and_names_the_cure(tmp_path: Path) -> None:
    with override_settings(CONTROL_PLANE={"REPLICA": str(tmp_path)}):
        [found] = [each for each in run_checks() if each.id == "control_plane.W001"]
    assert str(tmp_path) in found.msg
    assert found.hint.startswith("Start control-plane daemon")
    assert not found.is_serious()


def test_check_warns_of_an_old_replica() -> None:
    moments = iter([1000.0])
    with (
        replica(flags={"x": True}, now=lambda: next(moments, 5000.0)) as kit,
        current.using(kit),
    ):
        [found] = [each for each in run_checks() if each.id == "control_plane.W002"]
    assert "silent" in found.msg
    assert "control-plane status" in found.hint


def test_check_warns_of_a_missing_middleware(kit: ReplicaKit) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert ids() == ["control_plane.W003"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([], "CONTROL_PLANE: expected a mapping, found list"),
        ({"REPLIKA": 1}, "found REPLIKA"),
        ({"REPLICA": 1}, r"CONTROL_PLANE\['REPLICA'\]: expected a folder, found int"),
        ({"BIND": 1}, r"CONTROL_PLANE\['BIND'\]: expected a function of the request"),
        ({"BIND": "no.such"}, r"CONTROL_PLANE\['BIND'\]: expected the path of a function"),
        ({"REQUIRE_TRUSTED": "no"}, "expected True or False, found str"),
        ({"ENVIRONMENT": "../x"}, "expected an environment like production"),
    ],
)
def test_check_refuses_a_setting_that_is_wrong(setting: Any, message: str) -> None:
    with override_settings(CONTROL_PLANE=setting):
        [found] = [each for each in run_checks() if each.id == "control_plane.E001"]
    assert re.search(message, found.msg)


def test_check_refuses_an_untrusted_replica_where_trust_is_required() -> None:
    with replica(flags={"x": True}) as kit:
        trusting = {"REPLICA": kit.replica, "ENVIRONMENT": "test", "REQUIRE_TRUSTED": True}
        with override_settings(CONTROL_PLANE=trusting):
            [found] = [each for each in run_checks() if each.id == "control_plane.E002"]
    assert "marked development" in found.msg


def test_the_path_of_a_function_is_as_good_as_the_function(kit: ReplicaKit) -> None:
    with override_settings(CONTROL_PLANE={"BIND": "control_plane_test_callers.caller"}):
        assert Client().get("/plain", headers=ACME).json()[2] is True


def test_the_middleware_without_its_app_names_the_cure() -> None:
    with (
        override_settings(INSTALLED_APPS=[]),
        pytest.raises(ImproperlyConfigured, match=r"integrations\.django' in INSTALLED_APPS"),
    ):
        ControlPlaneMiddleware(lambda request: None)
