"""How far a tool's version number has to move, from what became of its schemas.

- What callers may send must stay accepted: the older version's inputs are compared with the
  newer's. What they may receive must stay within what they knew: the newer's outputs are compared
  with the older's. Both compatible: the change is compatible; one of them breaking: it is
  breaking; else it is unknown, which counts as breaking, because nobody could say it is not.
- A breaking change moves the first number that is not 0 (1.4.2 to 2.0.0, 0.4.2 to 0.5.0, any
  number within 0.0): what ``~=`` and caret ranges take for compatible. From 1.0.0 on a compatible
  change that lets more through moves the second number. Where callers can tell no difference any
  number will do.
- A version is compared with its neighbours in PEP 440's order, below and above, so that a version
  published between two others breaks neither step. Pre-releases, development releases and yanked
  versions promise nothing: they are held to nothing, and nothing is compared with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from packaging.version import Version

from control_plane.errors import ManifestInvalid
from control_plane.registries.schema_comparison import (
    BREAKING,
    COMPATIBLE,
    UNKNOWN,
    Comparison,
    compare_schemas,
)

MAJOR: Final = "major"
MINOR: Final = "minor"
PATCH: Final = "patch"
_RANK: Final = (PATCH, MINOR, MAJOR)


class ToolComparison(NamedTuple):
    """An older and a newer version of a tool: what of each schema, and the bump it asks for."""

    inputs: Comparison
    outputs: Comparison
    needed: str

    @property
    def verdict(self) -> str:
        """compatible, breaking or unknown: the worse of the two."""
        found = {self.inputs.verdict, self.outputs.verdict}
        return BREAKING if BREAKING in found else UNKNOWN if UNKNOWN in found else COMPATIBLE


def compare_tools(older: Mapping[str, Any], newer: Mapping[str, Any]) -> ToolComparison:
    """Compare two documents of one tool.

    Raises:
        ManifestInvalid: one of the schemas is none that a manifest may have.
    """
    send, sent = _schema(older, "inputs_schema"), _schema(newer, "inputs_schema")
    receive, received = _schema(older, "outputs_schema"), _schema(newer, "outputs_schema")
    inputs, outputs = compare_schemas(send, sent), compare_schemas(received, receive)
    if not inputs.verdict == outputs.verdict == COMPATIBLE:
        return ToolComparison(inputs, outputs, MAJOR)
    back = (compare_schemas(sent, send), compare_schemas(receive, received))
    alike = all(found.verdict == COMPATIBLE for found in back)
    return ToolComparison(inputs, outputs, PATCH if alike else MINOR)


def bump_between(older: str, newer: str) -> str:
    """The largest change that the step from one version to a later one announces."""
    before, after = Version(older), Version(newer)
    if before.epoch != after.epoch:
        return MAJOR
    one, two = _numbers(before), _numbers(after)
    if one == two:
        return PATCH
    first = next((at for at, number in enumerate(one) if number), len(one) - 1)
    moved = next(at for at in range(len(one)) if one[at] != two[at])
    if moved <= first:
        return MAJOR
    # Below 1.0 there is no number for additions of its own.
    return MINOR if moved == 1 or first > 0 else PATCH


def check_bump(document: Mapping[str, Any], published: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a tool's version whose number hides what became of its schemas.

    ``published`` are the versions of the same tool that stand and are not yanked.

    Raises:
        ManifestInvalid: naming the neighbour, the place, the reason and a number that would do.
    """
    version = Version(document["version"])
    if version.is_prerelease:
        return
    finals = {Version(each["version"]): each for each in published}
    finals = {at: each for at, each in finals.items() if not at.is_prerelease and at != version}
    below = max((at for at in finals if at < version), default=None)
    above = min((at for at in finals if at > version), default=None)
    if below is not None:
        _check_step(finals[below], document, document)
    if above is not None:
        _check_step(document, finals[above], document)


def _check_step(
    older: Mapping[str, Any], newer: Mapping[str, Any], published: Mapping[str, Any]
) -> None:
    found = compare_tools(older, newer)
    announced = bump_between(older["version"], newer["version"])
    if _RANK.index(announced) >= _RANK.index(found.needed):
        return
    what = f"tool/{published['name']}@{published['version']}"
    step = f"from {older['version']} to {newer['version']}"
    raise ManifestInvalid(
        f"{what}: expected a {found.needed} step for a change that is {_said(found)}, found the"
        f" step {step}; {_cure(older, newer, published, found.needed)}",
        ("version",),
    )


def _said(found: ToolComparison) -> str:
    sides = (("inputs", found.inputs), ("outputs", found.outputs))
    told = [f"{each} ({side})" for side, each in sides if each.verdict != COMPATIBLE]
    return ", ".join(told) or "compatible and lets more through"


def _cure(
    older: Mapping[str, Any], newer: Mapping[str, Any], published: Mapping[str, Any], needed: str
) -> str:
    if published is not newer:
        return "give it another number, above the versions there are"
    return f"publish it as {next_version(older['version'], needed)}"


def next_version(version: str, needed: str) -> str:
    """The first final version after one that announces a change of that size."""
    known = Version(version)
    numbers = _numbers(known)
    first = next((at for at, number in enumerate(numbers) if number), 2)
    at = {MAJOR: first, MINOR: 1 if first == 0 else 2, PATCH: 2}[needed]
    moved = [*numbers[:at], numbers[at] + 1, *([0] * (2 - at))]
    epoch = f"{known.epoch}!" if known.epoch else ""
    return epoch + ".".join(map(str, moved))


def _numbers(version: Version) -> tuple[int, int, int]:
    return version.major, version.minor, version.micro


def _schema(document: Mapping[str, Any], field: str) -> Any:
    return document["metadata"].get(field, True)
