"""The logs' own keys, ``log-<environment>.pem``, which a service reads that starts alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from control_plane.log.checkpoint import LogSigner
from control_plane.publish.keyfiles import load_private_key, log_key_name


def load_log_signers(
    folder: Path, origins: Mapping[str, str], passphrase: bytes | None
) -> dict[str, LogSigner]:
    """A signer for each environment's log.

    Raises:
        NotFound, KeyFileRefused, SyntaxInvalid: as ``load_private_key``.
    """
    return {
        environment: LogSigner(
            origin, load_private_key(folder / f"{log_key_name(environment)}.pem", passphrase)
        )
        for environment, origin in origins.items()
    }
