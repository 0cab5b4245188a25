"""Where ``config`` verbs read configuration: files, a store now, a store at a generation.

Each gives the manifests by namespace. A document among the files that is what the store holds is
not fetched, so that a folder of thousands costs one list of digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from control_plane.configs.layers import tenant_of
from control_plane.publish.preflight import spaces

if TYPE_CHECKING:
    from control_plane.cli.files import DocumentFile
    from control_plane.cli.output import Progress
    from control_plane.cli.settings import Settings
    from control_plane.cli.standing import Standing
    from control_plane.configs.references import Documents
    from control_plane.publish.publisher import Publisher
    from control_plane.publish.replay import History


def configs_of(files: Iterable[DocumentFile]) -> list[dict[str, Any]]:
    """The configuration manifests among documents, as they are published."""
    return [item.document for item in files if item.document["kind"] == "config"]


def read_configs(paths: Iterable[str]) -> list[dict[str, Any]]:
    """The configuration manifests of files and folders.

    Raises:
        NotFound, SyntaxInvalid, ManifestInvalid: as ``read_documents``.
    """
    from control_plane.cli.files import read_documents

    return configs_of(read_documents(paths))


def live_configs(
    reader: Publisher,
    environment: str,
    known: Iterable[Mapping[str, Any]] = (),
    moved: Progress | None = None,
) -> list[Mapping[str, Any]]:
    """Every configuration manifest that stands; those ``known`` already are not fetched."""
    heads = reader.heads(environment, kind="config").values()
    digests = [head.digest for head in heads if head.live]
    return _fetched(reader, environment, digests, known, moved)


def configs_at(
    reader: Publisher, history: History, generation: int, known: Iterable[Mapping[str, Any]] = ()
) -> list[Mapping[str, Any]]:
    """Every configuration manifest that stood at a generation of a verified log.

    Raises:
        NotFound: the log has no such generation, or the store deleted a superseded document.
    """
    changes = history.changes_at(generation)
    digests = [str(change.digest) for key, change in changes.items() if key.kind == "config"]
    return _fetched(reader, history.environment, digests, known)


def verified_history(reader: Publisher, found: Settings, environment: str) -> History:
    """The environment's log, verified from its first entry.

    Raises:
        NotFound: no trust.json is at hand.
        TrustError: the log proves something else than it claims.
    """
    from control_plane.publish.replay import replay

    return replay(reader.store, environment, found.enrolment())


def standing_namespace(standing: Standing, namespace: str) -> Documents:
    """The manifests of one namespace as they stand."""
    names = [key.name for key in standing.digests if tenant_of(key.name)[0] == namespace]
    documents = [standing.document("config", name) for name in sorted(names)]
    return spaces(documents).get(namespace, (None, []))


def _fetched(
    reader: Publisher,
    environment: str,
    digests: list[str],
    known: Iterable[Mapping[str, Any]],
    moved: Progress | None = None,
) -> list[Mapping[str, Any]]:
    from control_plane.log.canonical import sha256_hex
    from control_plane.manifests.documents import blob

    at_hand = {sha256_hex(blob(dict(each))): each for each in known}
    found: list[Mapping[str, Any]] = []
    for done, digest in enumerate(digests, 1):
        found.append(at_hand.get(digest) or reader.document_at(environment, digest))
        if moved is not None:
            moved(done, len(digests))
    return found
