"""``keys init|new|list``: key files, and the first trust metadata of an installation.

The verbs that change it, ``revoke`` and ``rotate-root``, are in ``revoking`` and ``rotating``.

Keys and metadata lie in one folder: ``<folder>/keys/*.pem`` and ``<folder>/trust/``. Without
``--directory`` it is the project's ``.control-plane``. What people hold can be locked with a
passphrase, which is read from a file and never from the command line.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.governing import MAX_DAYS, VALID_DAYS
from control_plane.cli.output import print_json, print_table, short
from control_plane.cli.revoking import revoke
from control_plane.cli.rotating import rotate_root
from control_plane.cli.settings import require_project, settings
from control_plane.errors import InputInvalid

if TYPE_CHECKING:
    from control_plane.publish.keyfiles import KeyFile
    from control_plane.trust.state import Policy

_json_option = click.option(
    "--json", "as_json", is_flag=True, help='Print one object with "format": 1.'
)
_directory_option = click.option(
    "--directory",
    metavar="DIR",
    help="Folder that holds keys/ and trust/; the project's .control-plane unless given.",
)
_passphrase_option = click.option(
    "--passphrase-file", metavar="FILE", help="File with the passphrase that locks the keys."
)


@click.group()
def keys() -> None:
    """Make and list key files and trust metadata; change who may sign."""


keys.add_command(revoke)
keys.add_command(rotate_root)


@keys.command()
@click.option(
    "--directory", metavar="DIR", required=True, help="Folder to make keys/ and trust/ in."
)
@click.option("--installation", metavar="NAME", required=True, help="First part of every origin.")
@click.option(
    "-e",
    "--environment",
    "environments",
    metavar="ENV",
    multiple=True,
    required=True,
    help="An environment, which gets a log key of its own; may be repeated.",
)
@click.option(
    "--author",
    "authors",
    metavar="NAME",
    multiple=True,
    default=("author",),
    show_default=True,
    help="Somebody who may sign changes; may be repeated.",
)
@click.option(
    "--threshold",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Authors whose signatures a change needs; a kill always needs one.",
)
@click.option(
    "--valid-days",
    metavar="N",
    type=click.IntRange(1, MAX_DAYS),
    default=VALID_DAYS,
    show_default=True,
    help="Days until root and targets expire; then nothing but new trust metadata passes.",
)
@_passphrase_option
@_json_option
def init(
    directory: str,
    installation: str,
    environments: tuple[str, ...],
    authors: tuple[str, ...],
    threshold: int,
    valid_days: int,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Make the keys, root and targets metadata of a new installation."""
    from control_plane.publish.keyfiles import create_trust
    from control_plane.trust.authoring import check_plan

    try:
        check_plan(installation, environments, authors, threshold)
    except InputInvalid as error:
        raise click.UsageError(str(error)) from error
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=valid_days)
    trust = create_trust(
        directory,
        installation=installation,
        environments=environments,
        authors=authors,
        threshold=threshold,
        expires=expires,
        passphrase=settings(passphrase_file=passphrase_file).passphrase(),
    )
    found = list(trust.keys.values())
    if as_json:
        answer = {
            "installation": installation,
            "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
            "root": str(trust.root_path),
            "targets": str(trust.targets_path),
        }
        print_json({**answer, "keys": _described(found, trust.policy)})
        return
    _print_keys(found, trust.policy)
    click.echo(f"root and targets of {installation} in {trust.trust_directory}")
    click.echo(
        "move root.pem and targets.pem to a safe place: they are needed only to change who may sign"
    )


@keys.command()
@click.argument("name")
@_directory_option
@_passphrase_option
@_json_option
def new(name: str, directory: str | None, passphrase_file: str | None, as_json: bool) -> None:
    """Make a key file NAME.pem and its public half NAME.pem.pub."""
    from control_plane.names import NAME
    from control_plane.publish.keyfiles import new_key

    if not NAME.fullmatch(name):
        raise click.UsageError(f"expected a name like {NAME.pattern}, found {name!r}")
    folder = _folder(directory) / "keys"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    passphrase = settings(passphrase_file=passphrase_file).passphrase()
    made = new_key(folder / f"{name}.pem", name, passphrase)
    if as_json:
        print_json({"name": name, "key_id": made.key_id, "file": str(made.path)})
        return
    click.echo(f"{made.path}: key {made.key_id}; it signs nothing until targets delegates to it")


@keys.command("list")
@_directory_option
@_json_option
def list_(directory: str | None, as_json: bool) -> None:
    """List keys: those with a file here, and those that the trust metadata names."""
    from control_plane.publish.keyfiles import list_keys

    folder = _folder(directory)
    found, policy = list_keys(folder / "keys"), _policy(folder / "trust")
    if as_json:
        print_json({"keys": _described(found, policy)})
        return
    _print_keys(found, policy)


def _folder(directory: str | None) -> Path:
    if directory is not None:
        return Path(directory)
    return require_project(settings(), "--directory DIR").private


def _policy(trust: Path) -> Policy | None:
    """The policy of the newest root in the folder; None when there is no metadata."""
    from control_plane.trust.state import restore

    roots = [path for path in trust.glob("*.root.json") if path.name.split(".")[0].isdecimal()]
    targets = trust / "targets.json"
    if not roots or not targets.is_file():
        return None
    newest = max(roots, key=lambda path: int(path.name.split(".")[0]))
    return restore(newest.read_bytes(), targets.read_bytes())


def _described(found: list[KeyFile], policy: Policy | None) -> list[dict[str, Any]]:
    """Every key as JSON: its file if it has one here, and what uses it."""
    here = {key.key_id for key in found}
    known = policy.keys() if policy is not None else {}
    return [
        *(
            {"name": key.name, "key_id": key.key_id, "file": str(key.path)}
            | _uses(key.key_id, policy)
            for key in found
        ),
        *(
            {"name": None, "key_id": key_id, "file": None} | _uses(key_id, policy)
            for key_id in sorted(set(known) - here)
        ),
    ]


def _uses(key_id: str, policy: Policy | None) -> dict[str, Any]:
    """The roles, logs and delegations that rest on a key."""
    if policy is None:
        return {"roles": [], "logs": [], "delegations": []}
    roles = {"root": policy.root_key_ids, "targets": policy.targets_key_ids}
    return {
        "roles": [role for role, key_ids in roles.items() if key_id in key_ids],
        "logs": [name for name in policy.environments if policy.log(name).key_id == key_id],
        "delegations": [
            {
                "name": delegation.name,
                "patterns": list(delegation.patterns),
                "threshold": delegation.threshold,
            }
            for delegation in policy.delegations
            if key_id in delegation.key_ids
        ],
    }


def _print_keys(found: list[KeyFile], policy: Policy | None) -> None:
    rows = [
        (key["name"] or "-", short(key["key_id"]), _used_for(key))
        for key in _described(found, policy)
    ]
    print_table(("name", "key id", "used for"), rows)


def _used_for(key: dict[str, Any]) -> str:
    uses = [
        *key["roles"],
        *(f"log of {environment}" for environment in key["logs"]),
        *(_granted(delegation) for delegation in key["delegations"]),
    ]
    return ", ".join(uses) or "nothing yet"


def _granted(delegation: dict[str, Any]) -> str:
    patterns = " ".join(delegation["patterns"])
    threshold = delegation["threshold"]
    return patterns if threshold == 1 else f"{patterns} (needs {threshold} signatures)"
