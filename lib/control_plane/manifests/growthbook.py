"""What GrowthBook's features are as manifests of ours; its endpoint's answer in, documents out.

The file is ``{"features": {key: feature}, "savedGroups": {name: values}}``. Of each feature:

- The values it can serve become variants: of one JSON type, named by their own text where that is
  a name, ``on`` and ``off`` for booleans, else ``v1``, ``v2``, …. A feature that knows one value
  gets a second variant that nothing serves.
- ``defaultValue`` is the default; null, or none, is the caller's default. ``disabled`` is null, so
  that a flag that is switched off serves what a feature that is switched off does.
- A ``force`` rule is a rule that serves its variant; ``coverage`` or ``range`` is a ``$bucket``.
- An experiment is a split where its variations fill the whole range, else a rule with a ``$bucket``
  for each variation; whom none of them holds goes on to the next rule, as there. ``namespace`` and
  ``filters`` are buckets, too.
- ``parentConditions`` ask by ``$flag`` for those variants of the other flag whose values hold. A
  ``gate`` that fails ends the feature without a value: rules from there on ask the gate as well,
  and the default becomes the last of them.
- ``hashVersion`` is the flag's ``bucketing``; ``hashAttribute`` is ``by``, the seed ``salt``.

What cannot be said exactly is refused, or said with what differs: see ``growthbook_conditions`` for
conditions. Sticky buckets are an SDK's own memory, which no file has: an experiment that names a
fallback attribute or a bucket version for them is changed. What a rule says for tracking alone
(``id``, ``name``, ``meta``, ``phase``, ``tracks``) decides nothing, but for ``meta.passthrough``.

Source: ``growthbook.core`` of the PyPI package 4.0.0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.bucketings import GROWTHBOOK_1, GROWTHBOOK_2, split_ends
from control_plane.feature_flags.compile import VARIANTS, Compiler, PlainContext
from control_plane.feature_flags.table import MAX_PREREQUISITES
from control_plane.manifests.asking import RuleNames, after_asked
from control_plane.manifests.conditions import Condition, all_of, any_of, asks, none_of
from control_plane.manifests.growthbook_conditions import Conditions, check_attribute, refuse
from control_plane.manifests.imported import Imported, Path, Problem
from control_plane.manifests.loader import Document
from control_plane.manifests.renaming import name_of
from control_plane.manifests.validation import validate
from control_plane.manifests.variants import completed, identity, type_of, variant_names

_TOP: Final = frozenset(("features", "savedGroups", "status", "dateUpdated", "experiments"))
_FEATURE: Final = frozenset(("defaultValue", "rules", "metadata"))
_RULE: Final = frozenset(
    (
        "id", "key", "variations", "weights", "coverage", "condition", "namespace", "force",
        "hashAttribute", "fallbackAttribute", "hashVersion", "range", "ranges", "meta", "filters",
        "seed", "name", "phase", "disableStickyBucketing", "bucketVersion", "minBucketVersion",
        "parentConditions", "tracks", "metadata",
    )
)  # fmt: skip
_MOST_ASKED: Final = 100
"""Parents, or filters, of one rule: our rules ask no more, and putting more together takes long."""
_POINTS: Final = {1: 1000, 2: 10000}
_BUCKETINGS: Final = {1: GROWTHBOOK_1, 2: GROWTHBOOK_2}
_ATTRIBUTES: Final = "a call's context is the user's attributes, by the names they have there"
_LISTS: Final = "$in and $inGroup look into lists for the attributes of --list: {}"
_STICKING: Final = ("fallbackAttribute", "bucketVersion", "minBucketVersion")
_STICKY: Final = "buckets are not sticky: whom a sticky bucket service kept stays no longer"


def import_growthbook(
    source: Document, *, lists: Collection[str] = (), rename: bool = False
) -> Imported:
    """The manifests of GrowthBook's features.

    ``lists`` are the attributes that hold lists; all others are single values. With ``rename`` a
    key that is no name of ours becomes one.

    Raises:
        ManifestInvalid: when the file as a whole is no answer of its SDK endpoint.
    """
    features, groups = _parts(source.value)
    translating = _Features(features, groups, lists, rename)
    documents: dict[str, dict[str, Any]] = {}
    problems, changes = [], []
    for key, found in translating.all():
        try:
            if isinstance(found, ManifestInvalid):
                raise found
            if found.document["name"] in documents:
                refuse(("features", key), "a name no other feature has", found.document["name"])
        except ManifestInvalid as error:
            problems.append(Problem(error.path, str(error)))
            continue
        documents[found.document["name"]] = found.document
        changes += [Problem(("features", key), f"flag {key}: {text}") for text in found.changes]
    notes = [_ATTRIBUTES, _LISTS.format(", ".join(lists) or "none")]
    if source.value.get("experiments"):
        notes.append(
            "automatic experiments (visual editor, redirects) are no features and left out"
        )
    return Imported(tuple(documents.values()), tuple(problems), tuple(changes), tuple(notes))


def _parts(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if "encryptedFeatures" in value:
        raise ManifestInvalid(
            "GrowthBook features: expected them in clear, found encryptedFeatures;"
            " use an SDK connection without encryption", ("encryptedFeatures",),
        )  # fmt: skip
    found = []
    for name in value:
        if name not in _TOP:
            names = ", ".join(sorted(_TOP))
            raise ManifestInvalid(
                f"GrowthBook features: expected one of {names}, found {name!r}", (name,)
            )
    for name in ("features", "savedGroups"):
        part = value.get(name, {})
        if not isinstance(part, dict):
            what = type(part).__name__
            raise ManifestInvalid(
                f"GrowthBook features: expected a mapping at {name}, found {what}", (name,)
            )
        found.append(part)
    if "features" not in value:
        raise ManifestInvalid("GrowthBook features: expected the field features, found none", ())
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class _Carried:
    """A feature as a manifest, and what can be served: null where its caller's default can be.

    ``height`` is how many features are under each other from here on, this one counted.
    """

    document: dict[str, Any]
    null: bool
    height: int
    changes: tuple[str, ...]


class _Features:
    """All features of a file; each is translated once, before those that ask it."""

    def __init__(
        self,
        features: Mapping[str, Any],
        groups: Mapping[str, Any],
        lists: Collection[str],
        rename: bool,
    ) -> None:
        self._features = features
        self.groups = groups
        self.lists = lists
        self.rename = rename
        self._found: dict[str, _Carried | ManifestInvalid] = {}

    def all(self) -> Iterator[tuple[str, _Carried | ManifestInvalid]]:
        """Each feature as a manifest or why it is refused, in the order of the file."""
        for key, _ in after_asked(self._features, self._parents):
            try:
                self._found[key] = _Feature(self, key, self._features[key]).carried()
            except ManifestInvalid as error:
                self._found[key] = error
        for key in self._features:
            yield key, self._found[key]

    def asked(self, key: Any, where: Path) -> _Carried:
        """The feature that another one rests on."""
        if not isinstance(key, str) or key not in self._features:
            refuse(where, "a feature that is in the file", key)
        found = self._found.get(key)
        if found is None:
            # Those that are asked come first, but for one that asks this one.
            refuse(where, "features that do not ask each other in a ring", key)
        if isinstance(found, ManifestInvalid):
            refuse(where, "a feature that is carried over", key)
        return found

    def _parents(self, key: str) -> Iterator[str]:
        """The features of the file that one seems to ask, whatever else is wrong with it."""
        feature = self._features[key]
        rules = feature.get("rules") if isinstance(feature, dict) else None
        for rule in rules if isinstance(rules, list) else ():
            parents = rule.get("parentConditions") if isinstance(rule, dict) else None
            for parent in parents if isinstance(parents, list) else ():
                other = parent.get("id") if isinstance(parent, dict) else None
                if isinstance(other, str) and other in self._features:
                    yield other


@dataclass(slots=True)
class _Rules:
    """The rules written so far; ``gate`` has to hold for those to come."""

    gate: Condition = True
    rules: list[dict[str, Any]] = field(default_factory=list)
    names: RuleNames = field(default_factory=RuleNames)
    gated: bool = False

    def add(self, name: str, when: Condition, **serve: Any) -> None:
        """Add a rule; none where its condition never holds."""
        when = all_of(self.gate, when)
        if when is False:
            return
        rule: dict[str, Any] = {"name": self.names.of(name)}
        if when is not True:
            rule["when"] = when
        self.rules.append({**rule, **serve})


class _Feature:
    """One feature on its way to a manifest."""

    def __init__(self, features: _Features, key: str, feature: Any) -> None:
        self._where: Path = ("features", key)
        if not isinstance(feature, dict):
            refuse(self._where, "a mapping", feature)
        _check_fields(feature, _FEATURE, self._where)
        self._features = features
        self._key = key
        self._feature = feature
        self._conditions = Conditions(features.groups, features.lists)
        self._changes: list[str] = []
        self._under = 0
        self._written = feature.get("rules") or []
        if not isinstance(self._written, list):
            refuse((*self._where, "rules"), "a list", self._written)
        self._version = next(map(_version, filter(_hashes, self._written)), 0)
        self._rules = _Rules()
        self._name = name_of(
            "flag",
            key,
            rename=features.rename,
            refuse=lambda expected: refuse(self._where, expected, key),
        )

    def carried(self) -> _Carried:
        values = self._values(self._written)
        self._names = variant_names(values)
        for index, rule in enumerate(self._written):
            self._rule(rule, index)
        default = self._feature.get("defaultValue")
        metadata: dict[str, Any] = {
            "variants": completed({self._names[identity(value)]: value for value in values}),
            "default": None if default is None else self._variant(default),
            "disabled": None,
        }
        if self._rules.gated and default is not None:
            metadata["default"] = None
            self._rules.add("default", True, serve=self._variant(default))
        if self._rules.rules:
            metadata["rules"] = self._rules.rules
        if self._version:
            metadata["bucketing"] = _BUCKETINGS[self._version]
        if self._name != self._key:
            metadata["salt"] = self._key
        document: dict[str, Any] = {"kind": "flag", "name": self._name, "metadata": metadata}
        try:
            validate(document)
        except ManifestInvalid as error:
            raise ManifestInvalid(str(error), self._where) from error
        changes = tuple(dict.fromkeys([*self._changes, *self._conditions.changes]))
        return _Carried(document, default is None or self._rules.gated, 1 + self._under, changes)

    def _values(self, rules: list[Any]) -> list[Any]:
        """The values the feature can serve, each once, all of one type."""
        values: dict[str, Any] = {}
        default = self._feature.get("defaultValue")
        for value in (default, *(each for rule in rules for each in _served(rule, self._where))):
            if value is not None:
                values.setdefault(identity(value), value)
        if type_of(values.values()) is None:
            expected = "values of one JSON type" if values else "a value that is not null"
            refuse(self._where, expected, list(values.values())[:3])
        return list(values.values())

    def _variant(self, value: Any) -> str:
        return self._names[identity(value)]

    def _rule(self, rule: Any, index: int) -> None:
        where: Path = (*self._where, "rules", index)
        if not isinstance(rule, dict):
            refuse(where, "a mapping", rule)
        _check_fields(rule, _RULE, where)
        asked = self._prerequisites(rule.get("parentConditions") or [], where)
        condition: Condition = True
        if rule.get("condition"):
            condition = self._conditions.when(rule["condition"], (*where, "condition"))
        filters = self._filters(rule.get("filters") or [], where)
        name = rule.get("id") or rule.get("key") or f"rule {index + 1}"
        if not isinstance(name, str):
            refuse((*where, "id"), "text", name)
        when = all_of(asked, condition, filters)
        if rule.get("force") is not None:
            self._rules.add(
                name, all_of(when, self._rollout(rule, where)), serve=self._variant(rule["force"])
            )
        elif rule.get("variations") is not None:
            self._experiment(rule, name, when, where)

    def _prerequisites(self, parents: Any, where: Path) -> Condition:
        """What the rule asks of other flags; a gate is asked by the rules after it, too."""
        where = (*where, "parentConditions")
        _check_list(parents, where)
        asked: Condition = True
        for index, parent in enumerate(parents):
            holds = self._parent(parent, (*where, index))
            if parent.get("gate"):
                # Whom an earlier one kept out of this rule never came to the gate.
                passed = holds if asked is True else none_of(all_of(asked, none_of(holds)))
                self._rules.gate = all_of(self._rules.gate, passed)
                self._rules.gated = True
            asked = all_of(asked, holds)
        return asked

    def _parent(self, parent: Any, where: Path) -> Condition:
        """Which variants of another flag a condition holds for."""
        if not isinstance(parent, dict) or set(parent) - {"id", "condition", "gate"}:
            refuse(where, "a mapping of id, condition and gate", parent)
        other = self._features.asked(parent.get("id"), (*where, "id"))
        if other.changes:
            self._changes.append(f"{parent['id']}, which it asks, differs")
        if parent.get("condition") is None:
            return True
        variants = other.document["metadata"]["variants"]
        listed = any(isinstance(value, list) for value in variants.values())
        conditions = Conditions(self._features.groups, ("value",) if listed else ())
        when = conditions.when(parent["condition"], (*where, "condition"))
        self._changes += conditions.changes
        holding = [name for name, value in variants.items() if _holds(when, value)]
        failing = [name for name in variants if name not in holding]
        self._check_height(other, where)
        if other.null and _holds(when, None):
            return none_of(_serves(other, failing))
        return _serves(other, holding) if other.null or failing else True

    def _check_height(self, other: _Carried, where: Path) -> None:
        if other.height >= MAX_PREREQUISITES:
            expected = f"features that ask each other at most {MAX_PREREQUISITES} deep"
            refuse((*where, "id"), expected, other.document["name"])
        self._under = max(self._under, other.height)

    def _filters(self, filters: Any, where: Path) -> Condition:
        where = (*where, "filters")
        _check_list(filters, where)
        found: Condition = True
        for index, each in enumerate(filters):
            here = (*where, index)
            if not isinstance(each, dict) or not isinstance(each.get("ranges"), list):
                refuse(here, "a mapping with a list of ranges", each)
            attribute, seed = each.get("attribute", "id"), each.get("seed", "")
            version = each.get("hashVersion", 2)
            parts = [
                self._bucket(_range(part, here), attribute, seed, version, here)
                for part in each["ranges"]
            ]
            found = all_of(found, any_of(*parts))
        return found

    def _rollout(self, rule: Mapping[str, Any], where: Path) -> Condition:
        """Who is in the share of a rule that serves one value."""
        if rule.get("range") is not None:
            span = _range(rule["range"], (*where, "range"))
        elif rule.get("coverage") is not None:
            span = 0.0, _fraction(rule["coverage"], (*where, "coverage"))
        else:
            return True
        version = _version(rule)
        seed = rule.get("seed") or self._key
        attribute = _attribute(rule.get("hashAttribute"))
        found = self._bucket(span, attribute, seed, version, where)
        fallback = rule.get("fallbackAttribute")
        if not fallback or rule.get("disableStickyBucketing"):
            return found
        fallen = self._bucket(span, fallback, seed, version, where)
        return any_of(found, all_of(none_of(_hashable(attribute)), fallen))

    def _experiment(self, rule: Mapping[str, Any], name: str, when: Condition, where: Path) -> None:
        variations = rule["variations"]
        if not isinstance(variations, list):
            refuse((*where, "variations"), "a list", variations)
        if len(variations) < 2:
            # No experiment there, and the next rule is asked.
            return
        if any(map(rule.get, _STICKING)) and not rule.get("disableStickyBucketing"):
            self._changes.append(_STICKY)
        version = _version(rule)
        attribute = _attribute(rule.get("hashAttribute"))
        if rule.get("namespace") and not rule.get("filters"):
            when = all_of(when, self._namespace(rule["namespace"], attribute, where))
        seed = rule.get("seed") or rule.get("key") or self._key
        ranges = _ranges(rule, len(variations), where)
        skipped = _passing(rule.get("meta"), len(variations), where)
        weights = _weights(ranges, version) if version == self._version else None
        if weights is not None and not any(skipped) and None not in variations:
            split = [
                {"variant": self._variant(value), "weight": weight}
                for value, weight in zip(variations, weights, strict=True)
            ]
            self._check_hash(attribute, seed, version, where)
            own = {} if seed == self._key else {"salt": seed}
            self._rules.add(name, when, serve=split, by=attribute, **own)
            return
        for index, (value, span) in enumerate(zip(variations, ranges, strict=True)):
            part = self._bucket(span, attribute, seed, version, where)
            if skipped[index]:
                continue
            if value is None and part is not False:
                refuse((*where, "variations", index), "a value", None)
            if part is not False:
                label = f"{name}, {self._variant(value)}"
                self._rules.add(label, all_of(when, part), serve=self._variant(value))

    def _namespace(self, namespace: Any, attribute: str, where: Path) -> Condition:
        where = (*where, "namespace")
        if not isinstance(namespace, list) or len(namespace) != 3:
            refuse(where, "a list of name, start and end", namespace)
        name, *span = namespace
        if not isinstance(name, str):
            refuse(where, "a list of name, start and end", namespace)
        return self._bucket(_range(span, where), attribute, f"__{name}", 1, where)

    def _bucket(
        self, span: tuple[float, float], attribute: Any, seed: Any, version: Any, where: Path
    ) -> Condition:
        """Who falls into a range, whose bounds become the points they lie before."""
        self._check_hash(attribute, seed, version, where)
        points = _POINTS[version]
        start, end = (_reached(bound, points) for bound in span)
        if start >= end:
            return False
        found: dict[str, Any] = {"range": [start / points, end / points], "by": attribute}
        if seed != self._key:
            found["salt"] = seed
        if not self._version:
            self._version = version
        if version != self._version:
            found["bucketing"] = _BUCKETINGS[version]
        return {"$bucket": found}

    def _check_hash(self, attribute: Any, seed: Any, version: Any, where: Path) -> None:
        if not isinstance(attribute, str) or not attribute or "." in attribute:
            refuse(where, "an attribute to hash by whose name has no dots", attribute)
        check_attribute(attribute, where)
        if not isinstance(seed, str) or not seed:
            refuse(where, "a seed that is not empty", seed)
        if not _is_version(version):
            refuse(where, "the hash version 1 or 2", version)


def _check_list(value: Any, where: Path) -> None:
    if not isinstance(value, list):
        refuse(where, "a list", value)
    if len(value) > _MOST_ASKED:
        refuse(where, f"at most {_MOST_ASKED} items", len(value))


def _check_fields(value: Mapping[str, Any], known: frozenset[str], where: Path) -> None:
    for name in value:
        if name not in known:
            refuse((*where, name), f"one of {', '.join(sorted(known))}", name)


def _served(rule: Any, where: Path) -> Iterator[Any]:
    """The values a rule can serve."""
    if not isinstance(rule, dict):
        return
    if rule.get("force") is not None:
        yield rule["force"]
    elif isinstance(rule.get("variations"), list) and len(rule["variations"]) > 1:
        passing = _passing(rule.get("meta"), len(rule["variations"]), where)
        yield from (value for value, on in zip(rule["variations"], passing, strict=True) if not on)


def _hashes(rule: Any) -> bool:
    """Whether a rule of its own splits units."""
    if not isinstance(rule, dict) or not _is_version(_version(rule)):
        return False
    shared = rule.get("coverage") is not None or rule.get("range") is not None
    return rule.get("variations") is not None or (rule.get("force") is not None and shared)


def _version(rule: Mapping[str, Any]) -> Any:
    return rule.get("hashVersion") or 1


def _is_version(value: Any) -> bool:
    return type(value) is int and value in _POINTS


def _attribute(name: Any) -> Any:
    return "id" if name is None else name


def _hashable(attribute: str) -> Condition:
    """Whether an attribute is a unit there: text or a number, and neither empty nor 0."""
    return asks(attribute, "not_in", ["", 0, True, False])


def _holds(when: Condition, value: Any) -> bool:
    """Whether a condition about ``value`` holds for this one."""
    if isinstance(when, bool):
        return when
    flag = {
        "variants": {"yes": True, "no": False},
        "default": "no",
        "rules": [{"name": "asked", "when": when, "serve": "yes"}],
    }
    answer = Compiler().compile("asked", flag).bound(VARIANTS)
    return bool(answer(None, None, PlainContext({"value": value})) == "yes")


def _serves(other: _Carried, variants: list[str]) -> Condition:
    if not variants:
        return False
    wanted: Any = variants[0] if len(variants) == 1 else variants
    return {"$flag": {other.document["name"]: wanted}}


def _fraction(value: Any, where: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(where, "a number from 0 to 1", value)
    return float(value)


def _range(value: Any, where: Path) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        refuse(where, "a list of start and end", value)
    return _fraction(value[0], where), _fraction(value[1], where)


def _ranges(rule: Mapping[str, Any], count: int, where: Path) -> list[tuple[float, float]]:
    """Each variation's range, as the SDK has it."""
    if rule.get("ranges"):
        where = (*where, "ranges")
        if not isinstance(rule["ranges"], list) or len(rule["ranges"]) != count:
            refuse(where, "a list of a range for each variation", rule["ranges"])
        return [_range(each, where) for each in rule["ranges"]]
    coverage = rule.get("coverage")
    coverage = 1.0 if coverage is None else _fraction(coverage, (*where, "coverage"))
    coverage = min(max(coverage, 0.0), 1.0)
    ranges = []
    cumulative = 0.0
    for weight in _shares(rule.get("weights"), count):
        ranges.append((cumulative, cumulative + coverage * weight))
        cumulative += weight
    return ranges


def _shares(weights: Any, count: int) -> list[float]:
    """The weights, or equal ones where they are none that the SDK takes."""
    sound = (
        isinstance(weights, list)
        and len(weights) == count
        and all(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight <= 2
            for weight in weights
        )
    )
    return weights if sound and 0.99 <= sum(weights) <= 1.01 else [1 / count] * count


def _reached(bound: float, points: int) -> int:
    """The first point, of so many from 0 to below 1, that a bound is not above."""
    found = min(max(math.ceil(bound * points), 0), points)
    # The product is rounded, and the points are quotients.
    while found > 0 and (found - 1) / points >= bound:
        found -= 1
    while found < points and found / points < bound:
        found += 1
    return found


def _weights(ranges: list[tuple[float, float]], version: int) -> list[int] | None:
    """Weights that split just as these ranges do; None where there are none, or a gap is left."""
    points = _POINTS[version]
    spans = [(_reached(start, points), _reached(end, points)) for start, end in ranges]
    ends = [end for _, end in spans]
    if [start for start, _ in spans] != [0, *ends[:-1]] or ends[-1] != points:
        return None
    weights = [end - start for start, end in spans]
    percent = points // 100
    if not any(weight % percent for weight in weights):
        weights = [weight // percent for weight in weights]
    sums = split_ends(_BUCKETINGS[version], weights, sum(weights))
    return weights if [_reached(each, points) for each in sums[:-1]] == ends[:-1] else None


def _passing(meta: Any, count: int, where: Path) -> list[bool]:
    """Of which variations the units go on to the next rule."""
    found = meta or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        refuse((*where, "meta"), "a list of mappings", meta)
    passing = [bool(each.get("passthrough")) for each in found[:count]]
    return passing + [False] * (count - len(passing))
