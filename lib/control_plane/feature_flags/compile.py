"""Turn a flag's definition into a function of (user_id, tenant_id, context).

What is decided, in this order: a kill, ``enabled: false``, overrides (user_id, tenant_id, others
by name), rules as listed, the default. A flag that one of the first two decides, or that has
neither overrides nor rules, is no function but a constant.

How values compare: a bool equals only itself and never a number; numbers compare by value, so 1
equals 1.0; strings compare exactly; null and an absent attribute match nothing but ``present:
false``; neither does a list or a mapping, but for ``contains`` and a list (``comparing`` has the
rest). ``$not`` turns its answer around, whatever the reason of it was. The ids come from the
arguments, else from the context. Overrides, segments and splits go by unit, so an int is its
decimal there (``bucketing``). A segment, like a split, is asked about the rule's ``by``. A rule
that needs a unit and finds none does not match.

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

from xxhash import xxh3_64_digest

from control_plane.feature_flags import bucketing
from control_plane.feature_flags.comparing import (
    contains,
    instant,
    number,
    outside,
    seconds_of_datetime,
    semver_key,
)
from control_plane.feature_flags.comparing import text as text_of
from control_plane.feature_flags.counting import NOTHING, is_spent
from control_plane.feature_flags.definition import (
    AFTER,
    ALL,
    ANY,
    BEFORE,
    BUCKET,
    CONTAINS,
    ENDS_WITH,
    EQUALS,
    FLAG,
    FROM,
    GT,
    GTE,
    IN,
    LT,
    LTE,
    NOT,
    NOT_IN,
    PRESENT,
    SEGMENT,
    SEMVER,
    STARTS_WITH,
    TYPES,
    UNTIL,
    parse_definition,
)
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

    from control_plane.feature_flags.counting import Counts
    from control_plane.feature_flags.definition import Bucket, Condition, Definition, Rule
    from control_plane.feature_flags.targeting import Node

    Asked = tuple[Callable[..., Any], ...]
    Attribute = tuple[int, int]
    # A word and its attribute, its orders, or the shapes of the conditions it combines.
    ConditionShape = tuple[Any, ...]
    Conditions = tuple[ConditionShape, ...]
    # Conditions, the attribute it goes by, entries of its split; fewer than none are a split by
    # another bucketing than xxh3-v1.
    RuleShape = tuple[Conditions, int, int]
    Shape = tuple[tuple[Attribute, ...], tuple[int, ...], tuple[RuleShape, ...]]
    # Of a flag with targeting it is text, see targeting_code.
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
_PRESENT, _ABSENT = "is not None", "is None"
_BARE = frozenset((_TRUE, _FALSE, _PRESENT, _ABSENT))
_OPERATORS = {GT: ">", GTE: ">=", LT: "<", LTE: "<=", "eq": "=="}
_METHODS = {STARTS_WITH: "startswith", ENDS_WITH: "endswith"}

MAX_SHAPES = 4096
OVERRIDE = "override"

VALUES, VARIANTS, DETAILS = "values", "variants", "details"


class Moved(Exception):
    """Raised inside a function whose questions met a record of a newer transaction."""


class PlainContext:
    """A context that shows only str, int, float, bool and nested objects; the rest match nothing.

    Values of subclasses (an Enum that is a str, say) are shown as the plain value they hold, a
    ``datetime`` as seconds since 1970.
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
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, (list, tuple)):
        # Hashable, and equal to no operand; only ``contains`` looks into it.
        return tuple([str.__str__(member) for member in value if issubclass(type(member), str)])
    if issubclass(kind, dict):
        return PlainContext(value)
    seconds = seconds_of_datetime(value)
    return _UNMATCHABLE if seconds is None else seconds


def _reach(value: Any, *keys: str) -> Any:
    """The value at a path inside nested objects, or None."""
    for key in keys:
        if not issubclass(type(value), (dict, PlainContext)):
            return None
        value = value.get(key)
    return value


def _hashed(value: object, seed: int) -> bytes | None:
    """The hash of what is no plain str; None where it is no unit."""
    unit = bucketing.unit_of(value)
    return None if unit is None else xxh3_64_digest(unit, seed)


def _unit_text(value: object) -> str | None:
    unit = bucketing.unit_of(value)
    return None if unit is None else unit.decode()


# All that generated code can name besides its own parameters.
_GLOBALS: dict[str, Any] = {
    "__builtins__": {},
    "EMPTY": {},
    "Exception": Exception,
    "NUMBERS": frozenset((int, float)),
    "PLAIN": frozenset((str, int)),
    "bool": bool,
    "contains": contains,
    # Big-endian bytes compare as the numbers do, and sooner than numbers of 64 bits.
    "hash64": xxh3_64_digest,
    "hashed": _hashed,
    "instant": instant,
    "next": next,
    "number": number,
    "outside": outside,
    "reach": _reach,
    "semver": semver_key,
    "str": str,
    "text": text_of,
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
    """The code of every flag of one shape, once for answers and once for counters of answers."""

    __slots__ = ("_code", "_literals", "_places", "names")

    def __init__(self, shape: AnyShape, constants: int, counted: bool) -> None:
        """``constants`` is how many a flag of that shape has."""
        namespace: dict[str, Any] = {}
        if isinstance(shape, str):
            from control_plane.feature_flags.targeting_code import NAMES, targeting_source

            source, self.names = targeting_source(shape, counted), NAMES
        else:
            source, self.names = source_of(shape, counted), _GLOBALS
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
    default. DETAILS answers (value, variant, reason, rule, error code, generation). With ``counts``
    the answers of the first two are counters, or functions that ask them.

    ``needs`` are the words that only a table can answer, ``flags`` the flags among them.
    """

    __slots__ = (
        "_bound",
        "_constants",
        "_counts",
        "_name",
        "_shape",
        "_sites",
        "_templates",
        "_variants",
        "flag_metadata",
        "flags",
        "generation",
        "needs",
        "seed",
        "type",
    )

    def __init__(
        self,
        name: str,
        type: str,
        variants: dict[str, Any],
        sites: tuple[Site, ...],
        *,
        seed: int = 0,
        generation: int = 0,
        counts: Counts | None = None,
        flag_metadata: dict[str, Any] | None = None,
    ) -> None:
        self.type = type
        self.flag_metadata = flag_metadata or {}
        self.seed = seed
        self.generation = generation
        self.needs: tuple[str, ...] = ()
        self.flags: tuple[str, ...] = ()
        self._name = name
        self._variants = variants
        self._sites = sites
        self._counts = counts
        self._templates: Templates | None = None
        self._bound: dict[str, Any] = {}

    def asking(
        self,
        templates: Templates,
        shape: AnyShape,
        constants: tuple[Any, ...],
        needs: tuple[str, ...],
        flags: tuple[str, ...],
    ) -> CompiledFlag:
        """This flag, answering by a function and not by its one site."""
        self._templates = templates
        self._shape = shape
        self._constants = constants
        self.needs = needs
        self.flags = flags
        return self

    def bound(self, mode: str, asked: Asked = ()) -> Any:
        """A constant, a counter or a function of (user_id, tenant_id, context).

        ``asked`` answers what the flag ``needs``, in that order.
        """
        found = self._bound.get(mode, self)
        if found is self:
            found = self._bound[mode] = self._answer(mode)
        if not self.needs:
            return found
        # A function that asks a table belongs to that one: what is kept has none to ask.
        return Function(found.__code__, found.__globals__, "flag", asked)

    def renew(self, mode: str) -> None:
        """Let the next ``bound`` take new counters where one of this mode's has run out."""
        found = self._bound.get(mode)
        if found is not None and is_spent(found):
            self._bound.pop(mode, None)

    def _answer(self, mode: str) -> Any:
        if self._templates is None:
            return self._given(mode, self._sites[0], self._sites[0].variant)
        counted = self._counts is not None and mode != DETAILS
        returns = []
        # Sites that serve one variant give one answer, but for details.
        given: dict[str | None, Any] = {}
        for site in self._sites:
            if site.units is None:
                variant = site.variant
                if mode == DETAILS:
                    answer = self._given(mode, site, variant)
                elif variant in given:
                    answer = given[variant]
                else:
                    answer = given[variant] = self._given(mode, site, variant)
                returns.append(answer)
            else:
                units = {unit: self._given(mode, site, name) for unit, name in site.units.items()}
                returns.append(Object(units))
        if counted and not isinstance(self._shape, str):
            # Rules ask every site; code of targeting returns what serves no variant as it is.
            returns = [NOTHING if answer is None else answer for answer in returns]
        template = self._templates.of(self._shape, len(self._constants), counted)
        return Function(template.filled(self._constants, returns), template.names, "flag")

    def _given(self, mode: str, site: Site, variant: str | None) -> Any:
        """What a site answers, or the counter of it."""
        answer = self._ANSWERS[mode](self, site, variant)
        if self._counts is None or mode == DETAILS or variant is None:
            return answer
        return self._counts.counter(self._name, variant, mode, answer)

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
    return CompiledFlag("", "", {}, (Site(ERROR, None, error=error),))


def constant(name: str, value: Any) -> CompiledFlag:
    """A flag that answers one value, whoever asks; its variant is called ``override``.

    Raises:
        TypeError: the value is of no JSON type.
    """
    kind = TYPES.get(value.__class__)
    if kind is None:
        raise TypeError(f"flag {name}: expected a JSON value, found {type(value).__name__}")
    return CompiledFlag(name, kind, {OVERRIDE: value}, (Site(STATIC, OVERRIDE),))


def check_flag(metadata: Any) -> None:
    """Refuse metadata that no reader could evaluate; takes what a node merged for itself.

    Raises:
        ManifestInvalid: with the path inside the metadata, at its start and as ``path``.
    """
    parse_definition(metadata)


class Templates:
    """The template of each shape met so far, at most 4,096."""

    __slots__ = ("_templates",)

    def __init__(self) -> None:
        self._templates: dict[tuple[AnyShape, bool], Template] = {}

    def of(self, shape: AnyShape, constants: int, counted: bool) -> Template:
        """The template of a shape with so many constants."""
        key = shape, counted
        template = self._templates.get(key)
        if template is None:
            template = Template(shape, constants, counted)
            if len(self._templates) >= MAX_SHAPES:
                self._templates = {}
            self._templates[key] = template
        return template


class Compiler:
    """Compiles flags; with ``counts`` they count what they answer."""

    __slots__ = ("_counts", "_templates")

    def __init__(self, counts: Counts | None = None) -> None:
        self._counts = counts
        self._templates = Templates()

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
            return CompiledFlag(name, "", {}, (Site(DISABLED, None),), generation=generation)
        return self.compiled(name, parse_definition(metadata), kill, generation)

    def compiled(
        self, name: str, flag: Definition, kill: Any = None, generation: int = 0
    ) -> CompiledFlag:
        """The compiled form of a checked definition."""
        seed = bucketing.seed_of(name if flag.salt is None else flag.salt)
        site = _constant(flag, kill)
        if site is not None:
            return CompiledFlag(
                name, flag.type, flag.variants, (site,), seed=seed, generation=generation,
                counts=self._counts, flag_metadata=flag.flag_metadata,
            )  # fmt: skip
        if flag.targeting is not None:
            return self._targeted(name, flag, flag.targeting, seed, generation)
        reading = _Reading(flag, name, seed)
        compiled = CompiledFlag(
            name, flag.type, flag.variants, reading.sites, seed=seed, generation=generation,
            counts=self._counts, flag_metadata=flag.flag_metadata,
        )  # fmt: skip
        return compiled.asking(
            self._templates, reading.shape, reading.constants, reading.needs, reading.flags
        )

    def _targeted(
        self, name: str, flag: Definition, targeting: Node, seed: int, generation: int
    ) -> CompiledFlag:
        # Imported here: most processes meet no flag of flagd's.
        from control_plane.feature_flags.targeting_code import Writing

        flag_key = name if flag.salt is None else flag.salt
        writing = Writing(name, flag_key, flag.bucketing, tuple(flag.variants), flag.default)
        shape = writing.shape(targeting, flag.overrides)
        sites = [Site(*answer) for answer in writing.sites]
        compiled = CompiledFlag(
            name, flag.type, flag.variants, tuple(sites), seed=seed, generation=generation,
            counts=self._counts, flag_metadata=flag.flag_metadata,
        )  # fmt: skip
        return compiled.asking(self._templates, shape, tuple(writing.constants), writing.needs, ())


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

    __slots__ = (
        "_attributes", "_bucketing", "_flags", "_hashes", "_needs", "_operands", "_ranged",
        "_ruled", "_salt", "_seed", "_sites", "constants", "shape",
    )  # fmt: skip

    def __init__(self, flag: Definition, name: str, seed: int) -> None:
        self._seed = seed
        self._salt = name if flag.salt is None else flag.salt
        self._bucketing = flag.bucketing
        self._hashes: dict[tuple[str, str, int], int] = {}
        self._attributes: dict[tuple[str, ...], int] = {}
        self._operands: list[Any] = []
        self._sites: list[Site] = []
        self._flags: dict[str, None] = {}
        self._needs: set[str] = set()
        overrides = tuple([self._override(path, units) for path, units in flag.overrides])
        rules = tuple([self._rule(rule) for rule in flag.rules])
        self._sites.append(Site(DEFAULT, flag.default))
        names: list[str] = []
        shapes = []
        for path in self._attributes:
            root = _ROOTS.get(path[0], _CONTEXT)
            keys = path if root == _CONTEXT else path[1:]
            names.extend(keys)
            shapes.append((root, len(keys)))
        self.shape: Shape = (tuple(shapes), overrides, rules)
        self.constants: tuple[Any, ...] = (*names, *self._operands)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self._sites)

    @property
    def needs(self) -> tuple[str, ...]:
        """What a table is asked, as the parameters of the function are called."""
        return tuple([need for need in NEEDS if need in self._needs]) if self._needs else ()

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags whose variants the conditions ask for."""
        return tuple(self._flags)

    def _attribute(self, path: tuple[str, ...]) -> int:
        return self._attributes.setdefault(path, len(self._attributes))

    def _override(self, path: tuple[str, ...], units: dict[str, str]) -> int:
        self._sites.append(Site(TARGETING_MATCH, None, None, units))
        return self._attribute(path)

    def _rule(self, rule: Rule) -> RuleShape:
        self._ruled, self._ranged = rule, False
        conditions = self._all(rule.conditions) if rule.conditions else ()
        entries = [entry for entry in rule.split if entry[1]] if rule.split else []
        asks = entries or ("members" in self._needs and _mentions(conditions, SEGMENT))
        by = self._attribute(rule.by) if asks else -1
        if not entries:
            reason = SPLIT if self._ranged else TARGETING_MATCH
            self._sites.append(Site(reason, rule.serve, rule.name))
            return conditions, by, 0
        if self._bucketing != bucketing.NAME:
            self._imported_split(rule, entries)
            return conditions, by, -len(entries)
        self._split(rule, entries)
        return conditions, by, len(entries)

    def _split(self, rule: Rule, entries: list[tuple[str, int]]) -> None:
        total = sum(weight for _, weight in entries)
        self._operands.append(self._seed if rule.salt is None else bucketing.seed_of(rule.salt))
        cumulative = 0
        for variant, weight in entries:
            cumulative += weight
            # Every point is below the total: the last entry needs no bound.
            if cumulative < total:
                bound = bucketing.threshold(cumulative, total)
                self._operands.append(bound.to_bytes(8, "big"))
            self._sites.append(Site(SPLIT, variant, rule.name))

    def _imported_split(self, rule: Rule, entries: list[tuple[str, int]]) -> None:
        # Imported here: most processes meet no other bucketing.
        from control_plane.feature_flags.bucketings import split_ends, split_hashing

        weights = [weight for _, weight in entries]
        total = sum(weights)
        hashing = split_hashing(self._bucketing, rule.salt or self._salt, total)
        ends = split_ends(self._bucketing, weights, total)
        self._operands += [hashing, *map(hashing.bound, ends[:-1])]
        self._sites += [Site(SPLIT, variant, rule.name) for variant, _ in entries]

    def _bucket(self, bucket: Bucket) -> ConditionShape:
        from control_plane.feature_flags.bucketings import range_hashing

        self._ranged = True
        attribute = self._attribute(bucket.by or self._ruled.by)
        salt = bucket.salt or self._ruled.salt or self._salt
        name = bucket.bucketing or self._bucketing
        hashing = range_hashing(name, salt)
        self._operands += [hashing, hashing.bound(bucket.start), hashing.bound(bucket.end)]
        # A unit is hashed once, however many ranges there are: a rule for each part of one.
        return (
            BUCKET,
            attribute,
            self._hashes.setdefault((name, salt, attribute), len(self._hashes)),
        )

    def _all(self, conditions: tuple[Condition, ...]) -> Conditions:
        if len(conditions) == 1:
            return (self._condition(conditions[0]),)
        if len(conditions) > 1:
            # Ids first, then the context, segments last: each costs more than the one before.
            conditions = tuple(sorted(conditions, key=_cost))
        return tuple([self._condition(condition) for condition in conditions])

    def _condition(self, condition: Condition) -> ConditionShape:
        word, operand = condition.word, condition.operand
        if not condition.path:
            return self._without_attribute(word, operand)
        attributes = self._attributes
        attribute = attributes.setdefault(condition.path, len(attributes))
        if word == EQUALS:
            if operand is True or operand is False:
                return (_TRUE if operand else _FALSE), attribute
            self._operands.append(operand)
            return (_NUMBER if operand == 0 or operand == 1 else EQUALS), attribute
        if word == IN:
            return self._in(operand), attribute
        if word == PRESENT:
            return (_PRESENT if operand else _ABSENT), attribute
        if word == NOT_IN:
            self._operands += _bools_and_others(operand)
        elif word == SEMVER:
            self._operands += [key for _, key in operand]
            return word, attribute, tuple([order for order, _ in operand])
        else:
            self._operands.append(operand)
        return word, attribute

    def _without_attribute(self, word: str, operand: Any) -> ConditionShape:
        if word == NOT:
            return word, self._all(operand)
        if word in (ANY, ALL):
            return word, tuple([self._all(group) for group in operand])
        if word == BUCKET:
            return self._bucket(operand)
        self._needs.add(_NEED[word])
        if word == FLAG:
            name, variants = operand
            self._flags[name] = None
            self._operands += [name, frozenset(variants)]
        else:
            self._operands.append(operand)
        return (word,)

    def _in(self, values: list[Any]) -> str:
        members = frozenset(values)
        if 0 not in members and 1 not in members:
            self._operands.append(members)
            return IN
        # True == 1 and False == 0 in a set too: bools and the rest get a set each.
        self._operands += _bools_and_others(values)
        return _MIXED


def _bools_and_others(values: list[Any]) -> tuple[frozenset[Any], frozenset[Any]]:
    bools = frozenset([value for value in values if value is True or value is False])
    return bools, frozenset([value for value in values if value is not True and value is not False])


_COSTS = {
    SEMVER: 3, BEFORE: 3, AFTER: 3, BUCKET: 3, CONTAINS: 2, FROM: 2, UNTIL: 2, FLAG: 4, SEGMENT: 5,
}  # fmt: skip


def _cost(condition: Condition) -> int:
    word, operand = condition.word, condition.operand
    if word in (NOT, ANY, ALL):
        groups = (operand,) if word == NOT else operand
        return max(_cost(each) for group in groups for each in group)
    cost = _COSTS.get(word)
    return int(condition.path[0] not in _ROOTS) if cost is None else cost


def _mentions(conditions: Conditions, word: str) -> bool:
    """Whether a word stands among conditions or those they combine."""
    for condition in conditions:
        if condition[0] == word:
            return True
        if condition[0] == NOT and _mentions(condition[1], word):
            return True
        if condition[0] in (ANY, ALL) and any(_mentions(group, word) for group in condition[1]):
            return True
    return False


_NEED = {SEGMENT: "members", FLAG: "served", FROM: "now", UNTIL: "now"}
NEEDS = ("members", "served", "now")


def _needs(shape: Shape) -> tuple[str, ...]:
    """What a function of that shape asks a table, in the order of its parameters."""
    asked = {
        need
        for conditions, _, _ in shape[2]
        for word, need in _NEED.items()
        if _mentions(conditions, word)
    }
    return tuple([need for need in NEEDS if need in asked])


def source_of(shape: Shape, counted: bool = False) -> str:
    """The source of every flag of that shape: placeholders and nothing from a flag.

    Of a ``counted`` one what a return site has is a counter.
    """
    return _Writer(shape, counted).text()


class _Writer:
    """Writes the source of a shape."""

    __slots__ = ("_attributes", "_counted", "_hashes", "_k", "_lines", "_locals", "_r", "_shape")

    def __init__(self, shape: Shape, counted: bool) -> None:
        self._shape = shape
        self._counted = counted
        self._lines: list[str] = []
        self._k = self._count("k")
        self._r = self._count("r")
        self._attributes = [self._attribute(root, keys) for root, keys in shape[0]]
        self._locals: set[int] = set()
        self._hashes: set[int] = set()

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
            self._line(1, f"if u in {units}: {self._return(f'{units}[u]')}")
        for rule in rules:
            self._rule(*rule)
        self._line(1, self._returned())
        unknown = [f" h{number} = False" for number in sorted(self._hashes)]
        return "\n".join((self._head(), *unknown, *self._lines, ""))

    def _head(self) -> str:
        return f"def flag({', '.join(('user_id', 'tenant_id', 'context', *_needs(self._shape)))}):"

    def _returned(self) -> str:
        return self._return(next(self._r))

    def _return(self, answer: str) -> str:
        return f"return next({answer})" if self._counted else f"return {answer}"

    def _line(self, depth: int, text: str) -> None:
        self._lines.append(" " * depth + text)

    def _prologue(self) -> None:
        """Bring ids that were not given, the targeting key and an empty context into place."""
        roots = {root for root, _ in self._shape[0]}
        if _KEY in roots:
            roots |= {_USER, _TENANT}
            self._line(1, "key = None")
        fallbacks = [_NAMES[root] for root in (_USER, _TENANT) if root in roots]
        if fallbacks and _KEY not in roots:
            # Nearly everybody gives the ids: then the context is not looked at for them.
            for name in fallbacks:
                given = f"{name} is None and context is not None"
                self._line(1, f"if {given}: {name} = context.get('{name}')")
        elif fallbacks:
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

    def _rule(self, conditions: Conditions, by: int, entries: int) -> None:
        depth = 1
        if conditions:
            self._line(1, f"if {self._all(conditions, by, first=True)}:")
            depth = 2
        if entries > 0:
            self._split(depth, by, entries)
        elif entries:
            self._imported_split(depth, by, -entries)
        else:
            self._line(depth, self._returned())

    def _all(self, conditions: Conditions, by: int, first: bool) -> str:
        return " and ".join([
            self._condition(condition, by, first and position == 0)
            for position, condition in enumerate(conditions)
        ])  # fmt: skip

    def _condition(self, condition: ConditionShape, by: int, first: bool) -> str:
        word = condition[0]
        write = self._WITHOUT_ATTRIBUTE.get(word)
        if write is not None:
            return write(self, condition, by, first)
        value, again = self._value(condition[1], first)
        if word in _BARE:
            return f"{value} {word}"
        if word == SEMVER:
            tests = [f"v {_OPERATORS[order]} {next(self._k)}" for order in condition[2]]
            return f"((v := semver({value})) is not None and {' and '.join(tests)})"
        operand = next(self._k)
        if word == _MIXED:
            rest = next(self._k)
            return f"{value} in ({operand} if {again}.__class__ is bool else {rest})"
        if word == NOT_IN:
            rest = next(self._k)
            other = f"outside({again}, {operand}, {rest})"
            return f"({again} not in {rest} if {value}.__class__ in PLAIN else {other})"
        if word == _NUMBER:
            return f"{value} == {operand} and {again}.__class__ is not bool"
        if word in _OPERATORS:
            plain_number = f"({again} if {value}.__class__ in NUMBERS else number({again}))"
            return f"{plain_number} {_OPERATORS[word]} {operand}"
        if word in _METHODS:
            plain_text = f"({again} if {value}.__class__ is str else text({again}))"
            return f"{plain_text}.{_METHODS[word]}({operand})"
        if word == CONTAINS:
            return f"contains({value}, {operand})"
        if word in (BEFORE, AFTER):
            return f"instant({value}) {'<' if word == BEFORE else '>'} {operand}"
        return f"{value} {'==' if word == EQUALS else word} {operand}"

    def _segment(self, condition: ConditionShape, by: int, first: bool) -> str:
        unit = self._attributes[by]
        return f"members({next(self._k)}, {unit}, user_id, tenant_id, context)"

    def _flag(self, condition: ConditionShape, by: int, first: bool) -> str:
        return f"served({next(self._k)}, user_id, tenant_id, context) in {next(self._k)}"

    def _from(self, condition: ConditionShape, by: int, first: bool) -> str:
        return f"now() >= {next(self._k)}"

    def _until(self, condition: ConditionShape, by: int, first: bool) -> str:
        return f"now() < {next(self._k)}"

    def _not(self, condition: ConditionShape, by: int, first: bool) -> str:
        return f"not ({self._all(condition[1], by, first)})"

    def _groups(self, condition: ConditionShape, by: int, first: bool) -> str:
        joint = " or " if condition[0] == ANY else " and "
        groups = [
            f"({self._all(group, by, first and position == 0)})"
            for position, group in enumerate(condition[1])
        ]
        return f"({joint.join(groups)})"

    def _bucket(self, condition: ConditionShape, by: int, first: bool) -> str:
        _, attribute, number = condition
        self._hashes.add(number)
        h = f"h{number}"
        asked = f"{next(self._k)}.of({self._value(attribute, False)[0]})"
        known = f"(({h} := {asked}) if {h} is False else {h})"
        return f"({known} is not None and {next(self._k)} <= {h} < {next(self._k)})"

    _WITHOUT_ATTRIBUTE: ClassVar[dict[str, Callable[[_Writer, ConditionShape, int, bool], str]]] = {
        SEGMENT: _segment,
        FLAG: _flag,
        FROM: _from,
        UNTIL: _until,
        NOT: _not,
        ANY: _groups,
        ALL: _groups,
        BUCKET: _bucket,
    }

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
            self._line(depth + 1, f"if h < {next(self._k)}: {self._returned()}")
        self._line(depth + 1, self._returned())

    def _imported_split(self, depth: int, by: int, entries: int) -> None:
        self._line(depth, f"h = {next(self._k)}.of({self._attributes[by]})")
        self._line(depth, "if h is not None:")
        for _ in range(entries - 1):
            self._line(depth + 1, f"if h < {next(self._k)}: {self._returned()}")
        self._line(depth + 1, self._returned())
