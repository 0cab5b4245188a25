"""A lock: an agent with everything it was approved with, pinned by digest and signed.

- It names the agent's version and digest, each tool's version and digest with the digests of its
  schemas, the digest of the prompt, the model settings, and each flag the agent's manifest lets
  decide something with the digest of its definition. Digests are SHA-256, of blobs as the log has
  them, else of canonical JSON (RFC 8785). A kill changes no definition.
- The file is one DSSE envelope in canonical JSON; any other spelling of it is refused, so no byte
  can change unseen. It is signed by a key that may sign the agent's manifests.
- ``open_lock`` asks for the form, the signature, the installation and the environment, in this
  order, before anything in it is believed. ``check`` compares what it pins with what a registry
  holds: the first difference is the refusal.
- A tool that is optional and cannot be had is pinned as absent. A required one that cannot be had
  makes no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from control_plane.errors import (
    ChecksumMismatch,
    FormatUnsupported,
    NotDelegated,
    SignatureInvalid,
    SyntaxInvalid,
)
from control_plane.log.canonical import Json, canonical, parse, sha256_hex
from control_plane.log.envelope import Envelope
from control_plane.registries.manifests import Agent, Tool

if TYPE_CHECKING:
    from control_plane.registries.registry_manager import _Registry
    from control_plane.trust.state import Policy

FORMAT: Final = 1
MAX_LOCK_BYTES: Final = 1 << 20
PAYLOAD_TYPE: Final = "application/vnd.control-plane.lock.v1+json"
SETTINGS: Final = (
    "model", "max_tokens", "temperature", "top_p", "top_k", "frequency_penalty",
    "presence_penalty", "seed", "stop_sequences", "response_format", "timeout_ms", "max_turns",
)  # fmt: skip
"""The fields of an agent that say how its model is asked."""
_FIELDS: Final = {
    "format", "installation", "environment", "agent", "prompt", "settings", "tools", "flags",
}  # fmt: skip

Pinned = dict[str, Any]


def lock_of(registry: _Registry, agent: Agent, installation: str, environment: str) -> Pinned:
    """What pins this agent as the registry holds it now, to be signed.

    Raises:
        NotFound: a required tool or a flag that is not there, and why.
    """
    metadata = _metadata(agent)
    return {
        "format": FORMAT,
        "installation": installation,
        "environment": environment,
        "agent": {"name": agent.name, "version": agent.version, "digest": agent.digest},
        "prompt": _digest(metadata.get("system_prompt", "")),
        "settings": {name: metadata[name] for name in SETTINGS if name in metadata},
        "tools": {name: _pinned_tool(agent, name) for name in agent.tools},
        "flags": {name: _flag_digest(registry, name) for name in flags_read(metadata)},
    }


def flags_read(metadata: Mapping[str, Any]) -> list[str]:
    """The flags that an agent's manifest lets decide its channel or its fields, by name."""
    found = {str(field["flag"]) for field in metadata.get("overridable", {}).values()}
    channel = metadata.get("channel_flag")
    return sorted(found | ({channel} if isinstance(channel, str) else set()))


def unsigned(pinned: Pinned) -> Envelope:
    """The envelope to sign."""
    return Envelope(PAYLOAD_TYPE, canonical(pinned))


def open_lock(data: bytes, policy: Policy, environment: str) -> Pinned:
    """What a lock file pins, once its signature, installation and environment are right.

    Raises:
        SyntaxInvalid, FormatUnsupported: not the bytes of a lock, or a newer one.
        SignatureInvalid, NotDelegated: changed, or not signed by a key that may sign the agent.
    """
    what = "lock"
    envelope = Envelope.from_json(parse(data, what=what, max_bytes=MAX_LOCK_BYTES))
    if envelope.encode() != data.rstrip(b"\n") or data.count(b"\n") > 1:
        raise SyntaxInvalid("lock: expected canonical JSON, found another spelling; lock again")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SyntaxInvalid(
            f"lock: expected an envelope of {PAYLOAD_TYPE}, found one of {envelope.payload_type!a}"
        )
    pinned = _read(envelope.payload)
    name = str(pinned["agent"]["name"])
    path = f"author/agent/{name}"
    signers = {each.key_id for each in envelope.signatures}
    if signers - policy.delegation(path).key_ids:
        # Whoever is no author adds nothing; bytes that say nothing must not be there either.
        raise NotDelegated(
            f"lock of agent/{name}: expected signatures by its authors only, found one by"
            f" {min(signers - policy.delegation(path).key_ids)}; lock again with a key in force"
        )
    if not signers:
        raise SignatureInvalid(f"lock of agent/{name}: expected a signature, found none")
    policy.authorise([path], envelope)
    known = policy.log(environment).installation
    for field, expected in (("installation", known), ("environment", environment)):
        if pinned[field] != expected:
            raise NotDelegated(
                f"lock of agent/{name}: expected the {field} {expected}, found {pinned[field]}"
            )
    return pinned


def check(registry: _Registry, pinned: Pinned, tenant_id: str | None = None) -> Agent:
    """The pinned agent, whose tools are those of the lock and no others.

    Fields are as ``get_agent`` gives them: what flags may change, they change for the tenant.

    Raises:
        ChecksumMismatch: what the registry holds has another digest.
        NotFound: it holds none.
    """
    named = pinned["agent"]
    agent = registry.get_agent(named["name"], named["version"], tenant_id)
    _same(agent.reference, named["digest"], agent.digest)
    metadata = _metadata(agent)
    _same(f"{agent.reference} prompt", pinned["prompt"], _digest(metadata.get("system_prompt", "")))
    settings = {name: metadata[name] for name in SETTINGS if name in metadata}
    _same(f"{agent.reference} settings", _digest(pinned["settings"]), _digest(settings))
    _same(f"{agent.reference} tools", sorted(agent.tools), sorted(pinned["tools"]))
    resolution = copy(agent.tools.resolution)
    for name, tool in pinned["tools"].items():
        resolution[name] = {**resolution[name], **_checked_tool(registry, name, tool)}
    _same(f"{agent.reference} flags", flags_read(metadata), sorted(pinned["flags"]))
    for name, digest in pinned["flags"].items():
        _same(f"flag/{name}", digest, _flag_digest(registry, name))
    return agent.resolved_as(resolution)


def differences(one: Pinned, other: Pinned) -> list[dict[str, Any]]:
    """What another lock pins otherwise: ``{path, old, new}``, in order of paths."""
    before, after = dict(_leaves(one, "")), dict(_leaves(other, ""))
    return [
        {"path": path, "old": before.get(path), "new": after.get(path)}
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _read(payload: bytes) -> Pinned:
    value = parse(payload, what="lock", max_bytes=MAX_LOCK_BYTES)
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise SyntaxInvalid("lock: expected an object with a format, found another value")
    if value["format"] != FORMAT:
        raise FormatUnsupported(f"lock: expected format {FORMAT}, found {value['format']}")
    agent, tools, flags = value.get("agent"), value.get("tools"), value.get("flags")
    if (
        set(value) != _FIELDS
        or not isinstance(agent, dict)
        or set(agent) != {"name", "version", "digest"}
        or not isinstance(tools, dict)
        or not all(isinstance(tool, dict) and "version" in tool for tool in tools.values())
        or not isinstance(flags, dict)
    ):
        raise SyntaxInvalid(f"lock: expected the fields {', '.join(sorted(_FIELDS))}, found others")
    return value


def _pinned_tool(agent: Agent, name: str) -> dict[str, Json]:
    requirement = agent.tools[name]
    if requirement.version is None and requirement.optional:
        return {"version": None}
    tool = requirement.resolve()
    if requirement.digest is not None:
        _same(tool.reference, requirement.digest, tool.digest)
    return _contents(tool)


def _contents(tool: Tool) -> dict[str, Json]:
    metadata = _metadata(tool)
    return {
        "version": tool.version,
        "digest": tool.digest,
        "inputs_schema": _digest(metadata.get("inputs_schema", True)),
        "outputs_schema": _digest(metadata.get("outputs_schema", True)),
    }


def _checked_tool(registry: _Registry, name: str, tool: dict[str, Any]) -> dict[str, Any]:
    if tool["version"] is None:
        problem = f"tool/{name}: expected a version in the lock, found it pinned as absent"
        return {"version": None, "digest": None, "problem": problem}
    found = _contents(registry.get_tool(name, tool["version"]))
    for field in ("digest", "inputs_schema", "outputs_schema"):
        what = f"tool/{name}@{tool['version']}"
        _same(what if field == "digest" else f"{what} {field}", tool.get(field), found[field])
    return {"version": tool["version"], "digest": tool["digest"], "problem": None}


def _metadata(manifest: Agent | Tool) -> dict[str, Any]:
    """What was signed, whatever flags or the caller made of the attributes."""
    document: Any = parse(manifest.blob, what=manifest.reference, max_bytes=MAX_LOCK_BYTES)
    found: dict[str, Any] = document["metadata"]
    return found


def _flag_digest(registry: _Registry, name: str) -> str | None:
    """The digest of a flag's definition for this environment; None without one."""
    definition = registry.flag_definition(name)
    return None if definition is None else _digest(definition)


def _digest(value: Any) -> str:
    return sha256_hex(canonical(value))


def _same(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise ChecksumMismatch(
            f"{what}: expected {_short(expected)} of the lock, found {_short(found)}; lock again if"
            " the change is meant"
        )


def _short(value: object) -> str:
    return str(value)[:200]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value
