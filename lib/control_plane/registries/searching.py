"""Finding versions by what their manifests say, a page at a time.

- Versions come by name, and within a name from the oldest to the newest.
- A cursor is the reference of the last version given. The next page begins behind it, whatever was
  published meanwhile: within one generation (a pinned view) pages are all there is, once; across
  generations nothing that stands is given twice or left out. ``generation`` tells which it was.
- There is no index. Records are walked in the order of their keys, and a manifest is decoded only
  when the bytes that its canonical form must have are in it: `python -m benchmarks registry`
  says what a page costs among 100,000 versions.
"""

from __future__ import annotations

from control_plane.registries.ordering import order
from control_plane.registries.registry_manager import KINDS, channels_of, read_version
from control_plane.replica.format import DELETED, HEADER_BYTES, NO_VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_plane.registries.manifests import Loaded
    from control_plane.replica.reader import View

MAX_LIMIT = 1_000
PORTION = 64
"""Records taken at once: the replica's lock is held meanwhile, and a record may have a mebibyte."""

_STATUS_BYTE = 3


class Found:
    """One version that was found: what a list of versions shows of it."""

    __slots__ = (
        "capabilities", "category", "channels", "description", "kind", "name", "owner", "status",
        "tags", "version",
    )  # fmt: skip

    def __init__(self, loaded: Loaded, channels: tuple[str, ...]) -> None:
        document = loaded.document
        metadata = document["metadata"]
        self.kind = loaded.kind
        self.name: str = document["name"]
        self.version: str = document["version"]
        self.owner: str | None = document.get("owner")
        self.description: str = metadata.get("description", "")
        self.category: str | None = metadata.get("category")
        self.capabilities: tuple[str, ...] = tuple(metadata.get("capabilities", ()))
        self.tags: tuple[str, ...] = tuple(metadata.get("tags", ()))
        self.status: str = loaded.discouraged or "active"
        self.channels = channels

    @property
    def reference(self) -> str:
        """``agent/NAME@VERSION``."""
        return f"{self.kind}/{self.name}@{self.version}"

    def __repr__(self) -> str:
        return f"<Found {self.reference}>"


class Page:
    """Versions found, the cursor of the next page (None: this is the last) and the generation."""

    __slots__ = ("cursor", "found", "generation")

    def __init__(self, found: tuple[Found, ...], cursor: str | None, generation: int) -> None:
        self.found = found
        self.cursor = cursor
        self.generation = generation

    def __repr__(self) -> str:
        return f"<Page of {len(self.found)}, next {self.cursor}, generation {self.generation}>"


class Wanted:
    """What is looked for; None and empty text are met by everything."""

    __slots__ = ("capability", "category", "channel", "name", "needles", "owner", "tag", "words")

    def __init__(
        self,
        name: str | None = None,
        owner: str | None = None,
        category: str | None = None,
        capability: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        channel: str | None = None,
    ) -> None:
        # Imported here: only who searches needs it.
        from json import dumps

        self.name = (name or "").lower()
        self.owner = owner
        self.category = category
        self.capability = capability
        self.tag = tag
        self.channel = channel
        self.words = tuple((text or "").lower().split())
        # JSON text as RFC 8785 writes it: these bytes are in every manifest that has the value.
        self.needles = tuple(
            dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
            for value in (owner, category, capability, tag)
            if value is not None
        )

    def may_be_in(self, raw: bytes) -> bool:
        """Whether a record can be meant; only its bytes are looked at."""
        for needle in self.needles:
            if needle not in raw:
                return False
        if self.words:
            lower = raw.lower()
            for word in self.words:
                # Of other letters bytes know no case, and these two are written otherwise.
                plain = word.isascii() and '"' not in word and "\\" not in word
                if plain and word.isprintable() and word.encode() not in lower:
                    return False
        return True

    def is_met_by(self, found: Found) -> bool:
        """Whether a version is meant."""
        return (
            self.owner in (None, found.owner)
            and self.category in (None, found.category)
            and (self.capability is None or self.capability in found.capabilities)
            and (self.tag is None or self.tag in found.tags)
            and (self.channel is None or self.channel in found.channels)
            and (not self.words or self._says(found))
        )

    def _says(self, found: Found) -> bool:
        parts = (
            found.name, found.description, found.category or "", *found.tags, *found.capabilities,
        )  # fmt: skip
        text = "\n".join(parts).lower()
        return all(word in text for word in self.words)


def search(view: View, kind: str, wanted: Wanted, limit: int, cursor: str | None) -> Page:
    """One page of the versions that are wanted.

    Raises:
        ValueError: another kind, limit or cursor than there can be.
    """
    if kind not in KINDS:
        raise ValueError(f"expected agent or tool, found {kind!r}")
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"expected a limit from 1 to {MAX_LIMIT}, found {limit!r}")
    name, version = _position(kind, cursor)
    found: list[Found] = []
    for each in _all(view, kind, wanted, name, version):
        if len(found) == limit:
            return Page(tuple(found), found[-1].reference, view.generation)
        found.append(each)
    return Page(tuple(found), None, view.generation)


def _position(kind: str, cursor: str | None) -> tuple[str, str | None]:
    if cursor is None:
        return "", None
    name, at, version = cursor.removeprefix(f"{kind}/").partition("@")
    if not (cursor.startswith(f"{kind}/") and name and at and version and cursor.isascii()):
        raise ValueError(f"expected the cursor of a page of {kind}s, found {cursor!r}")
    return name, version


def _all(view: View, kind: str, wanted: Wanted, first: str, behind: str | None) -> Iterator[Found]:
    """What is wanted, from a version of the name ``first`` on."""
    for name, versions in _candidates(view, kind, wanted, first):
        versions.sort(key=order)
        if name == first and behind is not None:
            reached = order(behind)
            versions = [version for version in versions if order(version) > reached]
        if not versions:
            continue
        pointed = channels_of(view, kind, name)
        for version in versions:
            loaded = read_version(view, kind, name, version)
            channels = tuple(channel for channel, at in pointed.items() if at == version)
            found = Found(loaded, channels)
            if wanted.is_met_by(found):
                yield found


def _candidates(
    view: View, kind: str, wanted: Wanted, first: str
) -> Iterator[tuple[str, list[str]]]:
    """Names from ``first`` on, each with those of its versions that may be wanted."""
    name, versions = "", list[str]()
    for key, raw in _records(view, bytes((KINDS[kind],)), first):
        has, _, version = key[1:].decode().partition("\0")
        if has != name:
            if versions:
                yield name, versions
            name, versions = has, []
        live = raw[_STATUS_BYTE] not in (DELETED, NO_VALUE) if len(raw) >= HEADER_BYTES else True
        if live and wanted.name in has and wanted.may_be_in(raw):
            versions.append(version)
    if versions:
        yield name, versions


def _records(view: View, prefix: bytes, first: str) -> Iterator[tuple[bytes, bytes]]:
    """Records of a kind from the name ``first`` on, a portion at a time."""
    after = prefix + first.encode() if first else prefix
    while True:
        portion: list[tuple[bytes, bytes]] = view.scan(prefix, PORTION, after=after)
        yield from portion
        if len(portion) < PORTION:
            return
        after = portion[-1][0] + b"\0"
