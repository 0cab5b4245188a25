"""A flag's ``targeting``: which expressions are accepted.

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
"""

from __future__ import annotations

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.flagd_bucketing import MAX_TOTAL_WEIGHT
from control_plane.feature_flags.targeting_interpreter import (
    EAGER,
    FRACTIONAL,
    ITERATING,
    OPERATORS,
)
from control_plane.feature_flags.targeting_values import JsonList, plain, truthy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

    Path = tuple[str | int, ...]

MAX_OPERATORS = 1000
MAX_LEVELS = 32

CONST, LIST, FAIL = "const", "list", "fail"
BRANCHING = frozenset(("if", "?:"))
_SCALARS = frozenset((str, int, float, bool, type(None)))


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
            _refuse(path, f"at most {MAX_LEVELS} operators and lists in each other", value)
        kind = value.__class__
        if kind is list:
            return self._list(value, path, level)
        if kind is dict:
            return self._operation(value, path, level)
        if kind not in _SCALARS:
            _refuse(path, "an operator, list, string, number, true, false or null", value)
        if kind is str:
            _check_text(value, path)
        return Node(CONST, path, value=value)

    def _list(self, values: list[Any], path: Path, level: int) -> Node:
        if _SCALARS.issuperset(map(type, values)):
            # The usual list, and often a long one.
            for index, value in enumerate(values):
                if type(value) is str:
                    _check_text(value, (*path, index))
            return Node(CONST, path, value=JsonList(values))
        args = tuple(
            self.node(value, (*path, index), level + 1) for index, value in enumerate(values)
        )
        if all(arg.op == CONST for arg in args):
            return Node(CONST, path, value=JsonList(arg.value for arg in args))
        return Node(LIST, path, args)

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
            _refuse(path, f"at most {MAX_OPERATORS} operators", value)
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
        _refuse(where, "a name and perhaps a default", [arg.value for arg in args])
    name = args[0] if args else None
    if name is not None and name.op == CONST and name.value.__class__ is JsonList:
        _refuse(name.path, "the name of an attribute", name.value)


def _check_buckets(args: tuple[Node, ...], where: Path) -> None:
    buckets = args if args and is_list(args[0]) else args[1:]
    if not buckets:
        _refuse(where, 'buckets such as ["on", 25]', None)
    weights = []
    for bucket in buckets:
        if not is_list(bucket):
            # An operator may answer a bucket; any other value is none.
            if bucket.op == CONST:
                _refuse(bucket.path, 'a bucket such as ["on", 25]', bucket.value)
            return
        size = len(bucket.value if bucket.op == CONST else bucket.args)
        if not 1 <= size <= 2:
            _refuse(bucket.path, "a bucket of one or two members", size)
        weight = _member(bucket, 1) if size == 2 else 1
        if weight is not None:
            if weight.__class__ is not int:
                _refuse((*bucket.path, 1), "an integer weight", weight)
            weights.append(max(0, weight))
    if sum(weights) > MAX_TOTAL_WEIGHT:
        _refuse(where, f"weights with a sum of at most {MAX_TOTAL_WEIGHT}", sum(weights))


def is_list(node: Node) -> bool:
    return node.op == LIST or (node.op == CONST and node.value.__class__ is JsonList)


def _member(bucket: Node, index: int) -> Any:
    """What is written out there; None for an operator."""
    if bucket.op == CONST:
        # A weight of null is none: it is refused as no integer.
        return bucket.value[index] if bucket.value[index] is not None else "null"
    node = bucket.args[index]
    if node.op != CONST:
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
    if node.op in BRANCHING:
        return _choosing(node)
    if node.op in ("and", "or"):
        return _deciding(node)
    if node.op not in EAGER or not all(arg.op == CONST for arg in node.args):
        return node
    try:
        value = EAGER[node.op](*(arg.value for arg in node.args))
    except Exception as error:
        # As in flagd this flag fails when it is evaluated, and only where it comes to this.
        return Node(FAIL, node.path, value=f"{node.op}: {type(error).__name__}")
    return Node(CONST, node.path, value=JsonList(value) if value.__class__ is list else value)


def _choosing(node: Node) -> Node:
    """``if`` without conditions that are written out."""
    args = node.args
    kept: list[Node] = []
    rest = args[-1:] if len(args) % 2 else ()
    for index in range(0, len(args) - 1, 2):
        truth = truth_of(args[index])
        if truth is True:
            rest = args[index + 1 : index + 2]
            break
        if truth is None:
            kept.extend(args[index : index + 2])
    if kept:
        return Node(node.op, node.path, (*kept, *rest))
    return rest[0] if rest else Node(CONST, node.path)


def _deciding(node: Node) -> Node:
    """``and`` or ``or`` without operands that are written out and decide nothing."""
    kept: list[Node] = []
    for index, arg in enumerate(node.args):
        truth = truth_of(arg)
        if truth is None or index == len(node.args) - 1:
            kept.append(arg)
        elif truth is (node.op == "or"):
            kept.append(arg)
            break
    if len(kept) > 1:
        return Node(node.op, node.path, tuple(kept))
    return kept[0] if kept else Node(CONST, node.path)


def _check_result(node: Node, variants: frozenset[str]) -> None:
    """Refuse results that are written out and name no variant."""
    for result in _results(node):
        named = variant_text(result.value)
        if named is not None and named not in variants:
            shown = ", ".join(sorted(variants))
            _refuse(result.path, "null or one of the variants " + shown, result.value)


def _results(node: Node) -> list[Node]:
    """The constants among what an expression may answer."""
    if node.op == CONST:
        return [node]
    found: list[Node] = []
    if node.op in BRANCHING:
        last = len(node.args) - 1
        for index, arg in enumerate(node.args):
            if index % 2 or index == last:
                found.extend(_results(arg))
    elif node.op == FRACTIONAL:
        for bucket in node.args if is_list(node.args[0]) else node.args[1:]:
            if bucket.op == LIST:
                found.extend(_results(bucket.args[0]))
            elif bucket.op == CONST:
                found.append(Node(CONST, (*bucket.path, 0), value=bucket.value[0]))
    return found


def _refuse(path: Path, expected: str, found: Any, cure: str = "") -> NoReturn:
    shown = "nothing" if found is None else repr(found)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    place = ".".join(str(step) for step in path)
    raise ManifestInvalid(f"{place}: expected {expected}, found {shown}{cure}", path)


def variant_text(value: Any) -> str | None:
    """The name of the variant a result stands for; None for null."""
    value = plain(value)
    if value is None or type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) in (int, float) else f"<{type(value).__name__}>"


def truth_of(node: Node) -> bool | None:
    """Whether a constant counts as true; None for what is no constant."""
    return truthy(node.value) if node.op == CONST else None
