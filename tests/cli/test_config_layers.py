"""Configuration from an author's file to an application, on real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_plane.cli.settings import Project
from control_plane.configs.settings import ConfigManager

SCHEMA = {"type": "object", "properties": {"size": {"type": "integer", "maximum": 100}}}


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def test_layers_references_and_a_refused_schema_go_from_file_to_application(
    governed: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    governed.start_node("live")
    base = config(
        "app",
        schema=SCHEMA,
        values={"url": "pg://${hosts.db}", "size": 5, "plugins": ["core"]},
        environments={"production": {"size": 50, "plugins": ["audit"]}},
        lists={"plugins": "append"},
    )
    documents = [
        base,
        config("app@acme", values={"size": 80, "plugins": ["beta"]}),
        config(
            "hosts", values={"db": "db.internal"}, tenants={"globex": {"db": "globex.internal"}}
        ),
    ]
    for document in documents:
        write(document, tmp_path / "configs")
    arguments = ("-e", "production", "--reason", "first pools")
    done = governed.done("apply", "-f", tmp_path / "configs", *arguments)
    generation = done["generations"][-1]
    governed.held("live", generation)

    smaller = {**base["metadata"], "schema": {"properties": {"size": {"maximum": 60}}}}
    path = write(config("app", **smaller), tmp_path / "changed")
    refused = governed("apply", "-f", path, *arguments)
    assert refused.code == 1
    assert (
        "config/app@acme: for production: for tenant acme: expected at most 60, found 80"
        " at metadata.values.size" in refused.err
    )
    orphan = write(config("hosts", values={"main": "x"}), tmp_path / "orphan")
    refused = governed("apply", "-f", orphan, *arguments)
    assert refused.code == 1
    assert "config/app: for production: expected a value at hosts.db to refer to" in refused.err

    with ConfigManager(replica=str(governed.root("live")), environment="production") as manager:
        assert manager.get("app") == {
            "url": "pg://db.internal", "size": 50, "plugins": ["core", "audit"],
        }  # fmt: skip
        assert manager.get("app", tenant_id="acme") == {
            "url": "pg://db.internal", "size": 80, "plugins": ["core", "audit", "beta"],
        }  # fmt: skip
        assert manager.get("app.url", tenant_id="globex") == "pg://globex.internal"
        origin = manager.origin("app.size", tenant_id="acme")
        assert (origin.manifest, origin.reason, origin.verb) == (
            "config/app@acme", "first pools", "apply",
        )  # fmt: skip
        assert [len(key_id) for key_id in origin.key_ids] == [64]


def test_files_that_do_not_fit_each_other_are_refused_before_they_are_sent(
    cli: Any, project: Project, write: Callable[..., Path], tmp_path: Path
) -> None:
    values = {"size": 5, "url": "${hosts.nowhere}"}
    base = write(config("app", schema=SCHEMA, values=values), tmp_path / "files")
    write(config("hosts", values={"db": "x"}), tmp_path / "files")
    refused = cli("apply", "-f", tmp_path / "files", "-e", "development", cwd=project.folder)
    assert refused.code == 1
    assert f"{base}:12:5: config/app: expected a value at hosts.nowhere to refer to" in refused.err

    write(config("app", schema=SCHEMA, values={"size": 5}), tmp_path / "files")
    own = write(config("app@acme", values={"size": 500}), tmp_path / "files")
    refused = cli("apply", "-f", tmp_path / "files", "-e", "development", cwd=project.folder)
    assert refused.code == 1
    assert f"{own}:5:5: config/app@acme: for tenant acme: expected at most 100" in refused.err


def test_a_namespace_that_is_not_at_hand_is_left_for_the_store(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    from control_plane.cli.files import read_documents

    write(config("app", values={"url": "${elsewhere.db}"}), tmp_path)
    write(config("front@acme", values={"url": "${front.x}"}), tmp_path)
    assert len(read_documents([tmp_path])) == 2
