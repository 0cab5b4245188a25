"""Which names, versions and sizes are allowed, for authors, the store and the daemon alike.

A name is part of keys, paths and signatures, so its pattern is narrow and never changes; the
reading library does not check names again and does not import this module.
"""

from __future__ import annotations

import re
import unicodedata

from control_plane.errors import ManifestInvalid

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")
CONFIG_NAME = re.compile(r"[a-z][a-z0-9_]*(@[a-z0-9][a-z0-9_.-]{0,63})?")
TENANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,31}")
INSTALLATION = ENVIRONMENT
CHANNEL = ENVIRONMENT
ORIGIN = re.compile(r"[a-z][a-z0-9-]{0,31}/[a-z][a-z0-9-]{0,31}/[1-9][0-9]{0,9}")
DIGEST = re.compile(r"[0-9a-f]{64}")
SHARD = re.compile(r"[0-9a-f]{4}")
VERB = re.compile(r"[a-z][a-z0-9-]{0,31}")

MAX_VERSION_BYTES = 64
MAX_NAME_BYTES = 128
MAX_TENANT_BYTES = 128
MAX_REASON_BYTES = 1024
MAX_SCOPE_BYTES = 32
MAX_KILL_VALUE_BYTES = 256
MAX_SIGNATURES = 16
MAX_LEAF_BYTES = 65_535
MAX_LISTED_CHANGES = 64
MAX_CHANGES = 100_000
MAX_CHANGE_LIST_BYTES = 32 << 20
MAX_REQUEST_BYTES = 32 << 20
MAX_MANIFEST_BYTES = 1 << 20
MAX_CONFIG_BYTES = 16 << 20
MAX_CONFIG_LEAVES = 200_000
MAX_DEPTH = 64
MAX_INTEGER = (1 << 53) - 1
"""The largest integer RFC 8785 writes without loss: 2^53 - 1."""

MANIFEST_KINDS = ("flag", "segment", "config", "agent", "tool")
CHANGE_KINDS = (*MANIFEST_KINDS, "kill")
VERSIONED_KINDS = ("agent", "tool")


def is_name(kind: str, name: str) -> bool:
    """Whether a manifest of that kind may be called so."""
    pattern = CONFIG_NAME if kind == "config" else NAME
    return pattern.fullmatch(name) is not None and len(name) <= MAX_NAME_BYTES


def check_name(kind: str, name: str) -> None:
    """Refuse a name outside its kind's pattern.

    Raises:
        ManifestInvalid: naming the pattern expected and what was found.
    """
    if not is_name(kind, name):
        pattern = (CONFIG_NAME if kind == "config" else NAME).pattern
        raise ManifestInvalid(f"{kind}: expected a name like {pattern}, found {name!r}", ("name",))


def is_tenant(tenant: str) -> bool:
    """Whether ``tenants:`` may hold this id: NFC text up to 128 bytes, no control characters."""
    return (
        0 < len(tenant.encode("utf-8", "surrogatepass")) <= MAX_TENANT_BYTES
        and unicodedata.is_normalized("NFC", tenant)
        and not any(unicodedata.category(character) in ("Cc", "Cs") for character in tenant)
    )
