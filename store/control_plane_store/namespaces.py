"""Configuration is judged as nodes will merge it: with all it refers to, and all that refers to it.

A new base is judged with all tenants, its own and those of the namespaces that refer to it. A
tenant's manifest changes nobody else's values, so it is judged for that tenant and the base alone.
Else a document that breaks another's schema, or takes away what another refers to, would be held on
every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from control_plane.configs.layers import BASE_TENANT, tenant_of
from control_plane.configs.references import START, Configuration, Documents, mentioned
from control_plane.log.canonical import Json, parse
from control_plane.log.fold import Head
from control_plane.log.statements import Change, Key
from control_plane.manifests.configs import Problem, problems, refuse
from control_plane.replica.mentions import Mentions

KIND: Final = "config"
MAX_KEPT: Final = 262_144
"""Documents whose mentions are kept; those past it are read again when they are asked for."""


class Surroundings(Protocol):
    """What stands in the log."""

    @property
    def environment(self) -> str: ...
    @property
    def heads(self) -> Callable[[tuple[Key, ...]], Mapping[Key, Head]]: ...
    @property
    def tenants(self) -> Callable[[str], Mapping[Key, Head]]: ...
    @property
    def mentions(self) -> Callable[[], Iterable[tuple[str, frozenset[str]]]]: ...
    @property
    def blob(self) -> Callable[[str], bytes | None]: ...


class MentionsKept:
    """Which namespaces a document mentions, by its digest: it never changes."""

    def __init__(self) -> None:
        self._kept: dict[str, frozenset[str]] = {}

    def of(
        self, digests: Iterable[tuple[str, str]], blob: Callable[[str], bytes | None]
    ) -> Iterator[tuple[str, frozenset[str]]]:
        """Those of documents given as (name, digest) that mention anything."""
        for name, digest in digests:
            found = self._kept.get(digest)
            if found is None:
                found = _mentioned(blob(digest), digest)
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[digest] = found
            if found:
                yield name, found


def check_namespaces(
    changes: Iterable[Change], documents: Mapping[Key, Json], around: Surroundings
) -> None:
    """Refuse a set after which merged values would break a schema, or a reference lead nowhere.

    ``documents`` are those the set puts, valid each for itself.

    Raises:
        ManifestInvalid: naming the places, in whichever manifests they are.
    """
    touched = [change for change in changes if change.kind == KIND]
    if not touched:
        return
    namespaces = {tenant_of(change.name)[0] for change in touched}
    tenants = {tenant_of(change.name)[1] for change in touched}
    standing = _Standing(touched, documents, around, None if BASE_TENANT in tenants else tenants)
    configuration = Configuration(around.environment, standing.documents)
    mentions = Mentions(around.mentions()).changed(
        {
            change.name: mentioned(document) if isinstance(document, dict) else frozenset()
            for change in touched
            for document in [documents.get(change.key)]
        }
    )
    found: list[Problem] = []
    for name in mentions.resting_on(namespaces):
        whole = configuration.documents(name)
        found.extend(problems(configuration, name, whole, tenants=standing.tenants))
    refuse(found)


class _Standing:
    """The documents of namespaces as they will stand after the set."""

    def __init__(
        self,
        touched: list[Change],
        documents: Mapping[Key, Json],
        around: Surroundings,
        tenants: set[str] | None,
    ) -> None:
        self.tenants = tenants
        self._documents = documents
        self._gone = {change.key for change in touched if change.action == "delete"}
        self._around = around

    def documents(self, name: str) -> Documents:
        """A namespace's manifests: of all tenants, or of those that the set is about."""
        base = Key(KIND, name)
        heads = dict(self._around.heads((base, *self._tenant_keys(name))))
        if self.tenants is None:
            heads |= self._around.tenants(name)
        own = {key for key in (*heads, *self._documents) if key.name.startswith(f"{name}@")}
        found = [self._document(key, heads) for key in sorted(own) if key.kind == KIND]
        return self._document(base, heads), [each for each in found if each is not None]

    def _tenant_keys(self, name: str) -> list[Key]:
        return [Key(KIND, f"{name}@{tenant}") for tenant in sorted(self.tenants or ())]

    def _document(self, key: Key, heads: Mapping[Key, Head]) -> Any:
        if key in self._gone:
            return None
        if key in self._documents:
            return self._documents[key]
        head = heads.get(key)
        data = self._around.blob(head.digest) if head is not None and head.live else None
        return None if data is None else parse(data, what=str(key))


def _mentioned(data: bytes | None, digest: str) -> frozenset[str]:
    if data is None or START.encode() not in data:
        return frozenset()
    document = parse(data, what=digest)
    return mentioned(document) if isinstance(document, dict) else frozenset()
