"""What Unleash's features are as flag manifests of ours; its client features in, documents out.

The file is ``{"version": 2, "features": […], "segments": […]}``, as the API for
clients answers. ``isEnabled`` and ``getVariant`` are two
questions there, and each answers by itself; so a feature with variants becomes two flags:

- NAME, ``on`` or ``off``: off unless ``enabled``, the features it depends on and one of its
  strategies say otherwise.
- NAME.variant, the values of its variants' payloads (the variants' names where they have none), and
  the caller's default where Unleash says ``disabled``. The first strategy that matches decides, by
  its ``variants`` or, where it has none, the feature's own; overrides come before weights.

Of strategies:

- ``default`` always matches, ``userWithId`` is ``user_id: {in: […]}``; ``remoteAddress`` the same
  for addresses, of blocks up to 256 addresses each one.
- ``flexibleRollout``, ``gradualRolloutUserId`` and ``gradualRolloutSessionId`` are a ``$bucket``
  with ``groupId`` as ``salt`` and ``bucketing: unleash``. ``default`` stickiness is the user id,
  else the session id; who has neither is chosen at random there, anew each time, and never here:
  the flag is changed.
- Stickiness ``random`` and ``gradualRolloutRandom`` between 0 and 100 %, ``applicationHostname``
  and strategies of one's own are refused.
- Constraints and those of ``segments`` have to hold, too; see ``unleash_constraints``.

``dependencies`` ask by ``$flag``. As there, a feature that depends on one with dependencies of its
own is off. A rollout without ``groupId`` splits by the name of its feature; asked for a dependent
feature, their engine splits it by that one's name: the dependent feature is changed.

``impressionData``, ``description``, ``type``, ``stale`` and ``project`` decide nothing and are left
out. What else is not known is refused.

Source: yggdrasil-engine 2.0.0, the engine of the PyPI package UnleashClient 6.9.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Final, NoReturn

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.bucketings import UNLEASH
from control_plane.feature_flags.comparing import seconds_of
from control_plane.manifests.conditions import Condition, all_of, any_of, is_there, none_of
from control_plane.manifests.imported import Imported, Path, Problem
from control_plane.manifests.loader import Document
from control_plane.manifests.renaming import MAX_NAME, name_of
from control_plane.manifests.unleash_constraints import SESSION, TIME, USER, Constraints, refuse
from control_plane.manifests.validation import validate
from control_plane.manifests.variants import completed, is_variant_name, type_of

SUFFIX: Final = ".variant"
MAX_BLOCK: Final = 256

_MOST_CONSTRAINTS: Final = 1000
_TOP: Final = frozenset(("version", "features", "segments", "query", "meta"))
_FEATURE: Final = frozenset(
    (
        "name", "type", "project", "enabled", "stale", "description", "impressionData",
        "strategies", "variants", "dependencies", "createdAt", "lastSeenAt", "archived", "favorite",
    )
)  # fmt: skip
_STRATEGY: Final = frozenset(
    (
        "id", "name", "title", "parameters", "constraints", "segments", "variants", "sortOrder",
        "disabled", "featureName",
    )
)  # fmt: skip
_NOTES: Final = (
    "userId is user_id, every other field and property an attribute of its own name",
    "attributes are text, as in Unleash's context, but numbers where NUM_ compares them",
    f"getVariant of a feature asks the flag NAME{SUFFIX}",
)
_IMPRESSIONS: Final = "impressionData is left out, which features that send events have: {}"
_DEFAULT: Final = "default"
_RANDOM: Final = "random"


def import_unleash(source: Document, *, rename: bool = False) -> Imported:
    """The manifests of Unleash's features.

    With ``rename`` a name that is none of ours becomes one.

    Raises:
        ManifestInvalid: when the file as a whole is no answer of its client API.
    """
    features = _Features(source.value, rename)
    documents: dict[str, dict[str, Any]] = {}
    problems, changes = [], []
    for index, name in enumerate(features.names):
        try:
            found = features.carried(name)
            for document in found.documents:
                if document["name"] in documents:
                    refuse(name, ("features", index), "a name no other flag has", document["name"])
        except ManifestInvalid as error:
            problems.append(Problem(error.path, str(error)))
            continue
        documents.update({document["name"]: document for document in found.documents})
        where: Path = ("features", index)
        changes += [Problem(where, f"flag {name}: {text}") for text in found.changes]
    silent = features.impressions
    notes = (*_NOTES, *([_IMPRESSIONS.format(silent)] if silent else []))
    return Imported(tuple(documents.values()), tuple(problems), tuple(changes), notes)


@dataclass(frozen=True, slots=True)
class _Carried:
    """A feature as one or two manifests."""

    documents: tuple[dict[str, Any], ...]
    changes: tuple[str, ...]


class _Features:
    """All features and segments of a file; each feature is translated once."""

    def __init__(self, value: Mapping[str, Any], rename: bool) -> None:
        for name in value:
            if name not in _TOP:
                raise _not_unleash((name,), f"one of {', '.join(sorted(_TOP))}, found {name!r}")
        self.rename = rename
        self._features = _named(value.get("features"), "features", "name")
        self._segments = _named(value.get("segments") or [], "segments", "id")
        self._places = {name: index for index, name in enumerate(self._features)}
        self._segment_places = {number: index for index, number in enumerate(self._segments)}
        self._found: dict[str, _Carried | ManifestInvalid] = {}

    @property
    def names(self) -> list[str]:
        """The features' names as they are in the file."""
        return list(self._features)

    @property
    def impressions(self) -> int:
        """How many features ask for events of their evaluations."""
        return sum(bool(each.get("impressionData")) for each in self._features.values())

    def carried(self, name: str) -> _Carried:
        """The feature as manifests.

        Raises:
            ManifestInvalid: it is refused.
        """
        found = self._found.get(name)
        if found is None:
            try:
                feature = self._feature(name)
                documents = [feature.enabled(), *([feature.variant()] if feature.varies else [])]
                found = _Carried(tuple(documents), feature.changes)
            except ManifestInvalid as error:
                found = error
            self._found[name] = found
        if isinstance(found, ManifestInvalid):
            raise found
        return found

    def asked(self, name: str, other: Any, where: Path) -> tuple[_Feature, bool]:
        """A feature that another one depends on, and whether it differs."""
        if not isinstance(other, str) or other not in self._features:
            refuse(name, (*where, "feature"), "a feature that is in the file", other)
        feature = self._feature(other)
        if feature.depends:
            return feature, False
        try:
            return feature, bool(self.carried(other).changes)
        except ManifestInvalid:
            refuse(name, (*where, "feature"), "a feature that is carried over", other)

    def segment(self, name: str, number: Any, where: Path) -> tuple[list[dict[str, Any]], Path]:
        """The constraints of a segment, and where it is."""
        if type(number) is not int or number not in self._segments:
            refuse(name, where, "a segment that is in the file", number)
        index = self._segment_places[number]
        constraints = self._segments[number].get("constraints") or []
        if not isinstance(constraints, list) or not all(isinstance(e, dict) for e in constraints):
            refuse(name, ("segments", index), "a list of constraints", constraints)
        return constraints, ("segments", index)

    def _feature(self, name: str) -> _Feature:
        return _Feature(self, self._features[name], self._places[name])


@dataclass(slots=True)
class _Matching:
    """When a strategy matches: its condition, and the times it is asked from and until."""

    condition: Condition
    times: dict[str, str] = field(default_factory=dict)


class _Feature:
    """One feature on its way to one or two manifests."""

    def __init__(self, features: _Features, feature: Mapping[str, Any], index: int) -> None:
        self.key: str = feature["name"]
        self._features = features
        self._feature = feature
        self.where: Path = ("features", index)
        self._constraints = Constraints(self.key)
        self._changes: list[str] = []
        self._bucketed = False
        for name in feature:
            if name not in _FEATURE:
                self._refuse((*self.where, name), f"one of {', '.join(sorted(_FEATURE))}", name)
        self.strategies = self._list(feature.get("strategies"), (*self.where, "strategies"))
        self.variants = self._list(feature.get("variants"), (*self.where, "variants"))
        self.name = name_of(
            "flag",
            self.key,
            rename=features.rename,
            refuse=lambda expected: self._refuse(self.where, expected, self.key),
            longest=MAX_NAME - len(SUFFIX),
        )

    @property
    def varies(self) -> bool:
        """Whether it has variants of its own or of a strategy."""
        return bool(self.variants) or any(each.get("variants") for each in self.strategies)

    @property
    def depends(self) -> bool:
        """Whether it depends on others."""
        return bool(self._feature.get("dependencies"))

    @property
    def groupless(self) -> bool:
        """Whether a strategy rolls out by the name of whatever feature is asked."""
        rollouts = (each for each in self.strategies if each.get("name") == "flexibleRollout")
        return any("groupId" not in (each.get("parameters") or {}) for each in rollouts)

    @property
    def changes(self) -> tuple[str, ...]:
        """How the answers differ."""
        return tuple(dict.fromkeys([*self._changes, *self._constraints.changes]))

    def enabled(self) -> dict[str, Any]:
        """The flag that says whether the feature is on.

        Raises:
            ManifestInvalid: it says what ours cannot.
        """
        self._bucketed = False
        needed = self._dependencies()
        rules = []
        always = not self.strategies and needed is True
        matchings = [self._matching(each, index) for index, each in enumerate(self.strategies)]
        if not self.strategies:
            matchings = [_Matching(True)]
        for index, matching in enumerate(matchings):
            when = all_of(needed, matching.condition)
            always = always or (when is True and not matching.times)
            rule = _rule(self._label(index), when, matching.times, {"serve": "on"})
            rules += [rule] if rule else []
        metadata: dict[str, Any] = {
            "variants": {"on": True, "off": False},
            "default": "on" if always else "off",
            "disabled": "off",
        }
        return self._document(self.name, metadata, [] if always else rules)

    def variant(self) -> dict[str, Any]:
        """The flag that says which variant is served.

        Raises:
            ManifestInvalid: it says what ours cannot.
        """
        self._bucketed = False
        values = self._values()
        metadata = {"variants": completed(values), "default": None, "disabled": None}
        return self._document(f"{self.name}{SUFFIX}", metadata, self._variant_rules(), salt=True)

    def _document(
        self, name: str, metadata: dict[str, Any], rules: list[dict[str, Any]], salt: bool = False
    ) -> dict[str, Any]:
        if not self._feature.get("enabled"):
            metadata["enabled"] = False
        if rules:
            metadata["rules"] = rules
        if self._bucketed:
            metadata["bucketing"] = UNLEASH
        if self._bucketed and (salt or self.name != self.key):
            metadata["salt"] = self.key
        document: dict[str, Any] = {"kind": "flag", "name": name, "metadata": metadata}
        try:
            validate(document)
        except ManifestInvalid as error:
            raise ManifestInvalid(str(error), self.where) from error
        return document

    def _label(self, index: int) -> str:
        if not self.strategies:
            return "always"
        strategy = self.strategies[index]
        return f"{index + 1} {strategy.get('title') or strategy['name']}"[:100]

    # Dependencies.

    def _dependencies(self) -> Condition:
        where: Path = (*self.where, "dependencies")
        dependencies = self._list(self._feature.get("dependencies"), where)
        return all_of(
            *(self._dependency(each, (*where, index)) for index, each in enumerate(dependencies))
        )

    def _dependency(self, dependency: Mapping[str, Any], where: Path) -> Condition:
        other, differs = self._features.asked(self.key, dependency.get("feature"), where)
        if other.depends:
            # One level is all there is; a deeper one never holds.
            return False
        enabled = dependency.get("enabled")
        wanted = dependency.get("variants") or []
        if not isinstance(wanted, list):
            self._refuse((*where, "variants"), "a list of variants", wanted)
        on: Condition = {"$flag": {other.name: "on"}}
        if other.groupless:
            self._changes.append(
                f"{other.key}, which it asks, has a rollout without groupId, which its engine"
                " splits by the name of the feature that asks, and here is split by its own"
            )
        if differs:
            self._changes.append(f"{other.key}, which it asks, differs")
        if enabled is False:
            if wanted:
                self._refuse(where, "no variants of a feature that has to be off", wanted)
            return none_of(on)
        if not wanted or not other.varies:
            return on
        unwanted = [name for name in other.variant_names() if name not in wanted]
        # A feature that is on and has no variant at all is content with any list of them.
        if not unwanted:
            return on
        names: Any = unwanted[0] if len(unwanted) == 1 else unwanted
        return all_of(on, none_of({"$flag": {f"{other.name}{SUFFIX}": names}}))

    # Strategies.

    def _matching(self, strategy: Mapping[str, Any], index: int) -> _Matching:
        where: Path = (*self.where, "strategies", index)
        for name in strategy:
            if name not in _STRATEGY:
                self._refuse((*where, name), f"one of {', '.join(sorted(_STRATEGY))}", name)
        constraints = self._list(strategy.get("constraints"), (*where, "constraints"))
        places: list[Path] = [(*where, "constraints", at) for at in range(len(constraints))]
        segments = strategy.get("segments") or []
        if not isinstance(segments, list):
            self._refuse((*where, "segments"), "a list of segments", segments)
        asked: set[Path] = set()
        for number in segments:
            more, place = self._features.segment(self.key, number, (*where, "segments"))
            if place not in asked:
                asked.add(place)
                constraints = [*constraints, *more]
                places += [(*place, "constraints", at) for at in range(len(more))]
        if len(constraints) > _MOST_CONSTRAINTS:
            expected = f"at most {_MOST_CONSTRAINTS} constraints in one strategy"
            self._refuse(where, expected, len(constraints))
        found = _Matching(self._strategy(strategy, where))
        conditions = []
        for constraint, place in zip(constraints, places, strict=True):
            if constraint.get("contextName") == TIME:
                _narrow(found.times, *self._constraints.moment(constraint, place))
            else:
                conditions.append(self._constraints.when(constraint, place))
        found.condition = all_of(found.condition, *conditions)
        if _empty(found.times):
            found.condition = False
        return found

    def _strategy(self, strategy: Mapping[str, Any], where: Path) -> Condition:
        name = strategy.get("name")
        parameters = strategy.get("parameters") or {}
        where = (*where, "parameters")
        if not isinstance(parameters, dict):
            self._refuse(where, "a mapping", parameters)
        if name == "default":
            return True
        if name == "userWithId":
            ids = [each.strip() for each in self._text(parameters, "userIds", where).split(",")]
            return self._constraints.among("userId", ids, where)
        if name == "remoteAddress":
            return self._addresses(self._text(parameters, "IPs", where), where)
        if name == "flexibleRollout":
            share = self._percentage(parameters, "rollout", where)
            group = parameters.get("groupId", self.key)
            return self._rollout(share, parameters.get("stickiness", _DEFAULT), group, where)
        if name in ("gradualRolloutUserId", "gradualRolloutSessionId"):
            share = self._percentage(parameters, "percentage", where)
            field = "userId" if name == "gradualRolloutUserId" else SESSION
            return self._rollout(share, field, self._text(parameters, "groupId", where), where)
        if name == "gradualRolloutRandom":
            share = self._percentage(parameters, "percentage", where)
            return self._rollout(share, _RANDOM, self.key, where)
        self._refuse((*where[:-1], "name"), "a strategy that rules can say", name)

    def _rollout(self, share: int, stickiness: Any, group: Any, where: Path) -> Condition:
        if share == 0:
            return False
        if stickiness in (_DEFAULT, _RANDOM):
            if share == 100:
                # A random number stands in where there is no id.
                return True
            if stickiness == _RANDOM:
                self._refuse(where, "a share that is the same each time, or 0 or 100 %", stickiness)
            self._changes.append(
                "callers with neither a user id nor a sessionId are chosen at random there, anew "
                "each time, and here never"
            )
            return any_of(
                self._bucket(share, USER, group, where),
                all_of(none_of(is_there(USER)), self._bucket(share, SESSION, group, where)),
            )
        attribute = self._constraints.attribute(stickiness, (*where, "stickiness"))
        return is_there(attribute) if share == 100 else self._bucket(share, attribute, group, where)

    def _bucket(self, share: int, attribute: str, group: Any, where: Path) -> Condition:
        self._check_group(group, where)
        self._bucketed = True
        found: dict[str, Any] = {"range": [0, share / 100], "by": attribute}
        if group != self.key:
            found["salt"] = group
        return {"$bucket": found}

    def _check_group(self, group: Any, where: Path) -> None:
        if not isinstance(group, str) or not group or '"' in group or "\\" in group:
            self._refuse((*where, "groupId"), 'a text without \'"\' and "\\"', group)

    def _percentage(self, parameters: Mapping[str, Any], name: str, where: Path) -> int:
        text = self._text(parameters, name, where)
        if not (text.isascii() and text.isdigit() and int(text) <= 100):
            self._refuse((*where, name), "a whole number from 0 to 100", text)
        return int(text)

    def _addresses(self, listed: str, where: Path) -> Condition:
        addresses: list[str] = []
        for each in listed.split(","):
            try:
                network = IPv4Network(each.strip(), strict=False)
            except ValueError:
                self._refuse((*where, "IPs"), "IPv4 addresses, or blocks of them", each.strip())
            if network.num_addresses > MAX_BLOCK:
                self._refuse((*where, "IPs"), f"blocks of up to {MAX_BLOCK} addresses", each)
            addresses += map(str, network)
        return self._constraints.among("remoteAddress", addresses, where)

    # Variants.

    def variant_names(self) -> list[str]:
        """The names of all variants, those of strategies too."""
        return list(self._values())

    def _values(self) -> dict[str, Any]:
        """The value of each variant: its payload's, or all their names."""
        lists = [(self.variants, (*self.where, "variants"))]
        for index, strategy in enumerate(self.strategies):
            place = (*self.where, "strategies", index, "variants")
            lists.append((self._list(strategy.get("variants"), place), place))
        values: dict[str, Any] = {}
        for variants, place in lists:
            for at, variant in enumerate(variants):
                name = variant.get("name")
                if not isinstance(name, str) or not is_variant_name(name):
                    self._refuse(
                        (*place, at, "name"), "a name of letters, digits, '_', '.' and '-'", name
                    )
                value = self._payload(variant.get("payload"), (*place, at, "payload"))
                if name in values and values[name] != value:
                    self._refuse((*place, at), "one payload for one variant", name)
                values[name] = value
        if not any(value is not None for value in values.values()):
            return {name: name for name in values}
        if type_of(values.values()) is None:
            self._refuse(self.where, "payloads of one JSON type, for all variants or none", values)
        return values

    def _payload(self, payload: Any, where: Path) -> Any:
        if payload is None:
            return None
        kind, text = (
            (payload.get("type"), payload.get("value"))
            if isinstance(payload, dict)
            else (None, None)
        )
        if kind in ("string", "csv") and isinstance(text, str):
            return text
        if kind in ("json", "number") and isinstance(text, str):
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number if kind == "number" else isinstance(value, (dict, list)):
                return value
        self._refuse(where, "a payload of string, csv, number or a JSON object or array", payload)

    def _variant_rules(self) -> list[dict[str, Any]]:
        needed = self._dependencies()
        if not self.strategies:
            return self._own(_Matching(needed), self._label(0))
        rules: list[dict[str, Any]] = []
        for index, strategy in enumerate(self.strategies):
            matching = self._matching(strategy, index)
            place: Path = (*self.where, "strategies", index)
            asked = _Matching(all_of(needed, matching.condition), matching.times)
            if strategy.get("variants"):
                rules += self._chosen_by(strategy, asked, self._label(index), place)
            elif self.variants:
                rules += self._own(asked, self._label(index))
            elif matching.condition is not False:
                # It has none to give, and keeps those after it from giving theirs.
                if matching.times:
                    self._refuse(place, "variants, as it is asked at some times only", [])
                needed = all_of(needed, none_of(matching.condition))
        return rules

    def _chosen_by(
        self, strategy: Mapping[str, Any], matching: _Matching, label: str, where: Path
    ) -> list[dict[str, Any]]:
        """Rules for the variants of a strategy."""
        parameters = strategy.get("parameters") or {}
        group = parameters.get("groupId", self.key)
        stickiness = parameters.get("stickiness", _DEFAULT)
        return self._chosen(strategy["variants"], group, stickiness, matching, label, where)

    def _own(self, matching: _Matching, label: str) -> list[dict[str, Any]]:
        """Rules for the feature's own variants."""
        if not self.variants:
            return []
        place: Path = (*self.where, "variants")
        rules = []
        for variant in self.variants:
            overrides = self._list(variant.get("overrides"), (*place, "overrides"))
            for number, override in enumerate(overrides):
                values = override.get("values") or []
                if not isinstance(values, list) or not all(isinstance(e, str) for e in values):
                    self._refuse((*place, "overrides", number), "a list of texts", values)
                asked = self._constraints.among(override.get("contextName"), values, place)
                rule = _rule(
                    f"{label}, {variant['name']} override {number + 1}",
                    all_of(matching.condition, asked), matching.times, {"serve": variant["name"]},
                )  # fmt: skip
                rules += [rule] if rule else []
        stickiness = self.variants[0].get("stickiness") or _DEFAULT
        chosen = self._chosen(self.variants, self.key, stickiness, matching, label, place)
        return [*rules, *chosen]

    def _chosen(
        self,
        variants: list[dict[str, Any]],
        group: Any,
        stickiness: Any,
        matching: _Matching,
        label: str,
        where: Path,
    ) -> list[dict[str, Any]]:
        """Rules that choose one of the variants by their weights."""
        for variant in variants:
            weight = variant.get("weight")
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
                self._refuse(where, "a whole weight from 0 for each variant", weight)
        first = variants[0]
        total = sum(variant["weight"] for variant in variants)
        if not total:
            self._refuse(where, "weights that are not all 0", 0)
        if first["weight"] == total:
            rule = _rule(label, matching.condition, matching.times, {"serve": first["name"]})
            return [rule] if rule else []
        self._check_group(group, where)
        split = [{"variant": each["name"], "weight": each["weight"]} for each in variants]
        own = {} if group == self.key else {"salt": group}
        rules = []
        for attribute in self._sticky(stickiness, where):
            name = label if attribute != SESSION else f"{label}, by session"
            serve = {"serve": split, "by": attribute, **own}
            rule = _rule(name, matching.condition, matching.times, serve)
            rules += [rule] if rule else []
        self._bucketed = self._bucketed or bool(rules)
        return rules

    def _sticky(self, stickiness: Any, where: Path) -> list[str]:
        """The attributes that variants go by, the first that is there."""
        if stickiness == _RANDOM:
            self._refuse(where, "variants that are the same each time", _RANDOM)
        if stickiness == _DEFAULT:
            self._changes.append(
                "callers with neither a user id nor a sessionId get a random variant there, and "
                "here none by that rule"
            )
            return [USER, SESSION]
        attribute = self._constraints.attribute(stickiness, where)
        self._changes.append(
            f"callers without {stickiness} get a random variant there, and here none by that rule"
        )
        return [attribute]

    # Reading.

    def _list(self, value: Any, where: Path) -> list[dict[str, Any]]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self._refuse(where, "a list of mappings", value)
        return value

    def _text(self, parameters: Mapping[str, Any], name: str, where: Path) -> str:
        value = parameters.get(name)
        if not isinstance(value, str) or "\\" in value or '"' in value:
            self._refuse((*where, name), 'a text without \'"\' and "\\"', value)
        return value

    def _refuse(self, path: Path, expected: str, found: Any) -> NoReturn:
        refuse(self.key, path, expected, found)


def _named(value: Any, part: str, key: str) -> dict[Any, dict[str, Any]]:
    """The mappings of a list by what names each of them."""
    if not isinstance(value, list):
        raise _not_unleash((part,), f"a list of {part}, found {type(value).__name__}")
    kind = str if key == "name" else int
    found: dict[Any, dict[str, Any]] = {}
    for index, each in enumerate(value):
        name = each.get(key) if isinstance(each, dict) else None
        if not isinstance(name, kind) or name in found:
            raise _not_unleash((part, index), f"a {key} that no other one has, found {name!r}")
        found[name] = each
    return found


def _not_unleash(path: Path, problem: str) -> ManifestInvalid:
    return ManifestInvalid(f"Unleash features: expected {problem}", path)


def _rule(
    name: str, when: Condition, times: Mapping[str, str], serve: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A rule; None where it never matches."""
    if when is False:
        return None
    asked = {} if when is True else {"when": when}
    return {"name": name, **times, **asked, **serve}


def _narrow(times: dict[str, str], bound: str, time: str) -> None:
    """Keep the later of two beginnings, the earlier of two ends."""
    known = times.get(bound)
    if known is not None:
        choose = max if bound == "from" else min
        time = choose(known, time, key=_seconds)
    times[bound] = time


def _empty(times: Mapping[str, str]) -> bool:
    return len(times) == 2 and _seconds(times["from"]) >= _seconds(times["until"])


def _seconds(time: str) -> float:
    seconds = seconds_of(time)
    assert seconds is not None, time
    return seconds
