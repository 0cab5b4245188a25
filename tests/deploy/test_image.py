"""The Dockerfile, by what its instructions say; no image is built here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "docker" / "Dockerfile"
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """Keyword and rest of each instruction, lines joined and comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    words = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(keyword.upper(), rest.strip()) for keyword, _, rest in words]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def test_what_is_installed_are_extras_there_are() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (wanted,) = re.findall(r"'\.\[([a-z,]+)\]'", FILE.read_text())
    assert wanted.split(",") == ["store", "daemon", "sidecar"]
    assert set(wanted.split(",")) <= extras.keys()


def test_the_build_has_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {rest.split()[0] for keyword, rest in stages()[0] if keyword == "COPY"}
    assert {Path(package).parts[0] for package in packages} <= copied
    assert {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
    } <= {word for keyword, rest in stages()[0] if keyword == "COPY" for word in rest.split()}
    for source in copied:
        assert (ROOT / source).exists()


def test_the_image_is_built_in_one_stage_and_run_in_another_without_root() -> None:
    build, run = stages()
    assert build[0][1].endswith(" AS build")
    assert [rest for keyword, rest in run if keyword == "COPY"] == [
        "--from=build /opt/control-plane /opt/control-plane"
    ]
    assert [rest for keyword, rest in run if keyword == "USER"] == ["64070:64070"]
    after = [keyword for keyword, _ in run[run.index(("USER", "64070:64070")) + 1 :]]
    assert "RUN" not in after
    assert ("ENTRYPOINT", '["control-plane"]') in run


def test_bases_are_pinned_and_nothing_is_fetched_by_hand() -> None:
    assert all(
        ":" in rest and ":latest" not in rest for key, rest in instructions() if key == "FROM"
    )
    assert not {"ADD", "EXPOSE"} & {keyword for keyword, _ in instructions()}
    assert not any(word in FILE.read_text() for word in ("curl", "wget", "sudo", "apt-get"))


def test_only_what_the_image_is_made_from_is_sent_to_its_builder() -> None:
    lines = (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    copied = {word for key, rest in stages()[0] if key == "COPY" for word in rest.split()[:-1]}
    assert {line[1:] for line in lines if line.startswith("!")} == copied
