"""Which version of each tool an agent gets, or why none does.

- A reference is ``crm_tool``, ``crm_tool>=1.2,<2`` or ``{name, version, optional}``; the
  specifier is PEP 440's, a bare version means exactly that one. An agent refers to a tool once.
- The tool's ``stable`` version is taken when it meets the specifier and is not yanked; else the
  highest version that does. A deprecated version still does.
- Pre-releases count only where the specifier names one, or where ``stable`` was moved to one.
- A tool that cannot be had is a *problem*: a sentence with what was asked and what is there. An
  optional one is resolved alike; whether to do without it is the reader's decision.

What the tools offer is an argument, so that the daemon, the test kit and a reader decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from control_plane.errors import ManifestInvalid, MissingExtra
from control_plane.names import is_name

try:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version
except ImportError as error:
    raise MissingExtra.of("packaging", "publish") from error

YANKED = "yanked"
_OPERATORS = "<>=!~"
_LISTED_VERSIONS = 8


class Offered(NamedTuple):
    """What is published of one tool: digest by version, status by version, the stable version."""

    versions: Mapping[str, str]
    statuses: Mapping[str, str]
    stable: str | None


class ToolReference(NamedTuple):
    """What an agent asks for; an empty specifier is met by every release."""

    name: str
    specifier: str
    optional: bool


NOTHING_OFFERED = Offered({}, {}, None)


def resolve(
    agent_document: Mapping[str, Any], tools: Callable[[str], Offered]
) -> dict[str, dict[str, Any]]:
    """Each tool of an agent, in the manifest's order, as a resolution record holds it.

    ``{name: {"specifier", "optional", "version", "digest", "problem"}}``: either version and
    digest or the problem is there, the others are None.

    Raises:
        ManifestInvalid: for a reference that does not parse or names a tool again.
    """
    return {
        reference.name: _resolved(reference, tools(reference.name))
        for reference in tool_references(agent_document)
    }


def tool_references(agent_document: Mapping[str, Any]) -> list[ToolReference]:
    """What an agent's ``metadata.tools`` ask for, in order.

    Raises:
        ManifestInvalid: for a reference that does not parse or names a tool again.
    """
    references: dict[str, ToolReference] = {}
    for index, written in enumerate(agent_document["metadata"].get("tools", ())):
        path = ("metadata", "tools", index)
        reference = parse_tool_reference(written, path=path)
        if reference.name in references:
            raise ManifestInvalid(
                f"expected each tool once, found {reference.name} again at metadata.tools[{index}]",
                path,
            )
        references[reference.name] = reference
    return list(references.values())


def parse_tool_reference(
    written: str | Mapping[str, Any], *, path: tuple[str | int, ...] = ()
) -> ToolReference:
    """``crm_tool``, ``crm_tool>=1.2,<2`` or ``{name, version, optional}``.

    Raises:
        ManifestInvalid: for a name outside its pattern or a specifier PEP 440 does not know.
    """
    if isinstance(written, str):
        name, specifier, optional = *_split(written), False
    else:
        name, specifier = str(written["name"]), str(written.get("version", "")).strip()
        optional = bool(written.get("optional", False))
    if specifier and specifier[0] not in _OPERATORS:
        specifier = f"=={specifier}"
    try:
        SpecifierSet(specifier)
        well_formed = is_name("tool", name)
    except InvalidSpecifier:
        well_formed = False
    if not well_formed:
        shown = written if isinstance(written, str) else f"{name} with version {specifier}"
        raise ManifestInvalid(
            f"expected a tool such as crm_tool or crm_tool>=1.2,<2, found {shown[:60]!r}"
            + _place(path),
            path,
        )
    return ToolReference(name, specifier, optional)


def _split(written: str) -> tuple[str, str]:
    """Name and specifier; a name has none of the operators' characters."""
    end = min((at for at in map(written.find, _OPERATORS) if at >= 0), default=len(written))
    return written[:end].strip(), written[end:].strip()


def _place(path: tuple[str | int, ...]) -> str:
    return f" at metadata.tools[{path[-1]}]" if path else ""


def _resolved(reference: ToolReference, offered: Offered) -> dict[str, Any]:
    version = _chosen(SpecifierSet(reference.specifier), offered)
    return {
        "specifier": reference.specifier,
        "optional": reference.optional,
        "version": version,
        "digest": None if version is None else offered.versions[version],
        "problem": None if version is not None else _problem(reference, offered),
    }


def _chosen(specifier: SpecifierSet, offered: Offered) -> str | None:
    stable = offered.stable
    if stable is not None and _usable(stable, offered) and specifier.contains(stable, True):
        return stable
    pre_releases = bool(specifier.prereleases)
    meeting = [
        version
        for version in offered.versions
        if _usable(version, offered) and specifier.contains(version, pre_releases)
    ]
    return max(meeting, key=Version, default=None)


def _usable(version: str, offered: Offered) -> bool:
    return version in offered.versions and offered.statuses.get(version) != YANKED


def _problem(reference: ToolReference, offered: Offered) -> str:
    asked = f"tool/{reference.name}{reference.specifier}"
    if not offered.versions:
        return f"expected {asked}, found no version of it"
    newest = sorted(offered.versions, key=_order, reverse=True)
    listed = [
        f"{version} ({YANKED})" if offered.statuses.get(version) == YANKED else version
        for version in newest[:_LISTED_VERSIONS]
    ]
    more = len(newest) - len(listed)
    return f"expected {asked}, found {', '.join(listed)}" + (f" and {more} more" if more else "")


def _order(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")
