"""Which flags were served with which variant while a test ran, and assertions about it.

The numbers are the managers' own usage counts (`control_plane.feature_flags.counting`), read
before and after: every manager of a kit counts, pinned views, handles and bound managers included,
and no call is slower for being watched. What is not counted does not appear: an answer that was
the caller's default (no such flag, an error), one that ``override`` gave, and what ``explain``,
``all_flags`` and flags that ask each other evaluate.
"""

from __future__ import annotations

from collections.abc import Iterable

from control_plane.feature_flags.flag_manager import FeatureFlagManager

Counted = dict[tuple[str, str], int]


class Evaluations:
    """The evaluations since a recording began, up to now or to its end; made by ``recording``."""

    def __init__(self, managers: Iterable[FeatureFlagManager]) -> None:
        # Held, not weakly: one that goes away meanwhile has been counting all the same.
        self._before: list[tuple[FeatureFlagManager, Counted]] = [
            (manager, manager.counts()) for manager in managers
        ]
        self._ended: Counted | None = None

    @property
    def counts(self) -> Counted:
        """How often each (flag, variant) was served."""
        if self._ended is not None:
            return dict(self._ended)
        total: Counted = {}
        for manager, before in list(self._before):
            for key, count in manager.counts().items():
                served = count - before.get(key, 0)
                if served:
                    total[key] = total.get(key, 0) + served
        return total

    def assert_evaluated(
        self, flag: str, variant: str | None = None, times: int | None = None
    ) -> None:
        """Insist that the flag was served: this variant or any, this often or at least once.

        Raises:
            AssertionError: says what was expected and what was served instead.
            ValueError: ``times`` is below 1; `assert_not_evaluated` is for none.
        """
        __tracebackhide__ = True
        if times is not None and times < 1:
            raise ValueError(
                f"expected times of 1 or more, found {times}; use assert_not_evaluated"
            )
        found = self._served(flag, variant)
        if found == times or (times is None and found):
            return
        how_often = "" if times is None else f" {_times(times)}"
        wanted = "an evaluation" if variant is None else repr(variant)
        shown = self._shown(flag)
        raise AssertionError(f"flag {flag}: expected {wanted}{how_often}, found {shown}")

    def assert_not_evaluated(self, flag: str, variant: str | None = None) -> None:
        """Insist that the flag was not served, or not with this variant.

        Raises:
            AssertionError: says how often it was.
        """
        __tracebackhide__ = True
        if self._served(flag, variant):
            wanted = "no evaluation" if variant is None else f"no {variant!r}"
            raise AssertionError(f"flag {flag}: expected {wanted}, found {self._shown(flag)}")

    def follow(self, manager: FeatureFlagManager) -> None:
        """Count what a manager serves that was made meanwhile."""
        self._before.append((manager, {}))

    def end(self) -> None:
        """Keep the counts as they are now."""
        self._ended = self.counts
        self._before.clear()

    def _served(self, flag: str, variant: str | None) -> int:
        return sum(
            count
            for (name, served), count in self.counts.items()
            if name == flag and variant in (None, served)
        )

    def _shown(self, flag: str) -> str:
        counts = self.counts
        own = [
            f"{served!r} {_times(n)}"
            for (name, served), n in sorted(counts.items())
            if name == flag
        ]
        if own:
            return ", ".join(own)
        others = sorted({name for name, _ in counts})
        return "none" + (f"; evaluated were {', '.join(others)}" if others else "")

    def __repr__(self) -> str:
        return f"<Evaluations {self.counts}>"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
