"""What a configuration manifest must obey, alone and together with those it is merged with.

Alone, what its JSON Schema cannot say:

1. its blocks hold at most 200,000 leaves, keys do not start with ``$``, and ``${`` in text begins a
   reference;
2. tenants are ids that can be stored, and ``lists`` names paths;
3. the values of every environment and tenant, merged, with their references followed, fit its own
   ``schema``. All of them together are 20 million leaves at most. What only other documents can
   tell is left for them: a leaf that refers to another namespace, and what depends on it.

Together, for one environment, where all documents are at hand: the same with nothing left open, for
the base, each tenant of its own blocks, of ``database@…`` and of the namespaces referred to.

A refusal lists what is wrong, at most ten places of it, each in the highest layer that holds the
place: ``config/database: for production: for tenant acme: expected …, found … at metadata.…``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from control_plane.configs.layers import (
    APPEND,
    BASE_TENANT,
    decode_path,
    encode_path,
    tenant_of,
)
from control_plane.configs.references import START, Configuration, Documents, parts
from control_plane.errors import ManifestInvalid
from control_plane.manifests.documents import containers, reference
from control_plane.manifests.environments import environments_of
from control_plane.manifests.json_schema import (
    CompiledSchema,
    Finding,
    Path,
    compile_schema,
    refusal,
    shown,
    written_path,
)
from control_plane.names import MAX_CONFIG_LEAVES, is_tenant

MAX_MERGED_LEAVES: Final = 20_000_000
"""How many leaves one config's schema judges: all environments' and tenants' merged values."""

MAX_LISTED: Final = 10
"""How many places a refusal lists."""

MAX_COUNTED: Final = 1_000
"""How many it counts; whoever has more wrong than that need not know how much more."""

MAX_EXAMINED: Final = 5_000
"""Problems of one namespace that are looked at: for most tenants they are at the same places."""

Place = Callable[[str, Path], str]
"""Where a document's path is written, as ``file:line:column: ``; empty when that is not known."""

# Findings about a mapping or list itself, which hold whatever a leaf below it will be.
_STRUCTURAL: Final = frozenset(
    ("required", "additionalProperties", "type", "propertyNames", "minProperties", "maxProperties",
     "minItems", "maxItems", "dependentRequired")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """One place that is wrong; ``sentence`` is what was expected and found there, and the cure."""

    document: str
    path: Path
    sentence: str

    def line(self, place: Place | None = None) -> str:
        """The problem as a refusal has it."""
        where = "" if place is None else place(self.document, self.path)
        return f"{where}{self.document}: {self.sentence}"


def check_config(document: dict[str, Any], what: str, environment: str | None) -> None:
    """Refuse a document that breaks a rule whatever it is merged with.

    Raises:
        ManifestInvalid: with the path to the first place.
    """
    metadata = document["metadata"]
    leaves = _check_leaves(metadata, what)
    _check_tenants(metadata, what)
    _check_lists(metadata, what)
    name, tenant = tenant_of(document["name"])
    if tenant:
        return
    own = _environments(document, environment) or [None]
    if "schema" in metadata:
        _check_work(metadata, leaves, own, what)
    alone: Documents = (document, [])

    def in_environment(environment: str | None) -> Iterator[Problem]:
        configuration = Configuration(
            environment, lambda asked: alone if asked == name else None, complete=False
        )
        return problems(configuration, name, alone)

    refuse(chain.from_iterable(map(in_environment, own)), what=what)


def validate_config(
    base: Mapping[str, Any] | None,
    tenant_documents: Iterable[Mapping[str, Any]],
    environment: str | None,
    *,
    others: Callable[[str], Documents | None] | None = None,
) -> None:
    """Refuse a namespace whose merged values for one environment break the base's own schema.

    ``base`` is the manifest ``database``, ``tenant_documents`` are ``database@…``. ``others`` gives
    the documents of the namespaces referred to; without it those references are left open.

    Raises:
        ManifestInvalid: naming the tenants and the places in the manifests.
    """
    documents: Documents = (base, list(tenant_documents))
    named = documents[1] if base is None else [base]
    if not named:
        return
    name = tenant_of(named[0]["name"])[0]
    configuration = Configuration(
        environment,
        lambda asked: documents if asked == name else others(asked) if others else None,
        complete=others is not None,
    )
    refuse(problems(configuration, name, documents))


def check_together(documents: Mapping[str, Mapping[str, Any]], place: Place | None = None) -> None:
    """Refuse documents at hand, each valid for itself, that do not fit each other.

    ``documents`` are manifests by reference, configs among them. A namespace whose base is not
    here is left for the store; so is what tenants' manifests that are not here may say.

    Raises:
        ManifestInvalid: naming the places in whichever documents they are.
    """
    namespaces: dict[str, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for document in documents.values():
        if document["kind"] == "config":
            name, tenant = tenant_of(document["name"])
            namespaces.setdefault(name, ([], []))[bool(tenant)].append(document)
    known: dict[str, Documents] = {
        name: (base[0], tenants) for name, (base, tenants) in namespaces.items() if base
    }
    found: list[Problem] = []
    for name in sorted(known):
        found.extend(_problems_at_hand(name, known))
    refuse(found, place=place)


def _problems_at_hand(name: str, known: Mapping[str, Documents]) -> list[Problem]:
    """In the environments a namespace names; if it names none, what is wrong in all there are."""

    def in_environment(environment: str | None) -> list[Problem]:
        configuration = Configuration(environment, known.get, complete=False)
        return list(problems(configuration, name, known[name]))

    base, tenants = known[name]
    reach = Configuration(None, known.get).reach(name)
    if len(reach) == 1 and not tenants:
        return []
    named = _named([base, *tenants])
    if named:
        return [problem for each in named for problem in in_environment(each)]
    there = [document for each in reach for document in (each.documents[0], *each.documents[1])]
    environments: list[str | None] = [*_named(there)]
    first, *others = [in_environment(each) for each in environments or [None]]
    everywhere = [{(each.document, each.path) for each in found} for found in others]
    return [
        problem
        for problem in first
        if all((problem.document, problem.path) in found for found in everywhere)
    ]


def _named(documents: Iterable[Mapping[str, Any] | None]) -> list[str]:
    return sorted(
        {each for document in documents if document for each in environments_of(document)}
    )


def problems(
    configuration: Configuration,
    name: str,
    documents: Documents,
    *,
    tenants: Collection[str] | None = None,
    unfollowed: bool = True,
) -> Iterator[Problem]:
    """What is wrong with a namespace in one environment, each place once.

    It is looked at for the base and all tenants, or for the base and ``tenants``. With
    ``unfollowed`` a reference that leads nowhere is a problem, else it is left open.
    """
    seen: set[tuple[str, Path]] = set()
    found = _problems(configuration, name, documents, tenants, unfollowed)
    for problem in islice(found, MAX_EXAMINED):
        if (problem.document, problem.path) not in seen:
            seen.add((problem.document, problem.path))
            yield problem


def refuse(
    found: Iterable[Problem], *, what: str | None = None, place: Place | None = None
) -> None:
    """Raise for problems, if there are any; ``what`` is what the document in hand is called.

    Raises:
        ManifestInvalid: with the path to the first, listing the next and counting the others.
    """
    distinct: dict[tuple[str, Path], Problem] = {}
    for problem in found:
        distinct.setdefault((problem.document, problem.path), problem)
        if len(distinct) > MAX_COUNTED:
            break
    if not distinct:
        return
    first, *rest = distinct.values()
    line = first.line(place) if what is None else f"{what}: {first.sentence}"
    if rest:
        more = f"at least {MAX_COUNTED}" if len(rest) >= MAX_COUNTED else str(len(rest))
        listed = [problem.line(place) for problem in rest[: MAX_LISTED - 1]]
        line = " | ".join([f"{line}; and {more} more", *listed])
    raise ManifestInvalid(line, first.path, first.document)


def _problems(
    configuration: Configuration,
    name: str,
    documents: Documents,
    tenants: Collection[str] | None = None,
    unfollowed: bool = True,
) -> Iterator[Problem]:
    base = documents[0]
    judged = base is not None and "schema" in base["metadata"]
    if configuration.speaks(name):
        _check_judged(configuration, name, tenants, whole=judged)
    if unfollowed and configuration.speaks(name):
        broken = []

        def failed(tenant: str, path: str, error: ManifestInvalid) -> None:
            sentence = str(error).removeprefix(f"{error.document}: ")
            broken.append(Problem(error.document, error.path, sentence))

        configuration.leaves(name, failed, tenants)
        if broken:
            # Values that cannot be made out cannot be judged either.
            yield from broken
            return
    if base is None or not judged:
        return
    compiled = _compiled(base)
    layers = _Layers(name, documents, configuration.environment)
    for tenant, values, left_open in configuration.trees(name, tenants, unfollowed=unfollowed):
        undecided = [decode_path(path)[1:] for path in left_open]
        for finding in compiled.findings(values, MAX_COUNTED + 1):
            if not undecided or _holds_anyway(finding, undecided):
                yield layers.problem(tenant, finding)


def _check_judged(
    configuration: Configuration, name: str, tenants: Collection[str] | None, *, whole: bool
) -> None:
    """Refuse what tenants would multiply past the bound: references, and the whole for a schema."""
    judged = len(configuration.tenants(name) if tenants is None else tenants) + 1
    merged = judged * configuration.weight(name, whole=whole)
    if merged > MAX_MERGED_LEAVES:
        raise ManifestInvalid(
            f"config/{name}: expected at most {MAX_MERGED_LEAVES} leaves and references when every"
            f" tenant of what it refers to is merged, found {merged}; refer from a smaller config",
            ("metadata",),
            f"config/{name}",
        )


def _compiled(base: Mapping[str, Any]) -> CompiledSchema:
    try:
        return compile_schema(base["metadata"]["schema"], path=("metadata", "schema"))
    except ManifestInvalid as error:
        what = reference(base)
        raise ManifestInvalid(f"{what}: {error}", error.path, what) from error


def _holds_anyway(finding: Finding, undecided: list[tuple[str, ...]]) -> bool:
    """Whether a finding stands whatever the undecided leaves turn out to be."""
    if finding.conditional:
        return False
    for leaf in undecided:
        shorter = min(len(leaf), len(finding.path))
        if leaf[:shorter] == finding.path[:shorter] and (
            shorter == len(leaf) or finding.keyword not in _STRUCTURAL
        ):
            return False
    return True


class _Layers:
    """Which manifest says what of a namespace, to lead a finding to a line."""

    def __init__(self, name: str, documents: Documents, environment: str | None) -> None:
        self._name = name
        self._base = documents[0]
        self._own = {tenant_of(each["name"])[1]: each for each in documents[1]}
        self._environment = environment
        lists = self._base["metadata"].get("lists", {}) if self._base else {}
        self._appended = [decode_path(path) for path in lists]

    def problem(self, tenant: str, finding: Finding) -> Problem:
        """The finding at the highest layer that holds the place."""
        path = finding.path
        for appended in self._appended:
            # Its items come from several layers: their numbers are no layer's.
            if path[: len(appended)] == appended:
                path = appended
        document, place, value = self._place(tenant, path)
        environment = self._environment
        seen = (f"for {environment}: " if environment else "") + (
            f"for tenant {tenant}: " if tenant != BASE_TENANT else ""
        )
        cure = finding.cure
        if isinstance(value, str) and START in value:
            cure = f"it is what {shown(value)} gives" + (f"; {cure}" if cure else "")
        ending = f"; {cure}" if cure else ""
        at = written_path((*place, *path))
        sentence = f"{seen}expected {finding.expected}, found {finding.found} at {at}{ending}"
        return Problem(document, (*place, *path), sentence)

    def _place(self, tenant: str, path: Path) -> tuple[str, Path, Any]:
        base, own = f"config/{self._name}", f"config/{self._name}@{tenant}"
        environment: Path = ("metadata", "environments", self._environment or "")
        layers: list[tuple[str, Any, Path]] = [
            (own, self._own.get(tenant), environment),
            (own, self._own.get(tenant), ("metadata", "values")),
            (base, self._base, ("metadata", "tenants", tenant)),
            (base, self._base, environment),
            (base, self._base, ("metadata", "values")),
        ]
        for document, manifest, place in layers:
            held, value = _at(manifest, (*place, *path))
            if held:
                return document, place, value
        return base, layers[-1][2], None


def _at(value: Any, path: Path) -> tuple[bool, Any]:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, value


# One document


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


def _check_leaves(metadata: dict[str, Any], what: str) -> int:
    """How many leaves all blocks hold, each of them within the rules."""
    leaves = 0
    for block in ("values", "environments", "tenants"):
        for path, value in containers(metadata.get(block, {})):
            place = ("metadata", block, *path)
            leaves += _own_leaves(value)
            if leaves > MAX_CONFIG_LEAVES:
                raise ManifestInvalid(
                    f"{what}: expected at most {MAX_CONFIG_LEAVES} leaves, found more", place
                )
            _check_text(value, place, what)
    return leaves


def _leaves(tree: Any) -> int:
    return sum(_own_leaves(value) for _, value in containers(tree))


def _own_leaves(value: Any) -> int:
    """How many leaves stand in a mapping itself."""
    if not isinstance(value, dict):
        return 0
    return sum(1 for item in value.values() if not isinstance(item, dict) or not item)


def _check_text(value: dict[str, Any] | list[Any], place: Path, what: str) -> None:
    steps: Iterable[tuple[str | int, Any]] = (
        value.items() if isinstance(value, dict) else enumerate(value)
    )
    for step, item in steps:
        if isinstance(step, str) and step.startswith("$"):
            raise refusal(
                what, Finding((*place, step), "a key without a leading $", shown(step),
                              "such keys are reserved"),
            )  # fmt: skip
        if isinstance(item, str) and START in item:
            try:
                parts(item)
            except ManifestInvalid as error:
                path = (*place, step)
                problem, semicolon, cure = str(error).partition("; ")
                raise ManifestInvalid(
                    f"{what}: {problem} at {written_path(path)}{semicolon}{cure}", path
                ) from error


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


def _check_lists(metadata: dict[str, Any], what: str) -> None:
    for path in metadata.get("lists", {}):
        if encode_path(decode_path(path)) != path:
            raise refusal(
                what,
                Finding(
                    ("metadata", "lists", path),
                    f"a path of keys, ~ written ~0 and a dot in a key ~1, to {APPEND} at",
                    shown(path),
                ),
            )


def _environments(document: dict[str, Any], environment: str | None) -> list[str | None]:
    """The environments a document is checked for."""
    named: list[str | None] = [*environments_of(document)]
    if environment is not None and environment not in named:
        named.append(environment)
    return named
