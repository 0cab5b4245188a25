"""``config get|set|edit|diff|origin|promote`` on a real store and node."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.configs.settings import ConfigManager

SCHEMA = {
    "type": "object",
    "properties": {"pool": {"type": "object", "properties": {"size": {"maximum": 100}}}},
}


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


DATABASE = config(
    "database",
    schema=SCHEMA,
    values={"url": "pg://${hosts.db}", "pool": {"size": 5, "wait": 1}},
    environments={"production": {"pool": {"size": 50}}},
    tenants={"acme": {"pool": {"size": 80}}},
)
HOSTS = config("hosts", values={"db": "db.internal"})
OWN = config("database@globex", values={"pool": {"size": 60}})


@pytest.fixture
def published(governed: Any, write: Callable[..., Path]) -> Any:
    folder = governed.project.folder / "own"
    for document in (DATABASE, HOSTS, OWN):
        write(document, folder)
    governed.folder = folder
    governed.done("apply", "-f", folder, "-e", "production")
    return governed


def stored(published: Any, name: str, environment: str = "production") -> dict[str, Any]:
    document = published.done("get", f"config/{name}", "-e", environment)["document"]
    assert isinstance(document, dict)
    return document


def editor(folder: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """An $EDITOR that replaces one text with another in the file it is given."""
    script = folder / "editor.py"
    script.write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
        f"assert {old!r} in text, text\npath.write_text(text.replace({old!r}, {new!r}))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("control-plane-*.yaml"))


def test_set_reaches_a_node_and_writes_one_layer_only(published: Any) -> None:
    published.start_node("live")
    said = published.done("config", "set", "database.pool.size", "55", "-e", "production")
    assert said["changed"] == ["config/database"]
    assert stored(published, "database") == {
        **DATABASE,
        "metadata": {
            **DATABASE["metadata"], "environments": {"production": {"pool": {"size": 55}}},
        },
    }  # fmt: skip
    published.held("live", said["generation"])
    root = published.root("live")
    asked = ("config", "get", "database.pool.size", "--replica", root)
    assert published.done(*asked)["value"] == 55
    assert published.done(*asked, "--tenant", "acme")["value"] == 80
    with ConfigManager(replica=str(root), environment="production") as manager:
        assert manager.get("database.pool.size") == 55
    told = published("config", "origin", "database.pool.size", "--replica", root)
    assert told.code == 0
    assert re.search(r"layer +environments\.production\n", told.out)
    assert re.search(r"by +author\nverb +config-set\n", told.out)
    explained = published("config", "get", "database.pool", "--replica", root, "--explain")
    assert "database.pool.wait: values of config/database, generation" in explained.out


def test_set_for_a_tenant_goes_to_its_block_or_its_own_manifest(published: Any) -> None:
    put = ("config", "set", "-e", "production")
    published.done(*put, "database.pool.size", "90", "--tenant", "acme")
    published.done(*put, "database.url", "pg://own", "--string", "--tenant", "globex")
    assert stored(published, "database")["metadata"]["tenants"] == {"acme": {"pool": {"size": 90}}}
    assert stored(published, "database@globex")["metadata"] == {
        "values": {"pool": {"size": 60}}, "environments": {"production": {"url": "pg://own"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("database.pool.size", "500"), 1, "expected at most 100, found 500"),
        (("database.pool.size", "tru"), 2, "a VALUE is JSON such as 5"),
        (("database", "5"), 2, "expected a key such as database.url"),
        (("database.url.host", "5"), 1, "database.url: expected a mapping to set host in"),
        (("nothing.url", "5"), 1, "config/nothing: expected it in production, found none"),
        (("database..~", "5"), 2, "expected keys joined by dots"),
        (("database.pool.size", "5", "--tenant", ""), 0, ""),
    ],
)
def test_what_set_refuses_changes_nothing(
    published: Any, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    ran = published("config", "set", *arguments, "-e", "production")
    assert (ran.code, sentence in ran.err) == (code, True), ran.err
    if code:
        assert stored(published, "database") == DATABASE


def test_apply_does_not_undo_a_set_until_pull_has_seen_it(published: Any) -> None:
    published.done("config", "set", "database.pool.size", "55", "-e", "production")
    ran = published("apply", "-f", published.folder, "-e", "production")
    assert ran.code == 1
    assert "found 'config set' by author at generation" in ran.err
    assert stored(published, "database")["metadata"]["environments"]["production"] == {
        "pool": {"size": 55}
    }
    published.done("pull", published.folder, "-e", "production")
    assert published.done("apply", "-f", published.folder, "-e", "production")["changed"] == []


def test_edit_writes_only_what_changed_and_keeps_no_file(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "wait: 1", "wait: 2\n  'gpt-4.1': {a: x}")
    ran = published("config", "edit", "database", "-e", "production", "--tenant", "acme")
    assert ran.code == 0, ran.err
    assert stored(published, "database")["metadata"] == {
        **DATABASE["metadata"],
        "tenants": {"acme": {"pool": {"size": 80, "wait": 2, "gpt-4.1": {"a": "x"}}}},
    }
    assert kept(tmp_path) == []
    monkeypatch.setenv("EDITOR", "true")
    before = published.history().position
    untouched = published("config", "edit", "database", "-e", "production")
    assert (untouched.code, untouched.out) == (0, "production: nothing to change\n")
    assert published.history().position == before
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("size: 50", "size: 500", "expected at most 100, found 500"),
        ("size: 50", "size: [", "edit"),
        ("  wait: 1\n", "", "database.pool.wait: expected it to go in environments.production"),
    ],
)
def test_a_refused_edit_is_kept_in_a_file_that_is_taken_again(
    published: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    sentence: str,
) -> None:
    editor(tmp_path, monkeypatch, old, new)
    ran = published("config", "edit", "database", "-e", "production")
    (path,) = kept(tmp_path)
    assert ran.code == 1
    assert sentence in ran.err
    assert f"the edit is kept in {path}; -f takes it again\n" in ran.err
    assert stored(published, "database") == DATABASE
    path.write_text(path.read_text().replace(new, "size: 51") if new else "{url: x}")
    again = published("config", "edit", "database", "-e", "production", "-f", path)
    assert again.code == (0 if new else 1), again.err
    assert path.exists()


def test_an_edit_that_somebody_overtook_is_a_conflict_and_is_kept(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "slow.sh"
    other = f"{sys.executable} -m control_plane config set database.pool.size 70 -e production"
    script.write_text(f"cd {published.project.folder} && {other} && sed -i 's/50/51/' $1\n")
    editor(tmp_path, monkeypatch, "", "")
    monkeypatch.setenv("EDITOR", f"sh {script}")
    ran = published("config", "edit", "database", "-e", "production")
    assert ran.code == 5, ran.err
    assert len(kept(tmp_path)) == 1
    assert stored(published, "database")["metadata"]["environments"]["production"] == {
        "pool": {"size": 70}
    }


def test_get_reads_files_and_the_store_and_explains_each_layer(published: Any) -> None:
    asked = ("config", "get", "database.pool.size", "-e", "production", "--tenant", "acme")
    for side in (("-f", published.folder), ("--live",)):
        told = published.done(*asked, *side, "--explain")
        assert told["value"] == 80
        assert [(each["layer"], each["value"]) for each in told["explain"]] == [
            ("values", 5), ("environments.production", 50), ("tenants.acme", 80),
        ]  # fmt: skip
        url = published.done("config", "get", "database.url", "-e", "production", *side)
        assert url["value"] == "pg://db.internal"
    missing = published("config", "get", "database.pool.sise", "-e", "production", "--live")
    assert missing.code == 1
    assert "nearest: database.pool.size" in missing.err


def test_diff_shows_files_environments_tenants_and_generations(
    published: Any, write: Callable[..., Path]
) -> None:
    diff = ("config", "diff")
    same = published(*diff, "-f", published.folder, "-e", "production")
    assert same.code == 0, same.err
    assert same.out == "production: no merged value changes, for the base and 2 tenants\n"
    first = published.history().position.generation
    write(config("hosts", values={"db": "new.internal"}), published.folder)
    changed = published(*diff, "-f", published.folder, "-e", "production")
    assert changed.code == 1
    assert (
        changed.out == "production: 2 merged values change for the base, some for 2 of 2 tenants\n"
        '  ~ database.url: "pg://db.internal" -> "pg://new.internal"\n'
        '  ~ hosts.db: "db.internal" -> "new.internal"\n'
        "  2 tenants with the base alone\n"
    )
    published.done("apply", "-f", published.folder, "-e", "production")
    past = published(*diff, "-e", "production", "--at", first, "hosts")
    assert past.out.splitlines()[1:] == [
        '  ~ hosts.db: "db.internal" -> "new.internal"', "  2 tenants with the base alone",
    ]  # fmt: skip
    tenants = published(*diff, "-e", "production", "--tenant", "acme", "--tenant", "globex")
    assert (tenants.code, tenants.out.splitlines()[1]) == (1, "  ~ database.pool.size: 80 -> 60")
    across = published(*diff, "--from", "production", "--to", "staging", "hosts")
    assert (across.code, across.out.splitlines()[1]) == (1, '  + hosts.db: "new.internal"')
    assert published(*diff, "-e", "production").code == 2


def test_diff_is_three_way_where_the_store_moved_since_pull(
    published: Any, write: Callable[..., Path]
) -> None:
    published.done("pull", published.folder, "-e", "production")
    published.done("config", "set", "database.pool.size", "55", "-e", "production")
    published.done("config", "set", "database.pool.wait", "9", "-e", "production")
    metadata = {**DATABASE["metadata"], "environments": {"production": {"pool": {"size": 45}}}}
    write(config("database", **metadata), published.folder)
    ran = published("config", "diff", "-f", published.folder, "-e", "production")
    assert ran.code == 1, ran.err
    assert (
        ran.out
        == "production: changed since it was pulled; 2 merged values differ, 1 of them conflict\n"
        "  database.pool.size (conflict)\n    pulled  50\n    files   45\n    live    55\n"
        "  database.pool.wait (live)\n    pulled  1\n    files   1\n    live    9\n"
    )


def test_promote_carries_a_namespace_with_its_tenants_and_nothing_else(published: Any) -> None:
    carry = ("config", "promote", "--from", "production", "--to", "staging")
    refused = published(*carry, "database")
    assert refused.code == 1
    assert "expected a value at hosts.db to refer to, found none" in refused.err
    published.done(*carry, "hosts")
    said = published.done(*carry, "database")
    assert sorted(said["changed"]) == ["config/database", "config/database@globex"]
    digests = [
        published.done("get", "config/database", "-e", each)["digest"]
        for each in ("production", "staging")
    ]
    assert digests[0] == digests[1]
    assert published(*carry, "nothing").code == 1
    assert published(*carry, "database@globex").code == 2
    assert published("config", "diff", "databse", "-e", "production", "--at", 1).code == 1


def test_preflight_shows_what_changes_and_refuses_above_its_bound(
    published: Any, write: Callable[..., Path]
) -> None:
    many = {f"t{number:03}": {"own": number} for number in range(60)}
    path = write(config("limits", values={"rate": 5}, tenants=many), published.folder)
    published.done("apply", "-f", path, "-e", "production")
    write(config("limits", values={"rate": 6}, tenants=many), published.folder)
    before = published.history().position
    apply = ("apply", "-f", path, "-e", "production", "--preflight")
    ran = published(*apply)
    assert ran.code == 1
    assert "production: expected at most 50 tenants to change, found 62; pass --yes-change 62" in (
        ran.err
    )
    assert "~ limits.rate: 5 -> 6\n  62 tenants with the base alone\n" in ran.out
    told = published(*apply, "--json")
    assert (told.code, told.json["preflight"]["tenants_changed"]) == (1, 62)
    assert published(*apply, "--yes-change", "61").code == 1
    assert published.history().position == before
    assert published.done(*apply, "--yes-change", "62", "--dry-run")["dry_run"] is True
    assert published.history().position == before
    done = published.done(*apply, "--yes-change", "62")
    assert done["preflight"]["base"] == [{"key": "limits.rate", "old": 5, "new": 6}]
    assert stored(published, "limits")["metadata"]["values"] == {"rate": 6}
    again = published(*apply)
    assert again.out.startswith("production: no merged value changes")
    assert published("apply", "-f", path, "-e", "production", "--yes-change", "1").code == 2


def test_preflight_looks_at_other_environments_and_refuses_for_any_of_them(
    published: Any, write: Callable[..., Path]
) -> None:
    many = {f"t{number:03}": {"own": number} for number in range(60)}
    blocks = {"staging": {"rate": 1}}
    path = write(config("limits", values={"rate": 5}, environments=blocks, tenants=many))
    for environment in ("production", "staging"):
        published.done("apply", "-f", path, "-e", environment)
    blocks = {"staging": {"rate": 2}}
    path = write(config("limits", values={"rate": 5}, environments=blocks, tenants=many))
    apply = ("apply", "-f", path, "-e", "production", "--preflight", "--also", "staging")
    before = published.history().position
    ran = published(*apply)
    assert ran.code == 1
    assert "production: no merged value changes" in ran.out
    assert "~ limits.rate: 1 -> 2" in ran.out
    assert "staging: expected at most 50 tenants to change, found 60" in ran.err
    told = published(*apply, "--json")
    assert (told.json["preflight"]["tenants_changed"], told.json["refused"]) == (0, True)
    assert [each["tenants_changed"] for each in told.json["preflight_also"]] == [60]
    assert published.history().position == before
    done = published.done(*apply, "--yes-change", "60")
    assert done["changed"] == ["config/limits"]
    assert stored(published, "limits", "staging")["metadata"]["environments"] == {
        "staging": {"rate": 1}
    }
    assert published("apply", "-f", path, "-e", "production", "--also", "staging").code == 2


@pytest.mark.parametrize("verb", ["set", "edit", "promote"])
def test_each_verb_that_changes_configuration_has_a_preflight(
    published: Any, write: Callable[..., Path], tmp_path: Path, verb: str
) -> None:
    many = {f"t{number:03}": {"own": number} for number in range(60)}
    for environment, rate in (("production", 5), ("staging", 7)):
        path = write(config("limits", values={"rate": rate}, tenants=many))
        published.done("apply", "-f", path, "-e", environment)
    text = tmp_path / "edited.yaml"
    text.write_text("rate: 7\n")
    command = {
        "set": ("set", "limits.rate", "7", "-e", "production"),
        "edit": ("edit", "limits", "-f", text, "-e", "production"),
        "promote": ("promote", "limits", "--from", "staging", "--to", "production"),
    }[verb]
    before = published.history().position
    ran = published("config", *command, "--preflight")
    assert ran.code == 1
    assert "~ limits.rate: 5 -> 7\n  62 tenants with the base alone\n" in ran.out
    assert "production: expected at most 50 tenants to change, found 62" in ran.err
    assert published.history().position == before
    done = published.done("config", *command, "--preflight", "--yes-change", "62")
    assert (done["changed"], done["preflight"]["tenants_changed"]) == (["config/limits"], 62)
    assert published("config", *command, "--yes-change", "62").code == 2
