"""Turn a flag's definition into a function of (user_id, tenant_id, context).

What is decided, in this order: a kill, ``enabled: false``, overrides (user_id, tenant_id, others
by name), rules as listed, the default. A flag that one of the first two decides, or that has
neither overrides nor rules, is no function but a constant.

How values compare: a bool equals only itself and never a number; numbers compare by value, so 1
equals 1.0; strings compare exactly; null and an absent attribute match nothing; neither does a
list or a mapping. The ids come from the arguments, else from the context. Overrides, segments
and splits go by unit, so an int is its decimal there (``bucketing``). A segment, like a split,
is asked about the rule's ``by``. A rule that needs a unit and finds none does not match.

A value of the application's own class is asked whether it equals; if it raises, or cannot be
hashed, the caller evaluates once more with ``PlainContext``, which shows plain values only.

Source is written and compiled once for each *shape* of a flag: which words test which attributes
in what order, and how many entries each split has. Everything a definition says in words or
numbers, attribute names included, stands there as a placeholder ('k0', 'k1', …) and never becomes
source text; so does what a return site returns ('r0', 'r1', …). A flag's function has a copy of
its shape's code with the placeholders among the constants replaced: 2 µs and 1 KiB for calls that
are a seventh cheaper than with constants bound as defaults, which each call would copy.
The answers are values, variant names or details, whichever were filled in.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from control_plane.feature_flags import bucketing
from control_plane.feature_flags.definition import EQUALS, SEGMENT, parse_definition
from control_plane.feature_flags.evaluation import (
    DEFAULT,
    DISABLED,
    ERROR,
    SPLIT,
    STATIC,
    TARGETING_MATCH,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any, ClassVar

    from control_plane.feature_flags.definition import Condition, Definition, Rule
    from control_plane.feature_flags.targeting import Node

    Members = Callable[[str, object], bool]
    Attribute = tuple[int, int]
    RuleShape = tuple[tuple[tuple[str, int], ...], int, int]
    Shape = tuple[tuple[Attribute, ...], tuple[int, ...], tuple[RuleShape, ...]]
    # Of a flag with targeting its source.
    AnyShape = Shape | str


def _function() -> None: ...


if TYPE_CHECKING:
    import types

    Function = types.FunctionType
else:
    # The same class without importing types.
    Function = type(_function)

# Roots of an attribute; any other name is looked up in the context.
_USER, _TENANT, _KEY, _CONTEXT = 0, 1, 2, 3
_ROOTS = {"user_id": _USER, "tenant_id": _TENANT, "targeting_key": _KEY}
_NAMES = ("user_id", "tenant_id", "key")

# Conditions as a shape names them. NUMBER is equality with 0 or 1, which a bool would pass.
_TRUE, _FALSE, _NUMBER, _MIXED = "is True", "is False", "number", "mixed"
_IN = "in"

MAX_SHAPES = 4096

VALUES, VARIANTS, DETAILS = "values", "variants", "details"


class Moved(Exception):
    """Raised inside a function whose memberships met a record of a newer transaction."""


class PlainContext:
    """A context that shows only str, int, float, bool and nested objects; the rest match nothing.

    Values of subclasses (an Enum that is a str, say) are shown as the plain value they hold.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        self._values = values

    def get(self, key: str) -> object:
        values = self._values
        # dict's own method: a subclass may have changed what its name does.
        return plain(dict.get(values, key) if isinstance(values, dict) else values.get(key))


class Unmatchable:
    """Stands for a value that equals nothing, is in no list and is no unit."""

    __slots__ = ()


_UNMATCHABLE = Unmatchable()


def plain(value: Any) -> object:
    """The value if a condition can compare it, else something that matches nothing."""
    # By type and not isinstance, which would ask the value itself what it claims to be.
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return _UNMATCHABLE if bucketing.unit_of(value) is None else str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    return PlainContext(value) if issubclass(kind, dict) else _UNMATCHABLE


def _reach(value: Any, *keys: str) -> Any:
    """The value at a path inside nested objects, or None."""
    for key in keys:
        if not issubclass(type(value), (dict, PlainContext)):
            return None
        value = value.get(key)
    return value


def _hashed(value: object, seed: int) -> int | None:
    """The hash of what is no plain str; None where it is no unit."""
    unit = bucketing.unit_of(value)
    return None if unit is None else xxh3_64_intdigest(unit, seed)


def _unit_text(value: object) -> str | None:
    unit = bucketing.unit_of(value)
    return None if unit is None else unit.decode()


# All that generated code can name besides its own parameters.
_GLOBALS: dict[str, Any] = {
    "__builtins__": {},
    "EMPTY": {},
    "Exception": Exception,
    "bool": bool,
    "hash64": xxh3_64_intdigest,
    "hashed": _hashed,
    "reach": _reach,
    "str": str,
    "unit_text": _unit_text,
}


class Site:
    """What one return site answers: a variant and why; ``units`` holds an override's variants."""

    __slots__ = ("error", "reason", "rule", "units", "variant")

    def __init__(
        self,
        reason: str,
        variant: str | None,
        rule: str | None = None,
        units: dict[str, str] | None = None,
        error: str | None = None,
    ) -> None:
        self.reason = reason
        self.variant = variant
        self.rule = rule
        self.units = units
        self.error = error


class Object(dict):  # type: ignore[type-arg]  # typing is not loaded
    """A mapping that code can hold as a constant: debuggers hash code, constants included."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


class Array(list):  # type: ignore[type-arg]
    """A list that code can hold as a constant, as ``Object``."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


def _held(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return Object(value)
    return Array(value) if kind is list else value


class Template:
    """The code of every flag of one shape."""

    __slots__ = ("_code", "_literals", "_places", "names")

    def __init__(
        self, shape: AnyShape, constants: int, names: dict[str, Any] | None = None
    ) -> None:
        """``constants`` is how many a flag of that shape has, ``names`` what its code can name."""
        self.names = _GLOBALS if names is None else names
        namespace: dict[str, Any] = {}
        source = shape if isinstance(shape, str) else source_of(shape)
        exec(compile(source, "<flag>", "exec"), namespace)
        self._code: CodeType = namespace["flag"].__code__
        self._literals: list[object] = []
        # Where each constant of the code stands among a flag's constants, its returns and these
        # literals; the latter counted from the end, as the number of returns is not known here.
        self._places = [self._place(literal, constants) for literal in self._code.co_consts]

    def _place(self, literal: object, constants: int) -> int:
        if isinstance(literal, str) and literal[1:].isdecimal():
            return int(literal[1:]) + (constants if literal[0] == "r" else 0)
        self._literals.insert(0, literal)
        return -len(self._literals)

    def filled(self, constants: tuple[Any, ...], returns: list[Any]) -> CodeType:
        """The code of one flag."""
        values = (*constants, *returns, *self._literals)
        # map, as this is a part of every first evaluation: 1 µs less than a loop.
        return self._code.replace(co_consts=tuple(map(values.__getitem__, self._places)))


class CompiledFlag:
    """A flag ready to answer in three modes.

    VALUES answers with the variant's value, VARIANTS with its name; None means the caller's
    default. DETAILS answers (value, variant, reason, rule, error code, generation).
    """

    __slots__ = (
        "_bound",
        "_constants",
        "_sites",
        "_template",
        "_variants",
        "flag_metadata",
        "generation",
        "seed",
        "segments",
        "type",
    )

    def __init__(
        self,
        type: str,
        variants: dict[str, Any],
        sites: tuple[Site, ...],
        template: Template | None = None,
        constants: tuple[Any, ...] = (),
        segments: bool = False,
        seed: int = 0,
        generation: int = 0,
        flag_metadata: dict[str, Any] | None = None,
    ) -> None:
        self.type = type
        self.flag_metadata = flag_metadata or {}
        self.segments = segments
        self.seed = seed
        self.generation = generation
        self._variants = variants
        self._sites = sites
        self._template = template
        self._constants = constants
        self._bound: dict[str, Any] = {}

    def bound(self, mode: str, members: Members | None = None) -> Any:
        """A constant or a function of (user_id, tenant_id, context) that answers in that mode.

        ``members`` answers the memberships of a flag with ``segments``.
        """
        found = self._bound.get(mode, self)
        if found is self:
            found = self._bound[mode] = self._answer(mode)
        # A function that asks for memberships belongs to one table: what is kept has none to ask.
        return Function(found.__code__, _GLOBALS, "flag", (members,)) if self.segments else found

    def _answer(self, mode: str) -> Any:
        answer = self._ANSWERS[mode]
        if self._template is None:
            return answer(self, self._sites[0], self._sites[0].variant)
        returns = []
        for site in self._sites:
            if site.units is None:
                returns.append(answer(self, site, site.variant))
            else:
                units = {unit: answer(self, site, name) for unit, name in site.units.items()}
                returns.append(Object(units))
        return Function(
            self._template.filled(self._constants, returns), self._template.names, "flag"
        )

    def _value(self, site: Site, variant: str | None) -> Any:
        return None if variant is None else _held(self._variants[variant])

    def _variant(self, site: Site, variant: str | None) -> str | None:
        return variant

    def _details(self, site: Site, variant: str | None) -> tuple[Any, ...]:
        value = self._value(site, variant)
        return value, variant, site.reason, site.rule, site.error, self.generation

    _ANSWERS: ClassVar[dict[str, Callable[[CompiledFlag, Site, str | None], Any]]] = {
        VALUES: _value,
        VARIANTS: _variant,
        DETAILS: _details,
    }


def fault(error: str) -> CompiledFlag:
    """A flag that gives every caller its default, reason ERROR with that code."""
    return CompiledFlag("", {}, (Site(ERROR, None, error=error),))


def check_flag(metadata: Any) -> None:
    """Refuse metadata that no reader could evaluate; takes what a node merged for itself.

    Raises:
        ManifestInvalid: with the path inside the metadata, at its start and as ``path``.
    """
    parse_definition(metadata)


class Compiler:
    """Compiles flags, keeping the template of each shape it has met (at most 4,096)."""

    __slots__ = ("_templates",)

    def __init__(self) -> None:
        self._templates: dict[AnyShape, Template] = {}

    def compile(
        self, name: str, metadata: Any, kill: Any = None, generation: int = 0
    ) -> CompiledFlag:
        """The compiled form of one flag record.

        ``metadata`` is None for a record that holds only a kill; ``kill`` is its value
        ({"variant": name or null}) or None.

        Raises:
            ManifestInvalid: when the metadata or the kill is out of form.
        """
        if metadata is None:
            return CompiledFlag("", {}, (Site(DISABLED, None),), generation=generation)
        flag = parse_definition(metadata)
        seed = bucketing.seed_of(name if flag.salt is None else flag.salt)
        site = _constant(flag, kill)
        if site is not None:
            return CompiledFlag(
                flag.type, flag.variants, (site,), seed=seed, generation=generation,
                flag_metadata=flag.flag_metadata,
            )  # fmt: skip
        if flag.targeting is not None:
            return self._targeted(name, flag, flag.targeting, seed, generation)
        shape, constants, sites = _Reading(flag, seed).parts()
        return CompiledFlag(
            flag.type,
            flag.variants,
            sites,
            self._template(shape, len(constants)),
            constants,
            _asks_members(shape),
            seed,
            generation,
            flag.flag_metadata,
        )

    def _targeted(
        self, name: str, flag: Definition, targeting: Node, seed: int, generation: int
    ) -> CompiledFlag:
        # Imported here: most processes meet no flag of flagd's.
        from control_plane.feature_flags.targeting_code import NAMES, written

        flag_key = name if flag.salt is None else flag.salt
        shape, constants, answers = written(
            name, flag_key, flag.bucketing, targeting, flag.variants, flag.default, flag.overrides
        )
        sites = tuple(
            Site(reason, variant, units=units, error=error)
            for reason, variant, units, error in answers
        )
        return CompiledFlag(
            flag.type,
            flag.variants,
            sites,
            self._template(shape, len(constants), NAMES),
            constants,
            seed=seed,
            generation=generation,
            flag_metadata=flag.flag_metadata,
        )

    def _template(
        self, shape: AnyShape, constants: int, names: dict[str, Any] | None = None
    ) -> Template:
        template = self._templates.get(shape)
        if template is None:
            template = Template(shape, constants, names)
            if len(self._templates) >= MAX_SHAPES:
                self._templates = {}
            self._templates[shape] = template
        return template


def _constant(flag: Definition, kill: Any) -> Site | None:
    """The one answer of a flag that needs no evaluation, or None."""
    if kill is not None:
        # An author may kill with a variant that a later definition no longer has.
        wanted = kill.get("variant") if isinstance(kill, dict) else None
        served = flag.disabled if wanted is None else wanted
        known = isinstance(served, str) and served in flag.variants
        return Site(DISABLED, served if known else None)
    if not flag.enabled:
        return Site(DISABLED, flag.disabled)
    if not flag.overrides and not flag.rules and flag.targeting is None:
        return Site(DEFAULT if flag.default is None else STATIC, flag.default)
    return None


class _Reading:
    """One pass over a definition: its shape, its constants and its return sites.

    ``source_of`` walks the shape in the same order, so the n-th constant is 'k<n>' and the n-th
    site 'r<n>'.
    """

    __slots__ = ("_attributes", "_constants", "_flag", "_seed", "_sites")

    def __init__(self, flag: Definition, seed: int) -> None:
        self._flag = flag
        self._seed = seed
        self._attributes: dict[tuple[str, ...], int] = {}
        self._constants: list[Any] = []
        self._sites: list[Site] = []

    def parts(self) -> tuple[Shape, tuple[Any, ...], tuple[Site, ...]]:
        overrides = tuple(self._override(path, units) for path, units in self._flag.overrides)
        rules = tuple(self._rule(rule) for rule in self._flag.rules)
        self._sites.append(Site(DEFAULT, self._flag.default))
        names: list[str] = []
        shapes = []
        for path in self._attributes:
            root = _ROOTS.get(path[0], _CONTEXT)
            keys = path if root == _CONTEXT else path[1:]
            names.extend(keys)
            shapes.append((root, len(keys)))
        constants = (*names, *self._constants)
        return (tuple(shapes), overrides, rules), constants, tuple(self._sites)

    def _attribute(self, path: tuple[str, ...]) -> int:
        return self._attributes.setdefault(path, len(self._attributes))

    def _override(self, path: tuple[str, ...], units: dict[str, str]) -> int:
        self._sites.append(Site(TARGETING_MATCH, None, None, units))
        return self._attribute(path)

    def _rule(self, rule: Rule) -> RuleShape:
        ordered = rule.conditions
        if len(ordered) > 1:
            # Ids first, then the context, segments last: each costs more than the one before.
            ordered = tuple(sorted(ordered, key=_cost))
        conditions = tuple([self._condition(condition) for condition in ordered])
        entries = [entry for entry in rule.split if entry[1]]
        asks = entries or (ordered and ordered[-1].word == SEGMENT)
        by = self._attribute(rule.by) if asks else -1
        if not entries:
            self._sites.append(Site(TARGETING_MATCH, rule.serve, rule.name))
            return conditions, by, 0
        self._split(rule.name, entries)
        return conditions, by, len(entries)

    def _split(self, rule: str, entries: list[tuple[str, int]]) -> None:
        total = sum(weight for _, weight in entries)
        self._constants.append(self._seed)
        cumulative = 0
        for variant, weight in entries:
            cumulative += weight
            # Every point is below the total: the last entry needs no bound.
            if cumulative < total:
                self._constants.append(bucketing.threshold(cumulative, total))
            self._sites.append(Site(SPLIT, variant, rule))

    def _condition(self, condition: Condition) -> tuple[str, int]:
        word, operand = condition.word, condition.operand
        if word == SEGMENT:
            self._constants.append(operand)
            return SEGMENT, -1
        attribute = self._attribute(condition.path)
        if word != EQUALS:
            return self._in(operand), attribute
        if type(operand) is bool:
            return (_TRUE if operand else _FALSE), attribute
        self._constants.append(operand)
        return _NUMBER if operand == 0 or operand == 1 else EQUALS, attribute

    def _in(self, values: list[Any]) -> str:
        members = frozenset(values)
        if 0 not in members and 1 not in members:
            self._constants.append(members)
            return _IN
        # True == 1 and False == 0 in a set too: bools and the rest get a set each.
        self._constants.append(frozenset(v for v in values if v is True or v is False))
        self._constants.append(frozenset(v for v in values if v is not True and v is not False))
        return _MIXED


def _cost(condition: Condition) -> int:
    if condition.word == SEGMENT:
        return 2
    return int(condition.path[0] not in _ROOTS)


def _asks_members(shape: Shape) -> bool:
    return any(word == SEGMENT for conditions, _, _ in shape[2] for word, _ in conditions)


def source_of(shape: Shape) -> str:
    """The source of every flag of that shape: placeholders and nothing from a flag."""
    return _Writer(shape).text()


class _Writer:
    """Writes the source of a shape."""

    __slots__ = ("_attributes", "_k", "_lines", "_locals", "_r", "_shape")

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._lines: list[str] = []
        self._k = self._count("k")
        self._r = self._count("r")
        self._attributes = [self._attribute(root, keys) for root, keys in shape[0]]
        self._locals: set[int] = set()

    @staticmethod
    def _count(letter: str) -> Iterator[str]:
        number = 0
        while True:
            yield f"'{letter}{number}'"
            number += 1

    def _attribute(self, root: int, keys: int) -> str:
        if root == _CONTEXT:
            start, keys = f"context.get({next(self._k)})", keys - 1
        else:
            start = _NAMES[root]
        names = "".join(f", {next(self._k)}" for _ in range(keys))
        return f"reach({start}{names})" if keys else start

    def text(self) -> str:
        _, overrides, rules = self._shape
        self._prologue()
        for attribute in overrides:
            units = next(self._r)
            # Units are strings; an int counts as its decimal.
            self._line(1, f"u = {self._attributes[attribute]}")
            self._line(1, "if u.__class__ is not str: u = unit_text(u)")
            self._line(1, f"if u in {units}: return {units}[u]")
        for rule in rules:
            self._rule(*rule)
        self._line(1, f"return {next(self._r)}")
        return "\n".join((self._head(), *self._lines, ""))

    def _head(self) -> str:
        members = ", members" if _asks_members(self._shape) else ""
        return f"def flag(user_id, tenant_id, context{members}):"

    def _line(self, depth: int, text: str) -> None:
        self._lines.append(" " * depth + text)

    def _prologue(self) -> None:
        """Bring ids that were not given, the targeting key and an empty context into place."""
        roots = {root for root, _ in self._shape[0]}
        if _KEY in roots:
            roots |= {_USER, _TENANT}
            self._line(1, "key = None")
        fallbacks = [_NAMES[root] for root in (_USER, _TENANT) if root in roots]
        if fallbacks:
            self._line(1, "if context is not None:")
            for name in fallbacks:
                self._line(2, f"if {name} is None: {name} = context.get('{name}')")
        if _KEY in roots:
            self._line(2, "key = context.get('targeting_key')")
            self._line(2, "if key is None: key = context.get('targetingKey')")
            self._line(1, "if key is None: key = user_id")
            self._line(1, "if key is None: key = tenant_id")
        if _CONTEXT in roots:
            self._line(1, "if context is None: context = EMPTY")

    def _rule(self, conditions: tuple[tuple[str, int], ...], by: int, entries: int) -> None:
        tests = [
            self._condition(word, attribute, by, first=position == 0)
            for position, (word, attribute) in enumerate(conditions)
        ]
        depth = 1
        if tests:
            self._line(1, f"if {' and '.join(tests)}:")
            depth = 2
        if entries:
            self._split(depth, by, entries)
        else:
            self._line(depth, f"return {next(self._r)}")

    def _condition(self, word: str, attribute: int, by: int, first: bool) -> str:
        if word == SEGMENT:
            return f"members({next(self._k)}, {self._attributes[by]})"
        value, again = self._value(attribute, first)
        if word in (_TRUE, _FALSE):
            return f"{value} {word}"
        operand = next(self._k)
        if word == _MIXED:
            rest = next(self._k)
            return f"{value} in ({operand} if {again}.__class__ is bool else {rest})"
        if word == _NUMBER:
            return f"{value} == {operand} and {again}.__class__ is not bool"
        return f"{value} {'==' if word == EQUALS else word} {operand}"

    def _value(self, attribute: int, first: bool) -> tuple[str, str]:
        """An attribute as it is read first and again inside one condition.

        A rule's first condition is always reached when the rule is, so what it looked up can be
        kept for the rules after it; a later condition may have been skipped.
        """
        text = self._attributes[attribute]
        if self._shape[0][attribute][0] != _CONTEXT and "(" not in text:
            return text, text
        name = f"a{attribute}"
        if attribute in self._locals:
            return name, name
        if first:
            self._locals.add(attribute)
        return f"({name} := {text})", name

    def _split(self, depth: int, by: int, entries: int) -> None:
        value = self._attributes[by]
        if "(" in value:
            self._line(depth, f"u = {value}")
            value = "u"
        seed = next(self._k)
        # Nearly every unit is a str, so it is taken for one: asking for its type first costs 10 ns
        # of every evaluation, a wrong guess half a microsecond of a rare one.
        self._line(depth, f"if {value} is not None:")
        self._line(depth + 1, f"try: h = hash64({value}.encode(), {seed})")
        self._line(depth + 1, f"except Exception: h = hashed({value}, {seed})")
        depth += 1
        self._line(depth, "if h is not None:")
        for _ in range(entries - 1):
            self._line(depth + 1, f"if h < {next(self._k)}: return {next(self._r)}")
        self._line(depth + 1, f"return {next(self._r)}")
