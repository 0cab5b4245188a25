"""A flag's ``targeting``: what expressions are accepted, and the code they become.

An expression is JsonLogic as flagd has it: a mapping of one operator to its operands, a list of
expressions, or a string, number, bool or null that stands for itself. Accepted is what consists
of flagd's operators, 1,000 at most, 32 deep at most, where

* ``var`` has a name and perhaps a default;
* a bucket of ``fractional`` that is written out is a list of what it answers and perhaps an
  integer weight, and weights that are all written out have a sum of at most 2^31 - 1;
* a result that is written out (by ``if``, by a bucket, or as the whole) is a variant, or true or
  false where variants are called so, or null.

Operands that make flagd answer null (too few for ``starts_with``, say) are accepted and do. What
remains of ``$ref`` is refused: ``control-plane import flagd`` resolves references.

What is decided: the result names a variant (true and false by their names, a number by its
digits): TARGETING_MATCH; it is null: the default variant, DEFAULT; it is anything else, or the
evaluation fails: the caller's default, ERROR, GENERAL, and one log line.

What ``var`` finds: ``user_id`` and ``tenant_id`` are the call's, else the context's;
``targetingKey`` is the context's targeting key, else the user id, else the tenant id, an int as
its decimal; ``$flagd.flagKey`` is the flag's salt (default: its name) and ``$flagd.timestamp``
the time in seconds; any other name is the context's.

The code is written as ``compile`` asks: the source says which operators test which operands in
what order; names, operands, weights and bounds are placeholders in it. The source is itself the
shape that flags share. Operators that are asked often stand in it as comparisons of their own,
with a call of the operator for operands of another type than the usual; ``map`` and its like
interpret what they do for each member.
"""

from __future__ import annotations

from time import time

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.evaluation import DEFAULT, ERROR, GENERAL, TARGETING_MATCH
from control_plane.feature_flags.flagd_bucketing import (
    MAX_TOTAL_WEIGHT,
    TEXT_HEADS,
    V1,
    V3,
    cbor,
    hash32,
    thresholds,
)
from control_plane.feature_flags.targeting_operators import (
    EAGER,
    FRACTIONAL,
    ITERATING,
    OF_DATA,
    OPERATORS,
    Interpreter,
    JsonList,
    JsonMapping,
    at_least,
    at_most,
    contained,
    dig,
    different,
    ends_with,
    equals,
    fractional,
    greater,
    joined,
    less,
    missing,
    missing_some,
    plain,
    same,
    sem_ver,
    starts_with,
    text,
    truthy,
    unequal,
    variable,
    version_meets,
    version_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn

    Path = tuple[str | int, ...]
    Answer = tuple[str, str | None, dict[str, str] | None, str | None]
    """Of a return site: reason, variant, variants by result, error."""

MAX_OPERATORS = 1000
MAX_LEVELS = 32

_CONST, _LIST, _FAIL = "const", "list", "fail"
_BRANCHING = frozenset(("if", "?:"))
_SCALARS = frozenset((str, int, float, bool, type(None)))
_KEY = "targetingKey"
_FLAGD = "$flagd"

# What is known of a value that code will have.
_BOOL, _PERHAPS, _TEXT, _ANY = "bool", "bool or None", "text", "any"
_TRUE = frozenset((_BOOL, _PERHAPS))


class Node:
    """A checked expression. ``value`` is a constant's, or the operands that are interpreted."""

    __slots__ = ("args", "op", "path", "value")

    def __init__(self, op: str, path: Path, args: tuple[Node, ...] = (), value: Any = None) -> None:
        self.op = op
        self.path = path
        self.args = args
        self.value = value


# Checking.


def parse_targeting(expression: Any, path: Path, variants: Iterable[str]) -> Node:
    """Check an expression that stands at ``path`` and return it in the form the writer reads.

    Raises:
        ManifestInvalid: with the path to the place, at its start and as ``path``.
    """
    if expression.__class__ is not dict:
        _refuse(path, "a mapping of one operator to its operands", expression)
    node = _Parser().node(expression, path, 0)
    _check_result(node, frozenset(variants))
    return node


class _Parser:
    """One pass over an expression; counts its operators."""

    __slots__ = ("_operators",)

    def __init__(self) -> None:
        self._operators = 0

    def node(self, value: Any, path: Path, level: int) -> Node:
        if level > MAX_LEVELS:
            _refuse(path, f"at most {MAX_LEVELS} operators and lists in each other", "more")
        kind = value.__class__
        if kind is list:
            return self._list(value, path, level)
        if kind is dict:
            return self._operation(value, path, level)
        if kind not in _SCALARS:
            _refuse(path, "an operator, list, string, number, true, false or null", value)
        if kind is str:
            _check_text(value, path)
        return Node(_CONST, path, value=value)

    def _list(self, values: list[Any], path: Path, level: int) -> Node:
        args = tuple(
            self.node(value, (*path, index), level + 1) for index, value in enumerate(values)
        )
        if all(arg.op == _CONST for arg in args):
            return Node(_CONST, path, value=JsonList(arg.value for arg in args))
        return Node(_LIST, path, args)

    def _operation(self, value: dict[str, Any], path: Path, level: int) -> Node:
        if len(value) != 1:
            _refuse(path, "a mapping of one operator to its operands", value)
        op, operands = next(iter(value.items()))
        where = (*path, op)
        if op == "$ref":
            cure = "; control-plane import flagd resolves references to $evaluators"
            _refuse(where, "an operator", op, cure)
        if op not in OPERATORS:
            names = " ".join(sorted(OPERATORS))
            _refuse(where, "an operator of flagd", op, f"; there are {names}")
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            _refuse(path, f"at most {MAX_OPERATORS} operators", "more")
        if operands.__class__ is list:
            places = [((*where, index), operand) for index, operand in enumerate(operands)]
        else:
            places = [(where, operands)]
        if op in ITERATING:
            return self._iteration(op, path, places, level)
        args = tuple(self.node(operand, place, level + 1) for place, operand in places)
        if op == "var":
            _check_variable(args, where)
        if op == FRACTIONAL:
            _check_buckets(args, where)
        return _folded(Node(op, path, args))

    def _iteration(self, op: str, path: Path, places: list[tuple[Path, Any]], level: int) -> Node:
        """The first operand is evaluated, the second interpreted for each member of it."""
        for place, operand in places[1:2]:
            self.node(operand, place, level + 1)
        for place, operand in places[2:]:
            # Not evaluated: what ``reduce`` begins with.
            _check_data(operand, place)
        args = tuple(self.node(operand, place, level + 1) for place, operand in places[:1])
        return Node(op, path, args, value=[operand for _, operand in places])


def _check_variable(args: tuple[Node, ...], where: Path) -> None:
    if len(args) > 2:
        _refuse(where, "a name and a default", f"{len(args)} operands")
    name = args[0] if args else None
    if name is not None and name.op == _CONST and name.value.__class__ is JsonList:
        _refuse(name.path, "the name of an attribute", name.value)


def _check_buckets(args: tuple[Node, ...], where: Path) -> None:
    buckets = args if args and _is_list(args[0]) else args[1:]
    if not buckets:
        _refuse(where, "one or more buckets such as [\"on\", 25]", "none")
    weights = []
    for bucket in buckets:
        if not _is_list(bucket):
            # An operator may answer a bucket; any other value is none.
            if bucket.op == _CONST:
                _refuse(bucket.path, 'a bucket such as ["on", 25]', bucket.value)
            return
        size = len(bucket.value if bucket.op == _CONST else bucket.args)
        if not 1 <= size <= 2:
            _refuse(bucket.path, "a bucket of a result and a weight", f"{size} members")
        weight = _member(bucket, 1) if size == 2 else 1
        if weight is not None:
            if weight.__class__ is not int:
                _refuse((*bucket.path, 1), "an integer weight", weight)
            weights.append(max(0, weight))
    if sum(weights) > MAX_TOTAL_WEIGHT:
        _refuse(where, f"weights with a sum of at most {MAX_TOTAL_WEIGHT}", sum(weights))


def _is_list(node: Node) -> bool:
    return node.op == _LIST or (node.op == _CONST and node.value.__class__ is JsonList)


def _member(bucket: Node, index: int) -> Any:
    """What is written out there; None for an operator."""
    if bucket.op == _CONST:
        # A weight of null is none: it is refused as no integer.
        return bucket.value[index] if bucket.value[index] is not None else "null"
    node = bucket.args[index]
    if node.op != _CONST:
        return None
    return node.value if node.value is not None else "null"


def _check_data(value: Any, path: Path) -> None:
    """Refuse text that is no text inside a value that is not evaluated."""
    pending = [value]
    while pending:
        item = pending.pop()
        if item.__class__ is str:
            _check_text(item, path)
        elif item.__class__ is dict:
            pending.extend((*item, *item.values()))
        elif item.__class__ is list:
            pending.extend(item)


def _check_text(value: str, path: Path) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(path, "text without lone surrogates", value)


def _folded(node: Node) -> Node:
    """What is left of an operator when its constant operands have had their say."""
    if node.op in _BRANCHING:
        return _choosing(node)
    if node.op in ("and", "or"):
        return _deciding(node)
    if node.op not in EAGER or not all(arg.op == _CONST for arg in node.args):
        return node
    try:
        value = EAGER[node.op](*(arg.value for arg in node.args))
    except Exception as error:
        # As in flagd this flag fails when it is evaluated, and only where it comes to this.
        return Node(_FAIL, node.path, value=f"{node.op}: {type(error).__name__}")
    return Node(_CONST, node.path, value=JsonList(value) if value.__class__ is list else value)


def _choosing(node: Node) -> Node:
    """``if`` without conditions that are written out."""
    args = node.args
    kept: list[Node] = []
    rest = args[-1:] if len(args) % 2 else ()
    for index in range(0, len(args) - 1, 2):
        truth = _truth(args[index])
        if truth is True:
            rest = args[index + 1 : index + 2]
            break
        if truth is None:
            kept.extend(args[index : index + 2])
    if kept:
        return Node(node.op, node.path, (*kept, *rest))
    return rest[0] if rest else Node(_CONST, node.path)


def _deciding(node: Node) -> Node:
    """``and`` or ``or`` without operands that are written out and decide nothing."""
    kept: list[Node] = []
    for index, arg in enumerate(node.args):
        truth = _truth(arg)
        if truth is None or index == len(node.args) - 1:
            kept.append(arg)
        elif truth is (node.op == "or"):
            kept.append(arg)
            break
    if len(kept) > 1:
        return Node(node.op, node.path, tuple(kept))
    return kept[0] if kept else Node(_CONST, node.path)


def _check_result(node: Node, variants: frozenset[str]) -> None:
    """Refuse results that are written out and name no variant."""
    for result in _results(node):
        named = variant_text(result.value)
        if named is not None and named not in variants:
            shown = ", ".join(sorted(variants))
            _refuse(result.path, "null or one of the variants " + shown, result.value)


def _results(node: Node) -> list[Node]:
    """The constants among what an expression may answer."""
    if node.op == _CONST:
        return [node]
    found: list[Node] = []
    if node.op in _BRANCHING:
        last = len(node.args) - 1
        for index, arg in enumerate(node.args):
            if index % 2 or index == last:
                found.extend(_results(arg))
    elif node.op == FRACTIONAL:
        for bucket in node.args if _is_list(node.args[0]) else node.args[1:]:
            if bucket.op == _LIST:
                found.extend(_results(bucket.args[0]))
            elif bucket.op == _CONST:
                found.append(Node(_CONST, (*bucket.path, 0), value=bucket.value[0]))
    return found


def _refuse(path: Path, expected: str, found: Any, cure: str = "") -> NoReturn:
    shown = "nothing" if found is None else repr(found)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    place = ".".join(str(step) for step in path)
    raise ManifestInvalid(f"{place}: expected {expected}, found {shown}{cure}", path)


# Functions that generated code calls.


def variant_text(value: Any) -> str | None:
    """The name of the variant a result stands for; None for null."""
    value = plain(value)
    if value is None or type(value) is str:
        return value  # type: ignore[no-any-return]
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) in (int, float) else f"<{type(value).__name__}>"


def key_text(value: Any) -> Any:
    """A targeting key that is no plain text: an int is its decimal."""
    value = plain(value)
    return str(value) if type(value) is int else value


def _timestamp() -> int:
    return int(time())


def _whole(context: Any, user_id: Any, tenant_id: Any, key: Any, flag_key: str) -> dict[str, Any]:
    """All that an expression can look at, as one mapping."""
    data = {**context}
    if user_id is not None:
        data["user_id"] = user_id
    if tenant_id is not None:
        data["tenant_id"] = tenant_id
    data[_KEY] = key
    data[_FLAGD] = {"flagKey": flag_key, "timestamp": _timestamp()}
    return data


def _text_head(size: int) -> bytes:
    """What CBOR has before a text of 24 bytes or more."""
    return cbor("x" * size)[:-size]


class Logic:
    """An operator that is interpreted, as a constant of code."""

    __slots__ = ("_op", "_operands", "_version")

    def __init__(self, op: str, operands: list[Any], version: str) -> None:
        self._op = op
        self._operands = operands
        self._version = version

    def of(self, items: Any) -> Any:
        """The operator's answer for these items."""
        # In a list by itself, so that items are not taken for an expression.
        held = {"var": "items"}
        return Interpreter(self._version).apply(
            {self._op: [held, *self._operands[1:]]}, {"items": items}
        )


class Fraction:
    """``fractional`` with operands known only when it is asked, as a constant of code."""

    __slots__ = ("_flag_key", "_version")

    def __init__(self, version: str, flag_key: str) -> None:
        self._version = version
        self._flag_key = flag_key

    def of(self, key: Any, *values: Any) -> Any:
        """What the unit's bucket answers, or None."""
        return fractional(self._version, self._flag_key, key, values)


def _meets(value: Any, operator: str, version: Any) -> bool | None:
    """``sem_ver`` against a version that was read before."""
    found = version_of(value)
    return None if found is None else version_meets(found, operator, version)


def _fail(what: str) -> NoReturn:
    raise ValueError(f"expected operands it can use, found others: {what}")


def _complain(name: str, error: object) -> None:
    """One log line about this flag."""
    # Imported here: a process whose flags are sound never comes here.
    from control_plane.feature_flags.table import complain

    if isinstance(error, Exception):
        reason = f"expected a result, found {type(error).__name__}"
    else:
        reason = f"expected a variant as the result, found {str(error)[:80]!r}"
    complain(name, f"targeting: {reason}")


_CALLED = {
    operator: f"op{number}" for number, operator in enumerate(sorted({**EAGER, **OF_DATA}))
}
NAMES: dict[str, Any] = {
    "__builtins__": {},
    "EMPTY": {},
    "Exception": Exception,
    "bool": bool,
    "complain": _complain,
    "dict": dict,
    "dig": dig,
    "fail": _fail,
    "hash32": hash32,
    "head": _text_head,
    "heads": TEXT_HEADS,
    "int": int,
    "key_text": key_text,
    "len": len,
    "meets": _meets,
    "str": str,
    "text": text,
    "timestamp": _timestamp,
    "truthy": truthy,
    "variant_text": variant_text,
    "whole": _whole,
    **{name: EAGER.get(operator) or OF_DATA[operator] for operator, name in _CALLED.items()},
}
"""All that the code can name besides its own parameters."""


# Writing.


def written(
    name: str,
    flag_key: str,
    version: str,
    root: Node,
    variants: Iterable[str],
    default: str | None,
    overrides: Iterable[tuple[tuple[str, ...], Mapping[str, str]]] = (),
) -> tuple[str, tuple[Any, ...], tuple[Answer, ...]]:
    """The shape of a flag (its source), its constants and its return sites.

    The n-th constant stands in the source as 'k<n>', what the n-th site returns as 'r<n>'.
    """
    writer = _Writer(name, flag_key, version, tuple(variants), default)
    return writer.source(root, overrides), tuple(writer.constants), tuple(writer.sites)


class _Writer:
    """Writes the source of one expression."""

    __slots__ = (
        "_default", "_flag_key", "_kept", "_lines", "_name", "_named", "_roots", "_temporaries",
        "_variants", "_version", "constants", "sites",
    )  # fmt: skip

    def __init__(
        self, name: str, flag_key: str, version: str, variants: tuple[str, ...], default: str | None
    ) -> None:
        self._name = name
        self._flag_key = flag_key
        self._version = version
        self._variants = variants
        self._default = default
        self._lines: list[str] = []
        self._kept: dict[tuple[str, ...], str] = {}
        self._named: dict[tuple[str, str | None], str] = {}
        self._roots: set[str] = set()
        self._temporaries = 0
        self.constants: list[Any] = []
        self.sites: list[Answer] = []

    def source(
        self, root: Node, overrides: Iterable[tuple[tuple[str, ...], Mapping[str, str]]]
    ) -> str:
        """The whole function."""
        for path, units in overrides:
            self._override(path, units)
        self._line(1, "try:")
        self._keep(root)
        self._tail(root, 2)
        name, failed = self._constant(self._name), self._failure()
        self._line(1, "except Exception as error:")
        # The evaluator asks once more, with plain values, and says what a context is not.
        self._line(2, "if context.__class__ is not dict: raise")
        self._line(2, f"complain({name}, error)")
        self._line(2, f"return {failed}")
        head = "def flag(user_id, tenant_id, context):"
        return "\n".join((head, *self._prologue(), *self._lines, ""))

    def _line(self, depth: int, line: str) -> None:
        self._lines.append(" " * depth + line)

    def _prologue(self) -> list[str]:
        """Bring ids that were not given and the targeting key into place."""
        lines = ["if context is None: context = EMPTY"]
        roots = self._roots
        if _KEY in roots:
            roots |= {"user_id", "tenant_id"}
        for name in ("user_id", "tenant_id"):
            if name in roots:
                lines.append(f"if {name} is None: {name} = context.get('{name}')")
        if _KEY in roots:
            lines += [
                "key = context.get('targeting_key')",
                "if key is None: key = context.get('targetingKey')",
                "if key is None: key = user_id",
                "if key is None: key = tenant_id",
                "if key.__class__ is not str: key = key_text(key)",
            ]
        if _FLAGD in roots:
            lines.append(f"flag_key = {self._constant(self._flag_key)}")
        return [" " + line for line in lines]

    def _override(self, path: tuple[str, ...], units: Mapping[str, str]) -> None:
        # As elsewhere in flags the name targeting_key is the targeting key, too.
        root, *rest = path
        value = self._root(_KEY if root == "targeting_key" else root)
        if rest:
            value = f"dig({value}, {', '.join(map(self._constant, rest))})"
        found = self._site(TARGETING_MATCH, None, dict(units))
        self._line(1, f"u = {value}")
        self._line(1, "if u.__class__ is not str: u = key_text(u)")
        self._line(1, f"if u.__class__ is str and u in {found}: return {found}[u]")

    # Placeholders.

    def _constant(self, value: Any) -> str:
        self.constants.append(_holdable(value))
        return f"'k{len(self.constants) - 1}'"

    def _site(
        self,
        reason: str,
        variant: str | None,
        units: dict[str, str] | None = None,
        error: str | None = None,
    ) -> str:
        self.sites.append((reason, variant, units, error))
        return f"'r{len(self.sites) - 1}'"

    def _serving(self, variant: str | None) -> str:
        """The site that serves a variant; of None the default."""
        known = self._named.get((TARGETING_MATCH, variant))
        if known is None:
            if variant is None:
                known = self._site(DEFAULT, self._default)
            else:
                known = self._site(TARGETING_MATCH, variant)
            self._named[TARGETING_MATCH, variant] = known
        return known

    def _failure(self) -> str:
        known = self._named.get((ERROR, None))
        if known is None:
            known = self._named[ERROR, None] = self._site(ERROR, None, None, GENERAL)
        return known

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _twice(self, value: str) -> tuple[str, str]:
        """A value as it is read first and again inside one expression."""
        if value.isidentifier():
            return value, value
        name = self._temporary()
        return f"({name} := {value})", name

    # Statements: what the flag answers.

    def _tail(self, node: Node, depth: int) -> None:
        if node.op == _CONST:
            self._line(depth, f"return {self._serving(variant_text(node.value))}")
        elif node.op in _BRANCHING:
            self._branches(node, depth)
        elif node.op == FRACTIONAL and self._split(node, depth):
            pass
        else:
            self._computed(self._value(node)[0], depth)

    def _branches(self, node: Node, depth: int) -> None:
        args = node.args
        for index in range(0, len(args) - 1, 2):
            self._line(depth, f"if {self._test(args[index])}:")
            self._tail(args[index + 1], depth + 1)
        if len(args) % 2:
            self._tail(args[-1], depth)
        else:
            self._line(depth, f"return {self._serving(None)}")

    def _computed(self, value: str, depth: int) -> None:
        """Answer with the variant that a value names."""
        known = self._named.get((TARGETING_MATCH, "*"))
        if known is None:
            units = {variant: variant for variant in self._variants}
            known = self._named[TARGETING_MATCH, "*"] = self._site(TARGETING_MATCH, None, units)
        self._line(depth, f"v = {value}")
        self._line(depth, "if v.__class__ is not str: v = variant_text(v)")
        self._line(depth, f"if v is None: return {self._serving(None)}")
        self._line(depth, f"if v in {known}: return {known}[v]")
        self._line(depth, f"complain({self._constant(self._name)}, v)")
        self._line(depth, f"return {self._failure()}")

    def _split(self, node: Node, depth: int) -> bool:
        """``fractional`` by bounds of the hash, where all buckets are written out."""
        shorthand = _is_list(node.args[0])
        buckets = node.args if shorthand else node.args[1:]
        if any(bucket.op != _CONST for bucket in buckets):
            return False
        entries = [(bucket.value[0], _weight(bucket.value)) for bucket in buckets]
        if not sum(weight for _, weight in entries):
            return False
        if shorthand:
            self._split_by_key(entries, depth)
        else:
            self._split_by_value(node, entries, depth)
        return True

    def _split_by_key(self, entries: list[tuple[Any, int]], depth: int) -> None:
        key = self._root(_KEY)
        self._line(depth, f"if {key}.__class__ is str and {key}:")
        if self._version == V3:
            # A key that is no UTF-8 is none to flagd.
            self._line(depth + 1, f"try: b = {key}.encode()")
            self._line(depth + 1, f"except Exception: return {self._serving(None)}")
            prefix = self._constant(b"\x82" + cbor(self._flag_key))
            self._line(depth + 1, f"h = hash32({prefix} + {_HEADED} + b)")
        else:
            self._line(depth + 1, f"h = hash32(({self._constant(self._flag_key)} + {key}).encode())")
        self._bounds(entries, depth + 1)
        self._line(depth, f"return {self._serving(None)}")

    def _split_by_value(self, node: Node, entries: list[tuple[Any, int]], depth: int) -> None:
        value, kind = self._value(node.args[0])
        self._line(depth, f"u = {value}")
        if self._version == V3:
            self._line(depth, "if u.__class__ is str:")
            self._line(depth + 1, "try: b = u.encode()")
            self._line(depth + 1, f"except Exception: return {self._serving(None)}")
            self._line(depth + 1, f"h = hash32({_HEADED} + b)")
        else:
            self._line(depth, "if u.__class__ is str and u:")
            self._line(depth + 1, "h = hash32(u.encode())")
        self._bounds(entries, depth + 1)
        if kind == _TEXT:
            self._line(depth, f"return {self._serving(None)}")
            return
        fraction = self._constant(Fraction(self._version, self._flag_key))
        values = "".join(f", {self._constant(bucket.value)}" for bucket in node.args[1:])
        self._computed(f"{fraction}.of({self._root(_KEY)}, u{values})", depth)

    def _bounds(self, entries: list[tuple[Any, int]], depth: int) -> None:
        bounds = thresholds(self._version, [weight for _, weight in entries])
        every = 1 << 32
        if self._version == V1:
            # What v1 looks at is the hash as a signed number without its sign.
            self._line(depth, "if h > 2147483647: h = 4294967296 - h")
            every = (1 << 31) + 1
        for (result, weight), bound in zip(entries, bounds, strict=True):
            if not weight:
                continue
            served = self._serving(variant_text(result))
            if bound >= every:
                self._line(depth, f"return {served}")
                return
            self._line(depth, f"if h < {self._constant(bound)}: return {served}")
        self._line(depth, f"return {self._serving(None)}")

    # Expressions.

    def _keep(self, root: Node) -> None:
        """Look attributes up once that are asked for more than once."""
        counts: dict[tuple[str, ...], int] = {}
        pending = [root]
        while pending:
            node = pending.pop()
            pending.extend(node.args)
            keys = _keys(node)
            if keys is not None:
                counts[keys] = counts.get(keys, 0) + 1
        for keys, count in counts.items():
            if count > 1 and keys[0] != _FLAGD:
                value = self._attribute(keys)
                if not value.isidentifier():
                    name = f"a{len(self._kept)}"
                    self._line(2, f"{name} = {value}")
                    self._kept[keys] = name

    def _root(self, name: str) -> str:
        if name in ("user_id", "tenant_id", _KEY):
            self._roots.add(name)
            return "key" if name == _KEY else name
        return f"context.get({self._constant(name)})"

    def _attribute(self, keys: tuple[str, ...]) -> str:
        if keys in self._kept:
            return self._kept[keys]
        value = self._root(keys[0])
        if len(keys) == 1:
            return value
        return f"dig({value}, {', '.join(map(self._constant, keys[1:]))})"

    def _data(self) -> str:
        self._roots |= {"user_id", "tenant_id", _KEY}
        return f"whole(context, user_id, tenant_id, key, {self._constant(self._flag_key)})"

    def _value(self, node: Node) -> tuple[str, str]:
        """An expression's source, and what is known of its value."""
        op, args = node.op, node.args
        if op == _CONST:
            return self._literal(node.value)
        if op == _FAIL:
            return f"fail({self._constant(node.value)})", _ANY
        if op == _LIST:
            return f"[{', '.join(self._value(arg)[0] for arg in args)}]", _ANY
        if op in _BRANCHING:
            return self._choice(args)
        if op in ("and", "or"):
            return self._junction(op, args)
        if op == "var":
            return self._variable(node)
        if op == FRACTIONAL:
            fraction = self._constant(Fraction(self._version, self._flag_key))
            values = "".join(f", {self._value(arg)[0]}" for arg in args)
            return f"{fraction}.of({self._root(_KEY)}{values})", _ANY
        if op in ITERATING:
            logic = self._constant(Logic(op, node.value, self._version))
            items = self._value(args[0])[0] if args else "None"
            return f"{logic}.of({items})", _ANY
        if op in OF_DATA:
            values = "".join(f", {self._value(arg)[0]}" for arg in args)
            return f"{_CALLED[op]}({self._data()}{values})", _ANY
        return self._operation(node)

    def _literal(self, value: Any) -> tuple[str, str]:
        if value is None or value is True or value is False:
            return repr(value), _PERHAPS
        return self._constant(value), _TEXT if value.__class__ is str else _ANY

    def _choice(self, args: tuple[Node, ...]) -> tuple[str, str]:
        """``if`` as an expression."""
        value, kind = self._value(args[-1]) if len(args) % 2 else ("None", _PERHAPS)
        parts = []
        for index in range(0, len(args) - 1, 2):
            then, other = self._value(args[index + 1])
            parts.append(f"{then} if {self._test(args[index])}")
            kind = _either(kind, other)
        return f"({' else '.join((*parts, value))})", kind

    def _junction(self, op: str, args: tuple[Node, ...]) -> tuple[str, str]:
        """``and`` or ``or`` as an expression: the operand that decides."""
        value, kind = self._value(args[-1])
        for arg in reversed(args[:-1]):
            value, kind = self._joined(op, arg, value, kind)
        return value, kind

    def _joined(self, op: str, arg: Node, rest: str, rest_kind: str) -> tuple[str, str]:
        first, kind = self._value(arg)
        both = _either(kind, rest_kind)
        if kind in _TRUE:
            return f"({first} {op} {rest})", both
        value, again = self._twice(first)
        if op == "and":
            return f"({rest} if truthy({value}) else {again})", both
        return f"({again} if truthy({value}) else {rest})", both

    def _test(self, node: Node) -> str:
        """An expression as a condition of Python; its value may be any that is as true."""
        truth = _truth(node)
        if truth is not None:
            return repr(truth)
        if node.op in ("and", "or"):
            return f"({f' {node.op} '.join(map(self._test, node.args))})"
        value, kind = self._value(node)
        # Only these: Python would take a placeholder's own truth for that of what replaces it.
        return value if kind in _TRUE else f"truthy({value})"

    def _variable(self, node: Node) -> tuple[str, str]:
        keys = _keys(node)
        args = node.args
        if keys is None or (len(args) == 2 and args[1].op != _CONST):
            # A default is evaluated, and may fail, whether it is needed or not.
            values = "".join(f", {self._value(arg)[0]}" for arg in args)
            return f"{_CALLED['var']}({self._data()}{values})", _ANY
        if keys[0] == _FLAGD and keys[1:] in (("flagKey",), ("timestamp",)):
            if keys[1] == "flagKey":
                # A name, as Python computes with constants where all of an operator's are.
                self._roots.add(_FLAGD)
                return "flag_key", _TEXT
            return "timestamp()", _ANY
        if keys[0] == _FLAGD:
            found = f"{_CALLED['var']}({self._data()}, {self._constant('.'.join(keys))})"
        else:
            found = self._attribute(keys)
        if len(args) < 2 or args[1].value is None:
            return found, _ANY
        value, again = self._twice(found)
        return f"({self._literal(args[1].value)[0]} if {value} is None else {again})", _ANY

    def _operation(self, node: Node) -> tuple[str, str]:
        """An operator that evaluates all of its operands."""
        op, args = node.op, node.args
        if op in ("!", "!!") and len(args) == 1:
            test = self._test(args[0])
            return (f"(not {test})" if op == "!" else f"(not not {test})"), _BOOL
        if op in _COMPARED and len(args) == 2:
            found = self._comparison(op, *args)
            if found is not None:
                return found, _BOOL
        if op == "in" and len(args) == 2:
            found = self._membership(*args)
            if found is not None:
                return found, _BOOL
        if op in _AFFIXES and len(args) == 2 and _constant_text(args[1]):
            return self._affix(op, *args), _PERHAPS
        if op == "sem_ver" and len(args) == 3:
            found = self._version_test(*args)
            if found is not None:
                return found, _PERHAPS
        if op == "cat" and args:
            return self._text(args), _TEXT
        values = ", ".join(self._value(arg)[0] for arg in args)
        return f"{_CALLED[op]}({values})", _KINDS.get(op, _ANY)

    def _comparison(self, op: str, a: Node, b: Node) -> str | None:
        """A comparison with text or an int, for the operands of that type without a call."""
        constant = b if b.op == _CONST else a
        kind = constant.value.__class__ if constant.op == _CONST else None
        if kind is not int and (kind is not str or op not in ("==", "!=", "===", "!==")):
            return None
        value, again = self._twice(self._value(b if constant is a else a)[0])
        operand = self._constant(constant.value)
        left, right = (operand, again) if constant is a else (again, operand)
        of_kind = f"{left} {_COMPARED[op]} {right}"
        rest = f"{_CALLED[op]}({left}, {right})"
        return f"({of_kind} if {value}.__class__ is {kind.__name__} else {rest})"

    def _membership(self, needle: Node, haystack: Node) -> str | None:
        """``in`` of a list that is written out, or of a text that is, in some text."""
        if haystack.op == _CONST and haystack.value.__class__ is JsonList:
            value, again = self._twice(self._value(needle)[0])
            texts = frozenset(member for member in haystack.value if member.__class__ is str)
            found = f"{again} in {self._constant(texts)}"
            rest = f"{_CALLED['in']}({again}, {self._constant(haystack.value)})"
        elif _constant_text(needle):
            value, again = self._twice(self._value(haystack)[0])
            wanted = self._constant(needle.value)
            found = f"{wanted} in {again}"
            rest = f"{_CALLED['in']}({wanted}, {again})"
        else:
            return None
        return f"({found} if {value}.__class__ is str else {rest})"

    def _affix(self, op: str, subject: Node, affix: Node) -> str:
        value, again = self._twice(self._value(subject)[0])
        wanted = self._constant(affix.value)
        found = f"{again}.{_AFFIXES[op]}({wanted})"
        return f"({found} if {value}.__class__ is str else {_CALLED[op]}({again}, {wanted}))"

    def _version_test(self, subject: Node, operator: Node, wanted: Node) -> str | None:
        if not _constant_text(operator) or wanted.op != _CONST:
            return None
        version = version_of(wanted.value)
        if version is None:
            return None
        value = self._value(subject)[0]
        return f"meets({value}, {self._constant(operator.value)}, {self._constant(version)})"

    def _text(self, args: tuple[Node, ...]) -> str:
        """``cat``: what is written out side by side is one constant."""
        parts: list[str] = []
        fixed = ""
        for arg in args:
            if arg.op == _CONST:
                fixed += text(arg.value)
                continue
            if _keys(arg) == (_FLAGD, "flagKey"):
                fixed += self._flag_key
                continue
            if fixed:
                parts.append(self._constant(fixed))
                fixed = ""
            value, kind = self._value(arg)
            if kind == _TEXT:
                parts.append(value)
            else:
                value, again = self._twice(value)
                parts.append(f"({again} if {value}.__class__ is str else text({again}))")
        if fixed:
            parts.append(self._constant(fixed))
        if len(parts) == 1:
            return parts[0]
        if len(parts) == 2:
            # Two texts of a context are as long as they were given; more could be made longer.
            return f"({' + '.join(parts)})"
        return f"{_CALLED['cat']}({', '.join(parts)})"


_HEADED = "(heads[n] if (n := len(b)) < 24 else head(n))"
_COMPARED = {
    "==": "==", "!=": "!=", "===": "==", "!==": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_AFFIXES = {"starts_with": "startswith", "ends_with": "endswith"}
_KINDS = {
    **dict.fromkeys((*_COMPARED, "!", "!!", "in"), _BOOL),
    **dict.fromkeys((*_AFFIXES, "sem_ver"), _PERHAPS),
    **dict.fromkeys(("cat", "substr"), _TEXT),
}


def _either(one: str, other: str) -> str:
    """What is known of a value that is one or the other."""
    if one == other:
        return one
    return _ANY if {one, other} & {_TEXT, _ANY} else _PERHAPS


def _constant_text(node: Node) -> bool:
    return node.op == _CONST and node.value.__class__ is str


def _truth(node: Node) -> bool | None:
    """Whether a constant counts as true; None for what is no constant."""
    return truthy(node.value) if node.op == _CONST else None


def _keys(node: Node) -> tuple[str, ...] | None:
    """The keys of an attribute whose name is written out; None where there is none."""
    if node.op != "var" or not node.args or not _constant_text(node.args[0]):
        return None
    name = node.args[0].value
    return tuple(name.split(".")) if name else None


def _weight(bucket: list[Any]) -> int:
    return max(0, bucket[1]) if len(bucket) == 2 else 1


def _holdable(value: Any) -> Any:
    """The value as code can hold it."""
    if value.__class__ is list:
        return JsonList(map(_holdable, value))
    if value.__class__ is dict:
        return JsonMapping({key: _holdable(member) for key, member in value.items()})
    return value
