"""What flags decide about an agent or tool for one tenant: its channel, and fields of an agent.

The signed manifest says what may be decided, and nothing else can be:

- ``metadata.channel_flag`` of the *stable* version names a flag whose value is a channel. Without
  a value, or where it names a channel that is not there or points to a yanked version, stable it
  is. Who names a version gets that version.
- ``metadata.overridable`` of an agent's version maps a field to ``{flag, schema}``. The flag's
  value takes the field's place when it is inside what every agent may have there (`FIELDS`) and
  inside ``schema``. A value outside is ignored with one log line; without a value (a flag that is
  missing, or whose default is null) the manifest's own stands.

Flags are evaluated with the tenant alone, on the transaction the version was read in. A variant is
counted when what it says was used. What changed is told as a tuple of `Applied`; the bytes,
digest and signature stay the manifest's.
"""

from __future__ import annotations

from control_plane.registries.notices import say_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from control_plane.registries.manifests import Loaded

    class Flags(Protocol):
        """The calls of flags that are made here."""

        def decided(
            self, name: str, user_id: str | int | None = None, tenant_id: str | int | None = None
        ) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
        def count(self, name: str, variant: str) -> None: ...


CHANNEL_FLAG = "channel_flag"
OVERRIDABLE = "overridable"
STABLE = "stable"

FIELDS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "minLength": 1, "maxLength": 256},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 100_000_000},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "seed": {"type": "integer"},
    "response_format": {"enum": ["text", "json"]},
    "timeout_ms": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
    "max_turns": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "system_prompt": {"type": "string"},
}
"""The fields an agent may let flags change, with what every agent may have there.

The same as in the agent's JSON Schema, which a reader does not load. Tools are not among them: an
agent has the tools it was approved with.
"""

_OUTSIDE: Any = object()
_SAME: Any = object()


class Applied:
    """One thing a flag changed: ``field`` was ``old`` in the manifest and is ``new``.

    The field ``channel`` is the channel that was followed instead of stable.
    """

    __slots__ = ("field", "flag", "new", "old", "variant")

    def __init__(self, field: str, flag: str, variant: str, old: Any, new: Any) -> None:
        keep = object.__setattr__
        keep(self, "field", field)
        keep(self, "flag", flag)
        keep(self, "variant", variant)
        keep(self, "old", old)
        keep(self, "new", new)

    if TYPE_CHECKING:
        field: str
        flag: str
        variant: str
        old: Any
        new: Any

    def __setattr__(self, name: str, value: Any) -> None:
        # One is shared by all callers that a variant changes the same for.
        raise AttributeError(f"expected to read {name} of what a flag changed, found a write")

    def _values(self) -> tuple[Any, ...]:
        return self.field, self.flag, self.variant, self.old, self.new

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self.field, self.flag, self.variant))

    def __repr__(self) -> str:
        return f"<{self.field} {self.new!r} instead of {self.old!r} by flag {self.flag}>"


class Moment:
    """Flags of the transaction in which a version was read.

    Records that flags ask for later are read as they are then; when that is another transaction,
    ``moved`` says so, and an answer that was given since is no longer of one generation. Whoever
    uses this looks at ``moved`` after each answer, and reads anew.
    """

    __slots__ = ("_get", "checked", "flags", "moved", "overridden", "revision", "txn_id")

    flags: Flags

    def __init__(
        self,
        txn_id: int,
        revision: int,
        overridden: object,
        get: Callable[[bytes], tuple[int, bytes | None]],
    ) -> None:
        """``revision`` is the flags', seen before the transaction began."""
        self.txn_id = txn_id
        self.revision = revision
        self.overridden = overridden
        self.moved = False
        self.checked: dict[tuple[int, str, str], Any] = {}
        self._get = get

    def read(self, key: bytes) -> list[bytes | None]:
        """The raw record, as a view gives it."""
        txn_id, raw = self._get(key)
        if txn_id != self.txn_id:
            # Before the record gets anywhere: who sees it sees this, too.
            self.moved = True
        return [raw]


class Settled:
    """As `Moment`, for flags that are held by a view and cannot move."""

    __slots__ = ("checked", "flags")

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self.checked: dict[tuple[int, str, str], Any] = {}


def tailored(
    loaded: Loaded, moment: Moment | Settled, tenant_id: str | int | None
) -> tuple[Loaded, tuple[Applied, ...]]:
    """The version this tenant gets, and what flags changed."""
    applied: list[Applied] = []
    if loaded.channels is not None:
        loaded = _channelled(loaded, loaded.channels, moment.flags, tenant_id, applied)
    metadata = loaded.document["metadata"]
    if loaded.kind == "agent" and OVERRIDABLE in metadata:
        for field, declared in metadata[OVERRIDABLE].items():
            _override(loaded, field, declared, moment, tenant_id, applied)
    return loaded, tuple(applied)


def _channelled(
    loaded: Loaded,
    channels: dict[str, Loaded],
    flags: Flags,
    tenant_id: str | int | None,
    applied: list[Applied],
) -> Loaded:
    flag = loaded.document["metadata"][CHANNEL_FLAG]
    decided, _ = flags.decided(flag, None, tenant_id)
    channel, variant = decided[0], decided[1]
    if variant is None:
        return loaded
    if channel == STABLE:
        flags.count(flag, variant)
        return loaded
    chosen = channels.get(channel) if isinstance(channel, str) else None
    if chosen is None:
        there = ", ".join([STABLE, *channels])
        say_once(
            f"{loaded.kind}/{loaded.document['name']} channel of flag/{flag} {variant}",
            f"expected a channel of {there}, found {channel!r}; stable is served",
        )
        return loaded
    flags.count(flag, variant)
    applied.append(Applied("channel", flag, variant, STABLE, channel))
    return chosen


def _override(
    loaded: Loaded,
    field: str,
    declared: Mapping[str, Any],
    moment: Moment | Settled,
    tenant_id: str | int | None,
    applied: list[Applied],
) -> None:
    flag = declared["flag"]
    decided, _ = moment.flags.decided(flag, None, tenant_id)
    variant = decided[1]
    if variant is None:
        return
    # A variant has one value while the flag's record is the same, and in a moment it is.
    key = id(loaded), field, variant
    change = moment.checked.get(key)
    if change is None:
        new = _checked(loaded, field, declared, variant, decided[0])
        old = loaded.document["metadata"].get(field)
        change = Applied(field, flag, variant, old, new)
        change = moment.checked[key] = new if new is _OUTSIDE else _SAME if new == old else change
    if change is _OUTSIDE:
        return
    moment.flags.count(flag, variant)
    if change is not _SAME:
        applied.append(change)


def _checked(
    loaded: Loaded, field: str, declared: Mapping[str, Any], variant: str, value: Any
) -> Any:
    bounds = FIELDS.get(field)
    schema = declared.get("schema", {})
    if bounds is not None and fits(value, bounds) and fits(value, schema):
        return int(value) if bounds.get("type") == "integer" else value
    name, version = loaded.document["name"], loaded.document["version"]
    say_once(
        f"{loaded.kind}/{name}@{version} {field} of flag/{declared['flag']} {variant}",
        f"expected a value inside {schema or bounds}, found {value!r}; the manifest's is served",
    )
    return _OUTSIDE


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is inside a schema of the few words that ``overridable`` may use.

    Type, enum, minimum, maximum, both exclusive, minLength and maxLength, as JSON Schema 2020-12
    means them: 2.0 is an integer, true is no number.
    """
    number = value.__class__ in (int, float)
    kind = schema.get("type")
    if kind is not None and not (
        (kind == "number" and number)
        or (kind == "integer" and number and value == value // 1)
        or (kind == "string" and isinstance(value, str))
        or (kind == "boolean" and value.__class__ is bool)
    ):
        return False
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        return False
    if number and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
    ):
        return False
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    return True


def _same(value: Any, other: Any) -> bool:
    """Equality of JSON values, where true is not 1."""
    return bool(value == other) and (value.__class__ is bool) == (other.__class__ is bool)
