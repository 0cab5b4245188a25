"""The code that a flag's ``targeting`` becomes.

It is written as ``compile`` asks: the source says which operators test which operands in what
order; names, operands, weights and bounds are placeholders in it. The source is itself the shape
that flags share. Operators that are asked often stand in it as comparisons of their own, with a
call of the operator for operands of another type than the usual; ``map`` and its like interpret
what they do for each member.

A placeholder is never an operand of something Python could compute or decide with constants
alone: it would do so with the placeholder. So constants are folded before, conditions are values
of bool or None or calls, and a list that is all constants is one.
"""

from __future__ import annotations

from control_plane.feature_flags.complaining import complain
from control_plane.feature_flags.evaluation import DEFAULT, ERROR, GENERAL, TARGETING_MATCH
from control_plane.feature_flags.flagd_bucketing import (
    TEXT_HEADS,
    V1,
    V3,
    cbor,
    hash32,
    thresholds,
)
from control_plane.feature_flags.targeting import (
    BRANCHING,
    CONST,
    FAIL,
    LIST,
    Node,
    is_list,
    truth_of,
    variant_text,
)
from control_plane.feature_flags.targeting_interpreter import (
    EAGER,
    FRACTIONAL,
    ITERATING,
    OF_DATA,
    Interpreter,
)
from control_plane.feature_flags.targeting_operators import (
    dig,
    fractional,
    hash_of_key,
    hash_of_value,
)
from control_plane.feature_flags.targeting_values import JsonList, JsonMapping, plain, text, truthy
from control_plane.feature_flags.targeting_versions import version_meets, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn

    Answer = tuple[str, str | None, None, dict[str, str] | None, str | None]
    """Of a return site: reason, variant, no rule, variants by result, error."""

_KEY = "targetingKey"
_FLAGD = "$flagd"

# What is known of a value that code will have.
_BOOL, _PERHAPS, _TEXT, _ANY = "bool", "bool or None", "text", "any"
_TRUE = frozenset((_BOOL, _PERHAPS))


# Around what a served variant's site has, as long as it is open whether serving is counted.
_SERVE, _SERVED = "\x01", "\x02"
_COMPARED = {
    "==": "==", "!=": "!=", "===": "==", "!==": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_AFFIXES = {"starts_with": "startswith", "ends_with": "endswith"}
_KINDS = {
    **dict.fromkeys((*_COMPARED, "!", "!!", "in"), _BOOL),
    **dict.fromkeys((*_AFFIXES, "sem_ver"), _PERHAPS),
    **dict.fromkeys(("cat", "substr"), _TEXT),
}


# Functions that generated code calls.


def key_text(value: Any) -> Any:
    """A targeting key that is no plain text: an int is its decimal."""
    value = plain(value)
    return str(value) if type(value) is int else value


def _whole(
    context: Any, user_id: Any, tenant_id: Any, key: Any, flag_key: str, now: Any
) -> dict[str, Any]:
    """All that an expression can look at, as one mapping."""
    data = {**context}
    if user_id is not None:
        data["user_id"] = user_id
    if tenant_id is not None:
        data["tenant_id"] = tenant_id
    data[_KEY] = key
    data[_FLAGD] = {"flagKey": flag_key, "timestamp": int(now())}
    return data


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
    if isinstance(error, Exception):
        reason = f"expected a result, found {type(error).__name__}"
    else:
        reason = f"expected a variant as the result, found {str(error)[:80]!r}"
    complain(name, f"targeting: {reason}")


_CALLED = {operator: f"op{number}" for number, operator in enumerate(sorted({**EAGER, **OF_DATA}))}
NAMES: dict[str, Any] = {
    "next": next,
    "__builtins__": {},
    "EMPTY": {},
    "Exception": Exception,
    "bool": bool,
    "complain": _complain,
    "dict": dict,
    "dig": dig,
    "fail": _fail,
    "hash32": hash32,
    "hash_key": hash_of_key,
    "hash_value": hash_of_value,
    "heads": TEXT_HEADS,
    "int": int,
    "key_text": key_text,
    "len": len,
    "meets": _meets,
    "str": str,
    "text": text,
    "truthy": truthy,
    "variant_text": variant_text,
    "whole": _whole,
    "SPENT": StopIteration,
    **{name: EAGER.get(operator) or OF_DATA[operator] for operator, name in _CALLED.items()},
}
"""All that the code can name besides its own parameters."""


# Writing.


def targeting_source(shape: str, counted: bool) -> str:
    """The source of every flag of that shape: placeholders and nothing from a flag.

    Of a ``counted`` one what a site that serves a variant has is a counter.
    """
    return shape.replace(_SERVE, "return next(" if counted else "return ").replace(
        _SERVED, ")" if counted else ""
    )


def _served(site: str) -> str:
    return f"{_SERVE}{site}{_SERVED}"


class Writing:
    """Writes the code of one flag.

    The n-th of ``constants`` stands in it as 'k<n>', what the n-th of ``sites`` returns as 'r<n>';
    ``needs`` is what the code asks its table for.
    """

    __slots__ = (
        "_asks_time", "_default", "_flag_key", "_kept", "_lines", "_name", "_named", "_roots",
        "_temporaries", "_variants", "_version", "constants", "sites",
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
        self._asks_time = False
        self.constants: list[Any] = []
        self.sites: list[Answer] = []

    @property
    def needs(self) -> tuple[str, ...]:
        return ("now",) if self._asks_time else ()

    def shape(
        self, root: Node, overrides: Iterable[tuple[tuple[str, ...], Mapping[str, str]]]
    ) -> str:
        """The whole function, with marks where a variant is served."""
        for path, units in overrides:
            self._override(path, units)
        self._line(1, "try:")
        self._keep(root)
        self._tail(root, 2)
        name, failed = self._constant(self._name), self._failure()
        self._line(1, "except Exception as error:")
        # The evaluator asks once more, with plain values, and says what a context is not.
        # So does a counter that has run out.
        self._line(2, "if context.__class__ is not dict or error.__class__ is SPENT: raise")
        self._line(2, f"complain({name}, error)")
        self._line(2, f"return {failed}")
        head = f"def flag({', '.join(('user_id', 'tenant_id', 'context', *self.needs))}):"
        return "\n".join((head, *self._prologue(), *self._lines, ""))

    def _line(self, depth: int, line: str) -> None:
        self._lines.append(" " * depth + line)

    def _prologue(self) -> list[str]:
        """Bring ids that were not given and the targeting key into place."""
        roots = self._roots
        given = [name for name in ("user_id", "tenant_id") if name in roots]
        found = [f"if {name} is None: {name} = context.get('{name}')" for name in given]
        lines = []
        if _KEY in roots:
            lines.append("key = None")
            found += [
                "key = context.get('targeting_key')",
                "if key is None: key = context.get('targetingKey')",
            ]
            # Most callers that give a key give no id to fall back on.
            found += [
                f"if key is None and {name} is None: {name} = context.get('{name}')"
                for name in ("user_id", "tenant_id")
                if name not in given
            ]
        if found:
            lines += ["if context is not None:", *(" " + line for line in found)]
            lines.append("else: context = EMPTY")
        else:
            lines.append("if context is None: context = EMPTY")
        if _KEY in roots:
            lines += [
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
        self._line(1, f"if u.__class__ is str and u in {found}: {_served(f'{found}[u]')}")

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
        self.sites.append((reason, variant, None, units, error))
        return f"'r{len(self.sites) - 1}'"

    def _serving(self, variant: str | None) -> str:
        """The statement that serves a variant; of None the default."""
        known = self._named.get((TARGETING_MATCH, variant))
        if known is None:
            if variant is None:
                known = self._site(DEFAULT, self._default)
            else:
                known = self._site(TARGETING_MATCH, variant)
            self._named[TARGETING_MATCH, variant] = known
        # Without a variant there is nothing to count.
        nothing = variant is None and self._default is None
        return f"return {known}" if nothing else _served(known)

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
        if node.op == CONST:
            self._line(depth, self._serving(variant_text(node.value)))
        elif node.op in BRANCHING:
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
            self._line(depth, self._serving(None))

    def _computed(self, value: str, depth: int) -> None:
        """Answer with the variant that a value names."""
        known = self._named.get((TARGETING_MATCH, "*"))
        if known is None:
            units = {variant: variant for variant in self._variants}
            known = self._named[TARGETING_MATCH, "*"] = self._site(TARGETING_MATCH, None, units)
        self._line(depth, f"v = {value}")
        self._line(depth, "if v.__class__ is not str: v = variant_text(v)")
        self._line(depth, f"if v is None: {self._serving(None)}")
        self._line(depth, f"if v in {known}: {_served(f'{known}[v]')}")
        self._line(depth, f"complain({self._constant(self._name)}, v)")
        self._line(depth, f"return {self._failure()}")

    def _split(self, node: Node, depth: int) -> bool:
        """``fractional`` by bounds of the hash, where all buckets are written out."""
        shorthand = is_list(node.args[0])
        buckets = node.args if shorthand else node.args[1:]
        if any(bucket.op != CONST for bucket in buckets):
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
            prefix = b"\x82" + cbor(self._flag_key)
            heads = self._constant(tuple([prefix + head for head in TEXT_HEADS]))
            self._hash(heads, key, f"hash_key({self._constant(self._flag_key)}, {key})", depth + 1)
        else:
            self._line(
                depth + 1, f"h = hash32(({self._constant(self._flag_key)} + {key}).encode())"
            )
        self._bounds(entries, depth + 1)
        self._line(depth, self._serving(None))

    def _split_by_value(self, node: Node, entries: list[tuple[Any, int]], depth: int) -> None:
        value, kind = self._value(node.args[0])
        self._line(depth, f"u = {value}")
        tests = [] if kind == _TEXT else ["u.__class__ is str"]
        if self._version != V3:
            tests.append("u")
        inside = depth + 1 if tests else depth
        if tests:
            self._line(depth, f"if {' and '.join(tests)}:")
        if self._version == V3:
            self._hash("heads", "u", "hash_value(u)", inside)
        else:
            self._line(inside, "h = hash32(u.encode())")
        self._bounds(entries, inside)
        if kind == _TEXT:
            if tests:
                self._line(depth, self._serving(None))
            return
        fraction = self._constant(Fraction(self._version, self._flag_key))
        values = "".join(f", {self._constant(bucket.value)}" for bucket in node.args[1:])
        self._computed(f"{fraction}.of({self._root(_KEY)}, u{values})", depth)

    def _hash(self, heads: str, text: str, otherwise: str, depth: int) -> None:
        """``h``, of CBOR; for longer texts and those that are no UTF-8 by a call."""
        self._line(depth, f"try: h = hash32({heads}[len(b := {text}.encode())] + b)")
        self._line(depth, "except Exception:")
        self._line(depth + 1, f"h = {otherwise}")
        self._line(depth + 1, f"if h is None: {self._serving(None)}")

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
                self._line(depth, served)
                return
            self._line(depth, f"if h < {self._constant(bound)}: {served}")
        self._line(depth, self._serving(None))

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
        self._asks_time = True
        flag_key = self._constant(self._flag_key)
        return f"whole(context, user_id, tenant_id, key, {flag_key}, now)"

    def _value(self, node: Node) -> tuple[str, str]:
        """An expression's source, and what is known of its value."""
        op, args = node.op, node.args
        if op == CONST:
            return self._literal(node.value)
        if op == FAIL:
            return f"fail({self._constant(node.value)})", _ANY
        if op == LIST:
            return f"[{', '.join(self._value(arg)[0] for arg in args)}]", _ANY
        if op in BRANCHING:
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
        truth = truth_of(node)
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
        if keys is None or (len(args) == 2 and args[1].op != CONST):
            # A default is evaluated, and may fail, whether it is needed or not.
            values = "".join(f", {self._value(arg)[0]}" for arg in args)
            return f"{_CALLED['var']}({self._data()}{values})", _ANY
        if keys[0] == _FLAGD and keys[1:] in (("flagKey",), ("timestamp",)):
            if keys[1] == "flagKey":
                # A name, as Python computes with constants where all of an operator's are.
                self._roots.add(_FLAGD)
                return "flag_key", _TEXT
            self._asks_time = True
            return "int(now())", _ANY
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
        constant = b if b.op == CONST else a
        kind = constant.value.__class__ if constant.op == CONST else None
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
        if haystack.op == CONST and haystack.value.__class__ is JsonList:
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
        if not _constant_text(operator) or wanted.op != CONST:
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
            if arg.op == CONST:
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


def _either(one: str, other: str) -> str:
    """What is known of a value that is one or the other."""
    if one == other:
        return one
    return _ANY if {one, other} & {_TEXT, _ANY} else _PERHAPS


def _constant_text(node: Node) -> bool:
    return node.op == CONST and node.value.__class__ is str


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
