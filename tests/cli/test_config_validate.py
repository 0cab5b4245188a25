"""``config validate``: files alone, every environment and tenant, every problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCHEMA = {"properties": {"size": {"type": "integer", "maximum": 100}}}


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


@pytest.fixture
def files(write: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    def written(*documents: dict[str, Any]) -> Path:
        for document in documents:
            write(document, tmp_path / "files")
        return tmp_path / "files"

    return written


def test_every_problem_of_every_environment_and_tenant_is_one_line(cli: Any, files: Any) -> None:
    tenants = {f"t{number:02}": {"size": 200 + number} for number in range(15)}
    environments = {"production": {"size": 500}, "staging": {"size": "many"}}
    folder = files(
        config("app", schema=SCHEMA, values={"size": 5}, environments=environments, tenants=tenants)
    )
    (folder / "broken.yaml").write_text("kind: config\nname: broken\nmetadata: {values: [1]}\n")
    (folder / "syntax.yaml").write_text("kind: config\nname: [\n")
    ran = cli("config", "validate", "--all", folder)
    lines = ran.out.splitlines()
    assert ran.code == 1
    path = folder / "config-app.yaml"
    (wrong,) = [line for line in lines if "found 500" in line]
    assert wrong.startswith(f"{path}:")
    assert ": config/app: for production: expected at most 100, found 500 at" in wrong
    assert "config/app: for staging: expected " in ran.out
    assert sum("for tenant t" in line for line in lines) == 30
    assert any(line.startswith(f"{folder / 'broken.yaml'}:3:") for line in lines)
    assert any(line.startswith(f"{folder / 'syntax.yaml'}") for line in lines)
    assert lines[-1] == "1 documents, 15 tenants, production, staging: 34 problems"
    assert len(lines) == 35
    few = cli("config", "validate", folder)
    assert few.out.splitlines()[10] == "and 24 more; pass --all to see them"
    told = cli("config", "validate", "--all", folder, "--json").json
    assert (told["ok"], len(told["problems"])) == (False, 34)
    one = next(each for each in told["problems"] if "found 500" in each["problem"])
    assert wrong.startswith(one["place"] + ": ")
    assert one["path"] == ["metadata", "environments", "production", "size"]


def test_with_all_a_reference_out_of_the_files_is_a_problem(cli: Any, files: Any) -> None:
    folder = files(config("app", values={"url": "${hosts.db}"}))
    assert cli("config", "validate", folder).code == 0
    ran = cli("config", "validate", "--all", folder)
    assert ran.code == 1
    assert "config/app: expected a value at hosts.db to refer to, found none at" in ran.out
    files(config("hosts", values={"db": "x"}))
    good = cli("config", "validate", "--all", folder, "-e", "production")
    assert (good.code, good.out) == (0, "2 documents, 0 tenants, production: no problems\n")


def test_a_tenants_own_manifest_is_judged_with_its_base(cli: Any, files: Any) -> None:
    folder = files(
        config("app", schema=SCHEMA, values={"size": 5}),
        config("app@acme", environments={"production": {"size": 101}}),
    )
    ran = cli("config", "validate", "--all", folder)
    assert ran.code == 1
    assert "config/app@acme: for production: for tenant acme: expected at most 100" in ran.out
    assert cli("config", "validate", folder / "nowhere").code == 1
