"""What a flag's ``metadata`` may hold; the same check stands before publish and before use.

* 2 to 20 variants, named, with values of one JSON type (bool, string, number, object, array).
* ``default`` and ``disabled`` name variants. ``disabled`` may be left out of a boolean flag that
  has exactly one false variant: it is that one.
* ``overrides`` map an attribute to units and each unit to a variant.
* Rules have unique names, a ``when`` (absent: always) and a ``serve``: a variant, or two or more
  entries of variant and weight, weights integers from 0 with a sum of 1 to 2^31 - 1.
* A ``when`` maps attributes (dots reach into objects) to a scalar or to ``{in: [scalars]}``, and
  ``$segment`` to the name of a segment. All of its conditions hold, or the rule does not match.
* ``targeting`` may stand in place of ``rules`` (the module ``targeting`` says what it may hold);
  then ``bucketing`` is one of flagd's, the newest when left out.
* ``default`` may be null, with ``targeting`` also left out, and ``disabled`` may be null: then the
  caller's default is served.
* ``flag_metadata`` is told with each evaluation: a mapping of names to strings, numbers or bools.
* Without ``targeting``, ``bucketing`` is ``xxh3-v1``. Every other field or condition word is
  refused: a field this version does not know could change the answer.

The attribute ``targeting_key``, in OpenFeature's spelling ``targetingKey`` too, is the targeting
key: the context's, else the user id, else the tenant id.
"""

from __future__ import annotations

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags import bucketing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn

    from control_plane.feature_flags.targeting import Node

    Path = tuple[str | int, ...]
    Scalar = str | int | float | bool

MIN_VARIANTS = 2
MAX_VARIANTS = 20
MAX_TOTAL_WEIGHT = (1 << 31) - 1
MAX_PATH_KEYS = 16

EQUALS = "equals"
IN = "in"
SEGMENT = "$segment"

_TYPES: dict[type, str] = {
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
_RULE_FIELDS = frozenset(("name", "when", "serve", "by"))
_SPLIT_FIELDS = frozenset(("variant", "weight"))


class Condition:
    """One condition: an attribute's path, a word (equals, in, $segment) and what it asks for."""

    __slots__ = ("operand", "path", "word")

    def __init__(self, path: tuple[str, ...], word: str, operand: Any) -> None:
        self.path = path
        self.word = word
        self.operand = operand


class Rule:
    """A checked rule; ``serve`` names the variant of a rule without ``split``."""

    __slots__ = ("by", "conditions", "name", "serve", "split")

    def __init__(
        self,
        name: str,
        conditions: tuple[Condition, ...],
        serve: str | None,
        split: tuple[tuple[str, int], ...],
        by: tuple[str, ...],
    ) -> None:
        self.name = name
        self.conditions = conditions
        self.serve = serve
        self.split = split
        self.by = by


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
        algorithm = metadata.get("bucketing", bucketing.NAME)
        if algorithm != bucketing.NAME:
            _refuse(("bucketing",), f"{bucketing.NAME} where there is no targeting", algorithm)
        return None, bucketing.NAME
    if metadata.get("rules"):
        _refuse(("targeting",), "no targeting beside rules", expression)
    # Imported here: most processes meet no flag of flagd's.
    from control_plane.feature_flags.flagd_bucketing import NEWEST, VERSIONS
    from control_plane.feature_flags.targeting import parse_targeting

    algorithm = metadata.get("bucketing", NEWEST)
    if algorithm not in VERSIONS:
        _refuse(("bucketing",), f"{', '.join(VERSIONS)} beside targeting", algorithm)
    return parse_targeting(expression, ("targeting",), variants), algorithm


def _flag_metadata(value: Any) -> dict[str, Scalar]:
    if value.__class__ is not dict:
        _refuse(("flag_metadata",), "a mapping", value)
    for name, content in value.items():
        _text(name, ("flag_metadata",))
        if content.__class__ not in _SCALARS:
            _refuse(("flag_metadata", name), "a string, number, true or false", content)
    found: dict[str, Scalar] = value
    return found


def _variants(value: Any) -> tuple[str, dict[str, Any]]:
    if value.__class__ is not dict or not MIN_VARIANTS <= len(value) <= MAX_VARIANTS:
        expected = f"a mapping of {MIN_VARIANTS} to {MAX_VARIANTS} variants"
        _refuse(("variants",), expected, value)
    kind = ""
    for name, content in value.items():
        _text(name, ("variants",))
        found = _TYPES.get(content.__class__)
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
        _fields(rule, where, _RULE_FIELDS, ("name", "serve"))
        name = _text(rule["name"], (*where, "name"))
        if name in names:
            _refuse((*where, "name"), "a name no other rule has", name)
        names.add(name)
        rules.append(_rule(rule, name, where, variants))
    return tuple(rules)


def _rule(rule: dict[str, Any], name: str, where: Path, variants: dict[str, Any]) -> Rule:
    conditions = _when(rule.get("when", {}), (*where, "when"))
    by = _attribute(rule["by"], (*where, "by")) if "by" in rule else ("targeting_key",)
    serve = rule["serve"]
    if serve.__class__ is list:
        return Rule(name, conditions, None, _split(serve, (*where, "serve"), variants), by)
    return Rule(name, conditions, _variant(serve, variants, (*where, "serve")), (), by)


def _split(value: list[Any], where: Path, variants: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    if len(value) < 2:
        _refuse(where, "two or more entries, or the name of a variant", value)
    entries = []
    total = 0
    for index, entry in enumerate(value):
        here = (*where, index)
        _fields(entry, here, _SPLIT_FIELDS, ("variant", "weight"))
        weight = entry["weight"]
        if weight.__class__ is not int or weight < 0:
            _refuse((*here, "weight"), "an integer from 0", weight)
        entries.append((_variant(entry["variant"], variants, (*here, "variant")), weight))
        total += weight
    if not 1 <= total <= MAX_TOTAL_WEIGHT:
        _refuse(where, f"weights with a sum of 1 to {MAX_TOTAL_WEIGHT}", total)
    return tuple(entries)


def _when(value: Any, where: Path) -> tuple[Condition, ...]:
    if value.__class__ is not dict:
        _refuse(where, "a mapping of conditions", value)
    return tuple(
        _condition(attribute, operand, (*where, attribute)) for attribute, operand in value.items()
    )


def _condition(attribute: Any, operand: Any, where: Path) -> Condition:
    if attribute == SEGMENT:
        return Condition((), SEGMENT, _text(operand, where))
    path = _attribute(attribute, where)
    if operand.__class__ in _SCALARS:
        return Condition(path, EQUALS, operand)
    if operand.__class__ is not dict or len(operand) != 1:
        _refuse(where, "a string, number, true, false or {in: [...]}", operand)
    word = next(iter(operand))
    if word != IN:
        _refuse((*where, word), "the condition word in", word)
    values = operand[IN]
    if values.__class__ is not list:
        _refuse((*where, IN), "a list of strings, numbers, true or false", values)
    if not _SCALARS.issuperset(map(type, values)):
        index = next(i for i, member in enumerate(values) if type(member) not in _SCALARS)
        _refuse((*where, IN, index), "a string, number, true or false", values[index])
    return Condition(path, IN, values)


def _attribute(value: Any, where: Path) -> tuple[str, ...]:
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
