"""``config``: read merged configuration, change it for an environment or a tenant, and check it.

A KEY is a path as ``lists`` and ``${}`` write it: keys joined by dots, in each ``~`` written ``~0``
and a dot ``~1``. What a verb reads is said by one of three: nothing is this node's replica, as an
application sees it; ``-f`` are files; ``--live`` is the store.

``set`` and ``edit`` start from what the log proves and write one layer, as ``flag rollout`` does:
see ``publish.config_edits``. The verb of their changes is ``config-set`` or ``config-edit``, so
that ``apply`` does not undo them unseen.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment, name_argument, reason_option
from control_plane.cli.changing import report_changes
from control_plane.cli.configuring_diff import diff
from control_plane.cli.configuring_reading import checked_key, checked_tenant, get, origin
from control_plane.cli.configuring_validate import validate
from control_plane.cli.preflight import Preflight, preflight_options
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)
from control_plane.cli.standing import Standing
from control_plane.errors import InputInvalid, SyntaxInvalid

if TYPE_CHECKING:
    from control_plane.configs.references import Documents
    from control_plane.publish.publisher import Publisher


@click.group()
def config() -> None:
    """Read, set, edit, compare and validate configuration."""


for command in (get, origin, diff, validate):
    config.add_command(command)

_tenant_option = click.option(
    "--tenant", default="", metavar="ID", callback=checked_tenant,
    help="For this tenant instead of all of the environment.",
)  # fmt: skip
_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Let the store judge it and write nothing."
)


@config.command("set")
@click.argument("path", metavar="KEY", callback=checked_key)
@click.argument("value")
@environment_option
@_tenant_option
@click.option("--string", is_flag=True, help="VALUE is text as it stands, no JSON.")
@reason_option
@_dry_run_option
@preflight_options
@key_options
@store_options
def set_value(
    path: tuple[str, ...],
    value: str,
    environment: str,
    tenant: str,
    string: bool,
    reason: str,
    dry_run: bool,
    preflight: Preflight,
    as_json: bool,
    **given: Any,
) -> None:
    """Set one value, KEY as in database.pool.size, for an environment or one of its tenants.

    VALUE is JSON: 5, true, null, '"text"', '[1, 2]'; with --string it is text as it stands. Written
    is environments.ENV of the namespace's document, or tenants.ID for a tenant; one that has a
    document of its own (database@acme) gets it in environments.ENV of that. Files are not touched:
    'pull' brings the change to them.
    """
    from control_plane.configs.layers import encode_path
    from control_plane.publish.config_edits import layer_of, with_value

    if len(path) < 2:
        raise click.UsageError(f"expected a key such as {path[0]}.url, found a namespace alone")
    wanted = value if string else _json(value)
    with _editing(given, environment, path[0]) as (author, standing, documents):
        made = with_value(documents, path, wanted, environment, tenant)
        label = layer_of(documents, path[0], environment, tenant).label
        named = encode_path(path)
        because = reason or _bounded(f"config set {named}" + (f" for {tenant}" if tenant else ""))
        _publish(
            author, standing, environment, made, because, "config-set", dry_run, as_json, preflight,
            [f"{named} = {json.dumps(wanted, ensure_ascii=False)} in {label}"],
        )  # fmt: skip


@config.command()
@name_argument("config")
@environment_option
@_tenant_option
@click.option(
    "-f", "--file", "source", metavar="FILE", help="Take this text instead of opening an editor."
)
@reason_option
@_dry_run_option
@preflight_options
@key_options
@store_options
def edit(
    name: str,
    environment: str,
    tenant: str,
    source: str | None,
    reason: str,
    dry_run: bool,
    preflight: Preflight,
    as_json: bool,
    **given: Any,
) -> None:
    """Open the merged values of NAME in $EDITOR and publish what you changed, and nothing else.

    What changed is written as 'config set' writes it. A key that a lower layer has cannot be taken
    away here. An edit that is refused stays in a file, which -f takes again.
    """
    from control_plane.publish.config_edits import changed_keys, layer_of, merged_tree, with_tree

    _namespace(name)
    with _editing(given, environment, name) as (author, standing, documents):
        layer = layer_of(documents, name, environment, tenant)
        text = _text(name, merged_tree(documents, environment, tenant), layer.label)
        with _edited_text(text, name, source) as edited:
            wanted = _tree(edited)
            made = with_tree(documents, name, wanted, environment, tenant)
            if made is None:
                report_changes(environment, [], [], dry_run, as_json)
                return
            keys = changed_keys(documents, wanted, environment, tenant)
            said = [f"{'.'.join((name, *each))} in {layer.label}" for each in keys]
            because = reason or _bounded(
                f"config edit {name}" + (f" for {tenant}" if tenant else "")
            )
            _publish(
                author,
                standing,
                environment,
                made,
                because,
                "config-edit",
                dry_run,
                as_json,
                preflight,
                said,
            )


@config.command()
@name_argument("config")
@click.option(
    "--from", "source", required=True, metavar="ENV", callback=checked_environment,
    help="The environment to carry from.",
)  # fmt: skip
@click.option(
    "--to", "target", required=True, metavar="ENV", callback=checked_environment,
    help="The environment to carry to.",
)  # fmt: skip
@reason_option
@_dry_run_option
@preflight_options
@click.option("--take-over", is_flag=True, help="Write over changes made by other verbs.")
@click.option("--out", metavar="FILE", help="Write the signed change set here; do not submit it.")
@click.option("--trust", metavar="FILE", help="trust.json to verify the log with.")
@key_options
@store_options
def promote(
    name: str,
    source: str,
    target: str,
    reason: str,
    dry_run: bool,
    preflight: Preflight,
    take_over: bool,
    out: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Carry the namespace NAME and its tenants' documents from one environment to another.

    As 'promote' does it: the same bytes, from a verified log, in one change set. Nothing is
    deleted.
    """
    from control_plane.cli.promoting import carry
    from control_plane.configs.layers import tenant_of
    from control_plane.errors import NotFound
    from control_plane.log.statements import Change, Key

    if source == target:
        raise click.UsageError(f"expected two environments, found {source} twice")
    namespace = _namespace(name)

    def chosen(changes: Mapping[Key, Change]) -> list[Change]:
        found = [
            change
            for key, change in sorted(changes.items())
            if key.kind == "config" and tenant_of(key.name)[0] == namespace
        ]
        if not found:
            raise NotFound(f"config/{namespace}: expected it in {source}, found none")
        return found

    carry(
        chosen, source, target, reason=reason, dry_run=dry_run, atomic=True, take_over=take_over,
        out=out, as_json=as_json, given=given, preflight=preflight,
    )  # fmt: skip


def _namespace(name: str) -> str:
    """The name itself; that of a tenant's document would stand for more than it says."""
    namespace, at, tenant = name.partition("@")
    if at:
        raise click.UsageError(
            f"expected a namespace, found {name}; name {namespace}, with --tenant {tenant} to edit"
        )
    return namespace


@contextmanager
def _editing(
    given: Mapping[str, Any], environment: str, namespace: str
) -> Iterator[tuple[Publisher, Standing, Documents]]:
    """A publisher, what stands, and the namespace's manifests."""
    from control_plane.cli.configuring_sources import standing_namespace

    found = settings(**given)
    with publisher(found) as author:
        standing = Standing.read(found, author, environment, "config")
        yield author, standing, standing_namespace(standing, namespace)


def _publish(
    author: Publisher,
    standing: Standing,
    environment: str,
    document: Mapping[str, Any],
    reason: str,
    verb: str,
    dry_run: bool,
    as_json: bool,
    preflight: Preflight,
    said: list[str],
) -> None:
    proposal = author.change(environment, reason, verb=verb)
    proposal.put(document)
    comparison = author.compare(proposal)
    standing.require(comparison.changes)
    seen = preflight.look(author, environment, [document], as_json)
    submissions = author.submit(proposal, comparison, dry_run=dry_run)
    if submissions and not as_json:
        for line in said:
            click.echo(line)
    report_changes(environment, list(proposal.changes), submissions, dry_run, as_json, seen)


def _bounded(reason: str) -> str:
    """A reason made of a key that may be longer than a reason."""
    from control_plane.names import MAX_REASON_BYTES

    return reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore")


def _json(text: str) -> Any:
    from control_plane.log.canonical import parse

    try:
        return parse(text.encode("utf-8", "surrogateescape"), what="VALUE")
    except SyntaxInvalid as error:
        raise click.UsageError(
            f"{error}; a VALUE is JSON such as 5, true or '\"text\"', or text with --string"
        ) from error


# The text of an edit


def _text(name: str, tree: Mapping[str, Any], label: str) -> str:
    from control_plane.cli.written import emit

    head = (
        f"# config/{name}, merged. What you change is written to {label};\n"
        "# close the editor without a change and nothing is.\n"
    )
    return head + (emit(tree, width=100, default_flow_style=False) if tree else "{}\n")


def _tree(text: str) -> dict[str, Any]:
    from control_plane.manifests.loader import load_yaml

    value = load_yaml(text.encode(), what="edit")
    if not isinstance(value, dict):
        raise InputInvalid("edit: expected a mapping of keys and values, found another value")
    return value


@contextmanager
def _edited_text(text: str, name: str, source: str | None) -> Iterator[str]:
    """What an editor makes of a text; kept in a file, and named, when what follows fails."""
    if source is not None:
        from control_plane.cli.settings import read_file

        yield _decoded(read_file(Path(source), "the text of an edit", "name it with -f FILE"))
        return
    descriptor, name_of = tempfile.mkstemp(prefix=f"control-plane-{name}-", suffix=".yaml")
    path = Path(name_of)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        click.edit(filename=name_of)
        yield _decoded(path.read_bytes())
    except BaseException:
        # Also an interrupt: what somebody wrote is theirs.
        if path.read_bytes() == text.encode():
            path.unlink()
        else:
            click.echo(f"the edit is kept in {path}; -f takes it again", err=True)
        raise
    path.unlink()


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"edit: expected UTF-8, found another encoding: {error}") from error
