"""``config get`` and ``config origin``: a merged value, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment, nearest
from control_plane.cli.configuring_report import key_text, value_text
from control_plane.cli.output import print_json, when
from control_plane.cli.settings import publisher, settings, store_options
from control_plane.errors import KeyNotFoundError, NotFound
from control_plane.shown import shown

if TYPE_CHECKING:
    from control_plane.configs.origin import Origin
    from control_plane.configs.settings import ConfigManager
    from control_plane.publish.preflight import Spaces


MAX_EXPLAINED = 200
"""Values below a mapping that ``--explain`` tells the layers of."""


def checked_key(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """The callback of KEY: the keys a path leads through."""
    from control_plane.configs.layers import decode_path, encode_path

    keys = decode_path(value)
    if encode_path(keys) != value or not keys[0]:
        raise click.UsageError(
            f"expected keys joined by dots, ~ written ~0 and a dot in a key ~1, found {value!r}",
            context,
        )
    return keys


def checked_tenant(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The callback of ``--tenant``: an id that can be stored, or none."""
    from control_plane.names import is_tenant

    if value and not is_tenant(value):
        raise click.UsageError(
            "expected a tenant id of 1 to 128 bytes, NFC, without control characters,"
            f" found {value!r}",
            context,
        )
    return value


def _reading_options(function: Any) -> Any:
    for option in (
        store_options,
        click.option("--replica", metavar="DIR", help="The replica root."),
        click.option(
            "--tenant", default="", metavar="ID", callback=checked_tenant,
            help="As this tenant sees it.",
        ),
        click.option(
            "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
            help="The environment; this node's only one without it.",
        ),
        click.argument("key", callback=checked_key),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command()
@_reading_options
@click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="Read files instead.")
@click.option("--live", is_flag=True, help="Read what the store holds instead; needs -e.")
@click.option("--explain", is_flag=True, help="Also say which layers hold it.")
def get(
    key: tuple[str, ...],
    environment: str | None,
    tenant: str,
    files: tuple[str, ...],
    live: bool,
    explain: bool,
    replica: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Print the merged value of KEY, like database.pool.size, or the mapping of all below it.

    From this node's replica, as an application reads it, without a store; from files with -f; from
    the store with --live.
    """
    if files and live:
        raise click.UsageError("expected -f PATH or --live, found both")
    if files or live:
        side = _side(files, environment, given)
        value = _merged(side, key, environment, tenant)
        steps = list(_layers(side, key, environment, tenant)) if explain else []
    else:
        from control_plane.configs.settings import ConfigManager

        with ConfigManager(
            replica=settings(replica=replica).replica(), environment=environment
        ) as manager:
            value = manager.get(key, tenant_id=tenant or None)
            environment = manager.environment
            steps = list(_origins(manager, key, value, tenant)) if explain else []
    if as_json:
        told = {"key": list(key), "environment": environment, "tenant": tenant or None}
        print_json(told | {"value": value} | ({"explain": steps} if explain else {}))
        return
    import json

    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict) else None))
    for step in steps:
        click.echo(f"  {_step_line(step)}")


@click.command()
@_reading_options
def origin(
    key: tuple[str, ...],
    environment: str | None,
    tenant: str,
    replica: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Say which layer, manifest and change the value of KEY comes from, on this node."""
    from control_plane.cli.holders import holder_names
    from control_plane.configs.settings import ConfigManager

    found = settings(replica=replica, **given)
    with ConfigManager(replica=found.replica(), environment=environment) as manager:
        told = manager.origin(key, tenant_id=tenant or None)
    if as_json:
        print_json(_origin_json(told))
        return
    changed = None if told.sequenced_at is None else when(told.sequenced_at)
    rows = (
        ("layer", told.layer), ("manifest", told.manifest), ("environment", told.environment),
        ("tenant", told.tenant_id), ("generation", told.generation), ("changed", changed),
        ("by", holder_names(found)(told.key_ids) if told.key_ids else None), ("verb", told.verb),
        ("reason", told.reason), ("refers to", ", ".join(map(_key_words, told.references)) or None),
        ("held", "a newer value is not made out; see the daemon's log" if told.held else None),
    )  # fmt: skip
    for name, value in rows:
        if value is not None:
            click.echo(f"{name:<12}{shown(value)}")


def _origin_json(told: Origin) -> dict[str, Any]:
    return {
        "key": list(told.key) if isinstance(told.key, tuple) else told.key,
        "layer": told.layer,
        "manifest": told.manifest,
        "environment": told.environment,
        "tenant": told.tenant_id,
        "generation": told.generation,
        "sequenced_at": told.sequenced_at,
        "key_ids": list(told.key_ids),
        "verb": told.verb,
        "reason": told.reason,
        "references": [list(each) if isinstance(each, tuple) else each for each in told.references],
        "held": told.held,
    }


def _key_words(key: str | tuple[str, ...]) -> str:
    from control_plane.configs.layers import path_of

    return key if isinstance(key, str) else path_of(key)


def _side(files: tuple[str, ...], environment: str | None, given: Mapping[str, Any]) -> Spaces:
    from control_plane.cli.configuring_sources import live_configs, read_configs
    from control_plane.publish.preflight import spaces

    if files:
        return spaces(read_configs(files))
    if environment is None:
        raise click.UsageError("expected -e ENV with --live, found none")
    with publisher(settings(**given), sign=False) as reader:
        return spaces(live_configs(reader, environment))


def _merged(side: Spaces, key: tuple[str, ...], environment: str | None, tenant: str) -> Any:
    """The value at a key; a reference to what is not among the documents stays as text."""
    from control_plane.configs.layers import encode_path, flatten
    from control_plane.configs.references import Configuration

    value: Any = None
    configuration = Configuration(environment, side.get, complete=False)
    trees = configuration.trees(key[0], (tenant,) if tenant else (), unfollowed=False)
    for _, tree, _ in trees:
        value = tree
    if key[0] not in side:
        raise NotFound(f"config/{key[0]}: expected it, found none{nearest(key[0], side)}")
    whole = value
    for each in key[1:]:
        if not isinstance(value, dict) or each not in value:
            path = encode_path(key)
            hint = nearest(path, flatten(whole, (key[0],)) if whole else ())
            where = environment or "without an environment"
            raise NotFound(f"{path} ({where}): expected a key with a value, found none{hint}")
        value = value[each]
    return value


def _layers(
    side: Spaces, key: tuple[str, ...], environment: str | None, tenant: str
) -> Iterator[dict[str, Any]]:
    """Every layer that holds the key, low to high, with what it says."""
    base, own = side[key[0]]
    yield from _blocks(base, base, environment, tenant, key[1:])
    for document in own:
        if document["name"] == f"{key[0]}@{tenant}":
            yield from _blocks(document, None, environment, "", key[1:])


def _blocks(
    document: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None,
    environment: str | None,
    tenant: str,
    keys: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    if document is None:
        return
    metadata = document["metadata"]
    blocks: list[tuple[str, Any]] = []
    if base is not None:
        from control_plane.configs.layers import Merged

        bare = {name: value for name, value in metadata.items() if name in ("schema", "lists")}
        blocks.append(("default", Merged({**document, "metadata": bare}, [], None).tree("")))
    blocks += [
        ("values", metadata.get("values", {})),
        (f"environments.{environment}", metadata.get("environments", {}).get(environment, {})),
        (f"tenants.{tenant}", metadata.get("tenants", {}).get(tenant, {})),
    ]
    for layer, value in blocks:
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            if value != {} or keys:
                yield {"layer": layer, "manifest": f"config/{document['name']}", "value": value}


def _origins(
    manager: ConfigManager, key: tuple[str, ...], value: Any, tenant: str
) -> Iterator[dict[str, Any]]:
    """The origin of a value, or of each below a mapping."""
    from control_plane.configs.layers import decode_path, flatten

    paths = [key]
    if isinstance(value, dict) and value:
        paths = [decode_path(path) for path in flatten(value, key)]
    for each in paths[:MAX_EXPLAINED]:
        try:
            told = manager.origin(each, tenant_id=tenant or None)
        except KeyNotFoundError:
            continue  # it went between the two reads
        yield _origin_json(told)


def _step_line(step: Mapping[str, Any]) -> str:
    if "value" in step:
        return f"{step['layer']} of {step['manifest']}: {value_text(step['value'])}"
    key = step["key"]
    name = key if isinstance(key, str) else ".".join(key)
    return (
        f"{key_text(name)}: {step['layer']} of {step['manifest']}, generation {step['generation']}"
    )
