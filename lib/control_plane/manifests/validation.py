"""Whether a document may be published: the same answer for authors, the store and every node.

In this order, and the first refusal is the answer:

1. it is a mapping with a known kind, a name inside its pattern, at most 64 levels deep and no
   larger than its kind allows (flag, segment, agent, tool 1 MiB; config 16 MiB, 200,000 leaves);
2. metadata repeats no field of the envelope, and the document fits its kind's JSON Schema;
3. the rules a schema cannot say, on what each environment will see:
   - flag: variants, weights and names of the flag itself and of each environment's merged result;
   - segment: names and operands of its rules;
   - config: see `configs`;
   - agent: each tool is referred to once, by a specifier that parses; what flags may change has a
     value of its own that is inside the schema declared for it;
   - tool: both schemas compile and refer to nothing outside themselves.

A refusal is one line: ``flag/x: expected …, found … at metadata.variants.on; cure``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from control_plane.errors import (
    ChecksumMismatch,
    ManifestInvalid,
    SyntaxInvalid,
)
from control_plane.log.canonical import Json, parse_canonical
from control_plane.manifests.configs import check_config, validate_config
from control_plane.manifests.documents import (
    KINDS,
    blob,
    checksum,
    containers,
    reference,
    signature_of,
)
from control_plane.manifests.environments import environments_of, merged_flag
from control_plane.manifests.json_schema import (
    CompiledSchema,
    compile_schema,
    refusal,
    shown,
    written_path,
)
from control_plane.manifests.loader import Document
from control_plane.names import (
    MAX_CONFIG_BYTES,
    MAX_DEPTH,
    MAX_MANIFEST_BYTES,
    check_name,
)
from control_plane.schemas import schema

__all__ = [
    "max_bytes",
    "signature_of",
    "validate",
    "validate_blob",
    "validate_config",
    "validate_document",
]


def validate(document: Json, *, what: str | None = None, environment: str | None = None) -> None:
    """Refuse a document that breaks a rule of its kind; ``what`` names it in the message.

    A document is checked for each environment it names, and for ``environment`` when it is given.

    Raises:
        ManifestInvalid: with the path to the place inside the document.
        MissingExtra: without the packages of the extra ``publish``.
    """
    known = _envelope(document, what)
    name = what or reference(known)
    _check_depth(known, name)
    _check_size(known, name)
    _check_rules(known, name, environment)


def _check_rules(known: dict[str, Any], name: str, environment: str | None) -> None:
    _check_repeated(known, name)
    finding = _validator(known["kind"]).nearest_finding(known)
    if finding is not None:
        raise refusal(name, finding)
    try:
        _RULES[known["kind"]](known, name, environment)
    except ManifestInvalid as error:
        raise _named(error, name) from error


def validate_document(document: Document, *, environment: str | None = None) -> None:
    """``validate`` whose message starts with the file, line and column of the place.

    Raises:
        ManifestInvalid: as ``validate``.
    """
    try:
        validate(document.value, environment=environment)
    except ManifestInvalid as error:
        raise ManifestInvalid(f"{document.place(error.path)}: {error}", error.path) from error


def validate_blob(
    kind: str,
    name: str,
    version: str | None,
    data: bytes,
    checksum_sha256: str | None,
    *,
    environment: str | None = None,
) -> dict[str, Json]:
    """The document in a change's blob, once it is what the change says and is valid.

    Raises:
        SyntaxInvalid: when the bytes are not canonical JSON.
        ManifestInvalid: when kind, name, version or a rule does not agree.
        ChecksumMismatch: when the content is not what was signed.
    """
    what = f"{kind}/{name}" + (f"@{version}" if version else "")
    document = parse_canonical(data, what=what, max_bytes=max_bytes(kind))
    if not isinstance(document, dict):
        raise ManifestInvalid(f"{what}: expected a mapping, found {shown(document)}")
    # Flags, segments and configs may carry a version as a label; the change then has none.
    expected = {"kind": kind, "name": name, **({"version": version} if version else {})}
    for key, value in expected.items():
        if document.get(key) != value:
            found = shown(document[key]) if key in document else "none"
            raise ManifestInvalid(f"{what}: expected the {key} {value}, found {found}", (key,))
    # Depth and size were the parser's to check.
    _check_rules(_envelope(document, what), what, environment)
    _check_checksum(document, what, checksum_sha256)
    return document


def max_bytes(kind: str) -> int:
    """The size of the largest blob a kind may have."""
    return MAX_CONFIG_BYTES if kind == "config" else MAX_MANIFEST_BYTES


@cache
def _validator(kind: str) -> CompiledSchema:
    """A constant computed when it is first needed: the schemas are part of the package."""
    return CompiledSchema(schema(kind))


@cache
def _envelope_fields(kind: str) -> frozenset[str]:
    return frozenset(schema(kind)["properties"])


def _envelope(document: Json, what: str | None) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ManifestInvalid(f"{what or 'manifest'}: expected a mapping, found {shown(document)}")
    kind, name = document.get("kind"), document.get("name")
    if kind not in KINDS:
        found = shown(kind) if "kind" in document else "none"
        raise ManifestInvalid(
            f"{what or reference(document)}: expected the kind {', '.join(KINDS)}, found {found}",
            ("kind",),
        )
    if not isinstance(name, str):
        found = shown(name) if "name" in document else "none"
        raise ManifestInvalid(f"{what or kind}: expected a name, found {found}", ("name",))
    check_name(str(kind), name)
    return document


def _check_depth(document: dict[str, Any], what: str) -> None:
    for path, _ in containers(document):
        if len(path) >= MAX_DEPTH:
            raise ManifestInvalid(f"{what}: expected at most {MAX_DEPTH} levels, found more", path)


def _check_size(document: dict[str, Any], what: str) -> None:
    limit = max_bytes(document["kind"])
    try:
        size = len(blob(document))
    except SyntaxInvalid as error:
        raise ManifestInvalid(f"{what}: {error}") from error
    if size > limit:
        raise ManifestInvalid(f"{what}: expected at most {limit} bytes, found {size}")


def _check_repeated(document: dict[str, Any], what: str) -> None:
    metadata = document.get("metadata")
    envelope = _envelope_fields(document["kind"])
    for key in metadata if isinstance(metadata, dict) else ():
        if key in envelope:
            raise ManifestInvalid(
                f"{what}: expected {key} in the envelope only, found it in metadata too "
                f"at {written_path(('metadata', key))}",
                ("metadata", key),
            )


def _check_checksum(document: Mapping[str, Json], what: str, expected: str | None) -> None:
    written = document.get("checksum_sha256")
    if expected is None and written is None:
        return
    found = checksum(document)
    if written is None:
        raise ChecksumMismatch(f"{what}: expected the field checksum_sha256 {found}, found none")
    for claim in (expected, written):
        if claim is not None and claim != found:
            raise ChecksumMismatch(f"{what}: expected checksum {claim}, found {found}")


def _named(error: ManifestInvalid, what: str) -> ManifestInvalid:
    """The error with the document's name in front, unless it has one."""
    text = str(error)
    return error if text.startswith(f"{what}:") else ManifestInvalid(f"{what}: {text}", error.path)


# The rules of each kind


def _check_flag(document: dict[str, Any], what: str, environment: str | None) -> None:
    from control_plane.feature_flags.compile import check_flag

    metadata = document["metadata"]
    # An environment without a block sees what those see that are not named at all.
    for block in (None, *environments_of(document)):
        try:
            check_flag(merged_flag(metadata, block))
        except ManifestInvalid as error:
            raise _flag_refusal(what, block, error) from error


def _flag_refusal(what: str, block: str | None, error: ManifestInvalid) -> ManifestInvalid:
    """The flag compiler's refusal, which starts with a path inside the metadata, in our form."""
    path = ("metadata", *error.path)
    place = ".".join(str(step) for step in error.path) or "metadata"
    problem, semicolon, cure = str(error).removeprefix(f"{place}: ").partition("; ")
    seen = f" for {block}" if block is not None else ""
    return ManifestInvalid(
        f"{what}: {problem} at {written_path(path)}{seen}{semicolon}{cure}", path
    )


def _check_segment(document: dict[str, Any], what: str, environment: str | None) -> None:
    from control_plane.feature_flags.definition import parse_segment_rules

    if "rules" in document["metadata"]:
        try:
            parse_segment_rules(document["metadata"]["rules"])
        except ManifestInvalid as error:
            raise _flag_refusal(what, None, error) from error


def _check_agent(document: dict[str, Any], what: str, environment: str | None) -> None:
    from control_plane.replica.resolution import tool_references

    tool_references(document)
    _check_overridable(document["metadata"])


def _check_overridable(metadata: Mapping[str, Any]) -> None:
    from control_plane.registries.overrides import OVERRIDABLE, fits

    for field, declared in metadata.get(OVERRIDABLE, {}).items():
        schema = declared.get("schema", {})
        if field in metadata and not fits(metadata[field], schema):
            raise ManifestInvalid(
                f"expected a value inside the schema that {OVERRIDABLE} declares for {field},"
                f" found {shown(metadata[field])} at {written_path(('metadata', field))}",
                ("metadata", field),
            )


def _check_tool(document: dict[str, Any], what: str, environment: str | None) -> None:
    for field in ("inputs_schema", "outputs_schema"):
        if field in document["metadata"]:
            compile_schema(document["metadata"][field], path=("metadata", field))


_RULES = {
    "flag": _check_flag,
    "segment": _check_segment,
    "config": check_config,
    "agent": _check_agent,
    "tool": _check_tool,
}
