"""The FastAPI dependencies, in coroutines and in plain functions."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header
from fastapi.testclient import TestClient

from control_plane.integrations import current
from control_plane.integrations.fastapi import (
    Config,
    ControlPlaneMiddleware,
    Flags,
    Registry,
    request_flags,
)
from control_plane.testing import ReplicaKit


def authenticated(x_tenant: Annotated[str, Header()] = "") -> None:
    """As applications do it: the caller is known once a dependency has run."""
    current.bind(tenant_id=x_tenant)


def made() -> FastAPI:
    """An application with one endpoint of each kind."""
    app = FastAPI(dependencies=[Depends(authenticated)])
    app.add_middleware(ControlPlaneMiddleware)

    @app.get("/coroutine")
    async def coroutine(flags: Flags, config: Config) -> list[object]:
        return [flags.is_enabled("theirs"), config.get("db.url")]

    @app.get("/function")
    def function(flags: Flags, config: Config) -> list[object]:
        return [flags.is_enabled("theirs"), config.get("db.url")]

    @app.get("/tools")
    def tools(registry: Registry) -> list[str]:
        return [tool.name for tool in registry.list_tools()]

    return app


@pytest.mark.parametrize("endpoint", ["/coroutine", "/function"])
def test_an_endpoint_is_given_what_its_caller_has(endpoint: str, kit: ReplicaKit) -> None:
    client = TestClient(made())
    assert client.get(endpoint, headers={"x-tenant": "acme"}).json() == [True, "theirs"]
    assert client.get(endpoint).json() == [False, "base"]


def test_an_endpoint_is_given_the_registry(kit: ReplicaKit) -> None:
    kit.put_tool({"name": "crm", "version": "1.0.0", "metadata": {"description": "One."}})
    assert TestClient(made()).get("/tools").json() == ["crm"]


def test_a_test_replaces_the_dependency(kit: ReplicaKit) -> None:
    app = made()
    app.dependency_overrides[request_flags] = lambda: kit.flags.bind(tenant_id="acme")
    assert TestClient(app).get("/coroutine").json() == [True, "base"]


def test_the_dependencies_ask_nothing_of_a_request(kit: ReplicaKit) -> None:
    schema = TestClient(made()).get("/openapi.json").json()
    assert [each["name"] for each in schema["paths"]["/function"]["get"]["parameters"]] == [
        "x-tenant"
    ]


def test_without_the_middleware_the_cure_is_named(kit: ReplicaKit) -> None:
    app = FastAPI()

    @app.get("/")
    def home(flags: Flags) -> bool:
        return flags.is_enabled("theirs")

    with pytest.raises(RuntimeError, match=r"app\.add_middleware\(ControlPlaneMiddleware"):
        TestClient(app).get("/")
