"""The setting ``CONTROL_PLANE``: a mapping whose entries may all be left out.

- ``REPLICA``, ``ENVIRONMENT``, ``REQUIRE_TRUSTED``: as `ControlPlaneClient` takes them.
- ``BIND``: a function of the request, or the dotted path to one, that gives the caller:
  ``user_id``, ``tenant_id`` and any other attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

NAME = "CONTROL_PLANE"
ENTRIES = ("BIND", "ENVIRONMENT", "REPLICA", "REQUIRE_TRUSTED")


class Settings(NamedTuple):
    """The setting, checked, with ``BIND`` as a function."""

    replica: str | PathLike[str] | None
    environment: str | None
    require_trusted: bool
    bind: Callable[[Any], Mapping[str, Any] | None] | None


def read_settings() -> Settings:
    """The setting as it is now.

    Raises:
        ImproperlyConfigured: an entry is unknown or has another type.
    """
    given = getattr(settings, NAME, {})
    if not isinstance(given, Mapping):
        raise _wrong("a mapping", given)
    unknown = sorted(str(entry) for entry in given if entry not in ENTRIES)
    if unknown:
        raise ImproperlyConfigured(
            f"{NAME}: expected the entries {', '.join(ENTRIES)}, found {', '.join(unknown)}"
        )
    return Settings(
        _typed(given, "REPLICA", (str, PathLike), "a folder"),
        _typed(given, "ENVIRONMENT", (str,), "a name"),
        _typed(given, "REQUIRE_TRUSTED", (bool,), "True or False") or False,
        _function(given.get("BIND")),
    )


def _typed(given: Mapping[str, Any], entry: str, types: tuple[type, ...], wanted: str) -> Any:
    value = given.get(entry)
    if value is not None and not isinstance(value, types):
        raise _wrong(wanted, value, entry)
    return value


def _function(bind: Any) -> Callable[[Any], Mapping[str, Any] | None] | None:
    if isinstance(bind, str):
        try:
            bind = import_string(bind)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"{NAME}['BIND']: expected the path of a function, found: {error}"
            ) from error
    if bind is not None and not callable(bind):
        raise _wrong("a function of the request or the path of one", bind, "BIND")
    return bind  # type: ignore[no-any-return]  # its signature is the application's promise


def _wrong(wanted: str, found: object, entry: str | None = None) -> ImproperlyConfigured:
    place = NAME if entry is None else f"{NAME}[{entry!r}]"
    return ImproperlyConfigured(f"{place}: expected {wanted}, found {type(found).__name__}")
