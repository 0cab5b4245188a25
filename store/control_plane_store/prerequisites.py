"""No flag asks itself round through others: the store lets no ring of flags into a log.

Nodes fold each flag alone, and a reader that met a ring would give the caller's default for every
flag on it. A set is judged with the flags that stand in the log, as its environment sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import Json
from control_plane.log.statements import Key
from control_plane.manifests.environments import merged_flag
from control_plane.manifests.linting import asked_flags, rings

KIND = "flag"


def check_rings(
    documents: Mapping[Key, Json],
    gone: Collection[Key],
    live: Callable[[Key], Json],
    environment: str,
) -> None:
    """Refuse a set after which flags would ask each other in a ring.

    ``documents`` are those the set puts, ``gone`` the keys it deletes, ``live`` gives what stands
    under another key, None for nothing.

    Raises:
        ManifestInvalid: naming the ring as it is walked.
    """

    def asked(name: str) -> Collection[str]:
        key = Key(KIND, name)
        document = documents.get(key)
        if document is None and key not in gone:
            document = live(key)
        if not isinstance(document, dict):
            return ()
        metadata = document.get("metadata")
        return asked_flags(merged_flag(metadata, environment)) if isinstance(metadata, dict) else ()

    # Whoever asks nobody is on no ring, which nearly every flag shows without a walk.
    names = [key.name for key in documents if key.kind == KIND and asked(key.name)]
    ring = rings(sorted(names), asked)
    if ring:
        raise ManifestInvalid(
            f"flag/{ring[0]}: expected flags that do not ask each other in a ring, found"
            f" {' > '.join(ring)}; let one of them decide without the others"
        )
