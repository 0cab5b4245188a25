"""Whether a document may be published: the same answer for authors, the store and every node.

In this order, and the first refusal is the answer:

1. it is a mapping with a known kind, a name inside its pattern, at most 64 levels deep and no
   larger than its kind allows (flag, segment, agent, tool 1 MiB; config 16 MiB, 200,000 leaves);
2. metadata repeats no field of the envelope, and the document fits its kind's JSON Schema;
3. the rules a schema cannot say, on what each environment will see:
   - flag: variants, weights and names of the flag itself and of each environment's merged result;
   - segment: names and operands of its rules;
   - config: every environment's and tenant's merged values fit the config's own schema, and are
     20 million leaves at most taken together; keys that start with ``$`` and ``${`` in text are
     reserved;
   - agent: each tool is referred to once, by a specifier that parses;
   - tool: both schemas compile and refer to nothing outside themselves.

A refusal is one line: ``flag/x: expected …, found … at metadata.variants.on; cure``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from control_plane.configs.layers import BASE_TENANT, merged_config, tenant_of
from control_plane.errors import (
    ChecksumMismatch,
    ManifestInvalid,
    SyntaxInvalid,
)
from control_plane.log.canonical import Json, parse_canonical
from control_plane.manifests.documents import (
    KINDS,
    blob,
    checksum,
    reference,
    signature_of,
)
from control_plane.manifests.environments import environments_of, merged_flag
from control_plane.manifests.json_schema import (
    CompiledSchema,
    Finding,
    Path,
    compile_schema,
    refusal,
    shown,
    written_path,
)
from control_plane.manifests.loader import Document
from control_plane.names import (
    MAX_CONFIG_BYTES,
    MAX_CONFIG_LEAVES,
    MAX_DEPTH,
    MAX_MANIFEST_BYTES,
    check_name,
    is_tenant,
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


MAX_MERGED_LEAVES = 20_000_000
"""How many leaves one config's schema judges: all environments' and tenants' merged values."""


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


def validate_config(
    base: Mapping[str, Any] | None,
    tenant_documents: Iterable[Mapping[str, Any]],
    environment: str | None,
    *,
    what: str | None = None,
) -> None:
    """Refuse a namespace whose merged values for one environment break the base's own schema.

    ``base`` is the manifest ``database``, ``tenant_documents`` are ``database@…``.

    Raises:
        ManifestInvalid: naming the tenant and the place in the merged values.
    """
    if base is None or "schema" not in base["metadata"]:
        return
    compiled = compile_schema(base["metadata"]["schema"], path=("metadata", "schema"))
    _check_merged(base, list(tenant_documents), [environment], compiled, what or reference(base))


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
    for path, _ in _walk(document):
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


def _walk(root: Any) -> Iterator[tuple[Path, Any]]:
    """Every mapping and list with its path, without recursion, and not below the depth allowed."""
    pending: list[tuple[Path, Any]] = [((), root)]
    while pending:
        path, value = pending.pop()
        yield path, value
        if len(path) < MAX_DEPTH:
            steps = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend(
                ((*path, step), inner) for step, inner in steps if isinstance(inner, (dict, list))
            )


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


def _check_config(document: dict[str, Any], what: str, environment: str | None) -> None:
    metadata = document["metadata"]
    leaves = _check_leaves(metadata, what)
    _check_tenants(metadata, what)
    if tenant_of(document["name"])[1] or "schema" not in metadata:
        return
    compiled = compile_schema(metadata["schema"], path=("metadata", "schema"))
    environments = _environments(document, environment) or [None]
    _check_work(metadata, leaves, environments, what)
    _check_merged(document, [], environments, compiled, what)


def _check_work(
    metadata: dict[str, Any], leaves: int, environments: list[str | None], what: str
) -> None:
    """Refuse what would take the store and every node minutes to judge.

    ``leaves`` is how many the metadata holds in all; mostly that is few enough to count no more.
    """
    if leaves * len(environments) * (1 + len(metadata.get("tenants", {}))) <= MAX_MERGED_LEAVES:
        return
    values, blocks = _leaves(metadata.get("values", {})), metadata.get("environments", {})
    base = sum(values + _leaves(blocks.get(environment, {})) for environment in environments)
    merged = base * (1 + len(metadata.get("tenants", {})))
    if merged > MAX_MERGED_LEAVES:
        raise ManifestInvalid(
            f"{what}: expected at most {MAX_MERGED_LEAVES} leaves when every tenant is merged,"
            f" found {merged}; give tenants manifests of their own, or leave out the schema",
            ("metadata", "tenants"),
        )


def _check_merged(
    base: Mapping[str, Any],
    tenant_documents: list[Mapping[str, Any]],
    environments: list[str | None],
    compiled: CompiledSchema,
    what: str,
) -> None:
    for environment in environments:
        for tenant, values in merged_config(base, tenant_documents, environment):
            finding = compiled.first_finding(values)
            if finding is not None:
                raise _merged_refusal(what, base["metadata"], environment, tenant, finding)


def _merged_refusal(
    what: str,
    metadata: Mapping[str, Any],
    environment: str | None,
    tenant: str,
    finding: Finding,
) -> ManifestInvalid:
    """The refusal at the highest layer that holds the place, so that it leads to a line."""
    layers: list[Path] = [("tenants", tenant), ("environments", environment or ""), ("values",)]
    layer = next(
        (layer for layer in layers if _holds(metadata, (*layer, *finding.path))), layers[-1]
    )
    seen = ([f"for {environment}"] if environment else []) + (
        [f"for tenant {tenant}"] if tenant != BASE_TENANT else []
    )
    return refusal(": ".join([what, *seen]), finding, ("metadata", *layer))


def _holds(value: Any, path: Path) -> bool:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _check_leaves(metadata: dict[str, Any], what: str) -> int:
    """How many leaves all blocks hold, each of them within the rules."""
    leaves = 0
    for block in ("values", "environments", "tenants"):
        for path, value in _walk(metadata.get(block, {})):
            place = ("metadata", block, *path)
            leaves += _own_leaves(value)
            if leaves > MAX_CONFIG_LEAVES:
                raise ManifestInvalid(
                    f"{what}: expected at most {MAX_CONFIG_LEAVES} leaves, found more", place
                )
            _check_reserved(value, place, what)
    return leaves


def _leaves(tree: Any) -> int:
    return sum(_own_leaves(value) for _, value in _walk(tree))


def _own_leaves(value: Any) -> int:
    """How many leaves stand in a mapping itself."""
    if not isinstance(value, dict):
        return 0
    return sum(1 for item in value.values() if not isinstance(item, dict) or not item)


def _check_reserved(value: dict[str, Any] | list[Any], place: Path, what: str) -> None:
    steps: Iterable[tuple[str | int, Any]] = (
        value.items() if isinstance(value, dict) else enumerate(value)
    )
    for step, item in steps:
        if isinstance(step, str) and step.startswith("$"):
            raise refusal(
                what, Finding((*place, step), "a key without a leading $", shown(step),
                              "such keys are reserved"),
            )  # fmt: skip
        if isinstance(item, str) and "${" in item:
            raise refusal(
                what, Finding((*place, step), "text without ${", shown(item),
                              "references are reserved"),
            )  # fmt: skip


def _check_tenants(metadata: dict[str, Any], what: str) -> None:
    for tenant in metadata.get("tenants", {}):
        if not is_tenant(tenant):
            raise refusal(
                what,
                Finding(
                    ("metadata", "tenants", tenant),
                    "a tenant id of 1 to 128 bytes, NFC, without control characters",
                    shown(tenant),
                ),
            )


def _check_agent(document: dict[str, Any], what: str, environment: str | None) -> None:
    from control_plane.replica.resolution import tool_references

    tool_references(document)


def _check_tool(document: dict[str, Any], what: str, environment: str | None) -> None:
    for field in ("inputs_schema", "outputs_schema"):
        if field in document["metadata"]:
            compile_schema(document["metadata"][field], path=("metadata", field))


_RULES = {
    "flag": _check_flag,
    "segment": _check_segment,
    "config": _check_config,
    "agent": _check_agent,
    "tool": _check_tool,
}


def _environments(document: dict[str, Any], environment: str | None) -> list[str | None]:
    """The environments a document is checked for."""
    named: list[str | None] = [*environments_of(document)]
    if environment is not None and environment not in named:
        named.append(environment)
    return named
