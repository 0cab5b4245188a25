"""What is allowed in a manifest, and is probably not meant.

Nothing here refuses a document: `validation` does. Advice is given for

- a rule that is never reached, since one before it matches everybody, or whenever it does;
- a rule whose schedule is over, a range that no number is in, an entry of weight 0, a split that
  one variant has to itself, a variant that nothing serves;
- a segment or flag nobody published, and a variant that the flag asked for does not have; also a
  flag that shall choose an agent's or tool's channel or change an agent's field;
- an attribute the context's schema does not declare, with the nearest name it has, a word that
  its type cannot answer, and a value outside its ``enum``.

The context's schema is a JSON Schema of the evaluation context: an object whose ``properties``
are the attributes (``manifests/schemas/context.schema.json`` in a project).

`rings` finds flags that ask each other round in a ring, which the store refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from control_plane.feature_flags.definition import (
    BUCKET,
    EQUALS,
    FLAG,
    GT,
    GTE,
    IN,
    LT,
    LTE,
    NOT_IN,
    SEGMENT,
    UNTIL,
    Condition,
    Definition,
    combined,
    parse_definition,
    parse_segment_rules,
)
from control_plane.manifests.environments import environments_of, merged_flag
from control_plane.registries.overrides import CHANNEL_FLAG, OVERRIDABLE

_NUMERIC: Final = (GT, GTE, LT, LTE)
_TEXTUAL: Final = ("starts_with", "ends_with", "contains", "semver")
_IDS: Final = ("user_id", "tenant_id", "targeting_key")


@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence about one place of a document, as a refusal has it."""

    reference: str
    place: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.reference}: {self.sentence} at {self.place}"


@dataclass(frozen=True, slots=True)
class Known:
    """What documents may ask for: flags with their variants (None: unknown ones), segments.

    ``context`` is the context's schema, None when there is none. ``now`` is in seconds since 1970.
    """

    now: float
    flags: Mapping[str, Collection[str] | None] = field(default_factory=dict)
    segments: Collection[str] = ()
    context: Mapping[str, Any] | None = None


def lint(document: Mapping[str, Any], known: Known, environment: str | None = None) -> list[Advice]:
    """Advice about a document that was found valid; none for configs.

    A flag is looked at as ``environment`` sees it; None: as each environment it names does, and
    one it does not name.
    """
    reference = f"{document['kind']}/{document['name']}"
    if document["kind"] == "segment":
        if "rules" not in document["metadata"]:
            return []
        rules = parse_segment_rules(document["metadata"]["rules"]).rules
        places = [f"metadata.rules[{index}]" for index in range(len(rules))]
        conditions = [rule.conditions for rule in rules]
        found = [
            advice
            for place, each in zip(places, conditions, strict=True)
            for advice in _of_conditions(each, place, known)
        ]
        return [Advice(reference, place, sentence) for place, sentence in found]
    if document["kind"] != "flag":
        asked = flags_of_version(document["metadata"]).items()
        return [
            Advice(reference, place, _unknown("flag", name, known.flags))
            for place, name in asked
            if name not in known.flags
        ]
    wanted = [environment] if environment is not None else [None, *environments_of(document)]
    said: dict[tuple[str, str], None] = {}
    merged = [merged_flag(document["metadata"], each) for each in wanted]
    # A variant that one environment serves is in use: rules often come to one before the others.
    served = {name for each in merged for name in _served(parse_definition(each))}
    for each in merged:
        said |= dict.fromkeys((*_of_flag(each, known), *_of_variants(each, served)))
    return [Advice(reference, place, sentence) for place, sentence in said]


def flags_of_version(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The flags that decide about an agent's or tool's version, by the place that names them."""
    fields = metadata.get(OVERRIDABLE, {})
    named = {f"metadata.{OVERRIDABLE}.{field}.flag": fields[field]["flag"] for field in fields}
    if CHANNEL_FLAG in metadata:
        named[f"metadata.{CHANNEL_FLAG}"] = metadata[CHANNEL_FLAG]
    return named


def asked_flags(metadata: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The flags that merged metadata asks for, with the variants it names of each."""
    asked: dict[str, set[str]] = {}
    for rule in parse_definition(metadata).rules:
        for condition in _all(rule.conditions):
            if condition.word == FLAG:
                name, variants = condition.operand
                asked.setdefault(name, set()).update(variants)
    return {name: frozenset(variants) for name, variants in asked.items()}


def asked_segments(metadata: Mapping[str, Any]) -> frozenset[str]:
    """The segments that merged metadata asks for."""
    conditions = (rule.conditions for rule in parse_definition(metadata).rules)
    asked = (each for several in conditions for each in _all(several) if each.word == SEGMENT)
    return frozenset(each.operand for each in asked)


def rings(names: Iterable[str], asked: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The first ring of flags found from these, as it is walked; empty when there is none.

    ``asked`` gives the flags that one of a name asks for; it is called once for each.
    """
    done: set[str] = set()
    for start in names:
        # (name, what it still asks for): a stack of its own, as a chain may be long.
        stack: list[tuple[str, Iterator[str]]] = []
        walked: dict[str, None] = {}
        following: str | None = start
        while True:
            if following is not None and following in walked:
                chain = list(walked)
                return (*chain[chain.index(following) :], following)
            if following is not None and following not in done:
                walked[following] = None
                stack.append((following, iter(tuple(asked(following)))))
            if not stack:
                break
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                walked.pop(name)
                done.add(name)
    return ()


_Found = Iterator[tuple[str, str]]


def _of_flag(metadata: Mapping[str, Any], known: Known) -> _Found:
    flag = parse_definition(metadata)
    written = metadata.get("rules", [])
    for index, rule in enumerate(flag.rules):
        place = f"metadata.rules[{index}]"
        earlier = next((i for i in range(index) if _covers(written[i], written[index])), None)
        if earlier is not None:
            before = flag.rules[earlier]
            always = "always" if not written[earlier].get("when") else "whenever this one does"
            yield (
                place,
                (
                    f"expected a rule that can be reached, found rule {before.name} before it,"
                    f" which matches {always}"
                ),
            )
        yield from _of_split(rule.split, place)
        for condition in rule.conditions:
            if condition.word == UNTIL and condition.operand <= known.now:
                yield f"{place}.until", "expected a schedule to come, found one that is over"
        yield from _of_conditions(rule.conditions, place, known)
        yield from _of_attribute(rule.by, f"{place}.by", known)
    for path, _ in flag.overrides:
        yield from _of_attribute(path, "metadata.overrides", known)


def _of_variants(metadata: Mapping[str, Any], served: Collection[str]) -> _Found:
    """Variants that nothing serves, in no environment that is looked at."""
    flag = parse_definition(metadata)
    # A boolean flag has both its variants anyway: one that nobody gets yet is the usual beginning.
    # Targeting may compute the name of the one it serves; a flag without rules is operated by its
    # default.
    plain = not flag.rules and not flag.overrides
    exempt = plain or flag.type == "bool" or flag.targeting is not None
    unused = set() if exempt else set(flag.variants).difference(served)
    for name in sorted(unused):
        yield f"metadata.variants.{name}", f"expected a variant that is served, found {name} unused"


def _served(flag: Definition) -> set[str]:
    served = {name for name in (flag.default, flag.disabled) if name is not None}
    for _, units in flag.overrides:
        served.update(units.values())
    for rule in flag.rules:
        served |= {rule.serve} if rule.serve is not None else {name for name, _ in rule.split}
    return served


def _covers(before: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a rule that is asked first matches whenever the other does."""
    if "from" in before or "until" in before:
        return False
    if isinstance(before["serve"], list) and before.get("by") != rule.get("by"):
        return False
    if isinstance(before["serve"], list) and not isinstance(rule["serve"], list):
        return False  # who has no unit passes the split by
    when, other = before.get("when", {}), rule.get("when", {})
    asks_unit = "$segment" in repr(when) and before.get("by") != rule.get("by")
    # What a range does not name is the rule's.
    own = [name for name in ("by", "salt") if before.get(name) != rule.get(name)]
    asks_unit = asks_unit or (BUCKET in repr(when) and bool(own))
    return not asks_unit and all(
        name in other and repr(other[name]) == repr(operand) for name, operand in when.items()
    )


def _of_split(split: tuple[tuple[str, int], ...], place: str) -> _Found:
    never = [name for name, weight in split if weight == 0]
    if split and len(split) - len(never) == 1:
        only = next(name for name, weight in split if weight)
        yield f"{place}.serve", f"expected weights that divide, found everything for {only}"
    elif never:
        yield f"{place}.serve", f"expected weights above 0, found 0 for {', '.join(never)}"


def _of_conditions(conditions: Iterable[Condition], place: str, known: Known) -> _Found:
    where = f"{place}.when"
    for condition in _all(conditions):
        if condition.word == SEGMENT and condition.operand not in known.segments:
            yield where, _unknown("segment", condition.operand, known.segments)
        elif condition.word == FLAG:
            name, variants = condition.operand
            yield from _of_asked(name, variants, where, known)
        elif condition.word == BUCKET and condition.operand.by is not None:
            yield from _of_attribute(condition.operand.by, where, known)
        elif condition.path:
            yield from _of_attribute(condition.path, where, known)
            yield from _of_operand(condition, where, known)
    yield from _of_ranges(conditions, where)


def _of_asked(name: str, variants: Iterable[str], where: str, known: Known) -> _Found:
    if name not in known.flags:
        yield where, _unknown("flag", name, known.flags)
        return
    has = known.flags[name]
    missing = [] if has is None else sorted(set(variants) - set(has))
    if missing:
        assert has is not None
        yield where, f"expected a variant of flag {name} ({', '.join(has)}), found {missing[0]}"


def _unknown(kind: str, name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"expected a {kind} that is published, found none called {name}{hint}"


def _of_attribute(path: tuple[str, ...], where: str, known: Known) -> _Found:
    if known.context is None or path[0] in _IDS:
        return
    declared: Any = known.context
    for depth, key in enumerate(path):
        properties = declared.get("properties") if isinstance(declared, Mapping) else None
        if not isinstance(properties, Mapping):
            return
        if key not in properties:
            near = get_close_matches(key, list(properties), 1)
            hint = f"; did you mean {'.'.join((*path[:depth], near[0]))}?" if near else ""
            found = ".".join(path)
            yield where, f"expected an attribute the context declares, found {found}{hint}"
            return
        declared = properties[key]


def _of_operand(condition: Condition, where: str, known: Known) -> _Found:
    declared = _declared(condition.path, known)
    if declared is None:
        return
    name, kind = ".".join(condition.path), declared.get("type")
    numeric, textual = kind in ("number", "integer"), kind == "string"
    if (condition.word in _NUMERIC and textual) or (condition.word in _TEXTUAL and numeric):
        yield where, f"expected a word for {name}, a {kind}, found {condition.word}"
    values = [condition.operand] if condition.word == EQUALS else condition.operand
    if condition.word not in (EQUALS, IN, NOT_IN):
        return
    allowed = declared.get("enum")
    for value in values:
        if isinstance(allowed, list) and value not in allowed:
            near = get_close_matches(str(value), list(map(str, allowed)), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield where, f"expected a value that {name} can have, found {value!r}{hint}"
        elif (textual and not isinstance(value, str)) or (numeric and isinstance(value, str)):
            yield where, f"expected a {kind} for {name}, found {value!r}"


def _declared(path: tuple[str, ...], known: Known) -> Mapping[str, Any] | None:
    declared: Any = known.context
    for key in path:
        properties = declared.get("properties") if isinstance(declared, Mapping) else None
        declared = properties.get(key) if isinstance(properties, Mapping) else None
    return declared if isinstance(declared, Mapping) else None


def _of_ranges(conditions: Iterable[Condition], where: str) -> _Found:
    """Ranges of one group that no number is in."""
    bounds: dict[tuple[str, ...], list[Condition]] = {}
    for condition in conditions:
        if condition.word in _NUMERIC:
            bounds.setdefault(condition.path, []).append(condition)
    for path, several in bounds.items():
        low = max((c.operand for c in several if c.word in (GT, GTE)), default=None)
        high = min((c.operand for c in several if c.word in (LT, LTE)), default=None)
        if low is None or high is None or low < high:
            continue
        if low > high or any(c.operand == low and c.word in (GT, LT) for c in several):
            yield where, f"expected a range with numbers in it, found none for {'.'.join(path)}"


def _all(conditions: Iterable[Condition]) -> Iterator[Condition]:
    for condition in conditions:
        yield condition
        yield from _all(combined(condition))
