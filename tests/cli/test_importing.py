"""``import flagd``: files of flagd's in, manifests out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.failures import run
from control_plane.manifests.loader import load_file
from control_plane.testing import replica

BOOLEAN: dict[str, Any] = {
    "state": "ENABLED",
    "variants": {"on": True, "off": False},
    "defaultVariant": "off",
}


def written(folder: Path, flags: dict[str, Any], **rest: Any) -> str:
    file = folder / "flags.json"
    file.write_text(json.dumps({"flags": flags, **rest}), encoding="utf-8")
    return str(file)


def imported(folder: Path, name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = load_file(folder / "flags" / f"{name}.yaml").value["metadata"]
    return metadata


def test_references_are_resolved_and_metadata_of_the_set_goes_into_each_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(
        tmp_path,
        {
            "a": {
                **BOOLEAN,
                "targeting": {"if": [{"$ref": "ours"}, "on"]},
                "metadata": {"owner": "growth"},
            },
            "b": {**BOOLEAN, "targeting": {}, "state": "DISABLED", "defaultVariant": None},
        },
        **{"$evaluators": {"ours": {"and": [{"$ref": "mail"}]}, "mail": {"in": ["@", "x"]}}},
        metadata={"flagSetId": "shop", "owner": "nobody"},
    )
    assert run(["import", "flagd", file, "--out", str(tmp_path / "m")]) == 0
    assert "2 files written" in capsys.readouterr().out
    assert imported(tmp_path / "m", "a") == {
        "variants": {"on": True, "off": False},
        "default": "off",
        "disabled": None,
        "targeting": {"if": [{"and": [{"in": ["@", "x"]}]}, "on"]},
        "flag_metadata": {"flagSetId": "shop", "owner": "growth"},
    }
    assert imported(tmp_path / "m", "b") == {
        "variants": {"on": True, "off": False},
        "default": None,
        "disabled": None,
        "enabled": False,
        "flag_metadata": {"flagSetId": "shop", "owner": "nobody"},
    }


def test_a_renamed_flag_splits_as_it_did(tmp_path: Path) -> None:
    split = {"fractional": [["on", 1], ["off", 1]]}
    file = written(tmp_path, {"newHeader": {**BOOLEAN, "targeting": split}})
    assert run(["import", "flagd", file, "--out", str(tmp_path), "--rename"]) == 0
    metadata = imported(tmp_path, "newheader")
    assert (metadata["salt"], metadata["bucketing"]) == ("newHeader", "flagd-v3")
    other = {key: metadata[key] for key in metadata if key != "salt"}
    with replica(flags={"newheader": metadata, "other": other}) as kit:
        served = [kit.flags.is_enabled("newheader", f"user-{n}") for n in range(20)]
        unsalted = [kit.flags.is_enabled("other", f"user-{n}") for n in range(20)]
    # Computed with openfeature-flagd-core 2.0 for the key newHeader.
    on = [1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18]
    assert [number for number, found in enumerate(served) if found] == on
    assert served != unsalted


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"state": "ON"}, "state", "expected the state ENABLED or DISABLED, found 'ON'"),
    ({"variants": {"on": True}}, "variants", "expected 2 or more fields, found 1"),
    ({"variants": {"on": True, "off": "no"}}, "off", "expected bool, found 'no'"),
    ({"defaultVariant": "maybe"}, "defaultVariant", "expected one of the variants on, off"),
    ({"targeting": {"if": [{"$ref": "ours"}, "on"]}}, "targeting", "expected a $ref to one of"),
    ({"targeting": {"$ref": "ring"}}, "targeting", "expected $evaluators without a circle"),
    ({"targeting": {"iff": []}}, "iff", "expected an operator of flagd, found 'iff'"),
    ({"targeting": {"if": [{"var": "a"}, "onn"]}}, '"onn"', "expected null or one of the variants"),
    ({"metadata": {"a": []}}, '"a"', "found []"),
    ({"defautlVariant": "on"}, "defautlVariant", "found 'defautlVariant'"),
]


@pytest.mark.parametrize(("change", "place", "said"), REFUSED, ids=lambda case: str(case)[:40])
def test_a_flag_that_is_refused_is_one_line_with_its_place_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    place: str,
    said: str,
) -> None:
    file = tmp_path / "flags.json"
    ring = {"ring": {"!": [{"$ref": "ring"}]}}
    definition = {"flags": {"good": BOOLEAN, "bad": BOOLEAN | change}, "$evaluators": ring}
    file.write_text(json.dumps(definition, indent=1), encoding="utf-8")
    assert run(["import", "flagd", str(file), "--out", str(tmp_path / "m")]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    number = int(line.split(":")[2])
    assert place in file.read_text().splitlines()[number - 1]
    assert said in line
    assert "0 files written" in shown.out
    assert not (tmp_path / "m").exists()
    assert run(["import", "flagd", str(file), "--out", str(tmp_path / "m"), "--partial"]) == 1
    assert [path.name for path in (tmp_path / "m" / "flags").iterdir()] == ["good.yaml"]


def test_references_that_double_are_refused_before_they_are_written_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain: dict[str, Any] = {f"e{n}": {"and": [{"$ref": f"e{n + 1}"}] * 2} for n in range(25)}
    chain["e25"] = {"var": "a"}
    file = written(
        tmp_path, {"f": {**BOOLEAN, "targeting": {"$ref": "e0"}}}, **{"$evaluators": chain}
    )
    assert run(["import", "flagd", file, "--out", str(tmp_path)]) == 1
    assert "expected at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ({}, "expected the field flags"),
        ({"flags": []}, "expected a mapping at flags"),
        ({"flags": {}, "evaluators": {}}, "found 'evaluators'"),
    ],
)
def test_a_file_that_is_no_definition_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], definition: Any, said: str
) -> None:
    file = tmp_path / "flags.json"
    file.write_text(json.dumps(definition), encoding="utf-8")
    assert run(["import", "flagd", str(file)]) == 1
    assert said in capsys.readouterr().err


def test_a_file_that_is_there_is_written_over_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, {"f": BOOLEAN})
    command = ["import", "flagd", file, "--out", str(tmp_path)]
    assert run(command) == 0
    capsys.readouterr()
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    nothing: dict[str, Any] = {"written": [], "problems": [], "changes": [], "notes": []}
    assert told == {"format": 1, "ok": True, **nothing}
    target = tmp_path / "flags" / "f.yaml"
    target.write_text("kind: flag\n", encoding="utf-8")
    assert run(command) == 1
    assert target.read_text() == "kind: flag\n"
    assert run([*command, "--replace"]) == 0
    assert imported(tmp_path, "f")["default"] == "off"


def test_yaml_is_read_as_json_is(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(
        "flags:\n  f:\n    state: ENABLED\n    variants: {on: yes, off: no}\n"
        "    defaultVariant: on\n    targeting: {if: [{==: [{var: a}, 1]}, on, null]}\n",
        encoding="utf-8",
    )
    assert run(["import", "flagd", str(file), "--out", str(tmp_path)]) == 0
    assert imported(tmp_path, "f")["variants"] == {"on": "yes", "off": "no"}
    assert imported(tmp_path, "f")["targeting"] == {"if": [{"==": [{"var": "a"}, 1]}, "on", None]}
