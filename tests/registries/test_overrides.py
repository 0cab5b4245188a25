"""What flags change in an agent for one tenant, and what they cannot."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane import ControlPlaneClient, RegistryManager
from control_plane.errors import ManifestInvalid
from control_plane.manifests.linting import Known, lint
from control_plane.registries.overrides import FIELDS, Applied, fits
from control_plane.replica.reader import OPEN
from control_plane.schemas import schema
from control_plane.testing import ReplicaKit, replica

WARMTH = {
    "variants": {"cool": 0.2, "warm": 0.9, "burning": 1.9},
    "default": None,
    "disabled": None,
    "overrides": {"tenant_id": {"acme": "warm", "globex": "burning", "calm": "cool"}},
}
LIMITS = {"flag": "warmth", "schema": {"minimum": 0.1, "maximum": 1.0}}
AGENT = {
    "name": "support",
    "metadata": {
        "description": "d",
        "temperature": 0.5,
        "max_tokens": 100,
        "overridable": {"temperature": LIMITS, "max_tokens": {"flag": "length"}},
    },
}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    OPEN.complained.clear()
    with replica(flags={"warmth": WARMTH}, agents=[AGENT]) as client:
        yield client


def test_a_flag_changes_the_field_of_the_tenant_it_is_served_to(kit: ReplicaKit) -> None:
    warm = kit.registry.get_agent("support", tenant_id="acme")
    assert warm.temperature == 0.9
    assert warm.applied == (Applied("temperature", "warmth", "warm", 0.5, 0.9),)
    with pytest.raises(AttributeError, match="found a write"):
        warm.applied[0].new = 2
    assert kit.registry.get_agent("support", tenant_id="calm").temperature == 0.2


@pytest.mark.parametrize("tenant", [None, "initech"])
def test_without_a_value_the_manifests_own_stands(kit: ReplicaKit, tenant: str | None) -> None:
    agent = kit.registry.get_agent("support", tenant_id=tenant)
    assert (agent.temperature, agent.max_tokens, agent.applied) == (0.5, 100, ())


def test_a_value_outside_the_schema_is_ignored_with_one_line(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "control_plane.registries"):
        for _ in range(3):
            agent = kit.registry.get_agent("support", tenant_id="globex")
            assert (agent.temperature, agent.applied) == (0.5, ())
    [line] = [each.message for each in caplog.records if each.name == "control_plane.registries"]
    assert "agent/support@1.0.0 temperature of flag/warmth burning: expected a value inside" in line
    assert kit.flags.counts().get(("warmth", "burning")) is None


def test_what_was_used_is_counted_for_the_flag(kit: ReplicaKit) -> None:
    for _ in range(3):
        kit.registry.get_agent("support", tenant_id="acme")
    assert kit.flags.counts() == {("warmth", "warm"): 3}


def test_bytes_digest_and_signature_stay_the_manifests(kit: ReplicaKit) -> None:
    plain = kit.registry.get_agent("support")
    agent = kit.registry.get_agent("support", tenant_id="acme")
    assert agent.blob == plain.blob
    assert agent.digest == plain.digest == hashlib.sha256(agent.blob).hexdigest()
    assert repr(agent) == "<Agent support@1.0.0, temperature by flag warmth>"
    assert agent.to_dict()["metadata"]["temperature"] == 0.9


def test_a_copy_has_what_was_applied_and_what_was_assigned(kit: ReplicaKit) -> None:
    agent = kit.registry.get_agent("support", tenant_id="acme")
    agent.max_tokens = 7
    for twin in (copy.copy(agent), copy.deepcopy(agent)):
        assert (twin.temperature, twin.max_tokens, twin.applied) == (0.9, 7, agent.applied)


def test_a_change_of_the_flag_alone_is_seen_by_the_next_call(kit: ReplicaKit) -> None:
    assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.9
    kit.set_flag("warmth", {**WARMTH, "overrides": {"tenant_id": {"acme": "cool"}}})
    assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.2
    kit.kill("warmth")
    assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.5


def test_agent_and_flag_are_of_one_generation(kit: ReplicaKit) -> None:
    """The flag is first asked in a generation after the one the agent was read in."""
    registry = kit.registry
    loaded = registry._load("agent", "support", None)
    with kit.one_generation():
        kit.set_flag("warmth", {**WARMTH, "overrides": {"tenant_id": {"acme": "cool"}}})
        kit.put_agent({**AGENT, "version": "2.0.0"})
    agent = registry.get_agent("support", tenant_id="acme")
    assert (agent.version, agent.temperature) == ("2.0.0", 0.2)
    assert loaded.document["version"] == "1.0.0"


def test_a_record_of_a_later_transaction_has_the_agent_read_again(kit: ReplicaKit) -> None:
    registry = kit.registry
    loaded = registry._load("agent", "support", None)
    # As if a commit had come between the agent's record and its flag's.
    assert loaded.moment is not None
    loaded.moment.txn_id -= 1
    assert registry.get_agent("support", tenant_id="acme").temperature == 0.9
    assert loaded.moment.moved
    assert registry._load("agent", "support", None) is not loaded


def test_a_pinned_view_has_agent_and_flag_of_its_own_generation(kit: ReplicaKit) -> None:
    with kit.pinned() as view:
        kit.set_flag("warmth", {**WARMTH, "overrides": {"tenant_id": {"acme": "cool"}}})
        assert view.registry.get_agent("support", tenant_id="acme").temperature == 0.9
        assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.2


def test_a_value_given_in_a_test_counts_while_its_block_runs(kit: ReplicaKit) -> None:
    with kit.flags.override({"warmth": 0.25}):
        assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.25
    assert kit.registry.get_agent("support", tenant_id="acme").temperature == 0.9


def test_a_registry_of_its_own_asks_flags_of_the_same_replica(kit: ReplicaKit) -> None:
    place, environment = kit.replica, kit.environment
    with RegistryManager(replica=place, environment=environment) as registry:
        assert registry.get_agent("support", tenant_id="acme").temperature == 0.9
    with ControlPlaneClient(place, environment) as client, client.pinned() as view:
        assert view.registry.get_agent("support", tenant_id="acme").temperature == 0.9


def test_whole_numbers_of_a_flag_are_integers_where_the_field_is_one(kit: ReplicaKit) -> None:
    kit.set_flag("length", {"variants": {"a": 200.0, "b": 1.5}, "default": "a", "disabled": "b"})
    agent = kit.registry.get_agent("support")
    assert (agent.max_tokens, type(agent.max_tokens)) == (200, int)
    kit.kill("length")
    assert kit.registry.get_agent("support").max_tokens == 100


def test_a_manifest_whose_own_value_is_outside_its_schema_is_refused() -> None:
    metadata = {**AGENT["metadata"], "temperature": 1.5}  # type: ignore[dict-item]
    with pytest.raises(ManifestInvalid, match=r"declares for temperature, found 1\.5"):
        replica(agents=[{**AGENT, "metadata": metadata}]).__enter__()


@pytest.mark.parametrize("field", ["tools", "description", "overridable", "capabilities"])
def test_only_plain_settings_can_be_overridable(field: str) -> None:
    metadata = {"description": "d", "overridable": {field: {"flag": "x"}}}
    with pytest.raises(ManifestInvalid, match=r"at metadata\.overridable"):
        replica(agents=[{"name": "a", "metadata": metadata}]).__enter__()


def test_the_fields_bounds_are_those_of_the_agents_schema() -> None:
    properties = schema("agent")["properties"]["metadata"]["properties"]
    told = {
        name: {word: value for word, value in properties[name].items() if word != "description"}
        for name in properties["overridable"]["propertyNames"]["enum"]
    }
    assert told == FIELDS


VALUES = st.one_of(
    st.booleans(), st.integers(-5, 5), st.floats(-5, 5), st.text(max_size=4), st.just(2.0)
)
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["integer", "number", "string"]),
        "enum": st.lists(VALUES.filter(lambda each: type(each) is not bool), min_size=1),
        "minimum": st.integers(-4, 4),
        "maximum": st.floats(-4, 4),
        "exclusiveMinimum": st.integers(-4, 4),
        "exclusiveMaximum": st.integers(-4, 4),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
    },
)


@given(VALUES, SCHEMAS)
def test_what_fits_is_what_json_schema_says(value: Any, declared: dict[str, Any]) -> None:
    assert fits(value, declared) is jsonschema_rs.is_valid(declared, value)


def test_a_flag_that_nobody_published_is_advised_about() -> None:
    metadata = {**AGENT["metadata"], "channel_flag": "rings"}  # type: ignore[dict-item]
    known = Known(0.0, {"length": None, "ring": None})
    advice = lint({"kind": "agent", "name": "support", "metadata": metadata}, known)
    assert [str(each) for each in advice] == [
        (
            "agent/support: expected a flag that is published, found none called warmth at"
            " metadata.overridable.temperature.flag"
        ),
        (
            "agent/support: expected a flag that is published, found none called rings;"
            " did you mean ring? at metadata.channel_flag"
        ),
    ]
