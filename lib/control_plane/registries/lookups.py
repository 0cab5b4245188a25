"""How often agents and tools were looked up: from memory or not, which version, for which tenant.

Tenants come from requests, so only so many pairs of version and tenant are told apart in a process;
those after them count for ``other``.
"""

from __future__ import annotations

from control_plane.feature_flags.counting import Counts
from control_plane.usage.slots import LOOKUPS, VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from control_plane.feature_flags.counting import Counter

MAX_PAIRS = 1000
OTHER = "other"


class Lookups:
    """The counts of one registry; ``told`` are they with the words they are told under."""

    __slots__ = ("_counters", "_results", "_versions", "told")

    def __init__(self) -> None:
        self._results, self._versions = Counts(), Counts()
        self._counters: dict[tuple[Any, ...], Counter[None]] = {}
        self.told = ((LOOKUPS, self._results), (VERSIONS, self._versions))

    def count(self, kind: str, reference: str, was_kept: bool, tenant_id: Any) -> None:
        """Count one lookup; ``reference`` is ``kind/name@version``."""
        self._next(self._results, kind, "hit" if was_kept else "miss")
        tenant = tenant_id if tenant_id.__class__ is str else ""
        if (reference, tenant) not in self._counters and len(self._counters) >= MAX_PAIRS:
            tenant = OTHER
        self._next(self._versions, reference, tenant)

    def _next(self, counts: Counts, first: str, second: str) -> None:
        key = first, second
        counter = self._counters.get(key)
        while True:
            try:
                if counter is not None:
                    next(counter)
                    return
            except StopIteration:
                # One in 1,024: the next stretch.
                pass
            counter = self._counters[key] = counts.counter(first, second, "", None)
