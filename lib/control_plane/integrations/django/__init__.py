"""An app for Django: the middleware, template tags, a context processor and system checks.

    INSTALLED_APPS = [..., "control_plane.integrations.django"]
    MIDDLEWARE = [..., "control_plane.integrations.django.middleware.ControlPlaneMiddleware"]
    CONTROL_PLANE = {"BIND": "shop.callers.caller"}     # every entry may be left out

It opens nothing while Django starts: the process's client is made by the first request, so after
the fork of a prefork server, and a client made before it works in the children as well.
"""

from __future__ import annotations

from control_plane.errors import MissingExtra

try:
    import django as django
except ModuleNotFoundError as error:
    raise MissingExtra.of(error.name, "django") from error
