"""``init``: a project folder with everything a first change needs.

    DIR/manifests/                 examples to edit
    DIR/.control-plane/            0700
        config.json                installation, environments, store, replica, manifests
        keys/                      root, targets, author, log-<environment>: private keys, 0600
        trust/                     root and targets metadata
        trust.json                 what a node is enrolled with
        tokens/                    submit.token, follow.token: 0600
        store.sqlite3              the store's database

Everything is made in a folder beside it that is renamed at the end, so an ``init`` that fails or
is interrupted leaves no half project. Keys that are to guard anything belong somewhere safer than
the machine that runs the store; ``keys init`` makes them apart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from control_plane.cli.output import print_json
from control_plane.cli.settings import DEFAULT_STORE, FOLDER, Project, read_project
from control_plane.errors import Refused


@click.command()
@click.argument("folder", metavar="DIR")
@click.option(
    "-e", "--environment", "--env", "environments", multiple=True, default=("development",),
    show_default=True, metavar="ENV", help="An environment; may be repeated.",
)  # fmt: skip
@click.option("--installation", default="example", show_default=True, help="Part of every origin.")
@click.option("--store", default=DEFAULT_STORE, show_default=True, metavar="URL")
@click.option("--replica", metavar="DIR", help="Replica root; default the machine's.")
@click.option("--manifests", metavar="DIR", help="Use this folder instead of making examples.")
@click.option("--if-absent", is_flag=True, help="Do nothing when the project is there already.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def init(
    folder: str,
    environments: tuple[str, ...],
    installation: str,
    store: str,
    replica: str | None,
    manifests: str | None,
    if_absent: bool,
    as_json: bool,
) -> None:
    """Make a project in DIR: keys, trust, a store's database, tokens and example manifests."""
    path = Path(folder)
    _check_store(store)
    present = (path / FOLDER / "config.json").is_file()
    if present and if_absent:
        project = read_project(path)
    else:
        project = create_project(
            path,
            installation=installation,
            environments=environments,
            store=store,
            replica=replica,
            manifests=None if manifests is None else Path(manifests),
        )
    if as_json:
        print_json({"project": str(path), "created": not present, **_said(project)})
        return
    if present:
        click.echo(f"{path} is a project already")
        return
    click.echo(f"made {path} with {', '.join(project.environments)}")
    click.echo(f"  keys and tokens   {path / FOLDER} (only you may read it)")
    click.echo(f"  manifests         {project.manifests}")
    click.echo("next:")
    click.echo(f"  cd {path}")
    click.echo("  control-plane up")
    click.echo(f"  control-plane flag off beta_features -e {project.environments[0]}")


def create_project(
    folder: Path,
    *,
    installation: str,
    environments: Sequence[str],
    store: str = DEFAULT_STORE,
    replica: str | None = None,
    manifests: Path | None = None,
) -> Project:
    """Make a project, its trust and its store's database.

    Raises:
        Refused: the folder holds a project already.
    """
    from control_plane.cli.services import init_store
    from control_plane.publish.keyfiles import create_trust

    _check_names(installation, environments)
    if (folder / FOLDER).exists():
        raise Refused(f"{folder / FOLDER}: expected no project yet, found one")
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f"{FOLDER}.new"
    if staging.exists():
        # Left by an init that did not end: it was never used, because nothing names it.
        shutil.rmtree(staging)
    staged = Project(
        folder=folder,
        installation=installation,
        environments=tuple(dict.fromkeys(environments)),
        store=store,
        replica=None if replica is None else str(Path(replica).absolute()),
        manifests=(folder / "manifests" if manifests is None else manifests).absolute(),
        private_name=staging.name,
    )
    (staging / "tokens").mkdir(mode=0o700, parents=True)
    staging.chmod(0o700)
    _create_trust(create_trust, staging, staged)
    init_store(staged)
    (staging / "config.json").write_text(
        json.dumps(staged.to_json(), indent=2) + "\n", encoding="utf-8"
    )
    if manifests is None:
        _copy_examples(folder / "manifests")
    staging.rename(folder / FOLDER)
    return replace(staged, private_name=FOLDER)


def templates() -> Any:
    """The packaged examples: ``manifests/`` and the demo's programs."""
    return files("control_plane.cli") / "templates"


def _create_trust(create_trust: Any, staging: Path, project: Project) -> None:
    create_trust(staging, installation=project.installation, environments=project.environments)


def _check_names(installation: str, environments: Sequence[str]) -> None:
    from control_plane.names import ENVIRONMENT

    for name in (installation, *environments):
        if not ENVIRONMENT.fullmatch(name):
            raise click.UsageError(f"expected a name like {ENVIRONMENT.pattern}, found {name!r}")


def _check_store(url: str) -> None:
    from control_plane.publish.client import StoreClient

    try:
        StoreClient(url).close()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _copy_examples(target: Path) -> None:
    if target.exists():
        return  # the author's own files are left as they are
    with as_file(templates() / "manifests") as source:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _said(project: Project) -> dict[str, Any]:
    said = project.to_json()
    del said["format"]
    return said
