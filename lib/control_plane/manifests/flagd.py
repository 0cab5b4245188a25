"""What a flag definition of flagd's is as manifests of ours; files in, documents out.

A file is ``{"flags": {key: flag}, "$evaluators": {name: expression}, "metadata": {…}}``. Of each
flag:

- ``{"$ref": name}`` becomes the expression of that name, those inside it too.
- ``variants``, ``targeting`` and ``defaultVariant`` stay as they are; no default, null or ``""`` is
  null, the caller's default. ``targeting: {}`` is none.
- ``state: DISABLED`` is ``enabled: false``. ``disabled`` is null, so that a flag switched off
  serves the caller's default, as in flagd; name a variant there if a kill should serve that.
- ``metadata`` is ``flag_metadata``; a manifest stands alone, so the file's own ``metadata`` goes
  into each flag, whose values win.
- ``bucketing`` is written where there is a ``fractional``: by which version of flagd's it was
  decided cannot be seen in the file.
- The key is the name. One that is no name of ours is refused, or renamed: then it is kept as
  ``salt``, which is what ``$flagd.flagKey`` and a ``fractional`` without a unit use.

``source`` and ``selector``, which flagd itself adds, and ``$schema`` are left out. Whatever else is
not known, and what flag manifests refuse, is a problem; each flag has one at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.flagd_bucketing import NEWEST
from control_plane.feature_flags.targeting import MAX_LEVELS
from control_plane.manifests.imported import Imported, Path, Problem
from control_plane.manifests.loader import Document
from control_plane.manifests.renaming import name_of
from control_plane.manifests.validation import validate

MAX_EXPANDED: Final = 100_000
"""Values of one flag's targeting after its references; references may double at each level."""

_TOP: Final = frozenset(("$schema", "$evaluators", "flags", "metadata"))
_FLAG: Final = frozenset(
    ("state", "variants", "defaultVariant", "targeting", "metadata", "source", "selector")
)
_STATES: Final = ("ENABLED", "DISABLED")


def import_flagd(source: Document, *, bucketing: str = NEWEST, rename: bool = False) -> Imported:
    """The manifests of flagd's flags; ``bucketing`` is how ``fractional`` split so far.

    With ``rename`` a key that is no name of ours becomes one.

    Raises:
        ManifestInvalid: when the file as a whole is no definition of flagd's.
    """
    flags, evaluators, shared = _parts(source.value)
    documents: dict[str, dict[str, Any]] = {}
    problems = []
    for key, flag in flags.items():
        try:
            document = _document(key, flag, evaluators, shared, bucketing, rename)
            if document["name"] in documents:
                raise _refused(("flags", key), f"a name no other flag has, found {key!r}")
            documents[document["name"]] = document
        except ManifestInvalid as error:
            problems.append(Problem(error.path, str(error)))
    return Imported(tuple(documents.values()), tuple(problems))


def _parts(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    for name in value:
        if name not in _TOP:
            raise _refused((name,), f"one of {', '.join(sorted(_TOP))}, found {name!r}")
    found = []
    for name in ("flags", "$evaluators", "metadata"):
        part = value.get(name, {})
        if not isinstance(part, dict):
            raise _refused((name,), f"a mapping at {name}, found {type(part).__name__}")
        found.append(part)
    if "flags" not in value:
        raise _refused((), "the field flags, found none")
    return found[0], found[1], found[2]


def _document(
    key: str,
    flag: Any,
    evaluators: Mapping[str, Any],
    shared: Mapping[str, Any],
    bucketing: str,
    rename: bool,
) -> dict[str, Any]:
    where: Path = ("flags", key)
    _check_fields(flag, where)
    name = name_of(
        "flag", key, rename=rename, refuse=lambda expected: _refuse_key(where, expected, key)
    )
    metadata: dict[str, Any] = {"variants": flag.get("variants")}
    metadata["default"] = _default(flag.get("defaultVariant"))
    metadata["disabled"] = None
    if flag["state"] == "DISABLED":
        metadata["enabled"] = False
    if flag.get("targeting") not in (None, {}):
        targeting = _Resolving(evaluators, (*where, "targeting")).resolved(flag["targeting"])
        metadata["targeting"] = targeting
        if "fractional" in _operators(targeting):
            metadata["bucketing"] = bucketing
    if name != key:
        metadata["salt"] = key
    told = {**shared, **_metadata(flag.get("metadata"), where)}
    if told:
        metadata["flag_metadata"] = told
    document: dict[str, Any] = {"kind": "flag", "name": name, "metadata": metadata}
    try:
        validate(document)
    except ManifestInvalid as error:
        raise ManifestInvalid(str(error), _theirs(where, error.path)) from error
    return document


def _check_fields(flag: Any, where: Path) -> None:
    if not isinstance(flag, dict):
        raise _refused(where, f"a mapping, found {type(flag).__name__}")
    for name in flag:
        if name not in _FLAG:
            raise _refused((*where, name), f"one of {', '.join(sorted(_FLAG))}, found {name!r}")
    if flag.get("state") not in _STATES:
        found = repr(flag["state"]) if "state" in flag else "none"
        raise _refused((*where, "state"), f"the state {' or '.join(_STATES)}, found {found}")


def _default(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value == "" else value


def _metadata(value: Any, where: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refused((*where, "metadata"), f"a mapping, found {type(value).__name__}")
    return value


class _Resolving:
    """Puts expressions in the place of references to them."""

    def __init__(self, evaluators: Mapping[str, Any], where: Path) -> None:
        self._evaluators = evaluators
        self._where = where
        self._left = MAX_EXPANDED

    def resolved(self, value: Any, inside: tuple[str, ...] = (), level: int = 0) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _refused(self._where, f"at most {MAX_EXPANDED} values, found more")
        if level > 2 * MAX_LEVELS:
            raise _refused(self._where, f"at most {MAX_LEVELS} operators in each other, found more")
        if isinstance(value, list):
            return [self.resolved(member, inside, level + 1) for member in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"$ref"}:
            return self._reference(value["$ref"], inside, level)
        return {name: self.resolved(member, inside, level + 1) for name, member in value.items()}

    def _reference(self, name: Any, inside: tuple[str, ...], level: int) -> Any:
        if not isinstance(name, str) or name not in self._evaluators:
            known = ", ".join(sorted(self._evaluators)) or "none"
            raise _refused(self._where, f"a $ref to one of $evaluators ({known}), found {name!r}")
        if name in inside:
            raise _refused(self._where, f"$evaluators without a circle, found {name!r} in itself")
        return self.resolved(self._evaluators[name], (*inside, name), level + 1)


def _operators(value: Any) -> Iterator[str]:
    """All keys inside an expression."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _theirs(where: Path, path: Path) -> Path:
    """The place in flagd's file of a place in the manifest."""
    words = {"default": "defaultVariant", "flag_metadata": "metadata"}
    inside = path[1:]
    return (*where, *(words.get(str(step), step) for step in inside[:1]), *inside[1:])


def _refused(path: Path, problem: str) -> ManifestInvalid:
    what = f"flag {path[1]}" if path[:1] == ("flags",) and len(path) > 1 else "flagd definition"
    return ManifestInvalid(f"{what}: expected {problem}", path)


def _refuse_key(where: Path, expected: str, key: str) -> NoReturn:
    raise _refused(where, f"{expected}, found {key!r}")
