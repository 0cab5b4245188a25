"""What a caller holds of an agent or a tool: its own copy of a signed, immutable version.

- Attributes are the document's own (``version``, ``owner``, ``created_at``, …), then those of its
  ``metadata`` (``description``, ``temperature``, …). What this module adds (``digest``, ``status``,
  ``tools``, …) comes before both and cannot be assigned.
- Any other attribute can be assigned, and a list or mapping changed in place: that happens on the
  caller's copy alone. Containers are copied when first touched, scalars never, so taking an agent
  costs nothing but the object.
- ``tools`` is read-only: which versions meet an agent's requirements is decided where the agent
  is governed, not in the process that uses it.
- What flags changed (``applied``) stands in the attributes as if the caller had assigned it; bytes,
  digest and signature are always those of the manifest that was signed.
"""

from __future__ import annotations

from _collections_abc import Mapping

from control_plane.copies import fresh
from control_plane.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from control_plane.registries.exchange import Api
    from control_plane.registries.overrides import Applied, Moment
    from control_plane.replica.format import Record

    Load = Callable[[str, str], "Tool"]

ACTIVE = "active"
DEPRECATED = "deprecated"
YANKED = "yanked"
CHANNEL = "channel"
"""What `Applied.field` says where a flag chose the channel; no metadata is called so."""


class Loaded:
    """One version as read from the replica, shared by every copy handed out; never changes.

    ``channels`` are the versions that a flag may choose instead, by channel; None where no flag
    does. ``moment`` has the flags of the same transaction, None where none is asked.
    ``discouraged`` is deprecated or yanked, by its status or by its own word; None in use.
    ``plain``: it is handed out as it is, with no flag to ask and nothing to be told.
    """

    __slots__ = (
        "asks_flags",
        "blob",
        "channels",
        "discouraged",
        "document",
        "hash",
        "kind",
        "moment",
        "plain",
        "resolution",
        "status",
    )

    def __init__(
        self,
        kind: str,
        record: Record,
        document: dict[str, Any],
        status: dict[str, Any],
        resolution: dict[str, dict[str, Any]],
    ) -> None:
        self.kind = kind
        self.blob = record.body
        self.hash = record.hash
        self.document = document
        self.status = status
        self.resolution = resolution
        self.channels: dict[str, Loaded] | None = None
        self.moment: Moment | None = None
        said = status.get("status")
        if said in (None, ACTIVE):
            said = DEPRECATED if document.get("deprecated") is True else None
        self.discouraged: str | None = said
        self.asks_flags = kind == "agent" and bool(document["metadata"].get("overridable"))
        self.plain = said is None and not self.asks_flags

    def offer(self, channels: dict[str, Loaded]) -> None:
        """Let a flag choose one of these channels instead of the one it was read by."""
        self.channels = channels
        self.asks_flags = True
        self.plain = False

    @property
    def reference(self) -> str:
        """``agent/NAME@VERSION``, as every command prints it."""
        return f"{self.kind}/{self.document['name']}@{self.document['version']}"


class _Manifest:
    """What agents and tools have in common."""

    __slots__ = ("_applied", "_loaded", "_own")

    if TYPE_CHECKING:
        _applied: tuple[Applied, ...]
        _loaded: Loaded
        _own: dict[str, Any]
        name: str
        version: str
        owner: str
        metadata: dict[str, Any]

    def __init__(self, loaded: Loaded, applied: tuple[Applied, ...] = ()) -> None:
        _set_loaded(self, loaded)
        _set_applied(self, applied)
        _set_own(self, {each.field: each.new for each in applied if each.field != CHANNEL})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        own = self._own
        if name in own:
            return own[name]
        document = self._loaded.document
        if name in document:
            value = document[name]
        elif name in document["metadata"]:
            value = document["metadata"][name]
        else:
            known = ", ".join(sorted({*document, *document["metadata"]}))
            raise AttributeError(f"{self.reference}: expected one of {known}, found {name}")
        if isinstance(value, (dict, list)):
            value = own[name] = fresh(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            raise AttributeError(f"{self.reference}: expected a field to assign, found {name}")
        self._own[name] = value

    def __dir__(self) -> list[str]:
        document = self._loaded.document
        return sorted({*super().__dir__(), *document, *document["metadata"], *self._own})

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        from copy import deepcopy

        copy = self._again()
        copy._own.update(deepcopy(self._own, memo))
        return copy

    def _again(self) -> Self:
        return type(self)(self._loaded, self._applied)

    def __repr__(self) -> str:
        changed = ", ".join(f"{each.field} by flag {each.flag}" for each in self._applied)
        name = self._loaded.document["name"]
        return f"<{type(self).__name__} {name}@{self._version}{changed and ', ' + changed}>"

    @property
    def _version(self) -> str:
        return str(self._loaded.document["version"])

    @property
    def reference(self) -> str:
        """``agent/NAME@VERSION``, as every command prints it."""
        return self._loaded.reference

    @property
    def applied(self) -> tuple[Applied, ...]:
        """What flags changed for the tenant that asked: channel first, then fields; often nothing.

        Each has ``field``, ``flag``, ``variant``, ``old`` (the manifest's) and ``new``.
        """
        return self._applied

    @property
    def blob(self) -> bytes:
        """The exact canonical JSON that was signed, for whoever checks it again."""
        return self._loaded.blob

    @property
    def digest(self) -> str:
        """SHA-256 of `blob` in hex, computed now: what the change set in the log names."""
        from hashlib import sha256

        return sha256(self._loaded.blob).hexdigest()

    @property
    def status(self) -> str:
        """active, deprecated or yanked."""
        return str(self._loaded.status.get("status") or ACTIVE)

    @property
    def status_reason(self) -> str | None:
        """Why it was deprecated or yanked, in the words of whoever did it."""
        return self._loaded.status.get("reason")

    @property
    def successor(self) -> str | None:
        """What to use instead, if that was said."""
        return self._loaded.status.get("successor")

    def to_dict(self) -> dict[str, Any]:
        """The whole document with what the caller assigned, in containers of its own."""
        document: dict[str, Any] = fresh(self._loaded.document)
        # Envelope first: ``metadata`` may be among it, and what was assigned by name wins.
        of_metadata = [name for name in self._own if name not in document]
        for name in self._own.keys() - of_metadata:
            document[name] = fresh(self._own[name])
        for name in of_metadata:
            document["metadata"][name] = fresh(self._own[name])
        return document


class Tool(_Manifest):
    """A tool's version: the contract it is called through."""

    __slots__ = ()

    if TYPE_CHECKING:
        description: str
        category: str
        inputs_schema: dict[str, Any]
        outputs_schema: dict[str, Any]
        timeout_ms: int
        retry_attempts: int
        circuit_breaker_threshold: int

    def to_openai(self, api: Api = "chat") -> dict[str, Any]:
        """The function that OpenAI's API takes, ``chat`` or ``responses``; see `exchange`."""
        from control_plane.registries.exchange import to_openai

        return to_openai(self.to_dict(), api)

    def to_anthropic(self) -> dict[str, Any]:
        """The tool that Anthropic's Messages API takes; see `exchange`."""
        from control_plane.registries.exchange import to_anthropic

        return to_anthropic(self.to_dict())

    def to_mcp(self) -> dict[str, Any]:
        """The tool as an MCP server lists it; see `exchange`."""
        from control_plane.registries.exchange import to_mcp

        return to_mcp(self.to_dict())


class Agent(_Manifest):
    """An agent's version, and the tools it was approved with."""

    __slots__ = ("_load",)

    if TYPE_CHECKING:
        _load: Load
        description: str
        capabilities: list[str]
        max_tokens: int
        temperature: float
        system_prompt: str

    def __init__(self, loaded: Loaded, load: Load, applied: tuple[Applied, ...] = ()) -> None:
        super().__init__(loaded, applied)
        _set_load(self, load)

    def _again(self) -> Self:
        return type(self)(self._loaded, self._load, self._applied)

    @property
    def tools(self) -> Requirements:
        """The tools this agent asks for, by name, in the order of its manifest; read-only."""
        return Requirements(self._loaded, self._load)

    def resolved_as(self, resolution: dict[str, dict[str, Any]]) -> Self:
        """The same agent with tools found elsewhere than in the daemon's resolution: in a lock."""
        from copy import copy

        loaded = copy(self._loaded)
        loaded.resolution = resolution
        return type(self)(loaded, self._load, self._applied)


# What `object.__setattr__` does at a third of its cost: taking an agent is little else.
_set_loaded: Callable[[_Manifest, Loaded], None] = _Manifest.__dict__["_loaded"].__set__
_set_applied: Callable[[_Manifest, tuple[Applied, ...]], None] = _Manifest.__dict__[
    "_applied"
].__set__
_set_own: Callable[[_Manifest, dict[str, Any]], None] = _Manifest.__dict__["_own"].__set__
_set_load: Callable[[Agent, Load], None] = Agent.__dict__["_load"].__set__


class Requirement:
    """What an agent asks of one tool, and what the node's daemon found for it.

    ``specifier`` is a PEP 440 specifier, empty for any version. ``version`` and ``digest`` name
    what meets it, or are None and ``problem`` is the sentence that says why nothing does.
    """

    __slots__ = ("_load", "digest", "name", "optional", "problem", "specifier", "version")

    def __init__(self, name: str, resolution: dict[str, Any], load: Load) -> None:
        self.name = name
        self.specifier: str = resolution["specifier"] or ""
        self.optional: bool = resolution["optional"]
        self.version: str | None = resolution["version"]
        self.digest: str | None = resolution["digest"]
        self.problem: str | None = resolution["problem"]
        self._load = load

    def resolve(self) -> Tool:
        """The tool's version that meets this requirement.

        Raises:
            NotFound: none does; the message is ``problem``.
        """
        if self.version is None:
            raise NotFound(self.problem or f"tool/{self.name}: expected a version, found none")
        return self._load(self.name, self.version)

    def __repr__(self) -> str:
        return f"<Requirement {self.name}{self.specifier} met by {self.version}>"


class Requirements(Mapping[str, Requirement]):
    """The requirements of one agent version by tool name, in manifest order."""

    __slots__ = ("_load", "_loaded")

    def __init__(self, loaded: Loaded, load: Load) -> None:
        self._loaded = loaded
        self._load = load

    @property
    def agent(self) -> tuple[str, str]:
        """Name and version of the agent that asks."""
        return self._loaded.document["name"], self._loaded.document["version"]

    @property
    def resolution(self) -> dict[str, dict[str, Any]]:
        """What the agent was read with; shared, not to be changed."""
        return self._loaded.resolution

    def __getitem__(self, name: str) -> Requirement:
        return Requirement(name, self._loaded.resolution[name], self._load)

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded.resolution)

    def __len__(self) -> int:
        return len(self._loaded.resolution)

    def __repr__(self) -> str:
        return f"<tools of {'@'.join(self.agent)}: {', '.join(self) or 'none'}>"


class CompatibilityReport:
    """The answer of ``validate_tool_compatibility``: true without problems.

    ``problems`` are sentences for a person; ``version`` is the tool's version that would be used.
    """

    __slots__ = ("problems", "tool", "version")

    def __init__(self, tool: str, version: str | None, problems: tuple[str, ...]) -> None:
        self.tool = tool
        self.version = version
        self.problems = problems

    def __bool__(self) -> bool:
        return not self.problems

    def __repr__(self) -> str:
        return f"<CompatibilityReport {self.tool}: {'; '.join(self.problems) or self.version}>"


class Listed:
    """One name of the registry: its published versions, oldest first, and its channels."""

    __slots__ = ("channels", "name", "versions")

    def __init__(self, name: str, versions: tuple[str, ...], channels: dict[str, str]) -> None:
        self.name = name
        self.versions = versions
        self.channels = channels

    @property
    def stable(self) -> str | None:
        """The version that ``get_agent`` and ``get_tool`` take when none is named."""
        return self.channels.get("stable")

    def __repr__(self) -> str:
        return f"<Listed {self.name}: {', '.join(self.versions)}; stable {self.stable}>"


def unresolved(references: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Tool references as requirements that nothing has been found for yet.

    A reference is ``crm_tool``, ``crm_tool>=1.2,<2`` or ``{name, version, optional}``.
    """
    requirements = {}
    for reference in references:
        if isinstance(reference, str):
            reference = dict(zip(("name", "version"), _split(reference), strict=True))
        name = reference["name"]
        requirements[name] = {
            "specifier": reference.get("version", ""),
            "optional": reference.get("optional", False),
            "version": None,
            "digest": None,
            "problem": f"tool/{name}: expected a resolution by the daemon, found none yet",
        }
    return requirements


def _split(reference: str) -> tuple[str, str]:
    """Name and specifier of ``crm_tool>=1.2``; names hold none of the operators' characters."""
    for index, character in enumerate(reference):
        if character in "<>=!~ ":
            return reference[:index], reference[index:].strip()
    return reference, ""
