"""The app: how the process's client is made, and who the caller of a request is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from control_plane.client import ControlPlaneClient
from control_plane.integrations import current
from control_plane.integrations.django.checks import check_control_plane
from control_plane.integrations.django.settings import NAME, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class ControlPlaneConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Reads the setting ``CONTROL_PLANE`` when it is first needed, and again when a test moves it.

    The client goes to `current`, so that the same one answers in requests, commands and tasks.
    """

    name = "control_plane.integrations.django"
    label = "control_plane"
    verbose_name = "Control plane"

    _bind: Callable[[Any], Mapping[str, Any] | None] | None = None

    def ready(self) -> None:
        """Called by Django once its apps are loaded."""
        current.provide(_client)
        checks.register(check_control_plane)
        setting_changed.connect(self._changed)

    def caller(self, request: Any) -> Mapping[str, Any] | None:
        """What ``BIND`` says of a request."""
        if self._bind is None:
            self._bind = read_settings().bind or _nobody
        return self._bind(request)

    def _changed(self, *, setting: str, **_: Any) -> None:
        if setting == NAME:
            self._bind = None
            current.provide(_client)


def _client() -> ControlPlaneClient:
    found = read_settings()
    return ControlPlaneClient(found.replica, found.environment, found.require_trusted)


def _nobody(request: Any) -> None:
    """The caller where no one said who it is."""
