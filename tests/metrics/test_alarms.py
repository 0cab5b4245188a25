"""The alert rules and the dashboard name what there is, and fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from control_plane.metrics.collecting import register_node
from control_plane.usage import slots
from control_plane.usage.tally import Tally
from control_plane_daemon.events import Events
from control_plane_daemon.metrics import EventCollector
from control_plane_store.metrics import StoreCollector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yaml"
DASHBOARD = ROOT / "deploy/grafana/control-plane.json"
ALARMS = {
    "ControlPlaneValidationFailure",
    "ControlPlaneSignatureMismatch",
    "ControlPlaneSlowEvaluation",
    "ControlPlaneDeprecatedAssetInUse",
    "ControlPlaneStaleNode",
}


class Store:
    """As much of a store as its metrics ask."""

    class requests:
        counts = {("/healthz", 200): 1}  # noqa: RUF012

    sizes = {"production": 1}  # noqa: RUF012


def exposed(tmp_path: Path) -> set[str]:
    """The names of all samples that the code can give."""
    tally = Tally(str(tmp_path))
    for word in slots.WORDS:
        second = "250" if word == slots.LATENCY else "b"
        tally.totals["production", word, "", second] = 1
    registry = CollectorRegistry()
    register_node(registry, str(tmp_path), tally)
    registry.register(EventCollector(lambda: {"production": Events()}))
    registry.register(StoreCollector(Store()))  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    declared = set(re.findall(r"# TYPE (\w+) gauge", text))
    return declared | set(re.findall(r"^(control_plane_\w+)", text, re.M))


def named(text: str) -> set[str]:
    return set(re.findall(r"\bcontrol_plane_\w+", text))


def test_every_alarm_of_the_platform_has_a_rule() -> None:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    assert {rule["alert"] for rule in group["rules"]} >= ALARMS
    assert all(rule["annotations"]["action"] for rule in group["rules"])


def test_rules_and_panels_name_metrics_that_the_code_gives(tmp_path: Path) -> None:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    wanted = [rule["expr"] for rule in group["rules"]]
    wanted += [target["expr"] for panel in panels for target in panel["targets"]]
    assert named("\n".join(wanted)) - exposed(tmp_path) == set()


def test_the_documentation_names_every_metric(tmp_path: Path) -> None:
    told = named((ROOT / "docs/metrics.md").read_text())
    ends = r"_(bucket|count|sum)$"
    families = {re.sub(ends, "", name) for name in exposed(tmp_path)}
    assert families - told == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus)")
def test_the_rules_hold_and_fire_when_they_should() -> None:
    for command in (["check", "rules", RULES.name], ["test", "rules", "rules_test.yaml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus)")
def test_what_is_exposed_passes_the_linter(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    register_node(registry, str(tmp_path), Tally(str(tmp_path)))
    registry.register(EventCollector(lambda: {"production": Events()}))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
