"""``log prove-fork``: the two checkpoints a node kept when its log contradicted itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from control_plane.cli.accepting import save_new
from control_plane.cli.output import print_json, when
from control_plane.cli.settings import environment_option, settings
from control_plane.errors import InputInvalid

SAYS = {
    "proof": "a proof: the log signed two roots for one size; show both notes to anybody",
    "sign": (
        "a sign: the log signed both, and no history this node has seen leads from one to the"
        " other; who has the entries of both can prove more"
    ),
    "nothing": "no proof: the log did not sign what came; it may have been anybody",
}


@click.command(name="prove-fork")
@environment_option
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option("--out", metavar="DIR", help="Write both notes and the log's keys there, as files.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def prove_fork(environment: str, replica: str | None, out: str | None, as_json: bool) -> int:
    """Print both checkpoints that this node kept when it refused what its log said.

    They are verified with the log's own keys. Two roots for one size prove to anybody that the log
    was forked; a smaller log, or one of another size, is a sign of it. Exit code 1 without any.
    """
    from control_plane.defaults import replica_root
    from control_plane.replica.evidence import read_standing

    root = replica_root(settings(replica=replica).replica())
    standing = read_standing(str(Path(root) / environment), environment)
    evidence = standing.evidence
    if evidence is None:
        if as_json:
            print_json({"environment": environment, "evidence": None})
        else:
            click.echo(f"{environment}: no evidence; {standing.origin} never contradicted itself")
        return 1
    keys = evidence.vkeys or standing.vkeys
    told = {
        "weight": evidence.weight(keys),
        "reason": evidence.reason,
        "seen_at": when(evidence.seen_at),
        "size": evidence.size,
        "ours": _text(evidence.ours),
        "theirs": _text(evidence.theirs),
        "vkeys": list(keys),
    }
    if out is not None:
        _write(Path(out), evidence.ours, evidence.theirs, keys)
    if as_json:
        print_json({"environment": environment, "evidence": told})
    else:
        _print(environment, told, out)
    return 0


def _text(note: bytes) -> str:
    return note.decode("utf-8", "replace")


def _write(folder: Path, ours: bytes, theirs: bytes, keys: tuple[str, ...]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "nothing").lower()
        raise InputInvalid(f"{folder}: expected a folder to write to, found: {reason}") from error
    save_new(folder / "ours.note", ours, 0o644)
    save_new(folder / "theirs.note", theirs, 0o644)
    save_new(folder / "vkeys", "".join(f"{key}\n" for key in keys).encode())


def _print(environment: str, told: Mapping[str, Any], out: str | None) -> None:
    from control_plane.shown import shown

    click.echo(f"{environment}: {SAYS[told['weight']]}")
    click.echo(f"  {told['seen_at']}  {shown(told['reason'])}")
    for what, title in (("ours", "held by this node"), ("theirs", "refused")):
        click.echo(f"\n{title}:\n")
        for line in told[what].splitlines() or ["(none)"]:
            click.echo(f"  {shown(line)}".rstrip())
    click.echo("\nthe log's keys:\n")
    for key in told["vkeys"]:
        click.echo(f"  {key}")
    if out is not None:
        click.echo(f"\nwritten to {out}: ours.note, theirs.note, vkeys")
