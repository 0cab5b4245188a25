"""Files that appear whole or not at all.

Written and synced under a temporary name beside their own, then given it in one step, and the
folder synced. A crash before that step leaves a temporary file (``.<name>.<random>``) that nobody
reads, one after it the file with all its bytes.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_new(path: Path, data: bytes, mode: int) -> None:
    """The file appears with all its bytes, or stays as it was when the name is taken.

    Raises:
        FileExistsError: there is a file of that name; it is not touched.
    """
    temporary = _write_temporary(path, data, mode)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def write_over(path: Path, data: bytes, mode: int) -> None:
    """The file holds these bytes, or still what it held before."""
    _write_temporary(path, data, mode).replace(path)
    _sync_folder(path.parent)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        # The umask may have taken bits that public files need; it cannot have added any.
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
