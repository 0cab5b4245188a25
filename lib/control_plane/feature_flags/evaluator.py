"""The calls applications make, on whatever table of answers is current.

Data never makes a call raise: a missing replica or flag, a record that cannot be read, a variant
of another type and a context that cannot be compared give the caller's default, with one log line
per name. Misuse raises: a name that is no str (TypeError), a percentage outside 0 to 100
(ValueError).

``rollout_percentage``: the flag is evaluated first. False or an error is the answer. True by a
split is, too: the flag's own percentage wins. Any other true holds only for units whose point
among 100,000, with the flag's salt, is below percentage * 1,000. The unit is the user id, else
the tenant id, else the targeting key; without one the answer is false.

A value's type is number, whatever it looks like: asked for an int, 2.0 is 2 and 2.5 is a
mismatch; asked for a float, 2 is 2.0. A bool is no number. Objects and arrays are copied, so a
caller may change what it got.
"""

from __future__ import annotations

from _weakref import ref

from control_plane.errors import ControlPlaneError, ReplicaInvalid
from control_plane.feature_flags.bucketing import point_of, unit_of
from control_plane.feature_flags.compile import (
    DETAILS,
    VALUES,
    VARIANTS,
    Array,
    CompiledFlag,
    Function,
    Moved,
    Object,
    PlainContext,
    plain,
)
from control_plane.feature_flags.counting import Counter, Spent, is_spent
from control_plane.feature_flags.evaluation import (
    ERROR,
    GENERAL,
    INVALID_CONTEXT,
    PARSE_ERROR,
    SPLIT,
    TYPE_MISMATCH,
    Evaluation,
    Explanation,
)
from control_plane.feature_flags.table import Library, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn, Protocol

    Context = Mapping[str, Any]

    class Handle(Protocol):
        """``is_enabled`` of one flag."""

        def __call__(
            self,
            user_id: str | int | None = None,
            tenant_id: str | int | None = None,
            context: Context | None = None,
            default: bool = False,
        ) -> bool: ...


ROUNDS = 10
POINTS = 100_000
MAX_COPY_DEPTH = 64

_TYPE_OF_DEFAULT: dict[type, str] = {
    bool: "bool",
    str: "string",
    int: "int",
    float: "float",
    dict: "object",
    list: "array",
    Object: "object",
    Array: "array",
}
_ANY = "any"
MISMATCH: Any = object()
"""In place of a value that is not of the type wanted."""


class FlagEvaluator:
    """Evaluates flags on the current table; made by ``FeatureFlagManager``."""

    __slots__ = ("_handles", "_library", "_table")

    _handles: dict[ref[Handle], Callable[[], None]]
    _library: Library
    _table: Table

    def is_enabled(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: bool = False,
        rollout_percentage: float | None = None,
    ) -> bool:
        """Whether a boolean flag is on for this unit and context.

        ``rollout_percentage`` (0 to 100) narrows a flag that is on without a split of its own.

        Raises:
            TypeError: the name is no str.
            ValueError: the percentage is outside 0 to 100.
        """
        table = self._table
        if table.word[0] != table.revision:
            table = self._renewed()
        try:
            answer = table.enabled[name]
        except KeyError:
            answer = self._first(Table.load_enabled, name)
        if rollout_percentage is not None:
            return self._rolled_out(name, user_id, tenant_id, context, default, rollout_percentage)
        if answer.__class__ is Function:
            try:
                found = answer(user_id, tenant_id, context)
                # None: a flag without a default, or whose targeting names no variant.
                return default if found is None else found
            except Exception:
                # Comparing an application's own value can raise anything; so can a record it needs.
                found = self._again(VALUES, name, user_id, tenant_id, context)
                return found if found is True or found is False else default
        if answer is True or answer is False:
            return answer
        try:
            return default if answer is None else next(answer)
        except StopIteration:
            # One in 1,024: the counter has run out, see ``counting``.
            found = self._again(VALUES, name, user_id, tenant_id, context)
            return found if found is True or found is False else default

    def variant(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: str | None = None,
    ) -> str | None:
        """The name of the variant that is served.

        Raises:
            TypeError: the name is no str.
        """
        table = self._table
        if table.word[0] != table.revision:
            table = self._renewed()
        try:
            answer = table.variants[name]
        except KeyError:
            answer = self._first(Table.load_variant, name)
        if answer.__class__ is Function:
            try:
                found = answer(user_id, tenant_id, context)
                return default if found is None else found
            except Exception:
                # As in is_enabled.
                answer = self._again(VARIANTS, name, user_id, tenant_id, context)
        elif answer.__class__ is Counter:
            try:
                return next(answer)  # type: ignore[no-any-return]
            except StopIteration:
                answer = self._again(VARIANTS, name, user_id, tenant_id, context)
        return default if answer is None else answer

    def value(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Any:
        """The value that is served; the type of ``default`` (None: any) decides which fits.

        Raises:
            TypeError: the name is no str.
        """
        wanted = _TYPE_OF_DEFAULT.get(default.__class__, _ANY)
        return self._value(wanted, name, default, user_id, tenant_id, context)

    def get_bool(
        self,
        name: str,
        default: bool,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> bool:
        """The value of a boolean flag; raises as ``value``."""
        found: bool = self._value("bool", name, default, user_id, tenant_id, context)
        return found

    def get_str(
        self,
        name: str,
        default: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> str:
        """The value of a string flag; raises as ``value``."""
        found: str = self._value("string", name, default, user_id, tenant_id, context)
        return found

    def get_int(
        self,
        name: str,
        default: int,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> int:
        """The value of a number flag that is whole; raises as ``value``."""
        found: int = self._value("int", name, default, user_id, tenant_id, context)
        return found

    def get_float(
        self,
        name: str,
        default: float,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> float:
        """The value of a number flag as float; raises as ``value``."""
        found: float = self._value("float", name, default, user_id, tenant_id, context)
        return found

    def get_json(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Any:
        """The value of a flag of any type, a copy of the caller's own; raises as ``value``."""
        return self._value(_ANY, name, default, user_id, tenant_id, context)

    def evaluate(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Evaluation:
        """The value with the variant, reason, rule and generation behind it.

        Raises:
            TypeError: the name is no str.
        """
        found = self._evaluated(name, default, user_id, tenant_id, context)
        if found.variant is not None:
            self._library.count(name, found.variant)
        return found

    def decided(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What was decided as (value, variant, reason, rule, error code, generation), and metadata.

        For whoever hands answers on in a form of their own, at a third of what ``evaluate`` costs:
        the value and the flag's metadata are those of all callers and must not be changed, nothing
        is converted (``converted`` does it) and nothing is counted (``count`` does it).

        Raises:
            TypeError: the name is no str.
        """
        table = self._table
        if table.word[0] != table.revision:
            table = self._renewed()
        try:
            answer, told = table.details[name]
        except KeyError:
            found = self._first(Table.load_details, name)
            answer, told = (found, {}) if found is _moving else found
        if answer.__class__ is not Function:
            return answer, told
        try:
            return answer(user_id, tenant_id, context), told
        except Exception:
            # As in is_enabled.
            details, flag = self._decided(DETAILS, name, user_id, tenant_id, context)
            return details, flag.flag_metadata

    def count(self, name: str, variant: str) -> None:
        """Count a variant that ``decided`` told and somebody was served."""
        self._library.count(name, variant)

    def all_flags(
        self,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> dict[str, Evaluation]:
        """Every flag's evaluation for one caller, by name, all of one generation; none is counted.

        A flag that gives its callers their default has the value None here. Empty while there is
        no replica to read.
        """
        raise NotImplementedError

    def explain(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Explanation:
        """The evaluation with the steps that led to it; nothing is counted.

        Raises:
            TypeError: the name is no str.
        """
        raise NotImplementedError

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (flag, variant) was served since this manager was made.

        The numbers only grow; whoever exports them keeps the last ones. Empty without counting.
        """
        counts = self._library.counts
        return {} if counts is None else counts.read()

    def _evaluated(
        self, name: str, default: Any, user_id: Any, tenant_id: Any, context: Any
    ) -> Evaluation:
        details, metadata = self.decided(name, user_id, tenant_id, context)
        value, variant, reason, rule, error, generation = details
        told = metadata.copy()
        if variant is None:
            return Evaluation(default, None, reason, error, None, generation, told)
        wanted = _TYPE_OF_DEFAULT.get(default.__class__, _ANY)
        served = converted(value, wanted)
        if served is MISMATCH:
            self._complain_mismatch(name, wanted, value)
            return Evaluation(default, None, ERROR, TYPE_MISMATCH, None, generation, told)
        return Evaluation(served, variant, reason, None, rule, generation, told)

    def flag(self, name: str) -> Handle:
        """A callable for one boolean flag, the cheapest way to ask again and again.

        ``handle(user_id=None, tenant_id=None, context=None, default=False)`` answers what
        ``is_enabled`` would.

        Raises:
            TypeError: the name is no str.
        """
        if not isinstance(name, str):
            raise TypeError(f"expected the name of a flag as str, found {type(name).__name__}")
        # One cell holds all three, so a thread never pairs an answer with another's revision.
        state: tuple[memoryview, int, Any] = (self._table.word, -2, None)

        def handle(
            user_id: str | int | None = None,
            tenant_id: str | int | None = None,
            context: Context | None = None,
            default: bool = False,
        ) -> bool:
            nonlocal state
            word, revision, answer = state
            if word[0] != revision:
                answer = self._first(Table.load_enabled, name)
                # Of a table that was replaced meanwhile only an old revision is kept, which
                # the next call finds out.
                table = self._table
                if name in table.enabled:
                    answer = table.enabled[name]
                    state = (table.word, table.revision, answer)
                    if self._table is not table:
                        # Whoever replaced it may have told the handles before it was kept.
                        state = (word, -2, None)
            if answer is True or answer is False:
                return answer
            if answer is None:
                return default
            try:
                if answer.__class__ is Counter:
                    return next(answer)  # type: ignore[no-any-return]
                found = answer(user_id, tenant_id, context)
                return default if found is None else found
            except Exception:
                # As in is_enabled.
                state = (word, -2, None)
                found = self._again(VALUES, name, user_id, tenant_id, context)
                return found if found is True or found is False else default

        def forget() -> None:
            nonlocal state
            state = (state[0], -2, None)

        # A handle asks nobody whether the table is still in force, which would cost it 9 ns of 60:
        # it is told. Held weakly, as a program may make one for every request.
        self._handles[ref(handle, self._handles.pop)] = forget
        return handle

    def bind(self, **context: Any) -> BoundFlags:
        """These flags for one caller: ``user_id``, ``tenant_id`` and any other attributes.

        What a call of the bound manager gives itself wins over what was bound.
        """
        return BoundFlags(self, context)

    # Below: the paths that are not hot.

    def _renewed(self) -> Table:
        """The table for the revision in force now."""
        raise NotImplementedError

    def _dropped(self, table: Table) -> None:
        """Begin an empty table in place of one that met a newer transaction."""
        raise NotImplementedError

    def _held(self) -> AbstractContextManager[FlagEvaluator]:
        """These flags as of one transaction, so that no record of them can be of another."""
        raise NotImplementedError

    def _forget_handles(self) -> None:
        """Let every handle ask the table again; to be called after the table was replaced."""
        # A copy: a handle may be collected meanwhile.
        for forget in self._handles.copy().values():
            forget()

    def _current(self) -> Table:
        table = self._table
        return table if table.word[0] == table.revision else self._renewed()

    def _first(self, load: Callable[[Table, str], Any], name: str) -> Any:
        """Fill a name into the current table and return its answer."""
        for _ in range(ROUNDS):
            table = self._current()
            try:
                answer = load(table, name)
                # What a table that was replaced meanwhile read may be newer than what the one in
                # force holds, and the next call would go back.
                if self._table is table:
                    return answer
            except Moved:
                self._dropped(table)
        return _moving

    def _again(
        self,
        mode: str,
        name: str,
        user_id: str | int | None,
        tenant_id: str | int | None,
        context: Context | None,
    ) -> Any:
        """Evaluate step by step: newer tables while records move, plain values if one raises."""
        return self._decided(mode, name, user_id, tenant_id, context)[0]

    def _decided(
        self,
        mode: str,
        name: str,
        user_id: str | int | None,
        tenant_id: str | int | None,
        context: Context | None,
    ) -> tuple[Any, CompiledFlag]:
        """The answer in that mode and the flag that gave it."""
        spent, library = False, self._library
        for _ in range(ROUNDS):
            table = self._current()
            try:
                flag = table.flag(name)
                if self._table is not table:
                    continue  # as in _first; nothing was called yet, so nothing is counted twice
                answer = flag.bound(mode, table.asked(flag))
                began = library.nanoseconds() if spent else 0
                if answer.__class__ is Function:
                    answer = self._called(answer, name, mode, user_id, tenant_id, context)
                elif answer.__class__ is Counter:
                    answer = next(answer)
                if spent:
                    # One evaluation in 1,024, and one that was to be slow in any case.
                    library.sample(library.nanoseconds() - began)
                return answer, flag
            except (Spent, StopIteration):
                # Nothing was counted: the next round asks the stretch that follows.
                spent = True
                flag.renew(mode)
                table.forget(name)
            except Moved:
                self._dropped(table)
        # A writer that outruns one read after another moves no snapshot that is held.
        with self._held() as flags:
            return flags._decided(mode, name, user_id, tenant_id, context)

    def _called(
        self,
        function: Callable[..., Any],
        name: str,
        mode: str,
        user_id: Any,
        tenant_id: Any,
        context: Any,
    ) -> Any:
        try:
            return function(user_id, tenant_id, context)
        except Moved:
            raise
        except StopIteration as error:
            if is_spent(function):
                raise Spent from error
            # It is an application's own value that raised it, as anything can be raised.
        except Exception:
            # Whatever it was, the same flag is asked once more with plain values only.
            pass
        try:
            shown = None if context is None else PlainContext(context)
            return function(plain(user_id), plain(tenant_id), shown)
        except Moved:
            raise
        except StopIteration as error:
            if is_spent(function):
                raise Spent from error
            return self._not_compared(name, mode, context, error)
        except ControlPlaneError as error:
            code = PARSE_ERROR if isinstance(error, ReplicaInvalid) else GENERAL
            return self._library.fault(name, code, str(error)).bound(mode)
        except Exception as error:
            return self._not_compared(name, mode, context, error)

    def _not_compared(self, name: str, mode: str, context: Any, error: Exception) -> Any:
        # Not even plain values could be had: the context is none.
        code = GENERAL if issubclass(type(context), dict) else INVALID_CONTEXT
        reason = f"expected a context to compare, found {type(error).__name__}"
        return self._library.fault(name, code, reason).bound(mode)

    def _value(
        self,
        wanted: str,
        name: str,
        default: Any,
        user_id: str | int | None,
        tenant_id: str | int | None,
        context: Context | None,
    ) -> Any:
        table = self._current()
        try:
            answer = table.values[name]
        except KeyError:
            answer = self._first(Table.load_value, name)
        if answer.__class__ is Function:
            try:
                answer = answer(user_id, tenant_id, context)
            except Exception:
                # As in is_enabled.
                answer = self._again(VALUES, name, user_id, tenant_id, context)
        elif answer.__class__ is Counter:
            try:
                answer = next(answer)
            except StopIteration:
                answer = self._again(VALUES, name, user_id, tenant_id, context)
        if answer is None:
            return default
        served = converted(answer, wanted)
        if served is MISMATCH:
            self._complain_mismatch(name, wanted, answer)
            return default
        return served

    def _rolled_out(
        self,
        name: str,
        user_id: str | int | None,
        tenant_id: str | int | None,
        context: Context | None,
        default: bool,
        percentage: float,
    ) -> bool:
        bound = _bound_of(percentage)
        details, flag = self._decided(DETAILS, name, user_id, tenant_id, context)
        value, variant, reason = details[:3]
        if variant is None or value.__class__ is not bool:
            return default
        self._library.count(name, variant)
        if value is False or reason == SPLIT:
            return bool(value)
        unit = _rollout_unit(user_id, tenant_id, context)
        return unit is not None and point_of(unit, flag.seed, POINTS) < bound

    def _complain_mismatch(self, name: str, wanted: str, value: Any) -> None:
        found = _TYPE_OF_DEFAULT[value.__class__]
        self._library.complain(name, f"{TYPE_MISMATCH}: expected {wanted}, found {found}")


def _moving(user_id: Any, tenant_id: Any, context: Any) -> NoReturn:
    """An answer that could not be had in time: whoever calls it evaluates step by step."""
    raise Moved


class BoundFlags:
    """Flags for one caller; the same calls with the caller's ids and attributes filled in."""

    __slots__ = ("_context", "_flags", "_tenant_id", "_user_id")

    def __init__(self, flags: FlagEvaluator, context: Mapping[str, Any]) -> None:
        self._flags = flags
        self._user_id = context.get("user_id")
        self._tenant_id = context.get("tenant_id")
        rest = {name: context[name] for name in context if name not in ("user_id", "tenant_id")}
        self._context = rest or None

    def is_enabled(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: bool = False,
        rollout_percentage: float | None = None,
    ) -> bool:
        """As ``FlagEvaluator.is_enabled``."""
        user_id, tenant_id, context = self._filled(user_id, tenant_id, context)
        return self._flags.is_enabled(
            name, user_id, tenant_id, context, default, rollout_percentage
        )

    def variant(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: str | None = None,
    ) -> str | None:
        """As ``FlagEvaluator.variant``."""
        return self._flags.variant(name, *self._filled(user_id, tenant_id, context), default)

    def value(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Any:
        """As ``FlagEvaluator.value``."""
        return self._flags.value(name, default, *self._filled(user_id, tenant_id, context))

    def get_bool(
        self,
        name: str,
        default: bool,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> bool:
        """As ``FlagEvaluator.get_bool``."""
        return self._flags.get_bool(name, default, *self._filled(user_id, tenant_id, context))

    def get_str(
        self,
        name: str,
        default: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> str:
        """As ``FlagEvaluator.get_str``."""
        return self._flags.get_str(name, default, *self._filled(user_id, tenant_id, context))

    def get_int(
        self,
        name: str,
        default: int,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> int:
        """As ``FlagEvaluator.get_int``."""
        return self._flags.get_int(name, default, *self._filled(user_id, tenant_id, context))

    def get_float(
        self,
        name: str,
        default: float,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> float:
        """As ``FlagEvaluator.get_float``."""
        return self._flags.get_float(name, default, *self._filled(user_id, tenant_id, context))

    def get_json(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Any:
        """As ``FlagEvaluator.get_json``."""
        return self._flags.get_json(name, default, *self._filled(user_id, tenant_id, context))

    def evaluate(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Evaluation:
        """As ``FlagEvaluator.evaluate``."""
        return self._flags.evaluate(name, default, *self._filled(user_id, tenant_id, context))

    def _filled(
        self,
        user_id: str | int | None,
        tenant_id: str | int | None,
        context: Context | None,
    ) -> tuple[str | int | None, str | int | None, Context | None]:
        given = {} if context is None else _entries(context)
        # An id in the call's own context is given by the call, too.
        if user_id is None and (given is None or given.get("user_id") is None):
            user_id = self._user_id
        if tenant_id is None and (given is None or given.get("tenant_id") is None):
            tenant_id = self._tenant_id
        if context is None or self._context is None or given is None:
            return user_id, tenant_id, self._context if context is None else context
        return user_id, tenant_id, {**self._context, **given}


def _entries(context: Any) -> dict[str, Any] | None:
    """What a context holds; None where it is none."""
    if type(context) is dict:
        return context
    try:
        return {**context}
    except Exception:
        # Whatever it was: the evaluation meets it again and says so.
        return None


def _bound_of(percentage: float) -> float:
    """The points below which a percentage lies."""
    if isinstance(percentage, bool) or not isinstance(percentage, (int, float)):
        found = type(percentage).__name__
        raise TypeError(f"rollout_percentage: expected a number from 0 to 100, found {found}")
    if not 0 <= percentage <= 100:
        raise ValueError(f"rollout_percentage: expected 0 to 100, found {percentage}")
    # 16.1 * 1000 is 16100.000000000002: rounding keeps point 16,100 out, as written.
    return round(percentage * 1000, 6)


def _rollout_unit(user_id: Any, tenant_id: Any, context: Any) -> bytes | None:
    """The unit a rollout percentage counts by."""
    values: list[Any] = [user_id, tenant_id]
    if context is not None:
        shown = PlainContext(context)
        try:
            given = [shown.get(key) for key in ("user_id", "tenant_id")]
            values = [
                mine if mine is not None else yours
                for mine, yours in zip(values, given, strict=True)
            ]
            values += [shown.get("targeting_key"), shown.get("targetingKey")]
        except Exception:
            # The context is none; ids that were passed still count.
            pass
    for value in values:
        if value is not None:
            return unit_of(value)
    return None


def converted(value: Any, wanted: str) -> Any:
    """A copy of the value as bool, string, int, float, object, array or any; else MISMATCH."""
    kind = value.__class__
    if wanted == _ANY:
        return _copied(value)
    if kind is bool or kind is str:
        return value if _TYPE_OF_DEFAULT[kind] == wanted else MISMATCH
    if wanted == "float" and kind in (int, float):
        return float(value)
    if wanted == "int" and kind in (int, float):
        return int(value) if value == value // 1 else MISMATCH
    return _copied(value) if _TYPE_OF_DEFAULT.get(kind) == wanted else MISMATCH


def _copied(value: Any) -> Any:
    """The value with its lists and mappings copied all the way down."""
    if isinstance(value, dict):
        return {key: _copied(value[key]) for key in value}
    if isinstance(value, list):
        return [_copied(member) for member in value]
    return value
