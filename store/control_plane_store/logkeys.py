"""The logs' own keys, which a service reads that starts alone.

- The key of a log is in ``log-<environment>.<epoch>.pem`` when there is such a file, else in
  ``log-<environment>.pem``: an epoch with a key of its own stands beside the one before it.
- It must be the key that the root names. Whatever another key signed, nobody would accept, so a
  wrong file is refused before it signs anything.
"""

from __future__ import annotations

from pathlib import Path

from control_plane.errors import KeyFileRefused, NotFound
from control_plane.log.checkpoint import LogSigner
from control_plane.publish.keyfiles import load_private_key, log_key_name
from control_plane.trust.state import LogIdentity


class LogKeys:
    """A folder of log keys; files are read when a log first needs its signer."""

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self._folder = folder
        self._passphrase = passphrase

    def signer(self, log: LogIdentity) -> LogSigner:
        """The signer of a log.

        Raises:
            NotFound: there is no key file for it.
            KeyFileRefused: it holds another key than the root names, or as ``load_private_key``.
            SyntaxInvalid: as ``load_private_key``.
        """
        name = log_key_name(log.environment)
        path = self._folder / f"{name}.{log.epoch}.pem"
        if not path.exists():
            path = self._folder / f"{name}.pem"
        if not path.exists():
            raise NotFound(
                f"{path}: expected the log key of {log.origin}, found none; bring the file back, or"
                f" start with --without-key {log.environment} until an epoch names another key"
            )
        signer = LogSigner(log.origin, load_private_key(path, self._passphrase))
        if signer.vkeys != list(log.vkeys):
            raise KeyFileRefused(
                f"{path}: expected the log key of {log.origin}, {log.key_id}, found"
                f" {signer.key_id}; bring back the file that holds it, or begin an epoch with"
                " another key by 'control-plane log new-epoch --new-log-key'"
            )
        return signer
