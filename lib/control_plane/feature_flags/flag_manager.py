"""Feature flags of one environment, read from the replica on this node.

``FeatureFlagManager`` holds no thread, no socket and no copy of the flags: a call compares one
word of the replica's header with the revision of its table, looks the name up, and calls a
function. Records are read and compiled when a flag is asked for the first time, and looked at
again when the word has moved, so the very next call after a change sees it.

A replica that appears after construction is picked up within a second. After a fork a manager
goes on working in the child: it holds no lock.

Where a trusted replica is required and its writer marks it *development*, flags that were loaded
go on being served as they were, and no record is taken from it any more.

A closed manager, or one whose client was closed, gives defaults; so do its handles.
"""

from __future__ import annotations

from control_plane.defaults import counts_usage, replica_source, wall_clock
from control_plane.errors import ControlPlaneError, ViewExpired
from control_plane.feature_flags.compile import constant
from control_plane.feature_flags.counting import Counter
from control_plane.feature_flags.evaluation import ERROR, FLAG_NOT_FOUND, Explanation
from control_plane.feature_flags.evaluator import FlagEvaluator
from control_plane.feature_flags.table import Library, Table, unavailable
from control_plane.replica.format import FLAG
from control_plane.replica.header import FLAGS_REVISION, TOMBSTONE, empty_words
from control_plane.usage.slots import EVALUATIONS, LATENCY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Protocol, Self

    from _typeshed import StrPath

    from control_plane.defaults import ChosenSource, TrustedReplica
    from control_plane.feature_flags.compile import CompiledFlag
    from control_plane.feature_flags.evaluation import Evaluation
    from control_plane.feature_flags.evaluator import Context
    from control_plane.replica.reader import Replica, View

    class Client(Protocol):
        """What a manager needs of the client it belongs to."""

        @property
        def source(self) -> ChosenSource: ...
        def adopt(self, manager: FeatureFlagManager) -> None: ...


KEPT_TABLES = 4
"""For threads that are about to come for a revision that others have left behind."""

_TOMBSTONE = 8 * TOMBSTONE


def _word(words: memoryview) -> memoryview:
    """The flags revision alone: ``[0]`` of it costs a call 5 ns less than a named index."""
    return words[8 * FLAGS_REVISION : 8 * FLAGS_REVISION + 1]


class FeatureFlagManager(FlagEvaluator):
    """Answers for the flags of one environment; safe to share between threads.

    Without a client it opens a replica of its own and is closed by ``close`` or ``with``.
    """

    __slots__ = ("__weakref__", "_closed", "_owned", "_source", "_tables")

    _tables: dict[tuple[object, int, bool], Table]

    def __init__(
        self,
        client: Client | None = None,
        *,
        replica: StrPath | None = None,
        environment: str | None = None,
        counting: bool | None = None,
        now: Callable[[], float] = wall_clock,
    ) -> None:
        """Read ``client``'s replica, or the one under the root ``replica`` for ``environment``.

        ``counting`` says whether what is served is counted; None: unless the process says no by
        ``CONTROL_PLANE_USAGE=0``. ``now`` gives seconds since 1970, for rules with a schedule.

        Raises:
            TypeError: both a client and a place were given.
        """
        if client is not None and (replica is not None or environment is not None):
            raise TypeError("expected a client, or replica and environment; found both")
        self._closed = False
        self._owned = client is None
        self._source: ChosenSource = (
            replica_source(replica, environment)[0] if client is None else client.source
        )
        self._library = Library(counts_usage() if counting is None else counting, now)
        self._handles = {}
        self._tables = {}
        self._table = self._absent()
        counts = self._library.counts
        if counts is not None:
            self._source.usage.tell_of(self, EVALUATIONS, counts)
            self._source.usage.tell_of(self, LATENCY, self._library.latencies)
        if client is not None:
            client.adopt(self)

    @property
    def overridden(self) -> Mapping[str, object]:
        """The flags overridden in this process, by name: another object after each change."""
        return self._library.overridden

    def pinned(self) -> PinnedFlags:
        """These flags as of one generation, whatever is published meanwhile.

        The snapshot is taken now and valid for at least 10 seconds; afterwards flags not asked for
        before give the default. Use it as a context manager, or close it.
        """
        replica = self._opened()
        try:
            view = None if replica is None else replica.view()
        except ControlPlaneError:
            # No snapshot to hold: defaults are served, and a log line says so once per name.
            view = None
        return PinnedFlags(self._library, view, view)

    def pinned_to(self, view: View | None) -> PinnedFlags:
        """These flags as a view shows them, which stays its giver's to close; None: defaults."""
        return PinnedFlags(self._library, view, None)

    def all_flags(
        self,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> dict[str, Evaluation]:
        """As ``FlagEvaluator.all_flags``."""
        with self.pinned() as view:
            return view.all_flags(user_id, tenant_id, context)

    def explain(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Explanation:
        """As ``FlagEvaluator.explain``."""
        with self.pinned() as view:
            return view.explain(name, user_id, tenant_id, context)

    def override(self, flags: Mapping[str, Any]) -> Override:
        """Answer these flags with these values inside a ``with`` block, for tests.

        Everybody who asks this manager gets them, in every thread, whatever the replica holds, and
        flags that ask for them do too; the variant is called ``override``. Blocks may be nested
        and may overlap.
        """
        return Override(self, self._library, flags)

    def refresh(self) -> None:
        """Let the next call read the replica again, whether its revision moved or not.

        Handles that were made by ``flag`` read again, too.
        """
        self._tables.clear()
        self._table = self._absent()
        self._forget_handles()

    def close(self) -> None:
        """Let go of the replica; afterwards every call gives the caller's default."""
        self._closed = True
        self._source.usage.tell()
        if self._owned:
            self._source.close()
        counts = self._library.counts
        self._library = Library()
        # What was served stays told: whoever exports it may come last.
        self._library.counts = counts
        self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> Replica | TrustedReplica | None:
        return None if self._closed else self._source.open()

    def _absent(self) -> Table:
        read = unavailable(lambda: self._source.error)
        return Table(self._library, read, _word(empty_words()), 0, settled=False)

    def _renewed(self) -> Table:
        table = self._table
        replica = self._opened()
        if replica is None:
            # Nothing to read, yet or any more: what is loaded holds, and a table's own read refuses
            # a replica that is not to be trusted. The source looks again at most once a second.
            return table
        self._source.usage.moved()
        word = _word(replica.words)
        # Read before the table's first record: whatever it will hold is at least this new.
        seen = word[0]
        settled = not replica.words[_TOMBSTONE]
        if not settled and word.obj is table.word.obj and seen == table.seen:
            # Swapped away, and the new replica cannot be opened yet: what is loaded still holds.
            return table
        # All threads that come for one revision get one table, the first to come decides: a second
        # one could hold an older answer than one that was given from the first.
        key = word.obj, seen, settled
        made = Table(self._library, replica.get, word, seen, settled)
        self._table = table = self._tables.setdefault(key, made)
        while len(self._tables) > KEPT_TABLES:
            self._tables.pop(next(iter(self._tables)), None)
        if self._closed:
            # By another thread, after this one had opened the replica.
            self._table = table = self._absent()
        return table

    def _held(self) -> PinnedFlags:
        return self.pinned()

    def _dropped(self, table: Table) -> None:
        for key, held in self._tables.copy().items():
            if held is table:
                self._tables.pop(key, None)
        if self._table is table:
            self._table = self._absent()


class Override:
    """Values in place of flags while a ``with`` block runs; made by ``override``."""

    __slots__ = ("_flags", "_library", "_manager")

    def __init__(
        self, manager: FeatureFlagManager, library: Library, flags: Mapping[str, Any]
    ) -> None:
        self._manager = manager
        self._library = library
        self._flags: dict[str, CompiledFlag] = {
            name: constant(name, value) for name, value in flags.items()
        }

    def __enter__(self) -> None:
        self._library.override(self._flags)
        self._manager.refresh()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.restore(self._flags)
        self._manager.refresh()


class PinnedFlags(FlagEvaluator):
    """Flags of one generation; made by ``FeatureFlagManager.pinned``."""

    __slots__ = ("_enabled", "_shown", "_view")

    def __init__(self, library: Library, view: View | None, owned: View | None) -> None:
        # Without a snapshot nothing may answer, not even what was compiled of some generation.
        self._library = library = library.emptied() if view is None else library
        self._handles = {}
        self._view = owned
        self._shown = view
        if view is None:
            read = unavailable(lambda: "expected a snapshot to hold, found none")
        else:
            pinned = view

            def read(key: bytes) -> tuple[int, bytes | None]:
                [raw] = pinned.read(key)
                return pinned.txn_id, raw

        self._table = Table(library, read, _word(empty_words()), 0)
        # The one table there will be: a look less for every call.
        self._enabled: dict[str, Any] = self._table.enabled

    def is_enabled(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
        default: bool = False,
        rollout_percentage: float | None = None,
    ) -> bool:
        """As ``FlagEvaluator.is_enabled``, without asking whether anything moved."""
        try:
            answer = self._enabled[name]
        except KeyError:
            answer = self._first(Table.load_enabled, name)
        if rollout_percentage is None:
            if answer is True or answer is False:
                return answer
            if answer.__class__ is Counter:
                try:
                    return next(answer)  # type: ignore[no-any-return]
                except StopIteration:
                    # It has run out: the way below goes on with the next.
                    pass
        # By name: super() would cost a split 50 ns.
        return FlagEvaluator.is_enabled(
            self, name, user_id, tenant_id, context, default, rollout_percentage
        )

    def all_flags(
        self,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> dict[str, Evaluation]:
        """As ``FlagEvaluator.all_flags``.

        Raises:
            ViewExpired: the view is too old to tell which flags there are.
        """
        found = {}
        for name in self._names():
            evaluation = self._evaluated(name, None, user_id, tenant_id, context)
            if evaluation.error_code != FLAG_NOT_FOUND:
                found[name] = evaluation
        return found

    def explain(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Context | None = None,
    ) -> Explanation:
        """As ``FlagEvaluator.explain``.

        Where the definition cannot be read any more, as in an expired view, one step says so; the
        evaluation is what the view answers.
        """
        evaluation = self._evaluated(name, None, user_id, tenant_id, context)
        steps: Sequence[str] = (f"the caller's default: {evaluation.error_code}",)
        if evaluation.reason != ERROR:
            try:
                steps = self._table.explained(name, evaluation.variant, user_id, tenant_id, context)
            except ControlPlaneError as error:
                steps = (f"no steps: {error}",)
        return Explanation(name, evaluation, tuple(steps))

    def _names(self) -> Sequence[str]:
        """The names of the flags that have a record, and of those overridden, in order."""
        pairs = [] if self._shown is None else self._shown.scan(bytes((FLAG,)))
        names = {key[1:].decode("utf-8", "replace") for key, _ in pairs}
        return sorted(names | set(self._library.overridden))

    def close(self) -> None:
        """Drop the snapshot, if it is this view's own; may be called again."""
        if self._view is not None:
            self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _renewed(self) -> Table:
        return self._table

    def _dropped(self, table: Table) -> None:
        raise ViewExpired("expected records of one transaction in a view, found two")
