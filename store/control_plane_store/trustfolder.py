"""The folder of trust metadata: ``<version>.root.json`` and ``targets.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import NotFound
from control_plane.trust.state import LogIdentity, restore

_ROOT = re.compile(r"([1-9][0-9]*)\.root\.json")


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
        targets = folder / "targets.json"
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
