"""The Kubernetes manifests: valid, and as closed as they say they are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from control_plane.cli.root import root as command_line

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBERNETES = ["1.30", "1.33", "1.37"]
REPLICA = "/var/lib/control-plane/replica"
USER = 64070
Document = dict[str, Any]


def documents() -> Iterator[Document]:
    for file in sorted(FOLDER.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from yaml.safe_load_all(file.read_text())


def named(kind: str, name: str) -> Document:
    (found,) = (
        each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pods() -> dict[str, Document]:
    """Pod specs by the name of what makes them."""
    workloads = ("Deployment", "DaemonSet", "StatefulSet")
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in documents()
        if each["kind"] in workloads
    }


def containers() -> dict[str, tuple[Document, Document]]:
    """Every container with its pod, by pod and name."""
    return {
        f"{pod}/{each['name']}": (spec, each)
        for pod, spec in pods().items()
        for each in [*spec.get("initContainers", []), *spec["containers"]]
    }


def mounts(spec: Document, container: Document, host_path: str) -> list[Document]:
    volumes = {
        each["name"]
        for each in spec["volumes"]
        if each.get("hostPath", {}).get("path") == host_path
    }
    return [each for each in container["volumeMounts"] if each["name"] in volumes]


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid_and_has_no_field_unknown_to_kubernetes(version: str) -> None:
    count = 0
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
        count += 1
    assert count >= 9


def test_the_kustomization_names_files_there_are_and_leaves_the_example_out() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    there = {each.name for each in FOLDER.glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml", "application.yaml"}


def test_only_the_daemon_has_the_replica_writable() -> None:
    writing = {
        name
        for name, (spec, container) in containers().items()
        for mount in mounts(spec, container, REPLICA)
        if not mount.get("readOnly")
    }
    reading = {
        name
        for name, (spec, container) in containers().items()
        if mounts(spec, container, REPLICA) and name not in writing
    }
    assert writing == {"control-plane-daemon/folders", "control-plane-daemon/daemon"}
    assert reading == {"orders/sidecar", "orders/orders"}


def test_readers_mount_the_root_and_nothing_below_it() -> None:
    # A swap renames a link below the mount; a mount of the link's target would not follow.
    for spec, container in containers().values():
        assert all("subPath" not in mount for mount in container["volumeMounts"])
        for mount in mounts(spec, container, REPLICA):
            assert mount["mountPath"] in (REPLICA, "/replica")


def test_every_container_is_closed() -> None:
    for name, (spec, container) in containers().items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert not context.get("privileged"), name
        assert "limits" in container["resources"], name
        assert "requests" in container["resources"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC")), name
        assert spec["automountServiceAccountToken"] is False, name


def test_nothing_but_the_chown_is_root_and_that_has_two_capabilities_and_no_secret() -> None:
    for name, (spec, container) in containers().items():
        context = spec["securityContext"] | container["securityContext"]
        if name == "control-plane-daemon/folders":
            assert context["capabilities"]["add"] == ["CHOWN", "FOWNER"]
            assert {each["name"] for each in container["volumeMounts"]} == {"replica", "usage"}
            assert "control-plane" not in shlex.join(container["command"])
            continue
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] >= 1000, name
        assert "add" not in context["capabilities"], name


def test_the_services_are_the_user_of_the_image() -> None:
    image = (FOLDER.parent / "docker" / "Dockerfile").read_text()
    assert f"USER {USER}:{USER}" in image
    for name in ("control-plane-daemon", "control-plane-store"):
        context = pods()[name]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (USER, USER)
    command = containers()["control-plane-daemon/folders"][1]["command"]
    assert f"chown {USER}:{USER} /replica" in command[-1]


def test_every_long_running_container_of_ours_is_probed() -> None:
    for name in ("control-plane-daemon/daemon", "control-plane-store/store", "orders/sidecar"):
        container = containers()[name][1]
        assert {"startupProbe", "livenessProbe"} <= container.keys(), name


def test_no_probe_asks_for_more_than_the_process_itself() -> None:
    # `status` and /readyz tell of an old replica, too: a store that is down must restart no node.
    for _, container in containers().values():
        probe = str(container.get("livenessProbe", ""))
        assert "readyz" not in probe
        assert "status" not in probe.replace(".status", "")


def test_both_namespaces_deny_what_no_policy_allows() -> None:
    policies = [each for each in documents() if each["kind"] == "NetworkPolicy"]
    spaces = {each["metadata"]["name"] for each in documents() if each["kind"] == "Namespace"}
    denying = {
        each["metadata"]["namespace"]
        for each in policies
        if each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert denying == spaces == {"control-plane", "control-plane-node"}


def test_policies_and_services_select_pods_there_are() -> None:
    labels = {
        (
            each["metadata"]["namespace"],
            frozenset(each["spec"]["template"]["metadata"]["labels"].items()),
        )
        for each in documents()
        if each["kind"] in ("DaemonSet", "StatefulSet")
    }
    for kind, name, space in (
        ("NetworkPolicy", "store", "control-plane"),
        ("NetworkPolicy", "daemon", "control-plane-node"),
    ):
        selected = named(kind, name)["spec"]["podSelector"]["matchLabels"]
        assert (space, frozenset(selected.items())) in labels
    service = named("Service", "control-plane-store")
    assert ("control-plane", frozenset(service["spec"]["selector"].items())) in labels


def test_the_one_namespace_that_allows_folders_of_the_node_holds_the_daemon_alone() -> None:
    level = "pod-security.kubernetes.io/enforce"
    assert named("Namespace", "control-plane")["metadata"]["labels"][level] == "restricted"
    assert named("Namespace", "control-plane-node")["metadata"]["labels"][level] == "privileged"
    inside = {
        (each["kind"], each["metadata"]["name"])
        for each in documents()
        if each["metadata"].get("namespace") == "control-plane-node"
    }
    assert inside - {("DaemonSet", "control-plane-daemon")} == {
        ("NetworkPolicy", "daemon"), ("NetworkPolicy", "nothing-else"),
    }  # fmt: skip


def test_no_file_of_a_secret_is_for_everybody() -> None:
    for spec in pods().values():
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] & 0o007 == 0
    # A signing key may not even be its group's: it is copied, as `LogKeys` asks for.
    copying = containers()["control-plane-store/keys"][1]["command"][-1]
    assert copying == "install -m 0600 /secret/*.pem /keys/"


@pytest.mark.parametrize(
    "name", ["control-plane-daemon/daemon", "control-plane-store/store", "orders/sidecar"]
)
def test_the_arguments_are_ones_the_command_line_takes(name: str) -> None:
    verb, *options = containers()[name][1]["args"]
    with click.Context(command_line) as context:
        command = command_line.get_command(context, verb)
        assert command is not None
        command.make_context(verb, options, parent=context, resilient_parsing=True)
        known = {option for each in command.params for option in each.opts}
    assert {option.partition("=")[0] for option in options} <= known


def test_the_first_start_of_a_store_is_a_command_there_is() -> None:
    script = containers()["control-plane-store/database"][1]["command"][-1]
    words = shlex.split(script.partition("exec control-plane ")[2])
    with click.Context(command_line) as context:
        group = command_line.get_command(context, words[0])
        assert isinstance(group, click.Group)
        command = group.get_command(context, words[1])
        assert command is not None
        known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= known
