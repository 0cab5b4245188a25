"""How configuration, agents and tools are read as JSON: keys, bodies, ETags and errors.

- A configuration key is what `ConfigManager.get` takes: keys joined by dots in the path, and
  behind it each ``part`` of the query as one key, which may hold dots itself.
- A body holds nothing that changes while what is read does not, so its ETag is a digest of it.
- An error is ``{"format": 1, "code", "message"}``; 404 for what there is not, 400 for what cannot
  be asked, 503 while nothing can be read.

Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

from control_plane.errors import ControlPlaneError, InputInvalid, NotFound, Unavailable
from control_plane.registries.manifests import Agent, Listed, Tool

FORMAT: Final = 1
MAX_WAIT_SECONDS: Final = 30


def key_of(path: str, parts: Iterable[str]) -> str | tuple[str, ...]:
    """The key that a request's path and parts mean."""
    more = tuple(parts)
    return (*path.split("."), *more) if more else path


def wait_of(text: str | None) -> float:
    """The seconds a request wants to wait for another answer, at most `MAX_WAIT_SECONDS`.

    Raises:
        InputInvalid: it is no whole number.
    """
    if text is None:
        return 0.0
    if not (text.isascii() and text.isdigit()):
        raise InputInvalid("wait: expected whole seconds, found another")
    # Of a longer number the first digits are past the bound, too.
    return float(min(int(text[:9]), MAX_WAIT_SECONDS))


def config_body(key: str | tuple[str, ...], value: Any) -> dict[str, Any]:
    """A configuration value."""
    return {"format": FORMAT, "key": key if isinstance(key, str) else list(key), "value": value}


def version_body(found: Agent | Tool) -> dict[str, Any]:
    """A version of an agent or a tool, with what became of it and of the tools it asks for."""
    body: dict[str, Any] = {
        "format": FORMAT,
        "reference": found.reference,
        "digest": found.digest,
        "status": found.status,
        "status_reason": found.status_reason,
        "successor": found.successor,
        "document": found.to_dict(),
    }
    if isinstance(found, Agent):
        body["tools"] = {
            name: {
                "specifier": each.specifier,
                "optional": each.optional,
                "version": each.version,
                "digest": each.digest,
                "problem": each.problem,
            }
            for name, each in found.tools.items()
        }
    return body


def list_body(found: Iterable[Listed]) -> dict[str, Any]:
    """Agents or tools by name, with their versions and channels."""
    listed = [
        {"name": each.name, "versions": list(each.versions), "channels": dict(each.channels)}
        for each in found
    ]
    return {"format": FORMAT, "found": listed}


def tag_of(body: bytes) -> str:
    """The strong ETag of a body."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def status_of(error: ControlPlaneError) -> int:
    """The HTTP status of an error of the library."""
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, InputInvalid):
        return 400
    return 503 if isinstance(error, Unavailable) else 500


def error_body(code: str, message: str) -> dict[str, Any]:
    """The body of any error but OFREP's."""
    return {"format": FORMAT, "code": code, "message": message}
