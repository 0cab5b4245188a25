"""What can be wrong with a node, how it shows, and what cures it.

Each function looks at one thing and yields findings: *ok* and *note* need nothing, *wrong* comes
with its cure. What is looked at comes as values, so that each rule can be read and tested alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OK: Final = "ok"
NOTE: Final = "note"
WRONG: Final = "wrong"

LEAST_PYTHON: Final = (3, 11)
PACKAGES: Final[Mapping[str, tuple[int, int | None]]] = {
    "lmdb": (3, 4),
    "msgpack": (1, None),
    "xxhash": (3, None),
}
"""What the library needs: each from one major version up, and below another where it is known."""

# A map of a file on these is not coherent between hosts, or not at all: a reader may be served
# pages that belong to no moment.
NETWORK_FILESYSTEMS: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
LEAST_FREE_BYTES: Final = 256 << 20
MAP_BYTES: Final = 64 << 30
CLOCK_TOLERANCE_SECONDS: Final = 30.0
"""Half of what makes a checkpoint stale or future: to be mended before it is noticed."""

EXPIRY_NOTICE_MS: Final = 30 * 86_400_000
"""A month: the keys of root lie in a safe, and their holders may be away."""

CURES: Final[Mapping[str, str]] = {
    "development": (
        "fine on a workstation; elsewhere follow a store with"
        " 'control-plane daemon --store URL --trust FILE'"
    ),
    "stale": "see the daemon's log for why the store cannot be followed; what is served stays",
    "silent": "start the daemon, or see in its log why it ended; what is served stays",
    "held": (
        "publish the named documents again in a form that this daemon's version accepts, or"
        " upgrade the daemon; the keys are in its log"
    ),
    "rejected": "see the daemon's log for the entry or batch and its reason; what is served stays",
    "disk": "free space on the replica's disk and let the daemon write there; it goes on by itself",
    "trust expired": "publish root and targets metadata with a later expiry; what is served stays",
    "clock": "set this host's clock (chronyc tracking, timedatectl); it goes on by itself",
    "empty": "wait until the daemon has replayed the log, or see in its log what it waits for",
}
"""What to do about each reason that a replica's health gives, by the reason's first word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``said`` is a sentence, ``cure`` what to do when wrong."""

    check: str
    state: str
    said: str
    cure: str = ""


def versions(python: tuple[int, ...], packages: Mapping[str, str | None]) -> Iterator[Finding]:
    """The interpreter and the library's packages; None for one that is not installed."""
    told = ".".join(map(str, python[:3]))
    if python[:2] < LEAST_PYTHON:
        yield Finding(
            "versions", WRONG, f"expected Python 3.11 or newer, found {told}", "use a newer Python"
        )
    for name, (least, below) in PACKAGES.items():
        found = packages.get(name)
        wanted = f"{name}>={least}" + (f",<{below}" if below else "")
        major = 0 if found is None else int(found.split(".")[0])
        if major < least or (below is not None and major >= below):
            told_found = f"expected {wanted}, found {found or 'none'}"
            yield Finding("versions", WRONG, told_found, f"pip install '{wanted}'")
    listed = ", ".join(f"{name} {found}" for name, found in packages.items() if found)
    yield Finding("versions", NOTE, f"Python {told}, {listed}")


def limits(address_space_bytes: int | None) -> Iterator[Finding]:
    """The address space a process may have; None without a limit."""
    if address_space_bytes is not None and address_space_bytes < 2 * MAP_BYTES:
        yield Finding(
            "limits",
            WRONG,
            f"expected an address space of {2 * MAP_BYTES >> 30} GiB or more for the map, found"
            f" {address_space_bytes >> 30} GiB",
            "ulimit -v unlimited (LimitAS=infinity); the map takes addresses, no memory",
        )
    else:
        yield Finding("limits", OK, "the address space holds the map")


def access(
    paths: Iterable[Path], allowed: Callable[[Path, int], bool] = os.access
) -> Iterator[Finding]:
    """Whether this user reads the replica's files, and whether others could write them."""
    count = 0
    for path in paths:
        count += 1
        closed = _closed(path, allowed)
        if closed is not None:
            right = "rx" if closed.is_dir() else "r"
            yield Finding(
                "permissions",
                WRONG,
                f"{closed}: expected that this user may read it, found {_mode(closed)}",
                f"chmod o+{right} {closed}",
            )
            return
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not path.is_symlink():
            yield Finding(
                "permissions",
                WRONG,
                f"{path}: expected that only the daemon's user may write it, found {_mode(path)}",
                f"chmod go-w {path}",
            )
    yield Finding("permissions", OK, f"this user reads the replica, {count} paths")


def _closed(path: Path, allowed: Callable[[Path, int], bool]) -> Path | None:
    """The outermost folder, or the file, that keeps this user out."""
    for folder in reversed(path.parents):
        if not allowed(folder, os.X_OK):
            return folder
    needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    return None if allowed(path, needed) else path


def secrets(paths: Iterable[Path]) -> Iterator[Finding]:
    """Key files, tokens and LMDB's lock: closed to everybody but their owner."""
    count = 0
    for path in paths:
        count += 1
        if path.stat().st_mode & 0o077:
            yield Finding(
                "permissions",
                WRONG,
                f"{path}: expected that only its owner may open it, found {_mode(path)}",
                f"chmod 600 {path}",
            )
    if count:
        yield Finding("permissions", NOTE, f"{count} files that only their owner may open")


def _mode(path: Path) -> str:
    try:
        return f"mode {stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError as error:
        return str(error.strerror).lower()


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: Path
    kind: str
    options: tuple[str, ...]


def read_mounts(mountinfo: str) -> list[Mount]:
    """The mounts in the text of ``/proc/self/mountinfo``, later ones over earlier ones."""
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, described = before.split(), after.split()
        if len(fields) >= 6 and described:
            point = fields[4].encode().decode("unicode_escape")  # blanks are written as \040
            mounts.append(Mount(Path(point), described[0], tuple(fields[5].split(","))))
    return mounts


def mounted(environment_folder: Path, files: Path, mounts: Iterable[Mount]) -> Iterator[Finding]:
    """Where the replica's ``files`` lie: on a local disk, and mounted as a whole."""
    under = [mount for mount in mounts if files.is_relative_to(mount.point)]
    if not under:
        yield Finding("mounts", NOTE, f"{files}: no mount table to look at")
        return
    deepest = max(len(mount.point.parts) for mount in under)
    mount = [each for each in under if len(each.point.parts) == deepest][-1]
    if mount.kind in NETWORK_FILESYSTEMS or mount.kind.startswith("fuse"):
        yield Finding(
            "mounts",
            WRONG,
            f"{mount.point}: expected a local file system, found {mount.kind}",
            "put the replica on a local disk or tmpfs; each host runs its own daemon",
        )
    elif mount.point.is_relative_to(environment_folder / "v1"):
        yield Finding(
            "mounts",
            WRONG,
            f"{mount.point}: expected a mount of the replica root or of an environment's folder,"
            " found one inside it",
            f"mount {environment_folder.parent} or {environment_folder}: a rebuilt replica gets a"
            " new folder, which this mount would never show",
        )
    else:
        how = "read-only" if "ro" in mount.options else "writable"
        yield Finding("mounts", OK, f"{mount.kind} at {mount.point}, {how} here")


def space(folder: Path, free_bytes: int, data_bytes: int) -> Iterator[Finding]:
    """Room for a rebuild beside the replica in use."""
    least = max(LEAST_FREE_BYTES, 2 * data_bytes)
    if free_bytes < least:
        yield Finding(
            "space",
            WRONG,
            f"{folder}: expected {least >> 20} MiB free for a rebuild beside the replica, found"
            f" {free_bytes >> 20} MiB",
            "free space there or move the replica root",
        )
    else:
        yield Finding("space", OK, f"{free_bytes >> 20} MiB free at {folder}")


def clock(ahead_seconds: float | None) -> Iterator[Finding]:
    """How far this host's clock is before the store's; None when the store does not answer."""
    if ahead_seconds is None:
        yield Finding("clock", NOTE, "not compared: the store does not answer")
    elif abs(ahead_seconds) > CLOCK_TOLERANCE_SECONDS:
        word = "ahead of" if ahead_seconds > 0 else "behind"
        yield Finding(
            "clock",
            WRONG,
            f"expected the store's time within {CLOCK_TOLERANCE_SECONDS:.0f} s, found this host"
            f" {abs(ahead_seconds):.0f} s {word} it",
            CURES["clock"],
        )
    else:
        yield Finding("clock", OK, f"within {CLOCK_TOLERANCE_SECONDS:.0f} s of the store's")


def trusted(environment: str, expiries: Mapping[str, int], now_ms: int) -> Iterator[Finding]:
    """When root and targets in force (Unix time in milliseconds) expire."""
    for role, expires_ms in sorted(expiries.items()):
        days = (expires_ms - now_ms) // 86_400_000
        if expires_ms - now_ms < EXPIRY_NOTICE_MS:
            found = f"{days} days" if days >= 0 else "that it has expired"
            yield Finding(
                "trust",
                WRONG,
                f"{environment}: expected {role} metadata valid for 30 days, found {found}",
                f"run 'control-plane keys rotate-root --role {role} --renew' where its key is",
            )
        else:
            yield Finding("trust", OK, f"{environment}: {role} metadata is valid for {days} days")


def served(environment: str, generation: int, reasons: Iterable[str]) -> Iterator[Finding]:
    """What the replica itself says is wrong; development is no fault by itself."""
    wrong = False
    for reason in reasons:
        word = reason.partition(":")[0]
        if word == "development":
            yield Finding("replica", NOTE, f"{environment}: {reason}; {CURES[word]}")
            continue
        wrong = True
        found, _, cure = reason.partition("; ")
        yield Finding("replica", WRONG, f"{environment}: {found}", CURES.get(word, cure))
    if not wrong:
        yield Finding("replica", OK, f"{environment}: fresh at generation {generation}")
