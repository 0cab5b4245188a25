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

from control_plane.defaults import nanoseconds, wall_clock
from control_plane.errors import (
    ControlPlaneError,
    InputInvalid,
    ReplicaBusy,
    ReplicaCorrupt,
    ReplicaInvalid,
    ReplicaUnavailable,
    ViewExpired,
)
from control_plane.feature_flags.compile import (
    DETAILS,
    VALUES,
    VARIANTS,
    CompiledFlag,
    Compiler,
    Function,
    fault,
)
from control_plane.feature_flags.complaining import complain
from control_plane.feature_flags.counting import Counts
from control_plane.feature_flags.evaluation import (
    FLAG_NOT_FOUND,
    GENERAL,
    PARSE_ERROR,
    PROVIDER_NOT_READY,
    TYPE_MISMATCH,
)
from control_plane.feature_flags.packed import unpack
from control_plane.replica.format import DELETED, FLAG, HEADER_BYTES, decode_record, record_key
from control_plane.usage.slots import bucket_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.compile import Asked
    from control_plane.feature_flags.counting import Counter
    from control_plane.feature_flags.definition import Definition
    from control_plane.feature_flags.segments import Memberships, Read

    Loaded = tuple[CompiledFlag, int]

MAX_ABSENT = 4096
FEW = 32
MAX_PREREQUISITES = 64

# Instead of a transaction: a flag that is of none, and one whose record could not be read now.
ANY_TXN, NO_TXN = -1, -2


class Library:
    """What tables share: compiled flags by name, their counts, overrides and the clock.

    ``now`` gives seconds since 1970, for rules with a schedule.
    """

    __slots__ = (
        "_compiler",
        "_counters",
        "_decoded",
        "_last",
        "_overrides",
        "_unpack",
        "counts",
        "latencies",
        "nanoseconds",
        "now",
        "overridden",
    )

    def __init__(self, counting: bool = False, now: Callable[[], float] = wall_clock) -> None:
        self.counts = Counts() if counting else None
        self.latencies = Counts()
        self.nanoseconds = nanoseconds
        self.now = now
        self.overridden: dict[str, CompiledFlag] = {}
        self._overrides: tuple[dict[str, CompiledFlag], ...] = ()
        self._compiler = Compiler(self.counts)
        self._counters: dict[tuple[str, str], Counter[Any]] = {}
        self._unpack: Callable[[bytes], Any] = unpack
        self._decoded = 0
        self._last: dict[str, tuple[bytes, CompiledFlag]] = {}

    def emptied(self) -> Library:
        """One that knows no record; it answers what is overridden here."""
        other = Library(now=self.now)
        other.overridden = self.overridden
        return other

    def override(self, flags: dict[str, CompiledFlag]) -> None:
        """Answer these flags so until ``restore``; of two that name one flag the later wins."""
        self._override((*self._overrides, flags))

    def restore(self, flags: dict[str, CompiledFlag]) -> None:
        """End one ``override`` of these flags, whichever others came after it."""
        kept = list(self._overrides)
        # The last one: a block may be entered again inside itself.
        del kept[max(index for index, each in enumerate(kept) if each is flags)]
        self._override(tuple(kept))

    def _override(self, overrides: tuple[dict[str, CompiledFlag], ...]) -> None:
        self._overrides = overrides
        self.overridden = {name: flag for each in overrides for name, flag in each.items()}

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
        metadata, kill = self.content(record.body)
        if metadata is None and kill is None:
            return self.fault(name, FLAG_NOT_FOUND, "expected a flag, found none accepted so far")
        flag = self._compiler.compile(name, metadata, kill, record.served_generation)
        self._last[name] = (header, flag)
        return flag

    def content(self, body: bytes) -> tuple[Any, Any]:
        """A flag record's metadata and kill.

        Raises:
            ReplicaCorrupt: it is no flag's.
        """
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

    def count(self, name: str, variant: str) -> None:
        """Count a variant that was served without asking a counter for it."""
        if self.counts is None or name in self.overridden:
            return
        while True:
            counter = self._counters.get((name, variant))
            if counter is None:
                # Of one answer only, so it is never folded away and may be kept.
                counter = self.counts.counter(name, variant, DETAILS, None)
                self._counters[name, variant] = counter
            try:
                next(counter)
                return
            except StopIteration:
                self._counters.pop((name, variant), None)

    def sample(self, nanoseconds: int) -> None:
        """Count how long one evaluation took, by the bucket it falls into."""
        self.latencies.count("", bucket_of(nanoseconds))

    def segment(self, definition: Definition) -> Callable[..., Any]:
        """A segment's rules as a function of what its flags are given; uncounted."""
        compiled = Compiler().compiled("", definition)
        function: Callable[..., Any] = compiled.bound(VALUES, (self.now,) if compiled.needs else ())
        return function

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


class Table:
    """The answers of one revision; ``enabled``, ``variants`` and ``values`` are filled lazily.

    A constant stands for itself, None for the caller's default; a counter is asked for the next; a
    function is called with (user_id, tenant_id, context).

    Flags that ask for others, or for segments, are answered from one transaction: the first of
    them to be loaded decides which, and a record of another one raises ``Moved``.
    """

    __slots__ = (
        "_absent",
        "_flags",
        "_library",
        "_memberships",
        "_read",
        "details",
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
        self.details: dict[str, Any] = {}
        self._memberships: dict[str, Memberships] = {}
        self._library = library
        self._read = read
        self._flags: dict[str, Loaded] = {}
        self._absent = 0

    def flag(self, name: str) -> CompiledFlag:
        """The compiled flag of that name, or a fault.

        Raises:
            TypeError: the name is no str.
            Moved: what the flag asks for is of another transaction than its record.
        """
        return self._found(name)[0]

    def _found(self, name: str) -> Loaded:
        found = self._flags.get(name)
        if found is None:
            if not isinstance(name, str):
                raise TypeError(f"expected the name of a flag as str, found {type(name).__name__}")
            found, keep = self._load(name)
            if found[0].flags:
                try:
                    found = self._with_prerequisites(name, found)
                except ReplicaBusy as error:
                    # What it asks for cannot be read now: no answer, and none that is kept.
                    return self._library.fault(name, GENERAL, str(error)), NO_TXN
            if keep:
                # The first to come decides: a thread that read earlier may be the later one.
                found = self._flags.setdefault(name, found)
        return found

    def asked(self, flag: CompiledFlag) -> Asked:
        """What answers the flag's questions, in their order."""
        return self._asked_by(flag, self.served)

    def _asked_by(self, flag: CompiledFlag, served: Callable[..., Any]) -> Asked:
        if not flag.needs:
            return ()
        answers: dict[str, Callable[..., Any]] = {"now": self._library.now, "served": served}
        if "members" in flag.needs:
            answers["members"] = self._asked().contains
        return tuple([answers[need] for need in flag.needs])

    def served(self, name: str, user_id: Any, tenant_id: Any, context: Any) -> Any:
        """The variant another flag of this table serves, None where it gives the default.

        Raises:
            Moved: its record is of another transaction than this table's questions.
        """
        return self._served(name, user_id, tenant_id, context, {})

    def _served(
        self, name: str, user_id: Any, tenant_id: Any, context: Any, known: dict[str, Any]
    ) -> Any:
        """As ``served``; ``known`` has what the flags under one that was asked serve.

        Without it a flag that two others ask for would be asked twice, and the one below four
        times: 2^64 evaluations of 128 flags.
        """
        flag, txn = self._found(name)
        self._join(txn)

        def below(name: str, user_id: Any, tenant_id: Any, context: Any) -> Any:
            if name not in known:
                known[name] = self._served(name, user_id, tenant_id, context, known)
            return known[name]

        # Details, as they are not counted: nobody is served the flag here.
        answer = flag.bound(DETAILS, self._asked_by(flag, below))
        if answer.__class__ is Function:
            answer = answer(user_id, tenant_id, context)
        return answer[1]

    def explained(
        self, name: str, variant: str | None, user_id: Any, tenant_id: Any, context: Any
    ) -> list[str]:
        """The steps of an evaluation that served this variant, in sentences.

        Raises:
            ControlPlaneError: a record that cannot be read, or breaks the rules.
        """
        # Imported here: only people ask.
        from control_plane.feature_flags.definition import parse_definition
        from control_plane.feature_flags.explaining import Asking, Walk

        if name in self._library.overridden:
            return ["overridden in this process: serves the value given"]
        key = record_key(FLAG, name)
        _, raw = self._read(key)
        metadata, kill = self._library.content(decode_record(key, raw or b"").body)
        if metadata is None:
            return ["killed, and no definition accepted so far: the caller's default"]
        asking = Asking(self._asked().contains, self.served, self._library.now)
        flag = parse_definition(metadata)
        return Walk(name, flag, kill, asking, user_id, tenant_id, context).told(variant)

    def _with_prerequisites(self, name: str, found: Loaded) -> Loaded:
        """What was found, or a fault where the flags it asks for come round to one of them."""
        chain: list[str] = []
        # How many flags stand one under the other below each that was walked: once is enough.
        heights: dict[str, int] = {}

        def ends(name: str, found: Loaded) -> bool:
            chain.append(name)
            if chain.count(name) > 1 or len(chain) + heights.get(name, 0) > MAX_PREREQUISITES:
                return False
            if name not in heights:
                self._join(found[1])
                height = 0
                for asked in found[0].flags:
                    other = self._flags.get(asked) or self._load(asked)[0]
                    if other[0].flags:
                        if not ends(asked, other):
                            return False
                        height = max(height, heights[asked] + 1)
                heights[name] = height
            chain.pop()
            return True

        if ends(name, found):
            return found
        ring = " > ".join(chain)
        reason = f"expected flags that do not ask each other in a ring, found {ring}"
        broken = self._library.fault(name, GENERAL, reason)
        # Who asks this one comes round to it as well, whichever of them is loaded first.
        broken.flags = found[0].flags
        return broken, ANY_TXN

    def _join(self, txn: int) -> None:
        """Insist that a record is of the transaction that questions are answered from."""
        if txn == NO_TXN:
            raise ReplicaBusy("expected the record of a flag that another asks for, found none")
        if txn != ANY_TXN:
            self._asked().join(txn)

    def _asked(self) -> Memberships:
        # Imported here: most processes have no flag that asks for a segment.
        from control_plane.feature_flags.segments import Memberships

        # One step for all threads: the first to come decides.
        return self._memberships.setdefault("", Memberships(self._read, self._library.segment))

    def forget(self, name: str) -> None:
        """Let the next call fill the name's answers again, from the flag loaded before."""
        for answers in (self.enabled, self.variants, self.values):
            answers.pop(name, None)

    def load_enabled(self, name: str) -> Any:
        """Fill ``enabled`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        answer = None
        if flag.type in ("bool", ""):
            answer = flag.bound(VALUES, self.asked(flag))
        else:
            self._library.complain(name, f"{TYPE_MISMATCH}: expected a bool, found a {flag.type}")
        return self._kept(name, self.enabled, answer)

    def load_variant(self, name: str) -> Any:
        """Fill ``variants`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        return self._kept(name, self.variants, flag.bound(VARIANTS, self.asked(flag)))

    def load_value(self, name: str) -> Any:
        """Fill ``values`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        return self._kept(name, self.values, flag.bound(VALUES, self.asked(flag)))

    def load_details(self, name: str) -> Any:
        """Fill ``details`` for a name; raises as ``flag``."""
        flag = self.flag(name)
        answer = flag.bound(DETAILS, self.asked(flag)), flag.flag_metadata
        return self._kept(name, self.details, answer)

    def _kept(self, name: str, answers: dict[str, Any], answer: Any) -> Any:
        if name in self._flags:
            answers[name] = answer
        return answer

    def _load(self, name: str) -> tuple[Loaded, bool]:
        """A flag from its record, and whether the answer holds for this table's life."""
        library = self._library
        overridden = library.overridden.get(name)
        if overridden is not None:
            return (overridden, ANY_TXN), True
        try:
            key = record_key(FLAG, name)
        except ValueError:
            reason = "expected a name without NUL"
            return (library.fault(name, FLAG_NOT_FOUND, reason), ANY_TXN), False
        try:
            txn, raw = self._read(key)
            flag = library.flag(name, key, raw)
        except (ReplicaInvalid, InputInvalid) as error:
            return (library.fault(name, PARSE_ERROR, str(error)), ANY_TXN), True
        except ControlPlaneError as error:
            return (self._without_record(name, error), NO_TXN), False
        if "members" in flag.needs:
            self._join(txn)
        if raw is None:
            # Names may come from anywhere: only so many absent ones are remembered.
            self._absent += 1
            return (flag, txn), self._absent <= MAX_ABSENT
        return (flag, txn), True

    def _without_record(self, name: str, error: ControlPlaneError) -> CompiledFlag:
        # A view promises one generation: there the last good flag may be of another.
        last = None if isinstance(error, ViewExpired) else self._library.last(name)
        if last is not None:
            return last
        code = PROVIDER_NOT_READY if isinstance(error, ReplicaUnavailable) else GENERAL
        return self._library.fault(name, code, str(error))


def unavailable(reason: Callable[[], object]) -> Read:
    """A read for the time while there is no replica; ``reason`` says why."""

    def read(key: bytes) -> tuple[int, bytes | None]:
        raise ReplicaUnavailable(str(reason() or "expected a replica, found none"))

    return read
