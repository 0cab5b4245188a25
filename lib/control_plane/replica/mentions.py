"""Which configuration namespaces refer to which, so that a change reaches all who rest on it.

Nothing of this is stored: it is read from the served documents when the first one changes, and
then kept. A document that mentions a namespace in vain only costs a look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from control_plane.configs.layers import tenant_of
from control_plane.configs.references import START, mentioned


class Mentions:
    """The namespaces each document mentions, by the document's name."""

    def __init__(self, documents: Iterable[tuple[str, frozenset[str]]] = ()) -> None:
        self._mentioned = {name: namespaces for name, namespaces in documents if namespaces}

    def changed(self, documents: Mapping[str, frozenset[str]]) -> Mentions:
        """These with some documents replaced."""
        following = Mentions()
        kept = {name: each for name, each in self._mentioned.items() if name not in documents}
        following._mentioned = kept | {name: each for name, each in documents.items() if each}
        return following

    def resting_on(self, namespaces: Collection[str]) -> list[str]:
        """The namespaces, and those that refer to them however indirectly, in order."""
        asked_by: dict[str, set[str]] = {}
        for name, each in self._mentioned.items():
            for namespace in each:
                asked_by.setdefault(namespace, set()).add(tenant_of(name)[0])
        found, pending = set(namespaces), list(namespaces)
        while pending:
            for namespace in asked_by.get(pending.pop(), set()) - found:
                found.add(namespace)
                pending.append(namespace)
        return sorted(found)


def mentions_of(documents: Iterable[tuple[str, bytes]], parse: Any) -> Mentions:
    """Of stored documents by name; only those whose bytes could mention something are parsed."""
    start = START.encode()

    def each() -> Iterator[tuple[str, frozenset[str]]]:
        for name, data in documents:
            if start in data:
                yield name, mentioned(parse(data))

    return Mentions(each())
