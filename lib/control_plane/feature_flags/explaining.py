"""Why a flag answers as it does, in sentences: its definition walked step by step.

This is a second reading of the rules, slower and with words, of the same definition that
``compile`` makes a function of; the two are held equal by tests. It looks at plain values only,
as the evaluator does where an application's own value cannot be compared.
"""

from __future__ import annotations

from control_plane.feature_flags import bucketing
from control_plane.feature_flags.comparing import contains, instant, number, outside, semver_key
from control_plane.feature_flags.comparing import text as text_of
from control_plane.feature_flags.compile import PlainContext, Unmatchable, plain
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
    UNTIL,
    combined,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.definition import Bucket, Condition, Definition, Rule

MAX_SHOWN = 60

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    GT: lambda value, operand: bool(value > operand),
    GTE: lambda value, operand: bool(value >= operand),
    LT: lambda value, operand: bool(value < operand),
    LTE: lambda value, operand: bool(value <= operand),
    "eq": lambda value, operand: bool(value == operand),
}
_PHRASES = {
    EQUALS: "to be", IN: "one of", NOT_IN: "none of", GT: "more than", GTE: "at least",
    LT: "less than", LTE: "at most", STARTS_WITH: "a start with", ENDS_WITH: "an end with",
    CONTAINS: "to contain", SEMVER: "a version", BEFORE: "a time before", AFTER: "a time after",
}  # fmt: skip


class Asking:
    """The answers that lie outside a definition: memberships, other flags, the time."""

    __slots__ = ("members", "now", "served")

    def __init__(
        self, members: Callable[..., Any], served: Callable[..., Any], now: Callable[[], float]
    ) -> None:
        self.members = members
        self.served = served
        self.now = now


class Walk:
    """One walk over a definition for one caller.

    ``steps`` are sentences in the order of evaluation; ``variant`` and ``rule`` what they lead to.
    """

    def __init__(
        self,
        name: str,
        flag: Definition,
        kill: Any,
        asking: Asking,
        user_id: Any,
        tenant_id: Any,
        context: Any,
    ) -> None:
        self._given = user_id, tenant_id, context
        self._asking = asking
        self._flag = flag
        self._context = _shown_context(context)
        self._user_id = plain(user_id) if user_id is not None else self._context.get("user_id")
        self._tenant_id = (
            plain(tenant_id) if tenant_id is not None else self._context.get("tenant_id")
        )
        self._salt = name
        self.steps: list[str] = []
        self.variant: str | None = None
        self.rule: str | None = None
        self._walk(name, kill)

    def _walk(self, name: str, kill: Any) -> None:
        flag = self._flag
        if kill is not None:
            wanted = kill.get("variant") or flag.disabled
            if wanted is None or wanted in flag.variants:
                self._serves(wanted, "killed")
            else:
                self.steps.append(f"killed: {wanted} is no variant: the caller's default")
            return
        if not flag.enabled:
            self._serves(flag.disabled, "enabled is false")
            return
        for path, units in flag.overrides:
            unit = _unit(self._attribute(path))
            where = ".".join(path)
            if unit is not None and unit in units:
                self._serves(units[unit], f"override for {where} {_shown(unit)}")
                return
            self.steps.append(f"no override for {where} {_shown(unit)}")
        if flag.targeting is not None:
            self._serves(self._asking.served(name, *self._given), "targeting")
            return
        for rule in flag.rules:
            if self._ruled(rule, name):
                return
        self._serves(flag.default, "no rule matched" if flag.rules else "the default")

    def told(self, variant: str | None) -> list[str]:
        """The steps to the variant that was served; it may rest on what only code compares."""
        if variant != self.variant:
            self._serves(variant, "a value of the application's own says otherwise")
        return self.steps

    def _serves(self, variant: str | None, because: str) -> None:
        self.variant = variant
        self.steps.append(f"{because}: {_serving(variant)}")

    def _ruled(self, rule: Rule, name: str) -> bool:
        by = self._attribute(rule.by)
        self._salt = rule.salt or self._flag.salt or name
        for condition in rule.conditions:
            if not self._holds(condition, by):
                self.steps.append(f"rule {rule.name}: {self._why_not(condition, by)}")
                return False
        if not rule.split:
            assert rule.serve is not None
            self.rule = rule.name
            self._serves(rule.serve, f"rule {rule.name} matches")
            return True
        where = ".".join(rule.by)
        if self._flag.bucketing != bucketing.NAME:
            return self._imported_split(rule, by, where)
        unit = bucketing.unit_of(by)
        if unit is None:
            self.steps.append(f"rule {rule.name}: expected a unit in {where}, found {_shown(by)}")
            return False
        total = sum(weight for _, weight in rule.split)
        point = bucketing.point_of(unit, bucketing.seed_of(self._salt), total)
        self.rule = rule.name
        self._serves(
            bucketing.served(rule.split, point),
            f"rule {rule.name} matches; {where} {_shown(by)} falls on {point} of {total}",
        )
        return True

    def _imported_split(self, rule: Rule, by: Any, where: str) -> bool:
        from control_plane.feature_flags.bucketings import served, split_hashing

        algorithm = self._flag.bucketing
        total = sum(weight for _, weight in rule.split)
        point = split_hashing(algorithm, self._salt, total).point(by)
        if point is None:
            self.steps.append(f"rule {rule.name}: expected a unit in {where}, found {_shown(by)}")
            return False
        self.rule = rule.name
        self._serves(
            served(algorithm, rule.split, point),
            f"rule {rule.name} matches; {where} {_shown(by)} falls on {point:.6f} by {algorithm}",
        )
        return True

    def _point(self, bucket: Bucket, by: Any) -> float | None:
        from control_plane.feature_flags.bucketings import range_hashing

        hashing = range_hashing(bucket.bucketing or self._flag.bucketing, bucket.salt or self._salt)
        return hashing.point(self._attribute(bucket.by) if bucket.by else by)

    def _attribute(self, path: tuple[str, ...]) -> Any:
        value: Any
        if path[0] == "user_id":
            value = self._user_id
        elif path[0] == "tenant_id":
            value = self._tenant_id
        elif path[0] == "targeting_key":
            keys = [self._context.get("targeting_key"), self._context.get("targetingKey")]
            given = [*keys, self._user_id, self._tenant_id]
            value = next((each for each in given if each is not None), None)
        else:
            value = self._context.get(path[0])
        for key in path[1:]:
            value = value.get(key) if isinstance(value, PlainContext) else None
        return value

    def _holds(self, condition: Condition, by: Any) -> bool:
        word, operand = condition.word, condition.operand
        if not condition.path:
            return self._holds_without_attribute(word, operand, by)
        value = self._attribute(condition.path)
        if word == EQUALS:
            return _same(value, operand)
        if word == IN:
            return any(_same(value, each) for each in operand)
        if word == PRESENT:
            return (value is not None) is operand
        if word == NOT_IN:
            scalar = outside(value, frozenset(), frozenset())
            return scalar and not any(_same(value, each) for each in operand)
        if word in _ORDERS:
            return _ORDERS[word](number(value), operand)
        if word == SEMVER:
            version = semver_key(value)
            return version is not None and all(_ORDERS[o](version, key) for o, key in operand)
        if word == CONTAINS:
            return contains(value, operand)
        if word in (BEFORE, AFTER):
            moment = instant(value)
            return bool(moment < operand if word == BEFORE else moment > operand)
        whole = text_of(value)
        return whole.startswith(operand) if word == STARTS_WITH else whole.endswith(operand)

    def _holds_without_attribute(self, word: str, operand: Any, by: Any) -> bool:
        if word == NOT:
            return not all(self._holds(each, by) for each in operand)
        if word in (ANY, ALL):
            every = any if word == ANY else all
            return bool(every(all(self._holds(each, by) for each in group) for group in operand))
        if word == BUCKET:
            point = self._point(operand, by)
            return point is not None and bool(operand.start <= point < operand.end)
        if word == SEGMENT:
            return bool(self._asking.members(operand, by, *self._given))
        if word == FLAG:
            name, variants = operand
            return self._asking.served(name, *self._given) in variants
        now = self._asking.now()
        return bool(now >= operand if word == FROM else now < operand)

    def _why_not(self, condition: Condition, by: Any) -> str:
        word, operand = condition.word, condition.operand
        if condition.path:
            where, value = ".".join(condition.path), self._attribute(condition.path)
            if word == PRESENT:
                return f"expected {where} to be {'there' if operand else 'absent'}"
            wanted = _shown(_readable(word, operand))
            return f"expected {where} {_PHRASES[word]} {wanted}, found {_shown(value)}"
        if word == BUCKET:
            point, wanted = self._point(operand, by), f"{operand.start} to {operand.end}"
            found = "no unit" if point is None else f"{point:.6f}"
            return f"expected a point of {wanted}, found {found}"
        if word == SEGMENT:
            return f"expected a member of segment {operand}, found {_shown(by)} outside"
        if word == FLAG:
            name, variants = operand
            served = self._asking.served(name, *self._given)
            return f"expected flag {name} to serve {' or '.join(variants)}, found {_shown(served)}"
        if word in (FROM, UNTIL):
            return "not begun yet" if word == FROM else "over since its until"
        if word == NOT:
            return "what $not names holds"
        failed = [each for each in combined(condition) if not self._holds(each, by)]
        said = self._why_not(failed[0], by)
        return f"none of $any holds; {said}" if word == ANY else said


def _shown_context(context: Any) -> PlainContext:
    """The context, or an empty one for what is none: a flag that asks nothing answers anybody."""
    shown = PlainContext({} if context is None else context)
    try:
        shown.get("user_id")
    except Exception:
        # Whatever it was, the evaluation either did without it or has told of the error.
        return PlainContext({})
    return shown


def _serving(variant: str | None) -> str:
    return "the caller's default" if variant is None else f"serves {variant}"


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, (int, float)) and isinstance(wanted, (int, float)):
        return value == wanted
    return isinstance(value, str) and isinstance(wanted, str) and value == wanted


def _readable(word: str, operand: Any) -> Any:
    if word in (BEFORE, AFTER):
        return f"{operand:.0f} s since 1970"
    if word == SEMVER:
        orders = [f"{order} {'.'.join(map(str, key[0]))}" for order, key in operand]
        return ", ".join(orders)
    return ", ".join(operand) if isinstance(operand, tuple) else operand


def _unit(value: Any) -> str | None:
    unit = bucketing.unit_of(value)
    return None if unit is None else unit.decode()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, PlainContext):
        return "an object"
    if isinstance(value, Unmatchable):
        return "a value of another type"
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 3]}..."
