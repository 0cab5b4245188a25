"""What ``history agent/NAME`` tells of each version."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli import main
from control_plane.cli.project import create_project
from control_plane.cli.services import start_store
from control_plane.cli.settings import publisher, settings
from control_plane.manifests.fields import field_differences
from control_plane.publish import Release


def agent(version: str, changelog: str, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "agent", "name": "support", "version": version, "owner": "platform-team",
        "changelog": changelog, "metadata": {"description": "d", **metadata},
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="cp"))
    store = f"unix:{place / 's'}"
    made = create_project(
        place / "p", installation="acme", environments=["production"], store=store
    )
    with (place / "log").open("wb") as log:
        process, _ = start_store(made, store, say=lambda line: None, stderr=log)
        with process, contextlib.chdir(made.folder):
            with publisher(settings()) as author:
                for document in (
                    agent("1.9.0", "first", temperature=0.5, tools=["crm"]),
                    agent("2.0.0", "another life", temperature=1),
                    agent("1.10.0", "kinder\x1b[2J", temperature=0.7, tools=["crm"], model="m"),
                ):
                    release = Release(author, "production", "r")
                    release.publish(document)
                    release.submit()
            yield made.folder
    shutil.rmtree(place)


def test_each_version_has_owner_key_digest_changelog_and_differences(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "agent/support", "-e", "production", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    told = {each["version"]: each for entry in entries for each in entry["versions"]}
    assert list(told) == ["1.10.0", "2.0.0", "1.9.0"]
    newest = told["1.10.0"]
    assert (newest["owner"], newest["compared_with"]) == ("platform-team", "1.9.0")
    assert len(newest["author_key"]) == len(newest["digest"]) == 64
    assert [each["text"] for each in newest["differences"]][1:] == [
        'metadata.model: none → "m"', "metadata.temperature: 0.5 → 0.7",
    ]  # fmt: skip
    assert told["2.0.0"]["compared_with"] == "1.10.0"
    assert told["1.9.0"]["compared_with"] is None


def test_people_read_it_below_the_entry_and_nothing_steers_their_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "agent/support@1.10.0", "-e", "production"]) == 0
    out = capsys.readouterr().out
    assert "        1.10.0: owner platform-team, author key " in out
    assert "changelog: kinder\\x1b[2J" in out
    assert "          compared with 1.9.0:\n" in out
    assert "\x1b" not in out


def test_a_long_text_is_shown_from_where_it_differs() -> None:
    before, after = {"prompt": "a" * 100 + "b" * 100}, {"prompt": "a" * 100 + "c" * 100}
    [found] = field_differences(before, after)
    assert str(found).startswith(f"prompt: …{'a' * 15}{'b' * 45}… → …{'a' * 15}{'c' * 45}…")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "metadata"]), VALUES, max_size=3)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_differ_in_no_field_exactly_when_they_are_equal(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (field_differences(before, after) == ()) == same
    assert all(str(each) for each in field_differences(before, after))
