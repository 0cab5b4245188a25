"""Where the sidecar listens: a unix socket with file permissions, or loopback TCP with tokens.

- ``unix:PATH`` is open to whom its mode lets in (0660 unless told otherwise), never to more for a
  moment; tokens are asked for if there are any.
- ``host:port`` must be a loopback address, and needs tokens: every process of the pod can connect.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from control_plane.errors import InputInvalid, Refused

DEFAULT: Final = "127.0.0.1:7841"
DEFAULT_MODE: Final = 0o660
WAITING: Final = 1024


class Place(NamedTuple):
    """A place to listen at; ``path`` is a unix socket's, empty where host and port count."""

    host: str
    port: int
    path: str


def place_of(text: str) -> Place:
    """Read ``host:port`` or ``unix:PATH``; port 0 takes a free one.

    Raises:
        InputInvalid: another form, or a host beyond loopback.
    """
    if text.startswith("unix:") and len(text) > 5:
        return Place("", 0, text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not (host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise InputInvalid(f"--listen: expected host:port or unix:PATH, found {text[:200]!r}")
    if not _is_loopback(host):
        raise InputInvalid(
            f"--listen: expected a loopback address, found {host[:200]!r}; the sidecar serves its"
            " own pod only"
        )
    return Place("127.0.0.1" if host == "localhost" else host, int(port), "")


def mode_of(text: str) -> int:
    """Read a socket's mode, three or four octal digits.

    Raises:
        InputInvalid: another form.
    """
    if not (3 <= len(text) <= 4 and set(text) <= set("01234567")) or int(text, 8) > 0o777:
        raise InputInvalid(f"--socket-mode: expected octal digits like 0660, found {text[:20]!r}")
    return int(text, 8)


async def listen(runner: web.AppRunner, place: Place, mode: int = DEFAULT_MODE) -> str:
    """Listen, and return what clients connect to.

    Raises:
        Refused: the place is taken, or not to be had.
    """
    bound = _bound_unix(place.path, mode) if place.path else _bound(place)
    await web.SockSite(runner, bound, backlog=WAITING).start()
    if place.path:
        return f"unix:{place.path}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(place: Place) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((place.host, place.port))
    except OSError as error:
        bound.close()
        raise Refused(
            f"--listen {place.host}:{place.port}: expected a free port, found"
            f" {(error.strerror or str(error)).lower()}; stop what holds it or pass another"
        ) from error
    return bound


def _bound_unix(path: str, mode: int) -> socket.socket:
    _clear(Path(path))
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise Refused(
            f"--listen unix:{path}: expected a folder to make a socket in, found"
            f" {(error.strerror or str(error)).lower()}"
        ) from error
    finally:
        os.umask(before)
    return bound


def _clear(path: Path) -> None:
    # A socket file outlives its process; a live one answers a connection.
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode) or _answers(str(path)):
            raise Refused(f"--listen unix:{path}: expected a free path, found it in use")
        path.unlink()


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
