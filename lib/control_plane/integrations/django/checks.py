"""What ``manage.py check`` says: settings that are wrong, a replica that is missing or old.

A replica is a warning, never an error: the application starts without one and gives defaults. An
untrusted one where trust is required is an error, as no client can be made.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from control_plane.errors import TrustError
from control_plane.integrations import current
from control_plane.integrations.django.settings import NAME, read_settings

MIDDLEWARE = "control_plane.integrations.django.middleware.ControlPlaneMiddleware"


def check_control_plane(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Everything about this app; registered by it."""
    try:
        read_settings()
        client = current.client()
    except (ImproperlyConfigured, ValueError) as error:
        return [Error(str(error), hint=f"Correct the setting {NAME}.", id="control_plane.E001")]
    except TrustError as error:
        hint = f"Follow a store, or take REQUIRE_TRUSTED out of the setting {NAME}."
        return [Error(str(error), hint=hint, id="control_plane.E002")]
    return _replica(client.health()) + _middleware()


def _replica(health: Any) -> list[CheckMessage]:
    said = "; ".join(health.reasons)
    if not health.ready:
        hint = f"Start control-plane daemon on this host, or set {NAME}['REPLICA']."
        return [
            Warning(f"no flags, defaults are given: {said}", hint=hint, id="control_plane.W001")
        ]
    if health.stale:
        hint = "Run control-plane status, and look at the daemon's log."
        return [Warning(f"old flags: {said}", hint=hint, id="control_plane.W002")]
    return []


def _middleware() -> list[CheckMessage]:
    if MIDDLEWARE in settings.MIDDLEWARE:
        return []
    said = "no middleware: request.flags is absent and no caller is bound"
    return [Warning(said, hint=f"Add {MIDDLEWARE!r} to MIDDLEWARE.", id="control_plane.W003")]
