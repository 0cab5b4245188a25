"""``lock`` and ``compatibility``: an agent pinned with all it uses; two versions of a tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json
from control_plane.cli.settings import key_options, settings
from control_plane.errors import ManifestInvalid


class _Lock(click.Group):
    """``lock agent/NAME`` is ``lock create agent/NAME``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0].startswith("agent/"):
            args = ["create", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Lock)
def lock() -> None:
    """Pin an agent with every tool, schema, prompt, setting and flag it uses, signed.

    'lock agent/NAME --out FILE' is 'lock create agent/NAME --out FILE'.
    """


_replica = click.option("--replica", metavar="DIR", help="The replicas' root on this node.")
_environment = click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="The environment; needed where the node has several.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')


@lock.command()
@click.argument("reference", metavar="agent/NAME[@VERSION]")
@click.option("--out", required=True, metavar="FILE", help="Where the lock goes.")
@_environment
@_replica
@key_options
def create(reference: str, out: str, environment: str | None, **given: Any) -> None:
    """Lock an agent as this node's replica has it."""
    from control_plane.client import ControlPlaneClient
    from control_plane.manifests.documents import parse_reference
    from control_plane.publish.durable import write_over
    from control_plane.publish.keyfiles import sign_envelope
    from control_plane.registries.locking import lock_of, unsigned

    try:
        kind, name, version = parse_reference(reference)
    except ManifestInvalid as error:
        raise click.UsageError(str(error)) from error
    if kind != "agent":
        raise click.UsageError(f"expected agent/NAME, found {reference!r}")
    found = settings(**given)
    signer = found.signers()[0]
    with ControlPlaneClient(found.replica(), environment) as client, client.pinned() as view:
        installation, of, _ = view.registry.trust()[0].split("/")
        agent = view.registry.get_agent(name, version)
        envelope = unsigned(lock_of(view.registry, agent, installation, of))
        write_over(Path(out), sign_envelope(envelope, signer).encode() + b"\n", 0o644)
        click.echo(f"locked {agent.reference} with {len(agent.tools)} tools in {out}")


@lock.command()
@click.argument("file", metavar="FILE")
@_environment
@_replica
@_json
def verify(file: str, environment: str | None, as_json: bool, **given: Any) -> None:
    """Check a lock: signature, installation, and that this node has all of it as pinned."""
    from control_plane.client import ControlPlaneClient

    with ControlPlaneClient(settings(**given).replica(), environment) as client:
        agent = client.registry.load_lock(file)
        if as_json:
            print_json({"ok": True, "agent": agent.reference, "tools": len(agent.tools)})
        else:
            click.echo(f"ok {agent.reference} with {len(agent.tools)} tools")


@lock.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@_environment
@_replica
@_json
def diff(old: str, new: str, environment: str | None, as_json: bool, **given: Any) -> int:
    """Show what NEW pins otherwise than OLD; exit 1 when anything differs."""
    from control_plane.client import ControlPlaneClient
    from control_plane.registries.lockfiles import read_lock
    from control_plane.registries.locking import differences

    with ControlPlaneClient(settings(**given).replica(), environment) as client:
        trust = client.registry.trust()
    found = differences(read_lock(old, trust), read_lock(new, trust))
    if as_json:
        print_json({"differences": found})
    for each in () if as_json else found:
        click.echo(f"{each['path']}: {_word(each['old'])} is now {_word(each['new'])}")
    if not found and not as_json:
        click.echo("both pin the same")
    return 1 if found else 0


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@_json
def compatibility(old: str, new: str, as_json: bool) -> int:
    """Compare two versions of a tool in files: compatible, breaking or unknown, and the bump.

    Exit code 1 unless the change is compatible for callers.
    """
    from control_plane.cli.files import read_document
    from control_plane.registries.compatibility import PATCH, compare_tools

    documents = [read_document(Path(path)).document for path in (old, new)]
    for path, document in zip((old, new), documents, strict=True):
        if document["kind"] != "tool":
            raise ManifestInvalid(f"{path}: expected a tool, found a {document['kind']}")
    found = compare_tools(*documents)
    if as_json:
        sides = {"inputs": found.inputs._asdict(), "outputs": found.outputs._asdict()}
        print_json({"verdict": found.verdict, "needed": found.needed, **sides})
    else:
        click.echo(f"inputs {found.inputs}\noutputs {found.outputs}")
        least = "any step" if found.needed == PATCH else f"a {found.needed} step"
        click.echo(f"{found.verdict}: the version needs {least}")
    return 0 if found.verdict == "compatible" else 1


def _word(value: Any) -> str:
    from control_plane.manifests.json_schema import shown

    return "nothing" if value is None else shown(value)
