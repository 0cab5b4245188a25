"""``get``, ``list`` and ``history``: what the store holds and how it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_reference, nearest
from control_plane.cli.output import print_json, print_table, when
from control_plane.cli.settings import (
    Settings,
    environment_option,
    publisher,
    settings,
    store_options,
)
from control_plane.errors import NotFound
from control_plane.names import CHANGE_KINDS, VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import Publisher, StoredHead

Heads = Mapping["Key", "StoredHead"]
Channels = Mapping["Key", list[str]]


@click.command()
@click.argument("reference", callback=checked_reference)
@environment_option
@store_options
def get(reference: str, environment: str, as_json: bool, **given: Any) -> None:
    """Print one document, like flag/x, agent/a (its stable version) or tool/t@1.2.0, as YAML."""
    from control_plane.cli.written import dump

    with publisher(settings(**given), sign=False) as reader:
        target, head = _found(reader, environment, reference)
        document = reader.document_at(environment, head.digest)
    if as_json:
        print_json(
            {
                "environment": environment,
                "reference": target,
                "generation": head.generation,
                "digest": head.digest,
                "document": document,
            }
        )
    else:
        click.echo(dump(document), nl=False)


@click.command("list")
@click.argument("kind", required=False)
@environment_option
@store_options
def list_documents(kind: str | None, environment: str, as_json: bool, **given: Any) -> None:
    """List what an environment holds, all of it or one KIND (flag, agent, kill, …)."""
    from control_plane.cli.holders import holder_names

    if kind is not None and kind not in CHANGE_KINDS:
        raise click.UsageError(f"expected one of {', '.join(CHANGE_KINDS)}, found {kind!r}")
    found = settings(**given)
    with publisher(found, sign=False) as reader:
        heads = reader.heads(environment)
    channels = _channels(heads)
    rows = [_listed(heads, channels, head) for head in heads.values() if _shown(head, kind)]
    rows.sort(key=lambda row: (CHANGE_KINDS.index(row["kind"]), row["reference"]))
    if as_json:
        print_json({"environment": environment, "documents": rows})
        return
    named = holder_names(found)
    print_table(
        ("reference", "generation", "verb", "by", "notes"),
        [
            (
                row["reference"],
                row["generation"],
                row["verb"],
                named(tuple(row["key_ids"])),
                ", ".join(row["notes"]),
            )
            for row in rows
        ],
    )


@click.command()
@click.argument("reference", required=False, callback=checked_reference)
@environment_option
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--refused", is_flag=True, help="What the store turned away, from its audit.jsonl.")
@click.option("--audit", metavar="FILE", help="With --refused: the file; default the project's.")
@store_options
def history(
    reference: str | None,
    environment: str,
    limit: int,
    refused: bool,
    audit: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show who changed what, when and why, newest first; all of it or one REFERENCE like flag/x.

    For an agent or tool also what each version is: owner, author's key, digest, changelog, and the
    fields that differ from the version before it.

    With --refused, what was submitted and turned away. That stands in no log: it is read from the
    file beside the store's database, on the store's host or in the project.
    """
    from control_plane.cli.holders import holder_names
    from control_plane.cli.version_history import lines

    found = settings(**given)
    if refused:
        if reference is not None:
            raise click.UsageError(f"expected no reference with --refused, found {reference}")
        _show_refused(found, environment, audit, limit, as_json)
        return
    if audit is not None:
        raise click.UsageError("expected --refused with --audit, found none")
    asked = _asked(reference)
    with publisher(found, sign=False) as reader:
        entries = reader.store.history(environment, **asked, limit=limit)["entries"]
        if asked.get("kind") in VERSIONED_KINDS:
            entries = _with_versions(reader, environment, asked, entries)
    if as_json:
        print_json({"environment": environment, "entries": entries})
        return
    named = holder_names(found)
    for entry in entries:
        click.echo(_told(entry, named(tuple(entry.get("key_ids", ())))))
        for line in lines(entry.get("versions", ())):
            click.echo(line)


def _with_versions(
    reader: Publisher,
    environment: str,
    asked: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The entries, each with the versions it published."""
    from control_plane.cli.version_history import Versions

    versions = Versions(reader, environment, asked["kind"], asked["name"])
    return [{**entry, "versions": versions.of_entry(entry)} for entry in entries]


def _show_refused(
    found: Settings, environment: str, audit: str | None, limit: int, as_json: bool
) -> None:
    from control_plane.cli.refused import audit_file, read_refusals, refusal_line

    refusals = read_refusals(audit_file(found, audit), environment, limit)
    if as_json:
        print_json({"environment": environment, "refused": refusals})
        return
    for refusal in refusals:
        click.echo(refusal_line(refusal))


def _asked(reference: str | None) -> dict[str, object]:
    from control_plane.manifests.documents import parse_reference

    if reference is None:
        return {}
    if reference.startswith("kill/"):
        return {"kind": "kill", "name": reference.removeprefix("kill/")}
    kind, name, version = parse_reference(reference)
    part = {"part": f"v/{version}"} if version and kind in VERSIONED_KINDS else {}
    return {"kind": kind, "name": name, **part}


def _found(reader: Publisher, environment: str, reference: str) -> tuple[str, StoredHead]:
    """The head of a reference; an agent or tool without version means its stable channel's."""
    from control_plane.log.statements import Key
    from control_plane.manifests.documents import parse_reference

    if reference.startswith("kill/"):
        raise NotFound(f"{reference}: expected a document, found a kill; use 'list kill'")
    kind, name, version = parse_reference(reference)
    if kind in VERSIONED_KINDS and version is None:
        channel = Key(kind, name, "c/stable")
        head = reader.heads(environment, [channel]).get(channel)
        if head is None or not head.live:
            raise NotFound(
                f"{reference}: expected channel stable in {environment}, found none;"
                " name a version, or activate one with 'apply'"
            )
        version = head.change.version
    key = Key(kind, name, f"v/{version}" if kind in VERSIONED_KINDS else "")
    target = f"{kind}/{name}" + (f"@{version}" if kind in VERSIONED_KINDS else "")
    head = reader.heads(environment, [key]).get(key)
    if head is None or not head.live:
        there = {
            head.key.name for head in reader.heads(environment, kind=kind).values() if head.live
        }
        hint = nearest(name, there - {name})
        raise NotFound(f"{target}: expected it in {environment}, found none{hint}")
    return target, head


def _shown(head: StoredHead, kind: str | None) -> bool:
    """A live document or kill; channels, statuses and shards are notes of their document."""
    part = head.key.part
    return (
        head.live
        and (kind is None or head.key.kind == kind)
        and (part == "" or part.startswith("v/"))
    )


def _listed(heads: Heads, channels: Channels, head: StoredHead) -> dict[str, Any]:
    version = head.key.part[2:]
    reference = f"{head.key.kind}/{head.key.name}" + (f"@{version}" if version else "")
    return {
        "reference": reference,
        "kind": head.key.kind,
        "name": head.key.name,
        "version": version or None,
        "generation": head.generation,
        "digest": head.digest,
        "verb": head.verb,
        "key_ids": list(head.key_ids),
        "notes": _notes(heads, channels, head),
    }


def _notes(heads: Heads, channels: Channels, head: StoredHead) -> list[str]:
    key = head.key
    if key.kind == "kill":
        variant = (head.change.value or {}).get("variant")
        return [f"serves {variant}" if variant else "serves the disabled variant"]
    if key.kind in VERSIONED_KINDS:
        status = heads.get(key._replace(part=f"s/{key.part[2:]}"))
        marked = status is not None and status.live and status.change.status != "active"
        return channels.get(key, []) + ([str(status.change.status)] if status and marked else [])
    kill = heads.get(key._replace(kind="kill")) if key.kind == "flag" else None
    return ["killed"] if kill is not None and kill.live else []


def _channels(heads: Heads) -> Channels:
    """The channels that point to each version."""
    found: dict[Key, list[str]] = {}
    for key, head in heads.items():
        if head.live and key.part.startswith("c/"):
            version = key._replace(part=f"v/{head.change.version}")
            found.setdefault(version, []).append(key.part[2:])
    return found


def _told(entry: Mapping[str, Any], by: str) -> str:
    head = f"{entry['generation']:>6}  {when(entry['sequenced_at'])}  "
    if "verb" not in entry:
        return head + str(entry["type"]).rpartition(".control-plane.")[2].partition(".")[0]
    changes: Sequence[Mapping[str, Any]] = entry.get("changes") or ()
    names = ", ".join(f"{change['action']} {_name(change)}" for change in changes[:4])
    more = f" and {entry.get('count', len(changes)) - 4} more" if len(changes) > 4 else ""
    return f"{head}{entry['verb']} by {by}: {entry['reason']!r}; {names}{more}"


def _name(change: Mapping[str, Any]) -> str:
    version = change.get("version")
    channel = f" {change['channel']} to {version}" if change["action"] == "activate" else ""
    suffix = f"@{version}" if version and not channel else ""
    return f"{change['kind']}/{change['name']}{suffix}{channel}"
