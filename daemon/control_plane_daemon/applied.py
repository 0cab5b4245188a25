"""Which changes were applied, told in the log: the end of a change's way.

- A line is written after the commit and after the header's words, so that whoever reads it finds
  the change served, unless the replica is one that is rebuilt beside: that is shown later, by a
  line of its own. It names the change set, the generation and, where its author had one, the trace.
- A held entry is none of them: of that another line tells, and one more when it heals.
- A node that catches up commits thousands of entries at once. Beyond `MAX_LINES` a commit, one
  line tells the rest as a range: they are history, and their own lines are in the store's log.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Final

from control_plane.log.statements import ChangeSet
from control_plane.log.steps import Accepted
from control_plane.telemetry.trace_context import trace_of

MAX_LINES: Final = 16

logger = logging.getLogger("control_plane_daemon")


class Applied:
    """The change sets taken since the last commit of one environment."""

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._first: list[dict[str, object]] = []
        self._last: dict[str, object] | None = None
        self._count = 0

    def add(self, accepted: Accepted) -> None:
        """Note a change set that the next commit brings."""
        if not isinstance(accepted.statement, ChangeSet):
            return
        self._count += 1
        told: dict[str, object] = {
            "environment": self._environment, "generation": accepted.generation,
            "change": accepted.identity,
        }  # fmt: skip
        if self._count <= MAX_LINES:
            told["verb"] = accepted.statement.verb
            trace = trace_of(accepted.statement.reason)
            if trace is not None:
                told["traceparent"] = trace
            self._first.append(told)
        self._last = told

    def forget(self) -> None:
        """Drop what is not going to be committed."""
        self._first, self._last, self._count = [], None, 0

    def tell(self, held: Container[int]) -> None:
        """Write the lines, now that the commit is done; of entries ``held`` none."""
        first, last, count = self._first, self._last, self._count
        self.forget()
        for told in first:
            if told["generation"] not in held:
                logger.info(
                    "%s: entry %d applied", self._environment, told["generation"], extra=told,
                )  # fmt: skip
        if last is not None and count > len(first):
            logger.info(
                "%s: %d further entries applied, up to entry %d",
                self._environment, count - len(first), last["generation"], extra=last,
            )  # fmt: skip
