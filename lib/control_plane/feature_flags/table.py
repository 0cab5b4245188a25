"""Answers of one revision, and how a flag's record becomes one.

A table is made empty when the flags revision has moved, and filled as flags are asked for; then
it is dropped whole. It is replaced by assigning one reference, so a thread sees one table or the
other, never a mixture, and what it loads goes into the table it looked in. Whatever is in a table
was read after the table was made, so it is at least as new as the revision the table is for.

Compiled flags outlive tables: a record whose 32-byte header (XXH3 of key and body among it) is
unchanged is not decoded again.

What gives the caller's default: no replica, no record, a deleted one, a record that cannot be
read or whose flag breaks the rules. A read that fails while the writer moves serves the last good
flag of that name instead, and asks again next time.
"""

from __future__ import annotations

from control_plane.errors import (
    ControlPlaneError,
    InputInvalid,
    ReplicaCorrupt,
    ReplicaInvalid,
    ReplicaUnavailable,
    ViewExpired,
)
from control_plane.feature_flags.compile import VALUES, VARIANTS, CompiledFlag, Compiler, fault
from control_plane.feature_flags.evaluation import (
    FLAG_NOT_FOUND,
    GENERAL,
    PARSE_ERROR,
    PROVIDER_NOT_READY,
    TYPE_MISMATCH,
)
from control_plane.feature_flags.packed import unpack
from control_plane.replica.format import DELETED, FLAG, HEADER_BYTES, decode_record, record_key
from control_plane.replica.reader import OPEN
from control_plane.shown import MAX_SHOWN_NAME, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.compile import Members
    from control_plane.feature_flags.segments import Memberships, Read

MAX_ABSENT = 4096
FEW = 32
MAX_LOGGED = 10_000


class Library:
    """What tables share: compiled flags by name."""

    __slots__ = ("_compiler", "_decoded", "_last", "_unpack")

    def __init__(self) -> None:
        self._compiler = Compiler()
        self._unpack: Callable[[bytes], Any] = unpack
        self._decoded = 0
        self._last: dict[str, tuple[bytes, CompiledFlag]] = {}

    def flag(self, name: str, key: bytes, raw: bytes | None) -> CompiledFlag:
        """The compiled form of a raw record.

        Raises:
            ReplicaInvalid: the record cannot be read.
            InputInvalid: its flag breaks the rules.
        """
        if raw is None:
            self._last.pop(name, None)
            return self.fault(name, FLAG_NOT_FOUND, "expected a flag, found no record")
        header = raw[:HEADER_BYTES]
        last = self._last.get(name)
        if last is not None and last[0] == header:
            return last[1]
        record = decode_record(key, raw)
        if record.status == DELETED:
            self._last.pop(name, None)
            return self.fault(name, FLAG_NOT_FOUND, "expected a flag, found it deleted")
        metadata, kill = self._content(record.body)
        if metadata is None and kill is None:
            return self.fault(name, FLAG_NOT_FOUND, "expected a flag, found none accepted so far")
        flag = self._compiler.compile(name, metadata, kill, record.served_generation)
        self._last[name] = (header, flag)
        return flag

    def _content(self, body: bytes) -> tuple[Any, Any]:
        """A flag record's metadata and kill."""
        if not body:
            return None, None
        self._decoded += 1
        if self._decoded >= FEW and self._unpack is unpack:
            # Imported here, see ``packed``.
            from msgpack import unpackb

            self._unpack = unpackb
        try:
            content = self._unpack(body)
            return content["m"], content["k"]
        except (ValueError, TypeError, KeyError) as error:
            raise ReplicaCorrupt(
                f"expected a mapping with m and k, found {error!r}; "
                "run 'control-plane replica verify'"
            ) from error

    def last(self, name: str) -> CompiledFlag | None:
        """The last good flag of that name."""
        last = self._last.get(name)
        return None if last is None else last[1]

    def fault(self, name: str, error: str, reason: str) -> CompiledFlag:
        """A flag that gives the caller's default, with one log line per name."""
        self.complain(name, reason)
        return fault(error)

    def complain(self, name: str, reason: str) -> None:
        """Log one line about this name, unless this process had one already."""
        complain(name, reason)


def complain(name: str, reason: str) -> None:
    """Log one line about this name, unless this process had one already."""
    name = name[:MAX_SHOWN_NAME]
    if name in OPEN.complained or len(OPEN.complained) >= MAX_LOGGED:
        return
    OPEN.complained.add(name)
    # Imported here: logging costs 10 ms, and a process whose flags are sound never logs.
    from logging import getLogger

    getLogger("control_plane.feature_flags").warning(
        "flag/%s: %s; the caller's default is served",
        shown(name),
        shown(reason),
    )


class Table:
    """The answers of one revision; ``enabled``, ``variants`` and ``values`` are filled lazily.

    A constant stands for itself, None for the caller's default; anything else is a function of
    (user_id, tenant_id, context).
    """

    __slots__ = (
        "_absent",
        "_flags",
        "_library",
        "_memberships",
        "_read",
        "enabled",
        "revision",
        "seen",
        "values",
        "variants",
        "word",
    )

    def __init__(
        self, library: Library, read: Read, word: memoryview, seen: int, settled: bool = True
    ) -> None:
        """``word[0]`` is the revision now, ``seen`` what it was before the first record was read.

        Of a table that is not ``settled`` (no replica, or one that was swapped for another that
        cannot be opened yet) the revision matches no word, so that every call looks again.
        """
        self.word = word
        self.seen = seen
        self.revision = seen if settled else -1
        self.enabled: dict[str, Any] = {}
        self.variants: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self._memberships: dict[str, Memberships] = {}
        self._library = library
        self._read = read
        self._flags: dict[str, CompiledFlag] = {}
        self._absent = 0

    def flag(self, name: str) -> CompiledFlag:
        """The compiled flag of that name, or a fault.

        Raises:
            TypeError: the name is no str.
            Moved: the flag asks for segments and its record is newer than what it would ask.
        """
        flag = self._flags.get(name)
        if flag is None:
            if not isinstance(name, str):
                raise TypeError(f"expected the name of a flag as str, found {type(name).__name__}")
            flag, keep = self._load(name)
            if keep:
                # The first to come decides: a thread that read earlier may be the later one.
                flag = self._flags.setdefault(name, flag)
        return flag

    def members(self, flag: CompiledFlag) -> Members | None:
        """What answers the flag's questions for memberships, if it has any."""
        return self._asked().contains if flag.segments else None

    def _asked(self) -> Memberships:
        # Imported here: most processes have no flag that asks for a segment.
        from control_plane.feature_flags.segments import Memberships

        # One step for all threads: the first to come decides.
        return self._memberships.setdefault("", Memberships(self._read))

    def load_enabled(self, name: str) -> Any:
        """Fill ``enabled`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        answer = None
        if flag.type in ("bool", ""):
            answer = flag.bound(VALUES, self.members(flag))
        else:
            self._library.complain(name, f"{TYPE_MISMATCH}: expected a bool, found a {flag.type}")
        return self._kept(name, self.enabled, answer)

    def load_variant(self, name: str) -> Any:
        """Fill ``variants`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        return self._kept(name, self.variants, flag.bound(VARIANTS, self.members(flag)))

    def load_value(self, name: str) -> Any:
        """Fill ``values`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        return self._kept(name, self.values, flag.bound(VALUES, self.members(flag)))

    def _kept(self, name: str, answers: dict[str, Any], answer: Any) -> Any:
        if name in self._flags:
            answers[name] = answer
        return answer

    def _load(self, name: str) -> tuple[CompiledFlag, bool]:
        """A flag from its record, and whether the answer holds for this table's life."""
        library = self._library
        try:
            key = record_key(FLAG, name)
        except ValueError:
            return library.fault(name, FLAG_NOT_FOUND, "expected a name without NUL"), False
        try:
            txn, (raw,) = self._read(key)
            flag = library.flag(name, key, raw)
        except (ReplicaInvalid, InputInvalid) as error:
            return library.fault(name, PARSE_ERROR, str(error)), True
        except ControlPlaneError as error:
            return self._without_record(name, error), False
        if flag.segments:
            self._asked().join(txn)
        if raw is None:
            # Names may come from anywhere: only so many absent ones are remembered.
            self._absent += 1
            return flag, self._absent <= MAX_ABSENT
        return flag, True

    def _without_record(self, name: str, error: ControlPlaneError) -> CompiledFlag:
        # A view promises one generation: there the last good flag may be of another.
        last = None if isinstance(error, ViewExpired) else self._library.last(name)
        if last is not None:
            return last
        code = PROVIDER_NOT_READY if isinstance(error, ReplicaUnavailable) else GENERAL
        return self._library.fault(name, code, str(error))


def unavailable(reason: Callable[[], object]) -> Read:
    """A read for the time while there is no replica; ``reason`` says why."""

    def read(*keys: bytes) -> tuple[int, list[bytes | None]]:
        raise ReplicaUnavailable(str(reason() or "expected a replica, found none"))

    return read
