"""``doctor``: looks at this node and says of each fault what cures it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json
from control_plane.cli.settings import Settings, settings
from control_plane.errors import ControlPlaneError

if TYPE_CHECKING:
    from control_plane.cli.examination import Finding


@click.command()
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="Only this environment.",
)  # fmt: skip
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option("--store", metavar="URL", help="http(s)://host:port or unix:/path of the store.")
@click.option("--token-file", metavar="FILE", help="File with the store's token (0600).")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def doctor(environment: str | None, as_json: bool, **given: Any) -> int:
    """Look for what is wrong on this node: versions, limits, permissions, mounts, space, clock.

    Run it as the user, and in the container, of the application. Each fault comes with its cure;
    exit code 1 when there is one. Nothing is changed. An absent store is no fault: nothing on the
    read path needs it.
    """
    from control_plane.cli.examination import WRONG

    findings = list(_examined(settings(**given), environment))
    healthy = not any(finding.state == WRONG for finding in findings)
    if as_json:
        rows = [
            {
                "check": each.check,
                "state": each.state,
                "found": each.said,
                "cure": each.cure or None,
            }
            for each in findings
        ]
        print_json({"ok": healthy, "findings": rows})
    else:
        for finding in findings:
            cure = f"; {finding.cure}" if finding.cure else ""
            click.echo(f"{finding.state:<6} {finding.check:<12} {finding.said}{cure}")
    return 0 if healthy else 1


def _examined(found: Settings, environment: str | None) -> Iterator[Finding]:
    from control_plane.cli import examination
    from control_plane.defaults import environments, replica_root

    packages = {name: _version(name) for name in ("control-plane", *examination.PACKAGES)}
    yield from examination.versions(sys.version_info[:3], packages)
    yield from examination.limits(_address_space_bytes())
    root = Path(replica_root(found.replica()))
    names = [environment] if environment else list(environments(str(root)))
    if not names:
        yield examination.Finding(
            "replica",
            examination.WRONG,
            f"{root}: expected a replica, found none",
            "start 'control-plane daemon' or 'up', or set CONTROL_PLANE_REPLICA",
        )
    for name in names:
        yield from _replica(root, name)
    yield from examination.secrets(_secrets(found))
    for name in names[:1]:
        yield from examination.clock(_ahead_seconds(found, name))


def _replica(root: Path, environment: str) -> Iterator[Finding]:
    import shutil

    from control_plane.cli import examination
    from control_plane.client import ControlPlaneClient
    from control_plane.replica.source import current_folder

    folder = root / environment
    try:
        current = Path(current_folder(str(folder)))
        files = [current, current / "header", current / "data.mdb"]
        data_bytes = files[-1].stat().st_blocks * 512
    except (ControlPlaneError, OSError):
        files, data_bytes = [folder, folder / "v1"], 0
    yield from examination.access(path for path in files if path.exists() or path == files[0])
    if data_bytes:
        yield from examination.secrets([current / "lock.mdb"])
        yield from examination.mounted(folder.resolve(), current.resolve(), _mounts())
        yield from examination.space(folder, shutil.disk_usage(folder).free, data_bytes)
    with ControlPlaneClient(str(root), environment) as client:
        health = client.health()
    if data_bytes:
        yield from examination.trusted(environment, _expiries(folder), time.time_ns() // 1_000_000)
    yield from examination.served(environment, health.generation, health.reasons)


def _expiries(folder: Path) -> dict[str, int]:
    """When the metadata that a replica holds expire; none where it cannot be read."""
    from control_plane.replica.evidence import ROOT, TARGETS
    from control_plane.replica.reader import open_replica
    from control_plane.replica.source import current_folder
    from control_plane.trust.metadata import read_root, read_targets

    try:
        replica = open_replica(current_folder(str(folder)))
        try:
            database = replica.database("log")
            with replica.view() as view:
                stored = dict(view.scan(b"", database=database))
        finally:
            replica.close()
        if ROOT not in stored or TARGETS not in stored:
            return {}
        expires = {
            "root": read_root(stored[ROOT]).metadata.signed.expires,
            "targets": read_targets(stored[TARGETS]).metadata.signed.expires,
        }
    except ControlPlaneError:
        return {}  # the other findings say what is wrong with it
    return {role: int(moment.timestamp() * 1000) for role, moment in expires.items()}


def _secrets(found: Settings) -> list[Path]:
    project = found.project
    if project is None:
        return [Path(path) for path in found.key_files if Path(path).is_file()]
    private = project.private
    return sorted([*private.glob("keys/*.pem"), *private.glob("tokens/*.token")])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _address_space_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not a Unix: there is no such limit
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _mounts() -> list[Any]:
    from control_plane.cli.examination import read_mounts

    try:
        return read_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    except OSError:
        return []  # no Linux, or no /proc in this container


def _ahead_seconds(found: Settings, environment: str) -> float | None:
    """How far this host's clock is before the Date header of the store's answer."""
    from email.utils import parsedate_to_datetime

    from control_plane.publish.client import StoreClient

    try:
        with StoreClient(found.store, found.token("follow"), timeout_seconds=2.0) as client:
            answer = client.request("GET", f"/v1/{environment}/heads?limit=1")
        told = parsedate_to_datetime(answer.headers.get("date", ""))
    except (ControlPlaneError, ValueError):
        return None
    return time.time() - told.timestamp()
