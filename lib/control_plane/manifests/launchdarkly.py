"""What LaunchDarkly's flags and segments are as manifests of ours; flag data in, documents out.

The file is ``{"flags": {…}, "flagValues": {…}, "segments": {…}}``, which their SDKs' file data
source reads and ``/sdk/latest-all`` gives. Of each flag:

- ``variations`` become variants: ``on`` and ``off`` for booleans, their own text where that is a
  name, else ``v0``, ``v1``, …. They are of one JSON type. A single one gets a second that nothing
  serves.
- ``on: false`` is ``enabled: false``; ``disabled`` is ``offVariation``, none the caller's default.
- ``prerequisites`` are asked first: who fails one gets ``offVariation``.
- ``targets`` are overrides, or rules where more than users are targeted or there are prerequisites:
  those go first there, and overrides do here.
- A rule is a rule, its clauses as ``launchdarkly_clauses`` has them. ``fallthrough`` is the default
  or, where it is a rollout, the last rule.
- A rollout is a split by ``bucketing: launchdarkly``, its salt ``key.salt`` or the seed. An
  experiment splits by the key; what of it is tracked decides nothing.
- A segment's ``included`` are members, ``excluded`` are excluded unless they are included; those of
  other context kinds and rules with a weight are rules of ours.

The data of a flag that is malformed would give each caller its default there; it is refused here.
``deleted`` ones are left out.

Source: ``ldclient.impl.evaluator`` and ``evaluator_common`` of the PyPI package 9.18.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.bucketings import LAUNCHDARKLY, split_ends
from control_plane.feature_flags.table import MAX_PREREQUISITES
from control_plane.manifests.asking import RuleNames, after_asked
from control_plane.manifests.conditions import Condition, all_of, any_of, is_there, none_of
from control_plane.manifests.imported import Imported, Path, Problem
from control_plane.manifests.launchdarkly_clauses import (
    KEY,
    USER,
    Attributes,
    Clauses,
    fields,
    is_int,
    kind_of,
    one_of,
    refused,
)
from control_plane.manifests.loader import Document
from control_plane.manifests.renaming import name_of
from control_plane.manifests.validation import validate
from control_plane.manifests.variants import completed, is_variant_name, type_of

MAPPING: Final = (
    "a user's key is the targeting key, a context of another kind an object of that name with key"
)
_TOP: Final = frozenset(("$schema", "flags", "flagValues", "segments"))
_FLAG: Final = frozenset(
    (
        "key", "on", "variations", "offVariation", "fallthrough", "prerequisites", "targets",
        "contextTargets", "rules", "salt", "deleted", "version", "trackEvents",
        "trackEventsFallthrough", "debugEventsUntilDate", "clientSide", "clientSideAvailability",
        "sel", "migration", "samplingRatio", "excludeFromSummaries",
    )
)  # fmt: skip
_SEGMENT: Final = frozenset(
    (
        "key", "included", "excluded", "includedContexts", "excludedContexts", "rules", "salt",
        "unbounded", "unboundedContextKind", "generation", "deleted", "version",
    )
)  # fmt: skip
_RULE: Final = frozenset(("id", "ref", "clauses", "variation", "rollout", "trackEvents"))
_ROLLOUT: Final = frozenset(("kind", "contextKind", "bucketBy", "seed", "variations"))
_WEIGHTED: Final = frozenset(("variation", "weight", "untracked"))
_TARGET: Final = frozenset(("contextKind", "variation", "values"))
_SEGMENT_RULE: Final = frozenset(("id", "clauses", "weight", "bucketBy", "rolloutContextKind"))
_WHOLE: Final = 100_000
_MAX_LISTED: Final = 500
_MAX_LEVELS: Final = 16
_MAX_WRITTEN_OUT: Final = 1_000
"""Segments inside one segment, each as often as it is asked; they may double at each level."""


def import_launchdarkly(
    source: Document, *, lists: Iterable[str] = (), rename: bool = False
) -> Imported:
    """The manifests of LaunchDarkly's flags and segments.

    ``lists`` names attributes (ours: ``groups``, ``org.groups``) whose values are lists. With
    ``rename`` a key that is no name of ours becomes one.

    Raises:
        ManifestInvalid: when the file as a whole is no flag data.
    """
    return _File(source.value, frozenset(lists), rename).imported()


class _File:
    """One file on its way into manifests."""

    def __init__(self, value: Mapping[str, Any], lists: frozenset[str], rename: bool) -> None:
        for name in value:
            if name not in _TOP:
                raise refused((name,), f"one of {', '.join(sorted(_TOP))}, found {name!r}")
        self._flags = dict(_keyed(value, "flags"))
        self._segments = dict(_keyed(value, "segments"))
        self._values = _part(value, "flagValues")
        self._attributes = Attributes(frozenset(_kinds(value)), lists)
        self._rename = rename
        self._left = _MAX_WRITTEN_OUT
        self._problems: list[Problem] = []
        self._changes: list[Problem] = []
        self._notes: dict[str, None] = {MAPPING: None}
        self._documents: dict[tuple[str, str], dict[str, Any]] = {}
        self._places: dict[tuple[str, str], Path] = {}

    def imported(self) -> Imported:
        """The manifests, and what they do not say."""
        for key, (where, segment) in self._segments.items():
            self._try("segment", key, where, lambda s=segment, w=where: self._segment(s, w))
        for key, (where, flag) in self._flags.items():
            self._try("flag", key, where, lambda f=flag, w=where: self._flag(f, w))
        for key, value in self._values.items():
            where = ("flagValues", key)
            self._try("flag", key, where, lambda k=key, v=value, w=where: self._constant(k, v, w))
        self._drop_dependents()
        return Imported(
            tuple(self._documents.values()),
            tuple(self._problems),
            tuple(self._changes),
            tuple(self._notes) if self._documents else (),
        )

    def _try(self, kind: str, key: str, where: Path, convert: Any) -> None:
        """Add the document of a flag or segment, or the problem with it."""
        try:
            name = self._name(kind, key, where)
            if (kind, name) in self._documents:
                raise refused(where, f"a key with a name of its own, found {name!r} twice")
            metadata, clauses = convert()
            document = {"kind": kind, "name": name, "metadata": metadata}
            try:
                validate(document)
            except ManifestInvalid as error:
                text = str(error).partition(": ")[2]
                raise ManifestInvalid(text, where) from error
        except ManifestInvalid as error:
            self._problems.append(Problem(error.path, f"{kind} {key}: {error}"))
            return
        self._documents[kind, name] = document
        self._places[kind, name] = where
        if clauses is not None:
            self._notes.update(dict.fromkeys(clauses.notes))
            texts = dict.fromkeys(clauses.changes)
            self._changes += [Problem(where, f"{kind} {key}: {text}") for text in texts]

    def _name(self, kind: str, key: str, where: Path) -> str:
        def refuse(expected: str) -> NoReturn:
            raise refused(where, f"{expected}, found {key!r}")

        return name_of(kind, key, rename=self._rename, refuse=refuse)

    def _named(self, kind: str, key: str, where: Path) -> str:
        """The name of another flag or segment."""
        try:
            return self._name(kind, key, where)
        except ManifestInvalid as error:
            raise refused(where, f"{kind} {key} to be imported, found it refused") from error

    def _drop_dependents(self) -> None:
        """Refuse what asks what was refused, itself through others, or more than is followed."""
        asked = {
            part: list(dict.fromkeys(_asked(document["metadata"])))
            for part, document in self._documents.items()
        }
        # How many flags are under each other there: of the parts that stay.
        heights: dict[tuple[str, str], int] = {}
        carried = asked.keys()
        for part, back in after_asked(
            asked, lambda part: (other for other in asked[part] if other in carried)
        ):
            gone = next((other for other in asked[part] if other not in heights), None)
            height = (part[0] == "flag") + max((heights.get(e, 0) for e in asked[part]), default=0)
            if gone is None and height <= MAX_PREREQUISITES:
                heights[part] = height
                continue
            if gone is None:
                expected = f"at most {MAX_PREREQUISITES} flags that ask each other, found {height}"
            else:
                expected = (
                    f"to ask {' '.join(gone)}, found {'a ring' if gone in back else 'it refused'}"
                )
            text = f"{' '.join(part)}: expected {expected}"
            self._problems.append(Problem(self._places[part], text))
            del self._documents[part]

    # Segments.

    def _segment(self, segment: dict[str, Any], where: Path) -> tuple[dict[str, Any], Clauses]:
        self._left = _MAX_WRITTEN_OUT
        clauses = Clauses(self._attributes, lambda key, at: self._inside(key, at, ()))
        included, excluded, rules = self._parts_of(segment, where, clauses, (segment["key"],))
        metadata: dict[str, Any] = {}
        listed = len(included) <= _MAX_LISTED
        if listed:
            metadata["members"] = included
        elif included:
            rules.insert(0, ("included", one_of(KEY, included)))
        contexts = [rule for rule in rules if rule[0].startswith("included")]
        if excluded and not contexts and len(excluded) <= _MAX_LISTED:
            metadata["exclude"] = excluded
        elif excluded:
            out = none_of(one_of(KEY, excluded))
            rules = [
                (name, when if name.startswith("included") else all_of(out, when))
                for name, when in rules
            ]
        written = []
        for name, when in rules:
            if when is not False:
                # A rule of a segment asks something: of all who can be members, whether they are.
                everybody = any_of(is_there(KEY), none_of(is_there(KEY)))
                written.append({"name": name, "when": everybody if when is True else when})
        if written:
            metadata["rules"] = written
        return metadata, clauses

    def _parts_of(
        self, segment: dict[str, Any], where: Path, clauses: Clauses, inside: tuple[str, ...]
    ) -> tuple[list[str], list[str], list[tuple[str, Condition]]]:
        """Users that are in, users that are out and not in, and rules by name."""
        fields(segment, _SEGMENT, (), where)
        if segment.get("unbounded"):
            raise refused(where, "a segment with its members in it, found an unbounded one")
        asked = Clauses(self._attributes, lambda key, at: self._inside(key, at, inside))
        included = _keys(segment.get("included"), (*where, "included"))
        excluded = _keys(segment.get("excluded"), (*where, "excluded"))
        rules: list[tuple[str, Condition]] = []
        out: list[Condition] = []
        for field in ("includedContexts", "excludedContexts"):
            for index, target in enumerate(_list(segment.get(field), (*where, field))):
                here = (*where, field, index)
                fields(target, _TARGET, ("values",), here)
                kind, values = (
                    kind_of(target, "contextKind", here) or USER,
                    _keys(target["values"], here),
                )
                if kind == USER:
                    (included if field == "includedContexts" else excluded).extend(values)
                    continue
                held = one_of(self._attributes.key(kind, here), values)
                if field == "includedContexts":
                    rules.append((f"included-{index}", held))
                else:
                    out.append(none_of(held))
        for index, rule in enumerate(_list(segment.get("rules"), (*where, "rules"))):
            here = (*where, "rules", index)
            when = self._segment_rule(segment, rule, here, asked)
            rules.append((f"rule-{index}", all_of(*out, when)))
        clauses.notes += asked.notes
        clauses.changes += asked.changes
        members = list(dict.fromkeys(included))
        kept = set(members)
        return members, [key for key in dict.fromkeys(excluded) if key not in kept], rules

    def _segment_rule(
        self, segment: dict[str, Any], rule: Any, where: Path, clauses: Clauses
    ) -> Condition:
        fields(rule, _SEGMENT_RULE, ("clauses",), where)
        when = clauses.all(rule["clauses"], (*where, "clauses"))
        weight = rule.get("weight")
        if weight is None:
            return when
        if not is_int(weight):
            raise refused((*where, "weight"), f"an integer, found {weight!r}")
        kind = kind_of(rule, "rolloutContextKind", where)
        if weight <= 0:
            # Nobody's point is below, but for those without such a context: theirs is -1.
            absent = none_of(is_there(self._attributes.key(kind, where)))
            return all_of(when, absent) if weight == 0 else False
        by = self.by(rule.get("bucketBy"), kind, where)
        salt = _salt(segment, where)
        bucket: dict[str, Any] = {"range": [0, min(1, weight / _WHOLE)]}
        if by != KEY:
            bucket["by"] = by
        return all_of(when, {"$bucket": {**bucket, "salt": salt, "bucketing": LAUNCHDARKLY}})

    def _inside(self, key: Any, where: Path, inside: tuple[str, ...]) -> Condition:
        """The condition of being in a segment, written out: segments ask no segment here."""
        if key not in self._segments:
            return False
        if key in inside:
            raise refused(where, f"segments without a ring, found {key!r} in itself")
        if len(inside) > _MAX_LEVELS:
            raise refused(where, f"segments at most {_MAX_LEVELS} deep, found {key!r} deeper")
        self._left -= 1
        if self._left < 0:
            raise refused(where, f"at most {_MAX_WRITTEN_OUT} segments in one, found more")
        place, segment = self._segments[key]
        clauses = Clauses(self._attributes, lambda other, at: self._inside(other, at, inside))
        included, excluded, rules = self._parts_of(segment, place, clauses, (*inside, key))
        contexts = [when for name, when in rules if name.startswith("included")]
        others = [when for name, when in rules if not name.startswith("included")]
        listed = one_of(KEY, included), none_of(one_of(KEY, excluded))
        return any_of(listed[0], *contexts, all_of(listed[1], any_of(*others)))

    def _member(self, key: Any, where: Path) -> Condition:
        if key not in self._segments:
            return False
        return {"$segment": self._named("segment", key, where)}

    # Flags.

    def _constant(self, key: str, value: Any, where: Path) -> tuple[dict[str, Any], None]:
        if key in self._flags:
            raise refused(where, f"a key that is not among flags, found {key!r}")
        names = _variant_names([value], where)
        variants = completed({names[0]: value})
        return {"variants": variants, "default": names[0], "disabled": None}, None

    def _flag(self, flag: dict[str, Any], where: Path) -> tuple[dict[str, Any], Clauses]:
        fields(flag, _FLAG, (), where)
        clauses = Clauses(self._attributes, self._member)
        return _Flag(flag, where, self._attributes, clauses, self).metadata(), clauses

    def prerequisite(self, key: Any, index: Any, where: Path) -> Condition:
        """That another flag is on and serves that variation."""
        if not isinstance(key, str):
            raise refused((*where, "key"), f"a flag's key, found {type(key).__name__}")
        if key not in self._flags:
            return False
        place, flag = self._flags[key]
        variations = _list(flag.get("variations"), (*place, "variations"))
        if not is_int(index):
            raise refused(where, f"the number of a variation, found {index!r}")
        if not 0 <= index < len(variations) or flag.get("deleted"):
            return False
        if not flag.get("on") and flag.get("offVariation") == index:
            note = "a flag that is off meets no prerequisite; who turns {} on, asks for it again"
            self._notes[note.format(key)] = None
            return False
        wanted = _variant_names(variations, place)[index]
        return {"$flag": {self._named("flag", key, where): wanted}}

    def by(self, reference: Any, kind: str | None, where: Path) -> str:
        """The attribute that a rollout goes by."""
        if reference in (None, ""):
            return self._attributes.key(kind, where)
        return self._attributes.of(reference, kind, (*where, "bucketBy"))


class _Flag:
    """One flag on its way into a manifest."""

    def __init__(
        self,
        flag: dict[str, Any],
        where: Path,
        attributes: Attributes,
        clauses: Clauses,
        file: _File,
    ) -> None:
        self._flag = flag
        self._where = where
        self._attributes = attributes
        self._clauses = clauses
        self._file = file
        variations = _list(flag.get("variations"), (*where, "variations"))
        self._names = _variant_names(variations, where)
        self._variants = completed(dict(zip(self._names, variations, strict=True)))
        self._salt = _salt(flag, where)
        self._rules: list[dict[str, Any]] = []
        self._rule_names = RuleNames()
        self._default: str | None = None

    def metadata(self) -> dict[str, Any]:
        """The flag as a manifest's metadata.

        Raises:
            ManifestInvalid: it is out of form, or cannot be said.
        """
        flag, where = self._flag, self._where
        off = flag.get("offVariation")
        disabled = None if off is None else self._variant(off, (*where, "offVariation"))
        metadata: dict[str, Any] = {"variants": self._variants, "default": None}
        metadata["disabled"] = disabled
        if flag.get("on") is not True:
            metadata["enabled"] = False
        ready = self._prerequisites(disabled)
        overrides = self._targets(ready, bool(flag.get("prerequisites")))
        if overrides:
            metadata["overrides"] = overrides
        for index, rule in enumerate(_list(flag.get("rules"), (*where, "rules"))):
            here = (*where, "rules", index)
            fields(rule, _RULE, ("clauses",), here)
            when = self._clauses.all(rule["clauses"], (*here, "clauses"))
            self._serve(str(rule.get("id") or f"rule-{index}"), all_of(ready, when), rule, here)
        fallthrough, here = flag.get("fallthrough"), (*where, "fallthrough")
        if not isinstance(fallthrough, dict):
            raise refused(here, f"a mapping, found {type(fallthrough).__name__}")
        if ready is True and fallthrough.get("variation") is not None:
            self._default = self._variant(fallthrough["variation"], (*here, "variation"))
        else:
            self._serve("fallthrough", ready, fallthrough, here)
        metadata["default"] = self._default
        if self._rules:
            metadata["rules"] = self._rules
        if _buckets(self._rules):
            metadata["bucketing"] = LAUNCHDARKLY
            metadata["salt"] = self._salt
        return metadata

    def _prerequisites(self, disabled: str | None) -> Condition:
        """What every later rule asks, too; who fails it is served before where that can be."""
        conditions = []
        place = (*self._where, "prerequisites")
        for index, each in enumerate(_list(self._flag.get("prerequisites"), place)):
            here = (*place, index)
            fields(each, frozenset(("key", "variation")), ("key", "variation"), here)
            conditions.append(self._file.prerequisite(each["key"], each["variation"], here))
        met = all_of(*conditions)
        if met is True or disabled is None:
            return met
        self._add("prerequisites", none_of(met), disabled)
        return True

    def _targets(self, ready: Condition, ruled: bool) -> dict[str, dict[str, str]]:
        """The overrides, or none where rules have to say them."""
        lists = list(self._target_lists())
        if not ruled and len({attribute for attribute, _, _ in lists}) < 2:
            units: dict[str, str] = {}
            for _, keys, variant in lists:
                for key in keys:
                    units.setdefault(key, variant)
            return {lists[0][0]: units} if units else {}
        for index, (attribute, keys, variant) in enumerate(lists):
            self._add(f"target-{index}", all_of(ready, one_of(attribute, keys)), variant)
        return {}

    def _target_lists(self) -> Iterator[tuple[str, list[str], str]]:
        """Attribute, keys and variant, in the order in which they are asked."""
        users = []
        for target, here in self._target_fields("targets"):
            users.append((target["variation"], _keys(target["values"], here), here))
        contexts = list(self._target_fields("contextTargets"))
        if not contexts:
            for index, keys, here in users:
                yield KEY, keys, self._variant(index, here)
        for target, here in contexts:
            variant = self._variant(target["variation"], here)
            kind = kind_of(target, "contextKind", here) or USER
            if kind != USER:
                keys = _keys(target["values"], here)
                yield self._attributes.key(kind, here), keys, variant
                continue
            # Only the place in the order is said here; the users stand in the first list for it.
            found = (keys for index, keys, _ in users if index == target["variation"])
            yield KEY, next(found, []), variant

    def _target_fields(self, field: str) -> Iterator[tuple[dict[str, Any], Path]]:
        place = (*self._where, field)
        for index, target in enumerate(_list(self._flag.get(field), place)):
            fields(target, _TARGET, ("variation", "values"), (*place, index))
            yield target, (*place, index)

    def _serve(self, name: str, when: Condition, served: dict[str, Any], where: Path) -> None:
        """The rules for a variation or a rollout."""
        if served.get("variation") is not None:
            self._add(name, when, self._variant(served["variation"], (*where, "variation")))
            return
        rollout: Any = served.get("rollout")
        here = (*where, "rollout")
        fields(rollout, _ROLLOUT, ("variations",), here)
        entries = self._entries(rollout["variations"], (*here, "variations"))
        kind = kind_of(rollout, "contextKind", here)
        if entries[0][1] == 0:
            # Who has no such context has the first variation there, whatever its weight.
            absent = none_of(is_there(self._attributes.key(kind, here)))
            self._add(f"{name}-absent", all_of(when, absent), entries[0][0])
        reference = None if rollout.get("kind") == "experiment" else rollout.get("bucketBy")
        self._split(name, when, entries, self._file.by(reference, kind, here), rollout, here)

    def _split(
        self,
        name: str,
        when: Condition,
        entries: list[tuple[str, int]],
        by: str,
        rollout: dict[str, Any],
        where: Path,
    ) -> None:
        chosen = [entry for entry in entries if entry[1]]
        if len(chosen) == 1:
            self._add(name, when, chosen[0][0])
            return
        seed = rollout.get("seed")
        if seed is not None and not is_int(seed):
            raise refused((*where, "seed"), f"an integer, found {seed!r}")
        own: dict[str, Any] = {} if by == KEY else {"by": by}
        if seed is not None:
            own["salt"] = str(seed)
        if "by" in own and "$segment" in repr(when):
            # A segment is asked about what its rule goes by; a range may go by something else.
            ends = split_ends(LAUNCHDARKLY, [weight for _, weight in chosen], _WHOLE)
            start: float = 0
            for index, ((variant, _), end) in enumerate(zip(chosen[:-1], ends, strict=False)):
                bucket: Condition = {"$bucket": {"range": [start, end], **own}}
                self._add(f"{name}-{index}", all_of(when, bucket), variant)
                start = end
            self._add(f"{name}-{len(chosen) - 1}", when, chosen[-1][0])
            return
        serve = [{"variant": variant, "weight": weight} for variant, weight in chosen]
        self._add(name, when, serve, own)

    def _entries(self, variations: Any, where: Path) -> list[tuple[str, int]]:
        """Variants with weights out of 100,000; the last one has what is left, as there."""
        entries = []
        left = _WHOLE
        for index, each in enumerate(_list(variations, where)):
            fields(each, _WEIGHTED, ("variation", "weight"), (*where, index))
            weight = each["weight"]
            if not is_int(weight) or weight < 0:
                raise refused((*where, index, "weight"), f"an integer from 0, found {weight!r}")
            weight = min(weight, left)
            left -= weight
            entries.append((self._variant(each["variation"], (*where, index)), weight))
        if not entries:
            raise refused(where, "one or more variations, found none")
        entries[-1] = entries[-1][0], entries[-1][1] + left
        return entries

    def _add(
        self, name: str, when: Condition, serve: Any, own: Mapping[str, Any] | None = None
    ) -> None:
        if when is False:
            return
        rule: dict[str, Any] = {"name": self._rule_names.of(name[:100])}
        if isinstance(when, dict):
            rule["when"] = when
        self._rules.append({**rule, "serve": serve, **(own or {})})

    def _variant(self, index: Any, where: Path) -> str:
        if not is_int(index) or not 0 <= index < len(self._names):
            expected = f"the number of a variation, 0 to {len(self._names) - 1}"
            raise refused(where, f"{expected}, found {index!r}")
        name: str = self._names[index]
        return name


def _variant_names(values: list[Any], where: Path) -> list[str]:
    """A name for each variation by its number; equal ones stay apart."""
    if type_of(values) is None:
        raise refused((*where, "variations"), "variations of one JSON type, found others")
    names: list[str] = []
    for index, value in enumerate(values):
        name = ("on" if value else "off") if isinstance(value, bool) else value
        if not isinstance(name, str) or not is_variant_name(name) or name in names:
            name = f"v{index}"
            while name in names or name in values:
                name += "-"
        names.append(name)
    return names


def _buckets(rules: list[dict[str, Any]]) -> bool:
    """Whether a rule splits, or asks for a range."""
    return any(isinstance(r["serve"], list) or "$bucket" in repr(r.get("when")) for r in rules)


def _asked(value: Any) -> Iterator[tuple[str, str]]:
    """The flags and segments that a manifest's conditions ask."""
    pending = [value.get("rules", [])]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for name, operand in item.items():
                if name == "$segment":
                    yield "segment", operand
                elif name == "$flag":
                    yield from (("flag", other) for other in operand)
                else:
                    pending.append(operand)
        elif isinstance(item, list):
            pending.extend(item)


def _kinds(value: Any) -> Iterator[str]:
    """The context kinds besides user that a file names."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for field in ("contextKind", "rolloutContextKind"):
                kind = item.get(field)
                if isinstance(kind, str) and kind not in ("", USER):
                    yield kind
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _part(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name, {})
    if not isinstance(part, dict):
        raise refused((name,), f"a mapping at {name}, found {type(part).__name__}")
    return part


def _keyed(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, tuple[Path, Any]]]:
    """Flags or segments by their own key, which is what their SDKs go by."""
    seen = set()
    for given, each in _part(value, name).items():
        where: Path = (name, given)
        if not isinstance(each, dict):
            raise refused(where, f"a mapping, found {type(each).__name__}")
        key = each.get("key")
        if each.get("deleted"):
            continue
        if not isinstance(key, str) or not key or key in seen:
            raise refused((*where, "key"), f"a key of its own, found {key!r}")
        seen.add(key)
        yield key, (where, each)


def _salt(value: dict[str, Any], where: Path) -> str:
    """What stands before a unit that is hashed for this flag or segment."""
    salt = value.get("salt")
    if salt is not None and not isinstance(salt, str):
        raise refused((*where, "salt"), f"a text, found {type(salt).__name__}")
    return f"{value['key']}.{salt or ''}"


def _list(value: Any, where: Path) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise refused(where, f"a list, found {type(value).__name__}")
    return value


def _keys(value: Any, where: Path) -> list[str]:
    """Keys of contexts; an empty one is nobody's."""
    keys = _list(value, where)
    if not all(isinstance(key, str) for key in keys):
        raise refused(where, "keys that are texts, found others")
    return [key for key in keys if key]
