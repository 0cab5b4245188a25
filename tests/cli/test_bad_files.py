"""Files that `apply` refuses: one line, exit code 1, and the store's log stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.client import StoreClient

Cli = Callable[..., Any]

FLAG = b"kind: flag\nname: bad\nmetadata:\n  variants: {a: true, b: false}\n  default: a\n"
CONFIG = b"kind: config\nname: bad\nmetadata:\n  values:\n    x: "
BOMB = b"\n".join(
    [b"a0: &a0 [x, x]", *(b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1) for i in range(1, 40))]
)
BAD = {
    "unknown kind": (FLAG.replace(b"flag", b"flog"), "kind"),
    "no kind": (FLAG.replace(b"kind: flag\n", b""), "kind"),
    "unknown field": (FLAG + b"colour: blue\n", "colour"),
    "unknown field inside": (FLAG + b"  colour: blue\n", "colour"),
    "schema violation": (FLAG.replace(b"default: a", b"default: 7"), "default"),
    "a rule broken": (FLAG.replace(b"default: a", b"default: c"), "default"),
    "values of a config against its schema": (
        CONFIG + b"text\n  schema: {type: object, properties: {x: {type: number}}}\n", "x"),
    "name outside its pattern": (FLAG.replace(b"name: bad", b"name: ../bad"), "name"),
    "name too long": (FLAG.replace(b"name: bad", b"name: " + b"x" * 129), "name"),
    "version outside its pattern": (
        b'kind: tool\nname: bad\nversion: "1.0.0 "\nmetadata: {description: d}\n', "version"),
    "oversize": (FLAG + b"  description: " + b"x" * (1 << 20), "1048576"),
    "oversize file": (FLAG + b"# " + b"x" * (16 << 20), "16777216"),
    "depth bomb": (CONFIG + b"[" * 100_000, "64 levels"),
    "alias bomb": (BOMB, "no anchor"),
    "merge key": (FLAG + b"  <<: {enabled: true}\n", "merge key"),
    "tag": (FLAG.replace(b"default: a", b"default: !!str a"), "tag"),
    "two documents": (FLAG + b"---\n" + FLAG, "one document"),
    "duplicate key": (FLAG + b"name: again\n", "each key once"),
    "key that is no string": (CONFIG + b"{1: one}\n", "string as key"),
    "NaN": (CONFIG + b".nan\n", "finite number"),
    "infinity": (CONFIG + b"-.inf\n", "finite number"),
    "integer past 2^53": (CONFIG + b"9007199254740993\n", "2^53"),
    "invalid UTF-8": (CONFIG + b"\xff\n", "UTF-8"),
    "lone surrogate": (CONFIG + b'"\\ud800"\n', "YAML"),
    "broken YAML": (FLAG + b"metadata: [", ""),
    "empty file": (b"", "one document"),
    "a list at the top": (b"- kind: flag\n", "mapping at the top"),
}  # fmt: skip
BAD_JSON = {
    "broken JSON": (b'{"kind": "flag",', "JSON"),
    "duplicate key": (b'{"kind": "flag", "kind": "flag"}', "each key once"),
    "NaN": (b'{"kind": "flag", "metadata": NaN}', "finite number"),
    "integer past 2^53": (b'{"kind": "flag", "version": 9007199254740993}', "2^53"),
    "depth bomb": (b'{"a":' * 50_000, "nesting"),
    "lone surrogate": (b'{"kind": "\\ud800"}', ""),
    "invalid UTF-8": (b'{"kind": "\xff"}', "UTF-8"),
}


def standing(cli: Cli, project: Any) -> tuple[Any, ...]:
    """Size and root of the verified log and checkpoint, generation, heads, and what waits."""
    ran = cli("log", "verify", "-e", "production", "--json", cwd=project.folder)
    assert ran.code == 0, ran.err
    token = (project.private / "tokens" / "submit.token").read_text().strip()
    with StoreClient(project.store, token) as store:
        position = store.position("production")
        heads = store.heads("production")["heads"]
        waiting = store.pending("production")["pending"]
    return (
        ran.json["size"], ran.json["root"], ran.json["heads_root"], position["generation"],
        json.dumps(heads, sort_keys=True), waiting,
    )  # fmt: skip


def refuse(cli: Cli, project: Any, path: Path, words: str) -> None:
    """Applied in a folder with a good document, it keeps both out and is named in one line."""
    good = path.with_name("a-good.yaml")
    good.write_bytes(FLAG.replace(b"name: bad", b"name: good"))
    before, held = standing(cli, project), path.read_bytes()
    ran = cli("apply", "-f", path.parent, "-e", "production", cwd=project.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran.err
    assert ran.err.startswith("control-plane: ")
    assert "expected " in ran.err
    assert words in ran.err
    assert path.name in ran.err
    assert len(ran.err) < 1_000
    assert standing(cli, project) == before
    assert path.read_bytes() == held
    assert sorted(path.parent.iterdir()) == sorted([path, good])


@pytest.mark.parametrize("case", BAD)
def test_a_bad_yaml_file_changes_nothing(cli: Cli, project: Any, tmp_path: Path, case: str) -> None:
    data, words = BAD[case]
    path = tmp_path / "files" / "b-bad.yaml"
    path.parent.mkdir()
    path.write_bytes(data)
    refuse(cli, project, path, words)


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_json_file_changes_nothing(cli: Cli, project: Any, tmp_path: Path, case: str) -> None:
    data, words = BAD_JSON[case]
    path = tmp_path / "files" / "b-bad.json"
    path.parent.mkdir()
    path.write_bytes(data)
    refuse(cli, project, path, words)
