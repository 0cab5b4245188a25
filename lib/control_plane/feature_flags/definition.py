"""What a flag's ``metadata`` may hold; the same check stands before publish and before use.

* 2 to 20 variants, named, with values of one JSON type (bool, string, number, object, array).
* ``default`` and ``disabled`` name variants. ``disabled`` may be left out of a boolean flag that
  has exactly one false variant: it is that one.
* ``overrides`` map an attribute to units and each unit to a variant.
* Rules have unique names, a ``when`` (absent: always) and a ``serve``: a variant, or two or more
  entries of variant and weight, weights integers from 0 with a sum of 1 to 2^31 - 1. ``from`` and
  ``until`` are RFC 3339 times between which the rule is asked; ``by`` and ``salt`` are its own.
* A ``when`` maps attributes (dots reach into objects) to a scalar, which they equal, or to words
  with operands. All of them hold, or the rule does not match. The words: ``in``, ``not_in``
  (scalars); ``gt``, ``gte``, ``lt``, ``lte`` (a number); ``starts_with``, ``ends_with``,
  ``contains`` (a string or several, of which one is enough); ``semver`` (a mapping of ``eq``,
  ``gt``, ``gte``, ``lt``, ``lte`` to a Semantic Version); ``before``, ``after`` (an RFC 3339
  time); ``present`` (true or false).
* Words with $ combine: ``$segment`` (a segment's name), ``$flag`` (flags and the variant, or the
  variants, that each of them serves), ``$not`` (a ``when`` that does not hold), ``$any`` and
  ``$all`` (a list of them), ``$bucket`` (a ``range`` of two fractions that holds the unit's point;
  ``by``, ``salt`` and ``bucketing`` are its own, else the rule's and the flag's).
* ``targeting`` may stand in place of ``rules`` (the module ``targeting`` says what it may hold);
  then ``bucketing`` is one of flagd's, the newest when left out; otherwise it is ``xxh3-v1``, the
  default, or another system's (the module ``bucketings``).
* ``default`` may be null, with ``targeting`` also left out, and ``disabled`` may be null: then the
  caller's default is served.
* ``flag_metadata`` is told with each evaluation: a mapping of names to strings, numbers or bools.
* Every other field or condition word is refused: a field this version does not know could change
  the answer.

The attribute ``targeting_key``, in OpenFeature's spelling ``targetingKey`` too, is the targeting
key: the context's, else the user id, else the tenant id.
"""

from __future__ import annotations

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags import bucketing
from control_plane.feature_flags.comparing import seconds_of, semver_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, NoReturn

    from control_plane.feature_flags.targeting import Node

    Path = tuple[str | int, ...]
    Scalar = str | int | float | bool

MIN_VARIANTS = 2
MAX_VARIANTS = 20
MAX_TOTAL_WEIGHT = (1 << 31) - 1
MAX_PATH_KEYS = 16
MAX_NESTING = 16
MAX_TEXTS = 1000

EQUALS = "equals"
IN, NOT_IN = "in", "not_in"
GT, GTE, LT, LTE = "gt", "gte", "lt", "lte"
STARTS_WITH, ENDS_WITH, CONTAINS = "starts_with", "ends_with", "contains"
SEMVER = "semver"
BEFORE, AFTER = "before", "after"
PRESENT = "present"
SEGMENT, FLAG = "$segment", "$flag"
NOT, ANY, ALL = "$not", "$any", "$all"
BUCKET = "$bucket"
FROM, UNTIL = "from", "until"

TYPES: dict[type, str] = {
    bool: "bool",
    str: "string",
    int: "number",
    float: "number",
    dict: "object",
    list: "array",
}
_SCALARS = frozenset((str, int, float, bool))
_FLAG_FIELDS = frozenset(
    (
        "variants", "default", "enabled", "disabled", "overrides", "rules", "targeting",
        "bucketing", "salt", "flag_metadata",
    )
)  # fmt: skip
_RULE_FIELDS = frozenset(("name", "when", "serve", "by", "salt", FROM, UNTIL))
_RULE_NEEDS = ("name", "serve")
_BY = ("targeting_key",)
_SEGMENT_RULE_FIELDS = frozenset(("name", "when", "description"))
_SPLIT_FIELDS = frozenset(("variant", "weight"))
_SPLIT_NEEDS = ("variant", "weight")
_BUCKET_FIELDS = frozenset(("range", "by", "salt", "bucketing"))
_ORDERS = (GT, GTE, LT, LTE)
_SEMVER_ORDERS = ("eq", *_ORDERS)


class Condition:
    """One condition: an attribute's path, a word and what it asks for.

    ``path`` is empty for words that ask for no attribute. The operand of ``$not`` is a tuple of
    conditions, that of ``$any`` and ``$all`` a tuple of such tuples; of ``$flag`` a flag's name
    and a tuple of variants; of ``semver`` pairs of an order and a version's sort key; times are
    seconds since 1970. That of ``$bucket`` is a ``Bucket``.
    """

    __slots__ = ("operand", "path", "word")

    def __init__(self, path: tuple[str, ...], word: str, operand: Any) -> None:
        self.path = path
        self.word = word
        self.operand = operand


class Bucket:
    """What ``$bucket`` asks: whether start <= point < end; None is what the rule and flag have."""

    __slots__ = ("bucketing", "by", "end", "salt", "start")

    def __init__(
        self,
        start: float,
        end: float,
        by: tuple[str, ...] | None = None,
        salt: str | None = None,
        bucketing: str | None = None,
    ) -> None:
        self.start = start
        self.end = end
        self.by = by
        self.salt = salt
        self.bucketing = bucketing


class Rule:
    """A checked rule; ``serve`` names the variant of a rule without ``split``.

    A rule's ``from`` and ``until`` stand among its conditions, before the others.
    """

    __slots__ = ("by", "conditions", "name", "salt", "serve", "split")

    def __init__(
        self,
        name: str,
        conditions: tuple[Condition, ...],
        serve: str | None,
        split: tuple[tuple[str, int], ...],
        by: tuple[str, ...],
        salt: str | None = None,
    ) -> None:
        self.name = name
        self.conditions = conditions
        self.serve = serve
        self.split = split
        self.by = by
        self.salt = salt


class Definition:
    """A checked flag; ``overrides`` in their order of precedence."""

    __slots__ = (
        "bucketing", "default", "disabled", "enabled", "flag_metadata", "overrides", "rules",
        "salt", "targeting", "type", "variants",
    )  # fmt: skip

    def __init__(
        self,
        type: str,
        variants: dict[str, Any],
        default: str | None,
        disabled: str | None,
        enabled: bool,
        overrides: tuple[tuple[tuple[str, ...], dict[str, str]], ...],
        rules: tuple[Rule, ...],
        salt: str | None,
        targeting: Node | None = None,
        bucketing: str = bucketing.NAME,
        flag_metadata: dict[str, Scalar] | None = None,
    ) -> None:
        self.type = type
        self.variants = variants
        self.default = default
        self.disabled = disabled
        self.enabled = enabled
        self.overrides = overrides
        self.rules = rules
        self.salt = salt
        self.targeting = targeting
        self.bucketing = bucketing
        self.flag_metadata = flag_metadata or {}


def parse_definition(metadata: Any) -> Definition:
    """Check a flag's metadata and return it in the form the compiler reads.

    Raises:
        ManifestInvalid: with the path inside the metadata, at its start and as ``path``.
    """
    targeted = metadata.__class__ is dict and metadata.get("targeting") is not None
    _fields(metadata, (), _FLAG_FIELDS, ("variants",) if targeted else ("variants", "default"))
    kind, variants = _variants(metadata["variants"])
    default = metadata.get("default")
    if default is not None:
        _variant(default, variants, ("default",))
    targeting, algorithm = _targeting(metadata, variants)
    enabled = metadata.get("enabled", True)
    if enabled.__class__ is not bool:
        _refuse(("enabled",), "true or false", enabled)
    salt = metadata.get("salt")
    if "salt" in metadata:
        _text(salt, ("salt",))
    return Definition(
        kind,
        variants,
        default,
        _disabled(metadata, kind, variants),
        enabled,
        _overrides(metadata.get("overrides", {}), variants),
        _rules(metadata.get("rules", []), variants),
        salt,
        targeting,
        algorithm,
        _flag_metadata(metadata.get("flag_metadata", {})),
    )


def _targeting(metadata: Mapping[str, Any], variants: dict[str, Any]) -> tuple[Node | None, str]:
    """The checked ``targeting``, and how the flag buckets."""
    expression = metadata.get("targeting")
    if expression is None:
        return None, _algorithm(metadata.get("bucketing", bucketing.NAME), ("bucketing",))
    if metadata.get("rules"):
        _refuse(("targeting",), "no targeting beside rules", expression)
    # Imported here: most processes meet no flag of flagd's.
    from control_plane.feature_flags.flagd_bucketing import NEWEST, VERSIONS
    from control_plane.feature_flags.targeting import parse_targeting

    algorithm = metadata.get("bucketing", NEWEST)
    if algorithm not in VERSIONS:
        _refuse(("bucketing",), f"{', '.join(VERSIONS)} beside targeting", algorithm)
    return parse_targeting(expression, ("targeting",), variants), algorithm


def _algorithm(value: Any, where: Path) -> str:
    """A bucketing that rules may name."""
    if value != bucketing.NAME:
        # Imported here: most processes meet no other.
        from control_plane.feature_flags.bucketings import NAMES

        if value.__class__ is not str or value not in NAMES:
            _refuse(where, f"{', '.join(NAMES)} where there is no targeting", value)
    algorithm: str = value
    return algorithm


def _flag_metadata(value: Any) -> dict[str, Scalar]:
    if value.__class__ is not dict:
        _refuse(("flag_metadata",), "a mapping", value)
    for name, content in value.items():
        _text(name, ("flag_metadata",))
        if content.__class__ not in _SCALARS:
            _refuse(("flag_metadata", name), "a string, number, true or false", content)
    found: dict[str, Scalar] = value
    return found


def parse_segment_rules(value: Any) -> Definition:
    """Check a segment's rules and return them as a flag that is true for its members.

    Raises:
        ManifestInvalid: with the path inside the segment's metadata, at its start and as ``path``.
    """
    if value.__class__ is not list or not value:
        _refuse(("rules",), "a list of rules", value)
    rules = []
    names: set[str] = set()
    for index, rule in enumerate(value):
        where: Path = ("rules", index)
        _fields(rule, where, _SEGMENT_RULE_FIELDS, ("name", "when"))
        name = _unique(rule["name"], (*where, "name"), names)
        conditions = parse_when(rule["when"], (*where, "when"))
        asking = next(filter(asks_others, conditions), None)
        if asking is not None:
            _refuse((*where, "when"), "conditions without $segment and $flag", rule["when"])
        for bucket in buckets(conditions):
            if bucket.salt is None:
                cure = "; a segment has none of its own"
                _refuse((*where, "when", BUCKET, "salt"), "text", None, cure)
        rules.append(Rule(name, conditions, "in", (), ("targeting_key",)))
    variants = {"in": True, "out": False}
    return Definition("bool", variants, "out", "out", True, (), tuple(rules), None)


def asks_others(condition: Condition) -> bool:
    """Whether a condition, or one it combines, asks for a segment or another flag."""
    if condition.word in (SEGMENT, FLAG):
        return True
    return any(asks_others(each) for each in combined(condition))


def combined(condition: Condition) -> Iterable[Condition]:
    """The conditions that one of ``$not``, ``$any`` and ``$all`` combines; none for others."""
    if condition.word == NOT:
        each: Iterable[Condition] = condition.operand
        return each
    if condition.word in (ANY, ALL):
        return [each for group in condition.operand for each in group]
    return ()


def buckets(conditions: Iterable[Condition]) -> Iterable[Bucket]:
    """What each ``$bucket`` among conditions and those they combine asks."""
    for condition in conditions:
        if condition.word == BUCKET:
            yield condition.operand
        yield from buckets(combined(condition))


def _variants(value: Any) -> tuple[str, dict[str, Any]]:
    if value.__class__ is not dict or not MIN_VARIANTS <= len(value) <= MAX_VARIANTS:
        expected = f"a mapping of {MIN_VARIANTS} to {MAX_VARIANTS} variants"
        _refuse(("variants",), expected, value)
    kind = ""
    for name, content in value.items():
        _text(name, ("variants",))
        found = TYPES.get(content.__class__)
        if found is None or (kind and found != kind):
            _refuse(("variants", name), kind or "a bool, string, number, object or array", content)
        kind = found
    return kind, value


def _disabled(metadata: Mapping[str, Any], kind: str, variants: dict[str, Any]) -> str | None:
    if "disabled" in metadata:
        if metadata["disabled"] is None:
            return None
        return _variant(metadata["disabled"], variants, ("disabled",))
    false = [name for name in variants if variants[name] is False]
    if kind != "bool" or len(false) != 1:
        cure = "; name the variant that a kill serves, or null for the caller's default"
        _refuse(("disabled",), "a variant (only a flag with one false variant has one)", None, cure)
    return false[0]


def _overrides(
    value: Any, variants: dict[str, Any]
) -> tuple[tuple[tuple[str, ...], dict[str, str]], ...]:
    if value.__class__ is not dict:
        _refuse(("overrides",), "a mapping of attributes", value)
    found = []
    for attribute, units in value.items():
        where: Path = ("overrides", attribute)
        path = _attribute(attribute, where)
        if units.__class__ is not dict:
            _refuse(where, "a mapping of units to variants", units)
        for unit, variant in units.items():
            if type(unit) is not str or type(variant) is not str or variant not in variants:
                _text(unit, where)
                _variant(variant, variants, (*where, unit))
        if units:
            found.append((path, units))
    found.sort(key=_precedence)
    return tuple(found)


def _precedence(item: tuple[tuple[str, ...], Any]) -> tuple[int, tuple[str, ...]]:
    path = item[0]
    order = ("user_id",), ("tenant_id",)
    return (order.index(path) if path in order else len(order)), path


def _rules(value: Any, variants: dict[str, Any]) -> tuple[Rule, ...]:
    if value.__class__ is not list:
        _refuse(("rules",), "a list", value)
    rules = []
    names: set[str] = set()
    for index, rule in enumerate(value):
        where: Path = ("rules", index)
        _fields(rule, where, _RULE_FIELDS, _RULE_NEEDS)
        name = rule["name"]
        if not _is_plain(name) or name in names:
            name = _unique(name, (*where, "name"), names)
        names.add(name)
        rules.append(_rule(rule, name, where, variants))
    return tuple(rules)


def _is_plain(value: Any) -> bool:
    """Whether text needs no closer look: the letters, digits and _ of a name, one key, no ``$``.

    What is not is checked with its path, which takes ten times as long; most of it is sound too.
    """
    return value.__class__ is str and value.isidentifier()


def _unique(value: Any, where: Path, names: set[str]) -> str:
    name = _text(value, where)
    if name in names:
        _refuse(where, "a name no other rule has", name)
    names.add(name)
    return name


def _rule(rule: dict[str, Any], name: str, where: Path, variants: dict[str, Any]) -> Rule:
    conditions = parse_when(rule["when"], (*where, "when")) if "when" in rule else ()
    if FROM in rule or UNTIL in rule:
        conditions = (*_schedule(rule, where), *conditions)
    by = _attribute(rule["by"], (*where, "by")) if "by" in rule else _BY
    salt = _text(rule["salt"], (*where, "salt")) if "salt" in rule else None
    serve = rule["serve"]
    if serve.__class__ is str and serve in variants:
        return Rule(name, conditions, serve, (), by, salt)
    if serve.__class__ is list:
        split = _split(serve, (*where, "serve"), variants)
        return Rule(name, conditions, None, split, by, salt)
    return Rule(name, conditions, _variant(serve, variants, (*where, "serve")), (), by, salt)


def _schedule(rule: dict[str, Any], where: Path) -> tuple[Condition, ...]:
    times = [
        Condition((), word, _time(rule[word], (*where, word)))
        for word in (FROM, UNTIL)
        if word in rule
    ]
    if len(times) == 2 and times[0].operand >= times[1].operand:
        _refuse((*where, UNTIL), f"a time after {rule[FROM]}", rule[UNTIL])
    return tuple(times)


def _split(value: list[Any], where: Path, variants: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    if len(value) < 2:
        _refuse(where, "two or more entries, or the name of a variant", value)
    entries = []
    total = 0
    for index, entry in enumerate(value):
        here = (*where, index)
        _fields(entry, here, _SPLIT_FIELDS, _SPLIT_NEEDS)
        weight = entry["weight"]
        if weight.__class__ is not int or weight < 0:
            _refuse((*here, "weight"), "an integer from 0", weight)
        variant = entry["variant"]
        if variant.__class__ is not str or variant not in variants:
            _variant(variant, variants, (*here, "variant"))
        entries.append((variant, weight))
        total += weight
    if not 1 <= total <= MAX_TOTAL_WEIGHT:
        _refuse(where, f"weights with a sum of 1 to {MAX_TOTAL_WEIGHT}", total)
    return tuple(entries)


def parse_when(value: Any, where: Path = ("when",), depth: int = 0) -> tuple[Condition, ...]:
    """Check a mapping of conditions, all of which have to hold.

    Raises:
        ManifestInvalid: as ``parse_definition``.
    """
    if value.__class__ is not dict:
        _refuse(where, "a mapping of conditions", value)
    found: list[Condition] = []
    for attribute, operand in value.items():
        if operand.__class__ in _SCALARS and attribute not in _COMBINING:
            if _is_plain(attribute) and attribute != "targetingKey":
                path: tuple[str, ...] = (attribute,)
            else:
                path = _attribute(attribute, (*where, attribute))
            found.append(Condition(path, EQUALS, operand))
        else:
            found.extend(_conditions(attribute, operand, (*where, attribute), depth))
    return tuple(found)


def _conditions(attribute: Any, operand: Any, where: Path, depth: int) -> Iterable[Condition]:
    combine = _COMBINING.get(attribute)
    if combine is not None:
        return combine(operand, where, depth)
    path = _attribute(attribute, where)
    if operand.__class__ is not dict or not operand:
        expected = "a string, number, true, false or a mapping of words such as {in: [...]}"
        cure = "; for an attribute that is not there write {present: false}"
        _refuse(where, expected, operand, cure if operand is None else "")
    return [_word(path, word, operand[word], (*where, word)) for word in operand]


def _word(path: tuple[str, ...], word: Any, operand: Any, where: Path) -> Condition:
    read = _WORDS.get(word)
    if read is None:
        _refuse(where, "one of the words " + ", ".join(_WORDS), word)
    return Condition(path, word, read(operand, where))


def _list_of_scalars(value: Any, where: Path) -> list[Any]:
    if value.__class__ is not list:
        _refuse(where, "a list of strings, numbers, true or false", value)
    if not _SCALARS.issuperset(map(type, value)):
        index = next(i for i, member in enumerate(value) if type(member) not in _SCALARS)
        _refuse((*where, index), "a string, number, true or false", value[index])
    scalars: list[Any] = value
    return scalars


def _number(value: Any, where: Path) -> int | float:
    if value.__class__ is not int and value.__class__ is not float:
        _refuse(where, "a number", value)
    number: int | float = value
    return number


def _texts(value: Any, where: Path) -> tuple[str, ...]:
    if value.__class__ is not list:
        return (_text(value, where),)
    if not 1 <= len(value) <= MAX_TEXTS:
        _refuse(where, f"1 to {MAX_TEXTS} strings", value)
    return tuple([_text(member, (*where, index)) for index, member in enumerate(value)])


def _versions(value: Any, where: Path) -> tuple[tuple[str, Any], ...]:
    if value.__class__ is not dict or not value:
        _refuse(where, 'a mapping such as {gte: "1.2.0"}', value)
    found = []
    for order, text in value.items():
        if order not in _SEMVER_ORDERS:
            _refuse((*where, order), "one of the words " + ", ".join(_SEMVER_ORDERS), order)
        key = semver_key(text)
        if key is None:
            cure = "; write all three numbers, and quote them"
            _refuse((*where, order), 'a Semantic Version such as "1.2.0"', text, cure)
        found.append((order, key))
    return tuple(found)


def _time(value: Any, where: Path) -> float:
    seconds = seconds_of(value) if value.__class__ is str else None
    if seconds is None:
        cure = "; quote it, and name its offset from UTC"
        _refuse(where, 'an RFC 3339 time such as "2026-01-31T08:00:00Z"', value, cure)
    return seconds


def _truth(value: Any, where: Path) -> bool:
    if value.__class__ is not bool:
        _refuse(where, "true or false", value)
    truth: bool = value
    return truth


def _segment(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    return (Condition((), SEGMENT, _text(value, where)),)


def _flags(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    if value.__class__ is not dict or not value:
        _refuse(where, "a mapping of flags to the variant each of them serves", value)
    found = []
    for name, wanted in value.items():
        _text(name, where)
        found.append(Condition((), FLAG, (name, _texts(wanted, (*where, name)))))
    return found


def _negated(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    return (Condition((), NOT, _group(value, where, depth)),)


def _any_of(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    return (Condition((), ANY, _groups(value, where, depth)),)


def _all_of(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    return (Condition((), ALL, _groups(value, where, depth)),)


def _bucket(value: Any, where: Path, depth: int) -> Iterable[Condition]:
    _fields(value, where, _BUCKET_FIELDS, ("range",))
    bounds, here = value["range"], (*where, "range")
    if bounds.__class__ is not list or len(bounds) != 2:
        _refuse(here, "two numbers from 0 to 1 such as [0, 0.25]", bounds)
    start, end = _number(bounds[0], (*here, 0)), _number(bounds[1], (*here, 1))
    if not 0 <= start < end <= 1:
        _refuse(here, "two numbers from 0 to 1, the second one larger", bounds)
    by = _attribute(value["by"], (*where, "by")) if "by" in value else None
    salt = _text(value["salt"], (*where, "salt")) if "salt" in value else None
    algorithm = None
    if "bucketing" in value:
        algorithm = _algorithm(value["bucketing"], (*where, "bucketing"))
    return (Condition((), BUCKET, Bucket(start, end, by, salt, algorithm)),)


def _groups(value: Any, where: Path, depth: int) -> tuple[tuple[Condition, ...], ...]:
    if value.__class__ is not list or not value:
        _refuse(where, "a list of mappings of conditions", value)
    return tuple([_group(each, (*where, index), depth) for index, each in enumerate(value)])


def _group(value: Any, where: Path, depth: int) -> tuple[Condition, ...]:
    if depth >= MAX_NESTING:
        _refuse(where, f"conditions nested at most {MAX_NESTING} deep", value)
    conditions = parse_when(value, where, depth + 1)
    if not conditions:
        _refuse(where, "one or more conditions", value)
    return conditions


_WORDS: dict[str, Callable[[Any, Path], Any]] = {
    IN: _list_of_scalars,
    NOT_IN: _list_of_scalars,
    **dict.fromkeys(_ORDERS, _number),
    STARTS_WITH: _texts,
    ENDS_WITH: _texts,
    CONTAINS: _texts,
    SEMVER: _versions,
    BEFORE: _time,
    AFTER: _time,
    PRESENT: _truth,
}
_COMBINING: dict[Any, Callable[[Any, Path, int], Iterable[Condition]]] = {
    SEGMENT: _segment,
    FLAG: _flags,
    NOT: _negated,
    ANY: _any_of,
    ALL: _all_of,
    BUCKET: _bucket,
}


def _attribute(value: Any, where: Path) -> tuple[str, ...]:
    if _is_plain(value) and value != "targetingKey":
        return (value,)
    text = _text(value, where)
    keys = tuple(text.split("."))
    if "" in keys or text[0] == "$" or len(keys) > MAX_PATH_KEYS:
        _refuse(where, f"an attribute of 1 to {MAX_PATH_KEYS} keys joined by dots", text)
    if keys[0] == "targetingKey":
        return ("targeting_key", *keys[1:])
    return keys


def _fields(value: Any, where: Path, known: frozenset[str], required: Iterable[str]) -> None:
    if value.__class__ is not dict:
        _refuse(where, "a mapping", value)
    if not known.issuperset(value):
        unknown = min(str(name) for name in value if name not in known)
        names = ", ".join(sorted(known))
        _refuse((*where, unknown), f"one of the fields {names}", unknown)
    for name in required:
        if name not in value:
            _refuse((*where, name), "a value", None)


def _variant(value: Any, variants: dict[str, Any], where: Path) -> str:
    if value.__class__ is not str or value not in variants:
        _refuse(where, "one of the variants " + ", ".join(variants), value)
    name: str = value
    return name


def _text(value: Any, where: Path) -> str:
    if value.__class__ is not str or not value:
        _refuse(where, "text", value)
    text: str = value
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(where, "text without lone surrogates", text)
    return text


def _refuse(path: Path, expected: str, found: Any, cure: str = "") -> NoReturn:
    shown = "nothing" if found is None else repr(found)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    place = ".".join(str(step) for step in path) or "metadata"
    raise ManifestInvalid(f"{place}: expected {expected}, found {shown}{cure}", path)
