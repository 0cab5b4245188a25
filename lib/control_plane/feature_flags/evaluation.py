"""What an evaluation answers, in OpenFeature's words.

Reasons: STATIC (the flag has neither rules nor overrides), TARGETING_MATCH (an override or a
rule), SPLIT (a rule that divides by weight), DEFAULT (no rule matched), DISABLED (a kill, or
``enabled: false``), ERROR (``error_code`` says why, and ``value`` is the caller's default).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATIC = "STATIC"
TARGETING_MATCH = "TARGETING_MATCH"
SPLIT = "SPLIT"
DEFAULT = "DEFAULT"
DISABLED = "DISABLED"
ERROR = "ERROR"

FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
TYPE_MISMATCH = "TYPE_MISMATCH"
PARSE_ERROR = "PARSE_ERROR"
GENERAL = "GENERAL"
INVALID_CONTEXT = "INVALID_CONTEXT"
PROVIDER_NOT_READY = "PROVIDER_NOT_READY"


class Evaluation:
    """One answer and how it came about.

    ``value`` is the caller's default when ``variant`` is None. ``rule`` names the rule that
    decided, if one did. ``generation`` is that of the change that last touched the flag or its
    kill on this node, 0 when there is no record. ``flag_metadata`` is what the flag says of itself.
    """

    __slots__ = (
        "error_code", "flag_metadata", "generation", "reason", "rule", "value", "variant",
    )  # fmt: skip

    def __init__(
        self,
        value: Any,
        variant: str | None,
        reason: str,
        error_code: str | None = None,
        rule: str | None = None,
        generation: int = 0,
        flag_metadata: dict[str, Any] | None = None,
    ) -> None:
        self.value = value
        self.variant = variant
        self.reason = reason
        self.error_code = error_code
        self.rule = rule
        self.generation = generation
        self.flag_metadata = {} if flag_metadata is None else flag_metadata

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.value,
            self.variant,
            self.reason,
            self.error_code,
            self.rule,
            self.generation,
            self.flag_metadata,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # the value may be a list or a mapping

    def __repr__(self) -> str:
        return (
            f"Evaluation(value={self.value!r}, variant={self.variant!r}, reason={self.reason!r}, "
            f"error_code={self.error_code!r}, rule={self.rule!r}, generation={self.generation}, "
            f"flag_metadata={self.flag_metadata!r})"
        )


class Explanation:
    """An evaluation and the steps that led to it, each a sentence; its text is one step a line."""

    __slots__ = ("evaluation", "name", "steps")

    def __init__(self, name: str, evaluation: Evaluation, steps: tuple[str, ...]) -> None:
        self.name = name
        self.evaluation = evaluation
        self.steps = steps

    def __str__(self) -> str:
        return "\n".join(self.steps)

    def __repr__(self) -> str:
        return f"Explanation({self.name!r}, {self.evaluation!r}, {self.steps!r})"
