"""Which merged values a change of configuration moves, for an environment and each of its tenants.

- Compared are merged values, references followed: a leaf counts where its old and new values are
  two, or where there is one only before or only after.
- A tenant's leaves are its *own* where it has, before or after, something that differs from the
  base. All others it *shares* with the base and they are counted, not looked at: thousands of
  tenants cost what is their own, not the size of the base.
- Known are the tenants that any configuration of the environment names. Others see the base.
- A namespace that refers to a changed one counts with it.

Nothing here asks a store: both sides are given whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.configs.layers import BASE_TENANT, same, tenant_of, written
from control_plane.configs.merged import ABSENT
from control_plane.configs.references import Configuration, Documents
from control_plane.errors import Refused

MAX_TENANTS: Final = 50
"""How many tenants one change may move before somebody has to say that so many are meant."""

Spaces = Mapping[str, Documents]
"""The manifests of each namespace."""

Leaves = dict[str, dict[str, Any]]
"""Values by path, of each tenant."""


@dataclass(frozen=True, slots=True)
class LeafChange:
    """A merged value that moves; ``old`` or ``new`` is ``ABSENT`` where there is none."""

    path: str
    old: Any
    new: Any

    def to_json(self) -> dict[str, Any]:
        """``{"key": …, "old": …, "new": …}`` without the one that is not there."""
        key = written(self.path)
        told: dict[str, Any] = {"key": list(key) if isinstance(key, tuple) else key}
        sides = {"old": self.old, "new": self.new}
        return told | {name: value for name, value in sides.items() if value is not ABSENT}


@dataclass(frozen=True, slots=True)
class TenantImpact:
    """What moves for one tenant: leaves of its own, and how many it shares with the base.

    ``overridden`` are the paths that move for the base and are the tenant's own.
    """

    tenant: str
    own: tuple[LeafChange, ...]
    shared: int
    overridden: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many of its merged leaves move."""
        return len(self.own) + self.shared


@dataclass(frozen=True, slots=True)
class Impact:
    """What moves in one environment; ``tenants`` are those for whom anything does."""

    environment: str | None
    base: tuple[LeafChange, ...]
    tenants: tuple[TenantImpact, ...]
    known: int
    """How many tenants the configuration of the environment names."""

    @property
    def empty(self) -> bool:
        """Whether nothing moves for anybody."""
        return not (self.base or self.tenants)

    def narrowed(self, wanted: Callable[[str], bool]) -> Impact:
        """The same for the paths somebody asked for."""
        base = tuple(change for change in self.base if wanted(change.path))
        gone = len(self.base) - len(base)
        tenants = []
        for each in self.tenants:
            own = tuple(change for change in each.own if wanted(change.path))
            overridden = sum(not wanted(path) for path in each.overridden)
            shared = each.shared - gone + overridden
            if own or shared:
                tenants.append(TenantImpact(each.tenant, own, shared, each.overridden))
        return Impact(self.environment, base, tuple(tenants), self.known)

    def require_at_most(self, tenants: int) -> None:
        """Refuse a change that moves more tenants than somebody expects.

        Raises:
            Refused: says how many, and how to confirm that they are meant.
        """
        found = len(self.tenants)
        if found > tenants:
            raise Refused(
                f"{self.environment}: expected at most {tenants:,} tenants to change, found"
                f" {found:,}; pass --yes-change {found}"
            )


def spaces(documents: Iterable[Mapping[str, Any]]) -> dict[str, Documents]:
    """Configuration manifests by namespace; of two with one name the last counts."""
    named = {each["name"]: each for each in documents}
    found: dict[str, Documents] = {}
    for name, document in named.items():
        namespace, tenant = tenant_of(name)
        base, tenants = found.get(namespace, (None, []))
        if tenant:
            tenants.append(document)
        else:
            base = document
        found[namespace] = (base, tenants)
    return found


def impact(
    before: Spaces, after: Spaces, environment: str | None, other: str | None = None
) -> Impact:
    """What moves from one whole configuration of an environment to another.

    With ``other`` the second one is of that environment.

    Raises:
        ManifestInvalid: values of one side cannot be made out: references, defaults, lists.
    """
    old, new = _configuration(before, environment), _configuration(after, other or environment)
    shared: list[LeafChange] = []
    own: dict[str, list[LeafChange]] = {}
    overridden: dict[str, list[str]] = {}
    names = sorted({*before, *after}) if other else _touched(before, after, old, new)
    for name in names:
        sides = _by_tenant(old, name), _by_tenant(new, name)
        base = _base_changes(*sides)
        shared.extend(base)
        moved = {change.path for change in base}
        for tenant in {*sides[0], *sides[1]} - {BASE_TENANT}:
            paths = {path for side in sides for path in side.get(tenant, ())}
            own.setdefault(tenant, []).extend(_own_changes(*sides, tenant, paths))
            overridden.setdefault(tenant, []).extend(moved & paths)
    known = tenants_of(before) | tenants_of(after)
    found = []
    for each in sorted(known):
        hidden = tuple(overridden.get(each, ()))
        found.append(
            TenantImpact(each, tuple(own.get(each, ())), len(shared) - len(hidden), hidden)
        )
    return Impact(
        environment, tuple(shared), tuple(each for each in found if each.count), len(known)
    )


def between(side: Spaces, environment: str | None, one: str, other: str) -> list[LeafChange]:
    """From the merged values of one tenant to another's; the empty name is the base."""
    configuration = _configuration(side, environment)
    found: list[LeafChange] = []
    for name in sorted(side):
        leaves = _by_tenant(configuration, name)
        base = leaves.get(BASE_TENANT, {})
        # The base's own leaves are alike on both sides, so they are not looked at.
        apart = {path for each in (one, other) if each for path in leaves.get(each, ())}
        left, right = ({**base, **(leaves.get(each, {}))} for each in (one, other))
        found.extend(_changes(left, right, apart))
    return found


def own_leaves(side: Spaces, environment: str | None) -> Leaves:
    """The base's merged leaves, under the empty name, and each tenant's own, by path.

    A tenant's is ``ABSENT`` where it hides the base's.
    """
    configuration = _configuration(side, environment)
    found: Leaves = {BASE_TENANT: {}}
    for name in side:
        for tenant, leaves in _by_tenant(configuration, name).items():
            found.setdefault(tenant, {}).update(leaves)
    return found


def _configuration(side: Spaces, environment: str | None) -> Configuration:
    return Configuration(environment, lambda name: side.get(name, (None, [])))


def _touched(before: Spaces, after: Spaces, old: Configuration, new: Configuration) -> list[str]:
    """The namespaces that changed, and those whose references lead into one that did."""
    names = {*before, *after}
    changed = {name for name in names if not _same(before.get(name), after.get(name))}
    if not changed:
        return []
    return sorted(
        name
        for name in names
        if name in changed
        or any(each.name in changed for side in (old, new) for each in side.reach(name))
    )


def _same(one: Documents | None, other: Documents | None) -> bool:
    if one is None or other is None:
        return one is other
    (base, tenants), (new_base, new_tenants) = one, other
    ordered = [sorted(each, key=_name) for each in (tenants, new_tenants)]
    return (
        len(tenants) == len(new_tenants)
        and (base is new_base or same(base, new_base))
        and all(left is right or same(left, right) for left, right in zip(*ordered, strict=True))
    )


def _name(document: Mapping[str, Any]) -> str:
    return str(document["name"])


def tenants_of(side: Spaces) -> set[str]:
    """The tenants that any of these manifests names."""
    found: set[str] = set()
    for base, documents in side.values():
        if base is not None:
            found.update(base["metadata"].get("tenants", {}))
        found.update(tenant_of(each["name"])[1] for each in documents)
    return found


def _by_tenant(configuration: Configuration, name: str) -> Leaves:
    """The base's leaves and each tenant's own, ``ABSENT`` where one hides the base's."""
    found: Leaves = {}
    for (tenant, path), (value, _, hides, _) in configuration.leaves(name).items():
        found.setdefault(tenant, {})[path] = ABSENT if hides else value
    return found


def _base_changes(old: Leaves, new: Leaves) -> list[LeafChange]:
    before, after = old.get(BASE_TENANT, {}), new.get(BASE_TENANT, {})
    return list(_changes(before, after, {*before, *after}))


def _own_changes(
    old: Leaves, new: Leaves, tenant: str, paths: Iterable[str]
) -> Iterator[LeafChange]:
    for path in sorted(paths):
        before, after = (
            side.get(tenant, {}).get(path, side.get(BASE_TENANT, {}).get(path, ABSENT))
            for side in (old, new)
        )
        if not same(before, after):
            yield LeafChange(path, before, after)


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], paths: Iterable[str]
) -> Iterator[LeafChange]:
    for path in sorted(paths):
        old, new = before.get(path, ABSENT), after.get(path, ABSENT)
        if not same(old, new):
            yield LeafChange(path, old, new)
