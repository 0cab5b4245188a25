"""What became of a schema: compatible, breaking or unknown, with the place and the reason.

- *Compatible* is proven (`containment`): every value of the one schema fits the other.
- *Breaking* is shown: a value of the one that the other refuses was found, and the engine that
  judges calls says so of both. It is looked for near the bounds, names and listed values of both.
- Everything else is *unknown*; the place is where the proof did not go through.

A schema that is absent accepts everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from control_plane.manifests.json_schema import written_path
from control_plane.registries.containment import Path, unproven
from control_plane.registries.schema_places import Place, Places

COMPATIBLE: Final = "compatible"
BREAKING: Final = "breaking"
UNKNOWN: Final = "unknown"

MAX_TRIED: Final = 48
"""How many values are tried for one place."""
MAX_DEPTH: Final = 6
"""How deep values are built."""
MAX_KEPT: Final = 4
"""How many refused values of one place are carried to the places around it."""
MAX_WEIGHT: Final = 1_000_000
"""How many values, and members of values, are tried for one pair of schemas."""
MAX_LENGTH: Final = 1_000
"""The longest text or list that is built."""


class Comparison(NamedTuple):
    """What comparing two schemas gave; ``example`` is a value that shows a breaking change."""

    verdict: str
    path: Path = ()
    reason: str = ""
    example: Any = None

    def __str__(self) -> str:
        if self.verdict == COMPATIBLE:
            return COMPATIBLE
        place = f" at {written_path(self.path)}" if self.path else ""
        return f"{self.verdict}: {self.reason}{place}"


def compare_schemas(narrow: Any, wide: Any) -> Comparison:
    """Whether every value that ``narrow`` accepts is accepted by ``wide``.

    Raises:
        ManifestInvalid: one of them is no schema that a manifest may have.
    """
    one, other = Places(narrow), Places(wide)
    gap = unproven(one, other)
    if gap is None:
        return Comparison(COMPATIBLE)
    if one.judgeable and other.judgeable:
        for value in _Values(one, other).refused():
            finding = None
            if isinstance(other.root, Mapping):
                finding = other.engine(other.root).first_finding(value)
            if finding is None:
                return Comparison(BREAKING, (), "no value is accepted", value)
            reason = f"expected {finding.expected}, found {finding.found}"
            return Comparison(BREAKING, finding.path, reason, value)
    return Comparison(UNKNOWN, gap.path, gap.reason)


class _Values:
    """Values that fit one schema, those that the other refuses first."""

    def __init__(self, narrow: Places, wide: Places) -> None:
        self._narrow = narrow
        self._wide = wide
        self._weight = 0

    def refused(self) -> Iterator[Any]:
        """Values that the narrow schema accepts and the wide one does not."""
        for value in self._tried((self._narrow.root,), (self._wide.root,), 0):
            if not self._wide.accepts(self._wide.root, value):
                yield value

    def _tried(self, narrow: tuple[Place, ...], wide: tuple[Place, ...], depth: int) -> list[Any]:
        """Values that fit all of ``narrow``: first those that ``wide`` refuses, then one more."""
        yours = _opened(self._wide, wide)
        yours += [each for ways in _ways(yours) for each in _opened(self._wide, ways)]
        bad: list[Any] = []
        good: list[Any] = []
        plain = _opened(self._narrow, narrow)
        for way in [(), *_ways(plain)]:
            mine = _opened(self._narrow, (*narrow, *way))
            for value in self._candidates(mine, yours, depth):
                self._weight += 1 + (len(value) if isinstance(value, (dict, list, str)) else 0)
                if self._weight > MAX_WEIGHT:
                    break
                if not all(self._narrow.accepts(each, value) for each in narrow):
                    continue
                fits = all(self._wide.accepts(each, value) for each in wide)
                (good if fits else bad).append(value)
                if len(bad) >= MAX_KEPT:
                    return [*bad, *good[:1]]
        return [*bad, *good[:1]]

    def _candidates(
        self, mine: list[Mapping[str, Any]], yours: list[Mapping[str, Any]], depth: int
    ) -> Iterator[Any]:
        both = [*mine, *yours]
        for place in both:
            yield from place.get("enum", ())[:MAX_TRIED]
            yield from (place[key] for key in ("const", "default") if key in place)
            yield from place.get("examples", ())[:4]
        yield from _scalars(both)
        if depth < MAX_DEPTH:
            yield from self._objects(mine, yours, depth)
            yield from self._arrays(mine, yours, depth)

    def _objects(
        self, mine: list[Mapping[str, Any]], yours: list[Mapping[str, Any]], depth: int
    ) -> Iterator[Any]:
        names = list(dict.fromkeys(name for each in mine for name in each.get("required", ())))
        base: dict[str, Any] = {}
        tried: dict[str, list[Any]] = {}
        listed = {name for each in (*mine, *yours) for name in each.get("properties", {})}
        needed = {name for each in yours for name in each.get("required", ())}
        for name in [*names, *sorted((listed | needed) - set(names)), "other"]:
            tried[name] = self._tried(_member(mine, name), _member(yours, name), depth + 1)
            if name in names and tried[name]:
                base[name] = tried[name][-1]
        if any(name not in base for name in names):
            return
        yield base
        for name, values in tried.items():
            yield from ({**base, name: value} for value in values)
        whole = {name: values[-1] for name, values in tried.items() if values and name != "other"}
        yield {**base, **whole}
        yield from ({key: whole[key] for key in whole if key != name} for name in whole)

    def _arrays(
        self, mine: list[Mapping[str, Any]], yours: list[Mapping[str, Any]], depth: int
    ) -> Iterator[Any]:
        yield []
        first = max((len(each.get("prefixItems", ())) for each in (*mine, *yours)), default=0)
        each_place = [
            self._tried(_item(mine, index), _item(yours, index), depth + 1)
            for index in range(min(first, 16) + 1)
        ]
        for length in _sizes((*mine, *yours), "minItems", "maxItems"):
            values = [each_place[min(index, len(each_place) - 1)] for index in range(length)]
            if not all(values):
                continue
            plain = [tried[-1] for tried in values]
            yield plain
            for index in range(min(length, len(each_place))):
                yield from ([*plain[:index], value, *plain[index + 1 :]] for value in values[index])


def _opened(places: Places, given: Iterable[Place]) -> list[Mapping[str, Any]]:
    """The subschemas that all apply to one place."""
    found: list[Mapping[str, Any]] = []
    pending, seen = list(given), set()
    while pending and len(found) < MAX_TRIED:
        place = pending.pop(0)
        if isinstance(place, bool) or id(place) in seen:
            continue
        seen.add(id(place))
        found.append(place)
        if "$ref" in place:
            pending.append(places.resolve(place["$ref"]))
        pending.extend(place.get("allOf", ()))
    return found


def _ways(opened: list[Mapping[str, Any]]) -> list[tuple[Place, ...]]:
    """The branches a value may take, each with what comes with it."""
    found: list[tuple[Place, ...]] = []
    for place in opened:
        found += [(branch,) for key in ("anyOf", "oneOf") for branch in place.get(key, ())]
        if "if" in place:
            found += [(place["if"], place.get("then", True)), (place.get("else", True),)]
    return found[:MAX_TRIED]


def _member(places: list[Mapping[str, Any]], name: str) -> tuple[Place, ...]:
    """What the properties of that name ask, in plain words only: candidates are judged whole."""
    found = tuple(each["properties"][name] for each in places if name in each.get("properties", {}))
    rest = (each["additionalProperties"] for each in places if "additionalProperties" in each)
    return found or tuple(each for each in rest if not isinstance(each, bool))


def _item(places: list[Mapping[str, Any]], index: int) -> tuple[Place, ...]:
    found: list[Place] = []
    for each in places:
        first = each.get("prefixItems", ())
        if index < len(first):
            found.append(first[index])
        elif "items" in each:
            found.append(each["items"])
    return tuple(found)


def _sizes(places: Iterable[Mapping[str, Any]], *keywords: str) -> list[int]:
    named = {int(each[key]) for each in places for key in keywords if key in each}
    sizes = {1, 2, *(size + step for size in named for step in (-1, 0, 1))}
    return sorted(size for size in sizes if 0 < size <= MAX_LENGTH)[:MAX_TRIED]


def _scalars(places: list[Mapping[str, Any]]) -> Iterator[Any]:
    yield from (None, True, False, 0, 1, -1, 1009, 0.5, "", "a", "0", "another", *_FORMS)
    for place in places:
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if key in place:
                yield from (place[key] + step for step in (0, -1, 1, 0.5, -0.5))
                yield place[key] * 2
    yield from ("a" * size for size in _sizes(places, "minLength", "maxLength"))


_FORMS: Final = (
    "2024-01-01", "2024-01-01T00:00:00Z", "12:00:00Z", "a@example.org", "https://example.org/a",
    "00000000-0000-4000-8000-000000000000", "192.0.2.1", "::1", "example.org",
)  # fmt: skip
