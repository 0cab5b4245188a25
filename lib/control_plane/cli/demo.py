"""``demo``: the whole line on real processes, in about fifteen seconds, leaving nothing behind.

In a temporary folder: a trust root and keys, a store on SQLite, a daemon with two environments,
every document under ``manifests/`` signed and published, applications that read the replica, a
kill switch with the time until a polling process saw it, and the store killed while reads go on.
Each step checks what it claims; the first claim that does not hold ends the demo with 1.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from control_plane.cli.children import Child
    from control_plane.cli.files import DocumentFile
    from control_plane.cli.settings import Project
    from control_plane.publish.publisher import Publisher

ENVIRONMENTS = ("production", "staging")
READS = 200_000
KILLS = 5
APART_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """What the steps of the demo work with."""

    project: Project
    replica: Path
    programs: Path
    documents: Sequence[DocumentFile]

    def names(self, kind: str) -> list[str]:
        """The names of all documents of a kind."""
        found = (item.document["name"] for item in self.documents if item.document["kind"] == kind)
        return sorted(set(found))


@click.command()
@click.option(
    "--manifests", metavar="DIR", help="What to publish; default ./manifests or examples."
)
def demo(manifests: str | None) -> None:
    """Show the whole on real processes: publish, read, kill, lose the store. Cleans up."""
    from control_plane.cli.project import templates

    started = time.monotonic()
    with ExitStack() as stack:
        packaged = stack.enter_context(as_file(templates()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="control-plane-")))
        _run(stack, _prepare(folder, packaged, manifests))
    click.echo(f"\ndone in {time.monotonic() - started:.1f} s; nothing is left behind")


def _prepare(folder: Path, packaged: Path, manifests: str | None) -> Stage:
    from control_plane.cli.files import read_documents
    from control_plane.cli.project import create_project

    source = Path(manifests or "manifests")
    if manifests is None and not source.is_dir():
        source = packaged / "manifests"
    documents = read_documents([source])
    _step("trust", "a root of trust, keys, and a store for production and staging")
    project = create_project(
        folder / "project", installation="demo", environments=ENVIRONMENTS, manifests=source
    )
    keys = sorted(path.stem for path in (project.private / "keys").glob("*.pem"))
    _say(f"keys {', '.join(keys)}; every one 0600")
    return Stage(project, folder / "replica", packaged / "demo", documents)


def _run(stack: ExitStack, stage: Stage) -> None:
    from control_plane.cli import services
    from control_plane.cli.settings import read_token
    from control_plane.publish.client import StoreClient
    from control_plane.publish.publisher import Publisher

    _step("services", "the store and the node's daemon, each a process of its own")
    log = stack.enter_context((stage.project.folder / "services.log").open("wb"))
    silent = lambda line: None  # noqa: E731  their lines are for the log
    store, url = services.start_store(stage.project, "127.0.0.1:0", say=silent, stderr=log)
    stack.callback(store.stop)
    stage = replace(stage, project=replace(stage.project, store=url))
    daemon = services.start_daemon(
        stage.project, url, stage.replica, ENVIRONMENTS, say=silent, stderr=log
    )
    stack.callback(daemon.stop)
    _say(f"store {url} (pid {store.pid}), daemon (pid {daemon.pid}), replica {stage.replica}")

    private = stage.project.private
    client = StoreClient(url, read_token(private / "tokens" / "submit.token"))
    author = stack.enter_context(Publisher(client, str(private / "keys" / "author.pem")))
    generations = _publish(author, stage)
    seen = _applications(stage, generations)
    _kill_switch(author, stage, seen["production"])
    _without_store(store, stage, generations, seen)


def _publish(author: Publisher, stage: Stage) -> dict[str, int]:
    from control_plane.cli.applying import propose

    _step(
        "publish", f"{len(stage.documents)} documents, signed by their author, in one change each"
    )
    generations = {}
    for environment in ENVIRONMENTS:
        proposal = propose(author, stage.documents, environment, "demo", "stable")
        started = time.monotonic()
        submissions = author.submit(proposal, atomic=True)
        _expect(len(submissions) == 1, f"{environment}: one change set, found {len(submissions)}")
        generations[environment] = int(submissions[0].generation or 0)
        _say(
            f"{environment}: {len(proposal)} changes are generation {generations[environment]}"
            f" after {(time.monotonic() - started) * 1e3:.0f} ms"
        )
    return generations


def _applications(stage: Stage, generations: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    _step("read", "two application processes, one an environment, from the mapped replica")
    seen = {}
    for environment in ENVIRONMENTS:
        answer = _application(stage, environment, generations[environment])
        seen[environment] = answer
        _expect(
            answer["generation"] >= generations[environment],
            f"{environment}: generation {generations[environment]}, found {answer['generation']}",
        )
        _expect_all_read(stage, environment, answer)
        _tell(environment, answer)
    return seen


def _expect_all_read(stage: Stage, environment: str, answer: Mapping[str, Any]) -> None:
    failed = [name for name, (_, reason) in answer["flags"].items() if reason == "ERROR"]
    _expect(not failed, f"{environment}: every flag to evaluate, found errors for {failed}")
    for kind in ("agents", "tools"):
        found, wanted = sorted(answer[kind]), stage.names(kind[:-1])
        _expect(found == wanted, f"{environment}: the {kind} {wanted}, found {found}")


def _tell(environment: str, answer: Mapping[str, Any]) -> None:
    on = sorted(name for name, (value, _) in answer["flags"].items() if value is True)
    _say(f"{environment} (pid {answer['pid']}), as tenant123: on are {', '.join(on) or 'none'}")
    for name, (value, reason) in sorted(answer["flags"].items()):
        if value is not True and value is not False:
            _say(f"  flag {name} = {json.dumps(value)} ({reason})")
    for name, value in sorted(answer["config"].items()):
        _say(f"  config {name} = {_shortened(value)}")
    for name, (version, tools) in sorted(answer["agents"].items()):
        _say(f"  agent {name}@{version} uses {', '.join(tools) or 'no tools'}")
    tools = ", ".join(f"{name}@{version}" for name, version in sorted(answer["tools"].items()))
    _say(f"  tools {tools or 'none'}")
    _say(f"  {answer['read_ns']:.0f} ns for one is_enabled, mean of {READS:,}")


def _kill_switch(author: Publisher, stage: Stage, seen: Mapping[str, Any]) -> None:
    from control_plane.cli.children import Child

    on = sorted(name for name, (value, _) in seen["flags"].items() if value is True)
    _expect(bool(on), "a flag that is on for tenant123 in production, found none")
    name = "new_ai_model" if "new_ai_model" in on else on[0]
    _step("kill", f"the flag {name} in production, while a process polls it")
    watcher = Child(
        "watcher",
        [str(stage.programs / "watcher.py"), name, str(2 * KILLS)],
        variables=_variables(stage, "production"),
    )
    with watcher:
        watcher.line("ready True")
        times = []
        for _ in range(KILLS):
            # A daemon commits at most every 20 ms; what is timed is a kill that comes alone.
            time.sleep(APART_SECONDS)
            times.append(_visible_ms(author, watcher, name, kill=True))
            _visible_ms(author, watcher, name, kill=False)
    _say(
        f"visible {statistics.median(times):.1f} ms after the submit began, median of {KILLS}:"
        f" {', '.join(f'{each:.1f}' for each in times)} (signed, written and synced twice)"
    )


def _visible_ms(author: Publisher, watcher: Child, name: str, *, kill: bool) -> float:
    proposal = author.change("production", "demo", verb="kill" if kill else "unkill")
    if kill:
        proposal.kill(name)
    else:
        proposal.unkill(name)
    comparison = author.compare(proposal)
    began_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    author.submit(proposal, comparison)
    line = watcher.line("False" if kill else "True")
    return (int(line.split()[1]) - began_ns) / 1e6


def _without_store(
    store: Child,
    stage: Stage,
    generations: Mapping[str, int],
    seen: Mapping[str, Mapping[str, Any]],
) -> None:
    _step("lose the store", "SIGKILL; nothing on the read path needs it")
    store.kill()
    _expect(store.exit_code is not None, "the store to be gone, found it running")
    for environment in ENVIRONMENTS:
        answer = _application(stage, environment, generations[environment])
        same = all(
            answer[part] == seen[environment][part] for part in ("flags", "config", "agents")
        )
        _expect(same, f"{environment}: the same answers as before, found others")
        _say(
            f"{environment} (pid {answer['pid']}): generation {answer['generation']},"
            f" the same answers, {answer['read_ns']:.0f} ns a read"
        )


def _application(stage: Stage, environment: str, generation: int) -> dict[str, Any]:
    """Run the demo's application as a process and return what it saw."""
    asked = {
        "flags": stage.names("flag"),
        "config": [name for name in stage.names("config") if "@" not in name],
        "agents": stage.names("agent"),
        "tools": stage.names("tool"),
        "reads": READS,
    }
    done = subprocess.run(
        [
            sys.executable,
            str(stage.programs / "application.py"),
            str(generation),
            json.dumps(asked),
        ],
        env={**os.environ, **_variables(stage, environment)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    _expect(done.returncode == 0, f"{environment}: an application that reads, found: {last}")
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def _variables(stage: Stage, environment: str) -> dict[str, str]:
    return {
        "CONTROL_PLANE_REPLICA": str(stage.replica),
        "CONTROL_PLANE_ENVIRONMENT": environment,
    }


def _shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 76 else text[:75] + "…"


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise click.ClickException(f"demo: expected {what}")


def _step(name: str, what: str) -> None:
    click.echo(f"\n== {name}: {what}")


def _say(line: str) -> None:
    click.echo(f"   {line}")
