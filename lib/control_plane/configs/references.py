"""What ``${database.url}`` inside configuration text stands for.

- A reference is ``${``, a namespace, a dot, keys joined by dots, ``}``. In a key ``~`` is written
  ``~0``, ``.`` ``~1`` and NUL ``~2``, as in the path of a record; a key with ``}`` is out of reach.
- ``$${`` is the text ``${``.
- Text that is one reference and nothing else becomes the value referred to, whatever its type.
  Inside other text strings stand as they are, numbers, true and false as canonical JSON has them;
  null, a list or a mapping there is an error.
- A reference leads to one leaf. Below a mapping there are many: it is an error, and so is ``{}``,
  which another layer may fill.
- References are followed after all layers are merged, for each environment and tenant: what a
  tenant sees is made of that tenant's values, in whichever namespace they are.
- References that lead back to where they began are an error, and so are more than 32 on end, text
  of more than 1,000 parts or 1 MiB, values of more than 64 levels, and 64 MiB of values that
  references make in one namespace (twice that, with text of others that they lead to).

A reference into a namespace nobody here knows is *open*: the text stays, and says so. Nothing here
opens a file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from control_plane.configs.layers import (
    BASE_TENANT,
    DEFAULT_LAYER,
    Merged,
    decode_path,
    encode_path,
    same,
)
from control_plane.errors import ManifestInvalid
from control_plane.names import MAX_DEPTH, is_name

START: Final = "${"
ESCAPE: Final = "$${"
END: Final = "}"
MAX_CHAIN: Final = 32
MAX_PARTS: Final = 1_000
MAX_TEXT_CHARACTERS: Final = 1 << 20
MAX_MADE_CHARACTERS: Final = 64 << 20
MAX_JOINED_CHARACTERS: Final = 2 * MAX_MADE_CHARACTERS
"""Text put together on the way to the values of one namespace, whichever it belongs to."""

Documents = tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]
"""A namespace's own manifest and those of its tenants, ``database@…``."""

Leaf = tuple[Any, str, bool, tuple[str, ...]]
"""Value, layer, whether it hides the base's leaf, and the paths its text refers to."""

Part = str | tuple[str]
"""Text as it stands, or the path of a reference."""


# Text


def parts(text: str) -> list[Part]:
    """The pieces of a text, a reference's path in a tuple of its own.

    Raises:
        ManifestInvalid: for ``${`` that begins no reference.
    """
    found: list[Part] = []
    done = 0
    while (start := text.find(START, done)) >= 0:
        if start > done and text[start - 1] == "$":
            found.append(text[done : start - 1] + START)
            done = start + len(START)
            continue
        if start > done:
            found.append(text[done:start])
        end = text.find(END, start)
        path = text[start + len(START) : end] if end >= 0 else ""
        if not _is_path(path):
            written = text[start : end + 1 if end >= 0 else None]
            raise ManifestInvalid(
                f"expected a reference such as ${{database.url}}, found {_short(written)};"
                f" write {ESCAPE} for the text {START}"
            )
        found.append((path,))
        done = end + 1
        if len(found) > MAX_PARTS:
            raise ManifestInvalid(f"expected text of at most {MAX_PARTS} parts, found more")
    if done < len(text) or not found:
        found.append(text[done:])
    return found


def speaks(value: Any) -> bool:
    """Whether there is a reference, or an escaped one, anywhere in a value."""
    if isinstance(value, str):
        return START in value
    if isinstance(value, list):
        return any(map(speaks, value))
    return isinstance(value, dict) and any(map(speaks, value.values()))


def referred(value: Any) -> tuple[str, ...]:
    """The paths a value refers to, each once, in order.

    Raises:
        ManifestInvalid: as `parts`.
    """
    found: dict[str, None] = {}
    _refer(value, found)
    return tuple(found)


def mentioned(document: Mapping[str, Any]) -> frozenset[str]:
    """The namespaces a manifest refers to, whatever the environment; one may be its own."""
    metadata = document["metadata"]
    schema = metadata.get("schema")
    texts = [metadata.get(block) for block in ("values", "environments", "tenants")]
    if speaks(schema):
        # Where the defaults are is not looked for: too many are as good as those there are.
        texts.append(schema)
    return frozenset(
        path.partition(".")[0] for text in texts if speaks(text) for path in _loosely(text)
    )


def namespace_of(path: str) -> str:
    """The namespace a path lies in."""
    return path.partition(".")[0]


def _refer(value: Any, found: dict[str, None]) -> None:
    if isinstance(value, str):
        if START in value:
            found.update((part[0], None) for part in parts(value) if isinstance(part, tuple))
    elif isinstance(value, (list, dict)):
        for inner in value if isinstance(value, list) else value.values():
            _refer(inner, found)


def _loosely(value: Any) -> Iterator[str]:
    """The paths in a value whose other text may be anything, as a pattern of a schema may."""
    if isinstance(value, str):
        for piece in value.split(START)[1:]:
            path = piece.partition(END)[0]
            if _is_path(path):
                yield path
    elif isinstance(value, (list, dict)):
        for inner in value if isinstance(value, list) else value.values():
            yield from _loosely(inner)


def _is_path(path: str) -> bool:
    namespace, dot, _ = path.partition(".")
    return (
        bool(dot)
        and "@" not in namespace
        and is_name("config", namespace)
        and encode_path(decode_path(path)) == path
    )


# Namespaces


class Configuration:
    """The namespaces of one environment, each read when a reference or a caller asks for it.

    ``documents(name)`` gives the manifests of a namespace, ``(None, [])`` for one that has none,
    and None for one that is not known here. Without ``complete`` tenants may have more manifests
    than it gives: a tenant's reference that leads nowhere is then open, no error.
    """

    def __init__(
        self,
        environment: str | None,
        documents: Callable[[str], Documents | None],
        *,
        complete: bool = True,
    ) -> None:
        self.environment = environment
        self.complete = complete
        self._read = documents
        self._namespaces: dict[str, _Namespace | None] = {}
        self._reach: dict[str, tuple[_Namespace, ...]] = {}
        self._base = _View(self, BASE_TENANT, {}, frozenset(), None)
        self._asked_by: dict[str, dict[str, list[str]]] = {}
        self._views: dict[str, dict[str, _View]] = {}
        self._made = 0
        self._joined = 0

    def documents(self, name: str) -> Documents:
        """The manifests of a namespace, none for one that is not known here."""
        namespace = self._namespace(name)
        return (None, []) if namespace is None else namespace.documents

    def speaks(self, name: str) -> bool:
        """Whether any text of the namespace is, or could be taken for, a reference."""
        namespace = self._namespace(name)
        return namespace is not None and namespace.speaks

    def leaves(
        self,
        name: str,
        failed: Callable[[str, str, ManifestInvalid], None] | None = None,
        tenants: Collection[str] | None = None,
    ) -> dict[tuple[str, str], Leaf]:
        """Every leaf of a namespace by tenant and path, its references followed, in order.

        They are those of all tenants, or of the base and ``tenants``.

        ``failed(tenant, path, error)`` is told of each leaf whose references cannot be followed,
        which is then left out; without it, the first of them is raised.

        Raises:
            ManifestInvalid: defaults or lists without bound; a reference that cannot be followed,
                named and placed.
        """
        namespace = self._namespace(name)
        if namespace is None:
            return {}
        if not namespace.speaks:
            return {place: (*leaf, ()) for place, leaf in namespace.merged.records().items()}
        self._made = self._joined = 0
        found: dict[tuple[str, str], Leaf] = {}
        base: dict[str, Any] = {}
        for path, (value, layer, _) in namespace.base.items():
            followed = self._followed(self._base, name, path, value, layer, failed)
            if followed is not None:
                base[path] = followed[0]
                found[BASE_TENANT, path] = (followed[0], layer, False, followed[1])
        for tenant in self.tenants(name) if tenants is None else sorted(tenants):
            view = self._view(name, tenant)
            own = namespace.own(tenant)
            for path in sorted({*own, *view.affected_in(name)}):
                value, layer, hidden = own.get(path) or namespace.base[path]
                if hidden:
                    found[tenant, path] = (None, layer, True, ())
                    continue
                followed = self._followed(view, name, path, value, layer, failed)
                if followed is None or (path in base and same(base[path], followed[0])):
                    continue
                found[tenant, path] = (followed[0], layer, False, followed[1])
        return dict(sorted(found.items()))

    def trees(
        self, name: str, tenants: Collection[str] | None = None, *, unfollowed: bool = True
    ) -> Iterator[tuple[str, Any, list[str]]]:
        """The whole values of a namespace as ``(tenant, tree, open)``: the base's first.

        They are those of all tenants, or of the base and ``tenants``.
        ``open`` are the paths of leaves whose references nobody here can follow; their text stays.
        With ``unfollowed`` a reference that leads nowhere is an error, else it is open too.

        Raises:
            ManifestInvalid: as `leaves`.
        """
        namespace = self._namespace(name)
        if namespace is None:
            return
        if not namespace.speaks:
            own = namespace.merged.tenants()
            for tenant in (BASE_TENANT, *own):
                if tenants is None or tenant == BASE_TENANT or tenant in tenants:
                    yield tenant, namespace.merged.tree(tenant), []
            return
        yield self._tree(namespace, self._base, unfollowed)
        for tenant in self.tenants(name) if tenants is None else sorted(tenants):
            yield self._tree(namespace, self._view(name, tenant), unfollowed)

    def _tree(
        self, namespace: _Namespace, view: _View, unfollowed: bool
    ) -> tuple[str, Any, list[str]]:
        tree = namespace.merged.tree(view.tenant)
        unknown = []
        self._made = self._joined = 0
        for path in sorted(view.speaking_in(namespace)):
            value, layer, hidden = view.leaf(path) or (None, "", True)
            if hidden:
                continue
            try:
                followed, _ = self._placed(view, namespace.name, path, value, layer)
            except ManifestInvalid:
                if unfollowed:
                    raise
                followed = OPEN
            if followed is OPEN:
                unknown.append(path)
            else:
                _put(tree, decode_path(path)[1:], followed)
        return view.tenant, tree, unknown

    def tenants(self, name: str) -> list[str]:
        """Every tenant whose values in the namespace may differ from the base's, in order."""
        own: set[str] = set()
        others: set[str] = set()
        for namespace in self.reach(name):
            (own if namespace.name == name else others).update(namespace.merged.tenants())
        # What a tenant has elsewhere matters only where it is referred to.
        touched = {each for each in others - own if self._view(name, each).affected_in(name)}
        return sorted(own | touched)

    def forget(self, name: str) -> None:
        """Let go of a namespace; it is read again if somebody asks for it."""
        self._namespaces.pop(name, None)
        self._reach.pop(name, None)
        self._asked_by.pop(name, None)
        self._views.pop(name, None)
        self._base.forget()

    def reach(self, name: str) -> tuple[_Namespace, ...]:
        """The namespace and all that its references can lead into."""
        if name not in self._reach:
            found: dict[str, _Namespace] = {}
            pending = [name]
            while pending:
                each = pending.pop()
                namespace = self._namespace(each)
                if each not in found and namespace is not None:
                    found[each] = namespace
                    pending.extend(namespace.mentions)
            self._reach[name] = tuple(found.values())
        return self._reach[name]

    def weight(self, name: str, *, whole: bool) -> int:
        """How many references the base of a namespace has, and leaves too if it is ``whole``."""
        namespace = self._namespace(name)
        if namespace is None:
            return 0
        leaves = len(namespace.base) if whole else 0
        return leaves + sum(map(len, namespace.referring.values()))

    def known(self, name: str) -> bool:
        """Whether the namespace's manifests are at hand; one may have none."""
        return self._namespace(name) is not None

    def base_leaf(self, path: str) -> tuple[Any, str, bool] | None:
        """The base's leaf before its references are followed."""
        namespace = self._namespace(namespace_of(path))
        return None if namespace is None else namespace.base.get(path)

    def is_mapping(self, path: str) -> bool:
        """Whether the base has leaves below a path."""
        namespace = self._namespace(namespace_of(path))
        return namespace is not None and namespace.leads_on(path)

    def join(self, text: list[str]) -> str:
        """One text of its pieces.

        Raises:
            ManifestInvalid: there was more of it since a caller asked than memory is for.
        """
        self._joined += sum(map(len, text))
        if self.is_full:
            raise _too_much(MAX_JOINED_CHARACTERS)
        return "".join(text)

    @property
    def is_full(self) -> bool:
        """Whether no more text is put together for the values that are asked for."""
        return self._joined > MAX_JOINED_CHARACTERS

    def _namespace(self, name: str) -> _Namespace | None:
        if name not in self._namespaces:
            documents = self._read(name)
            self._namespaces[name] = (
                None if documents is None else _Namespace(name, documents, self.environment)
            )
        return self._namespaces[name]

    def _view(self, name: str, tenant: str) -> _View:
        """What a tenant sees of all that a namespace can lead into."""
        views = self._views.setdefault(name, {})
        if tenant not in views:
            reach = self.reach(name)
            if name not in self._asked_by:
                self._asked_by[name] = _asked_by(reach)
            own = {path: leaf for each in reach for path, leaf in each.own(tenant).items()}
            affected = _affected(own, self._asked_by[name])
            views[tenant] = _View(self, tenant, own, affected, self._base)
        return views[tenant]

    def _followed(
        self,
        view: _View,
        name: str,
        path: str,
        value: Any,
        layer: str,
        failed: Callable[[str, str, ManifestInvalid], None] | None,
    ) -> tuple[Any, tuple[str, ...]] | None:
        try:
            followed, paths = self._placed(view, name, path, value, layer)
        except ManifestInvalid as error:
            if failed is None:
                raise
            failed(view.tenant, path, error)
            return None
        if followed is OPEN:
            return value, paths
        return followed, paths

    def _placed(
        self, view: _View, name: str, path: str, value: Any, layer: str
    ) -> tuple[Any, tuple[str, ...]]:
        """A leaf's value and what it refers to; an error names the leaf, and counts what is made"""
        if not speaks(value):
            return value, ()
        try:
            followed = view.value(path)
            if followed.levels + path.count(".") > MAX_DEPTH:
                raise _too_deep()
            self._made += followed.size
            if self._made > MAX_MADE_CHARACTERS:
                raise _too_much(MAX_MADE_CHARACTERS)
            return followed.value, referred(value)
        except ManifestInvalid as error:
            raise _named(error, name, path, layer, view.tenant, self.environment) from error


class _Namespace:
    """One namespace before its references are followed."""

    def __init__(self, name: str, documents: Documents, environment: str | None) -> None:
        self.name = name
        self.documents = documents
        self.merged = Merged(*documents, environment)
        present = [each for each in (documents[0], *documents[1]) if each is not None]
        self.mentions = frozenset[str]().union(*map(mentioned, present))
        # `$${` mentions nothing and is to be unwritten all the same.
        self.speaks = any(map(_speaks, present))
        self._base: dict[str, tuple[Any, str, bool]] | None = None
        self._own: dict[str, dict[str, tuple[Any, str, bool]]] = {}
        self._referring: dict[str, tuple[str, ...]] | None = None
        self._paths: list[str] | None = None

    @property
    def base(self) -> dict[str, tuple[Any, str, bool]]:
        if self._base is None:
            self._base = self.merged.base_records()
        return self._base

    def own(self, tenant: str) -> dict[str, tuple[Any, str, bool]]:
        """What a tenant has otherwise, before references."""
        if tenant not in self._own:
            self._own[tenant] = self.merged.differences(tenant)
        return self._own[tenant]

    @property
    def referring(self) -> dict[str, tuple[str, ...]]:
        """The base's leaves that speak of others, and of which."""
        if self._referring is None:
            speaking = self.base.items() if self.speaks else ()
            self._referring = {
                path: tuple(_loosely(leaf[0])) for path, leaf in speaking if speaks(leaf[0])
            }
        return self._referring

    def leads_on(self, path: str) -> bool:
        if self._paths is None:
            self._paths = sorted(self.base)
        return _has_below(self._paths, path)


class _Followed:
    """A value whose references were followed, and what bounds it.

    ``size`` is about its characters, ``depth`` how many references were followed on end,
    ``levels`` how deep lists and mappings lie in it.
    """

    __slots__ = ("depth", "levels", "size", "value")

    def __init__(self, value: Any, size: int, depth: int, levels: int = 0) -> None:
        self.value = value
        self.size = size
        self.depth = depth
        self.levels = levels


class _Open:
    """The type of ``OPEN``, which no configuration can hold."""


OPEN: Final = _Open()
"""The value of a leaf that refers to a namespace nobody here knows."""


class _View:
    """What one tenant sees of the leaves that references lead to."""

    def __init__(
        self,
        configuration: Configuration,
        tenant: str,
        own: Mapping[str, tuple[Any, str, bool]],
        affected: frozenset[str],
        base: _View | None,
    ) -> None:
        self.tenant = tenant
        self._configuration = configuration
        self._own = own
        self._affected = affected
        self._base = base
        self._done: dict[str, _Followed | str] = {}
        self._levels = 0
        self._paths: list[str] | None = None

    def leaf(self, path: str) -> tuple[Any, str, bool] | None:
        """The tenant's leaf, else the base's, before references."""
        return self._own.get(path) or self._configuration.base_leaf(path)

    def forget(self) -> None:
        """Let go of what was followed."""
        self._done.clear()

    def affected_in(self, name: str) -> list[str]:
        """The base's leaves of a namespace that come out otherwise for this tenant."""
        return [path for path in self._affected if namespace_of(path) == name]

    def speaking_in(self, namespace: _Namespace) -> set[str]:
        """The leaves of a namespace whose text is to be looked at."""
        own = {path for path, leaf in self._own.items() if speaks(leaf[0])}
        return {*namespace.referring, *(each for each in own if _lies_in(each, namespace.name))}

    def value(self, path: str) -> _Followed:
        """The leaf at a path with its references followed."""
        found = self._settled(path)
        if isinstance(found, str):
            raise ManifestInvalid(found)
        return found

    def _settled(self, path: str) -> _Followed | str:
        """The value at a path, or what is wrong with it: found out once for all who ask."""
        found = self._known(path)
        if found is None:
            self._settle(path)
            found = self._done[path]
        return found

    def _known(self, path: str) -> _Followed | str | None:
        if self._base is not None and path not in self._affected and path not in self._own:
            found = self._base._settled(path)
            # Where tenants may have more than is known here, it may be no error for this one.
            if self._configuration.complete or isinstance(found, _Followed):
                return found
        return self._done.get(path)

    def _settle(self, first: str) -> None:
        """Follow a leaf after those it refers to, each of them once, however far they lead."""
        way = {first: iter(self._asked(first))}
        while way:
            path, asked = next(reversed(way.items()))
            for other in asked:
                if other in way:
                    self._refuse_ring(way, other)
                    break
                if self._known(other) is None:
                    way[other] = iter(self._asked(other))
                    break
            else:
                del way[path]
                try:
                    self._done[path] = self._follow(self._existing(path))
                except ManifestInvalid as error:
                    if self._configuration.is_full:
                        # Nothing is wrong with this leaf for who asks for another namespace.
                        raise
                    self._done[path] = str(error)

    def _refuse_ring(self, way: dict[str, Iterator[str]], first: str) -> None:
        """Take the leaves from ``first`` on off the way: they lead back to it."""
        found = [first]
        while (last := way.popitem()[0]) != first:
            found.append(last)
        chain = " > ".join([first, *reversed(found)])
        problem = f"expected references that end, found {_short(chain, 200)}"
        self._done.update(dict.fromkeys(found, problem))

    def _asked(self, path: str) -> tuple[str, ...]:
        """What the leaf at a path refers to; nothing where there is none or it is malformed."""
        leaf = self.leaf(path)
        try:
            return referred(leaf[0]) if leaf is not None else ()
        except ManifestInvalid:
            return ()

    def _existing(self, path: str) -> Any:
        leaf = self.leaf(path)
        if leaf is not None and not leaf[2]:
            if isinstance(leaf[0], dict) and not leaf[0]:
                raise _no_leaf(path, "a mapping; refer to its keys one by one")
            return leaf[0]
        if not self._configuration.known(namespace_of(path)):
            return OPEN
        if self.tenant != BASE_TENANT and not self._configuration.complete:
            return OPEN
        below = self._configuration.is_mapping(path) or self._leads_on(path)
        raise _no_leaf(path, "a mapping; refer to its keys one by one" if below else "none")

    def _leads_on(self, path: str) -> bool:
        """Whether the tenant has leaves of its own below a path."""
        if self._paths is None:
            self._paths = sorted(each for each, leaf in self._own.items() if not leaf[2])
        return _has_below(self._paths, path)

    def _follow(self, value: Any) -> _Followed:
        if value is OPEN:
            return _Followed(OPEN, 0, 0)
        if isinstance(value, str):
            return self._text(value) if START in value else _Followed(value, len(value), 0)
        if not isinstance(value, (list, dict)):
            return _Followed(value, 8, 0)
        self._levels += 1
        try:
            # Each level takes frames of the stack, so it is bounded on the way down.
            if self._levels > MAX_DEPTH:
                raise _too_deep()
            if isinstance(value, list):
                items = [self._follow(item) for item in value]
                return _gathered([each.value for each in items], items)
            members = {key: self._follow(item) for key, item in value.items()}
            made = {key: each.value for key, each in members.items()}
            return _gathered(made, list(members.values()))
        finally:
            self._levels -= 1

    def _text(self, text: str) -> _Followed:
        found = parts(text)
        if len(found) == 1 and isinstance(found[0], tuple):
            inner = self._referred(found[0][0])
            return _Followed(inner.value, inner.size, inner.depth + 1, inner.levels)
        pieces: list[str] = []
        depth = size = 0
        for part in found:
            if isinstance(part, str):
                pieces.append(part)
            else:
                inner = self._referred(part[0])
                depth = max(depth, inner.depth + 1)
                if inner.value is OPEN:
                    return _Followed(OPEN, 0, depth)
                pieces.append(_as_text(inner.value, part[0]))
            size += len(pieces[-1])
            if size > MAX_TEXT_CHARACTERS:
                raise ManifestInvalid(
                    f"expected text of at most {MAX_TEXT_CHARACTERS} characters, found more"
                )
        return _Followed(self._configuration.join(pieces), size, depth)

    def _referred(self, path: str) -> _Followed:
        found = self.value(path)
        if found.depth >= MAX_CHAIN:
            raise _too_long()
        return found


def _gathered(value: Any, items: Iterable[_Followed]) -> _Followed:
    each = list(items)
    size = 8 + sum(item.size for item in each)
    if size > MAX_MADE_CHARACTERS:
        raise _too_much(MAX_MADE_CHARACTERS)
    levels = 1 + max((item.levels for item in each), default=0)
    if levels > MAX_DEPTH:
        raise _too_deep()
    depth = max((item.depth for item in each), default=0)
    opened = any(item.value is OPEN for item in each)
    return _Followed(OPEN if opened else value, size, depth, levels)


def _asked_by(reach: Iterable[_Namespace]) -> dict[str, list[str]]:
    """The base's leaves that refer to a path, by that path."""
    asked_by: dict[str, list[str]] = {}
    for namespace in reach:
        for path, paths in namespace.referring.items():
            for each in paths:
                asked_by.setdefault(each, []).append(path)
    return asked_by


def _affected(own: Iterable[str], asked_by: Mapping[str, list[str]]) -> frozenset[str]:
    """The base's leaves that refer, however indirectly, to something a tenant has otherwise."""
    found: set[str] = set()
    pending = list(own)
    while pending:
        for path in asked_by.get(pending.pop(), ()):
            if path not in found:
                found.add(path)
                pending.append(path)
    return frozenset(found)


def _speaks(document: Mapping[str, Any]) -> bool:
    metadata = document["metadata"]
    return any(speaks(metadata.get(block)) for block in ("values", "environments", "tenants")) or (
        speaks(metadata.get("schema"))
    )


def _has_below(paths: list[str], path: str) -> bool:
    """Whether one of these sorted paths lies below another."""
    start = bisect_left(paths, path + ".")
    return start < len(paths) and paths[start].startswith(path + ".")


def _lies_in(path: str, name: str) -> bool:
    return namespace_of(path) == name


def _put(tree: Any, keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value


def _as_text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (list, dict)):
        found = "null" if value is None else "a list" if isinstance(value, list) else "a mapping"
        raise ManifestInvalid(
            f"expected text, a number, true or false at {path} to stand inside other text,"
            f" found {found}; let the reference be all of the text"
        )
    # Authors' and daemons' code, which a reader's bare install lacks; only they have references.
    from control_plane.log.canonical import canonical

    return canonical(value).decode()


def _no_leaf(path: str, found: str) -> ManifestInvalid:
    return ManifestInvalid(f"expected a value at {_short(path)} to refer to, found {found}")


def _too_deep() -> ManifestInvalid:
    return ManifestInvalid(f"expected at most {MAX_DEPTH} levels, found more")


def _too_much(most: int) -> ManifestInvalid:
    return ManifestInvalid(f"expected at most {most} characters that references make, found more")


def _too_long() -> ManifestInvalid:
    return ManifestInvalid(f"expected at most {MAX_CHAIN} references on end, found more")


def _named(
    error: ManifestInvalid,
    name: str,
    path: str,
    layer: str,
    tenant: str,
    environment: str | None,
) -> ManifestInvalid:
    """The error at the leaf it was met for, in the manifest that says so."""
    manifest, place = manifest_place(name, layer)
    keys = decode_path(path)[1:]
    seen = (f" for {environment}:" if environment else "") + (
        f" for tenant {tenant}:" if tenant else ""
    )
    problem, semicolon, cure = str(error).partition("; ")
    at = ".".join((*place, *keys))
    return ManifestInvalid(
        f"config/{manifest}:{seen} {problem} at {_short(at, 200)}{semicolon}{cure}",
        (*place, *keys) if place[1:] != ("schema",) else place,
        f"config/{manifest}",
    )


def manifest_place(name: str, layer: str) -> tuple[str, tuple[str, ...]]:
    """The manifest that a layer of a namespace belongs to, and the layer's place inside it."""
    if layer.startswith(f"{name}@"):
        return layer, ("metadata", "values")
    block, dot, inner = layer.partition(".")
    if layer == DEFAULT_LAYER:
        return name, ("metadata", "schema")
    return name, ("metadata", block, inner) if dot else ("metadata", block)


def _short(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
