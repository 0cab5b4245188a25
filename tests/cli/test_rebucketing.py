"""``flag rebucket-report`` against a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from control_plane.cli.rebucketing import rebucket_report


def put(path: Path, on: int, **more: Any) -> Path:
    serve = [{"variant": "on", "weight": on}, {"variant": "off", "weight": 100 - on}]
    metadata = {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [{"name": "r", "serve": serve, "by": "tenant_id"}],
        **more,
    }
    path.write_text(json.dumps({"kind": "flag", "name": "x", "metadata": metadata}))
    return path


def run(*arguments: object) -> Any:
    words = [*map(str, arguments), "-e", "production"]
    return CliRunner().invoke(rebucket_report, words, catch_exceptions=False)


def test_the_share_that_moves_and_every_way_it_goes_are_printed(tmp_path: Path) -> None:
    before, after = put(tmp_path / "before.json", 25), put(tmp_path / "after.json", 40)
    done = run(after, "--before", before)
    assert done.exit_code == 0
    first, *rows = done.output.splitlines()
    assert first.startswith("flag/x (production): 15.")
    assert first.endswith("of 100,000 units by tenant_id would move")
    assert rows[1].split()[:2] == ["off", "on"]
    told = json.loads(run(after, "--before", before, "--json", "--sample", 1000).output)
    assert told["units"] == 1000
    assert told["moved"] == told["pairs"][0]["units"]


def test_real_units_count_once_each(tmp_path: Path) -> None:
    before, after = put(tmp_path / "before.json", 0), put(tmp_path / "after.json", 100)
    units = tmp_path / "units.txt"
    units.write_text("acme\n\nother\nacme\n")
    told = json.loads(run(after, "--before", before, "--units", units, "--json").output)
    assert told["pairs"] == [{"from": "off", "to": "on", "units": 2}]


def test_an_environments_block_is_what_is_compared(tmp_path: Path) -> None:
    before = put(tmp_path / "before.json", 25)
    after = put(tmp_path / "after.json", 25, environments={"production": {"salt": "new"}})
    told = json.loads(run(after, "--before", before, "--json").output)
    assert told["moved"] > 30_000
