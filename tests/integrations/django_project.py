"""A Django project in one module, for a server of its own processes: `gunicorn django_project`.

The replica comes by ``CONTROL_PLANE_REPLICA``. The client is opened while the module loads, so
before a server that preloads forks: the children go on with it.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

from control_plane.integrations import current

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["control_plane.integrations.django"],
    MIDDLEWARE=["control_plane.integrations.django.middleware.ControlPlaneMiddleware"],
    CONTROL_PLANE={"BIND": lambda request: {"tenant_id": request.headers.get("x-tenant")}},
)


def home(request: Any) -> JsonResponse:
    """Who answers, and what."""
    found = [request.flags.is_enabled("x"), request.flags.is_enabled("theirs")]
    return JsonResponse({"process": os.getpid(), "flags": found})


urlpatterns = [path("", home)]
django.setup()
current.flags().is_enabled("x")
application = get_wsgi_application()
