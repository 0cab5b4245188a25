"""The folder of trust metadata: ``<version>.root.json`` and ``targets.json``.

A root of some version is written once: other bytes under the same version are refused, for there
can be only one. Targets is the newest there is: it is replaced by a higher version only. Roots come
first, oldest first, targets last, so that a crash leaves a chain without a gap, and running the
same change again writes what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.errors import Forked, NotFound, RolledBack
from control_plane.publish.durable import write_new, write_over
from control_plane.trust.metadata import read_root, read_targets
from control_plane.trust.state import LogIdentity, restore

_ROOT: Final = re.compile(r"([1-9][0-9]*)\.root\.json")
_TARGETS: Final = "targets.json"
_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class TrustFolder:
    """Root metadata of every version, oldest first, and the newest targets metadata."""

    roots: tuple[bytes, ...]
    targets: bytes

    @classmethod
    def read(cls, folder: Path) -> TrustFolder:
        """Read a trust folder; nothing is verified here.

        Raises:
            NotFound: a part is missing.
        """
        named = [
            (int(match[1]), path)
            for path in sorted(folder.glob("*.root.json"))
            if (match := _ROOT.fullmatch(path.name))
        ]
        targets = folder / _TARGETS
        if not named or not targets.is_file():
            raise NotFound(
                f"{folder}: expected <version>.root.json and targets.json, found"
                f" {len(named)} roots; make them with 'control-plane keys init'"
            )
        roots = tuple(path.read_bytes() for _, path in sorted(named))
        return cls(roots, targets.read_bytes())

    def identities(self) -> dict[str, LogIdentity]:
        """The logs the newest root names, by environment.

        Raises:
            SyntaxInvalid, SignatureInvalid: root or targets are not signed as the root says.
        """
        policy = restore(self.roots[-1], self.targets)
        return {environment: policy.log(environment) for environment in policy.environments}

    def versions(self) -> dict[int, bytes]:
        """The roots by version.

        Raises:
            SyntaxInvalid: a root is out of form.
        """
        return {read_root(data).version: data for data in self.roots}


def write_trust(folder: Path, roots: Mapping[int, bytes], targets: bytes) -> None:
    """Make the folder hold these roots, beside those it has, and these targets; durable then.

    Raises:
        Forked: it holds a root of one of these versions, or targets of this one, with other bytes.
        RolledBack: it holds targets of a higher version.
    """
    for version, data in sorted(roots.items()):
        _write_root(folder / f"{version}.root.json", version, data)
    _write_targets(folder / _TARGETS, targets)


def _write_root(path: Path, version: int, data: bytes) -> None:
    try:
        if path.exists():
            _check_same(path, f"root version {version}", data)
        else:
            write_new(path, data, _MODE)
    except FileExistsError:
        # Written by another run a moment ago: it is the same, or somebody else's.
        _check_same(path, f"root version {version}", data)


def _write_targets(path: Path, data: bytes) -> None:
    offered = read_targets(data).version
    if path.exists():
        held = read_targets(path.read_bytes()).version
        if held > offered:
            raise RolledBack(f"{path}: expected targets after version {held}, found {offered}")
        if held == offered:
            _check_same(path, f"targets version {offered}", data)
            return
    write_over(path, data, _MODE)


def _check_same(path: Path, what: str, data: bytes) -> None:
    if path.read_bytes() != data:
        raise Forked(f"{path}: expected {what} as it is here, found another; it was left as it is")
