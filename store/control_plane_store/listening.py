"""Where the store listens: ``host:port``, ``[v6]:port`` or ``unix:PATH``, and who may reach it.

Beyond the loopback addresses a token would cross the network, so the store wants TLS there, or to
be told that a proxy in front of it ends TLS.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from control_plane.errors import InputInvalid, Refused

DEFAULT = "127.0.0.1:7840"
ACCEPTED_AT_ONCE = 32
WAITING = 1024


@dataclass(frozen=True, slots=True)
class Listen:
    """One place to listen at; ``path`` is a unix socket's, else host and port count."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read ``host:port`` or ``unix:PATH``; port 0 takes a free one.

        Raises:
            InputInvalid: for another form.
        """
        if text.startswith("unix:") and len(text) > 5:
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        number = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
        if not (colon and host and number):
            raise InputInvalid(f"--listen: expected host:port or unix:PATH, found {text[:200]!r}")
        return cls(host.strip("[]"), int(port))

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_reach(listen: Listen, *, tls: bool, behind_proxy: bool) -> None:
    """Refuse to take tokens in the clear.

    Raises:
        Refused: beyond loopback, without TLS and without a proxy that has it.
    """
    if not (listen.is_local or tls or behind_proxy):
        raise Refused(
            f"--listen {listen.host}:{listen.port}: expected TLS beyond loopback, found none; pass"
            " --tls-certificate and --tls-key, or --behind-proxy if a proxy in front ends TLS"
        )


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The server side of TLS 1.2 or newer.

    Raises:
        InputInvalid: the files are no certificate and key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InputInvalid(
            f"{certificate}: expected a certificate with the key {key}, found {error}"
        ) from error
    return context


async def listen_at(runner: web.AppRunner, listen: Listen, context: ssl.SSLContext | None) -> str:
    """Listen, and return the URL clients use.

    Raises:
        Refused: the address is taken.
    """
    scheme = "http" if context is None else "https"
    if listen.path is not None:
        return await _listen_unix(runner, listen.path)
    bound = _bound(listen)
    await web.SockSite(runner, bound, ssl_context=context, backlog=ACCEPTED_AT_ONCE).start()
    # asyncio accepts as many in one go as it lets wait; more may wait than are to come at once.
    bound.listen(WAITING)
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}"


def _bound(listen: Listen) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"--listen {listen.host}: expected an address, found {error}") from error
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise Refused(
            f"--listen {listen.host}:{listen.port}: expected a free port, found"
            f" {(error.strerror or str(error)).lower()}; stop what holds it or pass another"
        ) from error
    return bound


async def _listen_unix(runner: web.AppRunner, path: str) -> str:
    _clear(Path(path))
    # Only this user may connect: the file is made without access for others.
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, path, backlog=1024).start()
    finally:
        os.umask(before)
    return f"unix:{path}"


def _clear(path: Path) -> None:
    # A socket file outlives its process; a live one answers a connection.
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode) or _answers(str(path)):
            raise Refused(f"--listen unix:{path}: expected a free path, found it in use")
        path.unlink()


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
