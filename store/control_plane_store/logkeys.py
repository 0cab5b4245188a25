"""The logs' own keys: ``log-<environment>.pem`` for each, Ed25519 in PKCS #8, readable by the owner only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from control_plane.log.checkpoint import LogSigner
from control_plane.publish.keyfiles import load_private_key


def load_log_signers(
    folder: Path, origins: Mapping[str, str], passphrase: bytes | None
) -> dict[str, LogSigner]:
    """A signer for each environment's log.

    Raises:
        ControlPlaneError: a file is missing, readable by others, or holds no such key.
    """
    return {
        environment: LogSigner(
            origin, load_private_key(folder / f"log-{environment}.pem", passphrase)
        )
        for environment, origin in origins.items()
    }
