"""``pull``: the author's text keeps its comments, order, quotes and indents."""

from __future__ import annotations

import random
from collections.abc import Callable
from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli.edited import edited
from control_plane.cli.matching import same
from control_plane.cli.written import dump, reads_otherwise
from control_plane.manifests.loader import load_yaml

Cli = Callable[..., Any]
Changed = Callable[[Any], None]

AUTHORED = """\
# yaml-language-server: $schema=../schemas/flag.schema.json

kind:   flag      # what it is
name: answers
metadata:
    # the values

    # both of them
    variants: {"on": true,  "off": false}   # a boolean
    default: 'off'    # until the pilot ends

    # who gets it
    rules:
    - name: pilot     # agreed in March
      # their tenants
      when: {tenant_id: {in: [acme, tenant123]}}
      serve: "on"
    # everybody else
    - name: rollout
      serve: 'off'
    text: a plain scalar
      on two lines
    prompt: |-   # reviewed
        first
          second

    # the end of the metadata
# the end
"""


def document() -> Any:
    return load_yaml(AUTHORED.encode(), what="authored")


def difference(wanted: Any) -> tuple[list[str], list[str]]:
    """The lines that went and those that came; the text made holds the wanted document."""
    made = edited(AUTHORED, wanted)
    assert made is not None
    assert same(load_yaml(made.encode(), what="made"), wanted)
    lines = list(ndiff(AUTHORED.splitlines(), made.splitlines()))
    gone, come = ([line[2:] for line in lines if line[0] == sign] for sign in "-+")
    return [line for line in gone if line], come


def test_an_equal_document_changes_no_byte() -> None:
    assert edited(AUTHORED, document()) == AUTHORED


def test_a_changed_value_keeps_its_quotes_and_the_comment_behind_it() -> None:
    wanted = document()
    wanted["metadata"]["default"] = "on"
    wanted["metadata"]["rules"][0]["serve"] = "off"
    assert difference(wanted) == (
        ["    default: 'off'    # until the pilot ends", '      serve: "on"'],
        ["    default: 'on'    # until the pilot ends", '      serve: "off"'],
    )


def test_a_removed_key_goes_with_its_own_comments_and_no_others() -> None:
    wanted = document()
    del wanted["metadata"]["default"]
    del wanted["metadata"]["variants"]
    assert difference(wanted) == (
        [
            "    # both of them",
            '    variants: {"on": true,  "off": false}   # a boolean',
            "    default: 'off'    # until the pilot ends",
        ],
        [],
    )


def test_a_removed_rule_goes_and_a_new_one_comes_in_the_authors_indents() -> None:
    wanted = document()
    wanted["metadata"]["rules"] = [
        {"name": "first", "when": {"plan": "1.0"}, "serve": "on"},
        wanted["metadata"]["rules"][1],
    ]
    assert difference(wanted) == (
        [
            "    - name: pilot     # agreed in March",
            "      # their tenants",
            "      when: {tenant_id: {in: [acme, tenant123]}}",
        ],
        ["    - name: first", '      when: {plan: "1.0"}'],
    )


def test_rules_in_another_order_take_their_comments_along() -> None:
    wanted = document()
    wanted["metadata"]["rules"].reverse()
    made = edited(AUTHORED, wanted)
    assert made is not None
    assert sorted(made.splitlines()) == sorted(AUTHORED.splitlines())
    assert "    rules:\n    # everybody else\n    - name: rollout\n" in made
    assert "      serve: 'off'\n    - name: pilot     # agreed in March\n" in made


def test_a_new_field_of_the_envelope_comes_at_its_customary_place() -> None:
    wanted = document() | {"owner": "me"}
    wanted["metadata"]["salt"] = "0o7"
    made = edited(AUTHORED, wanted)
    assert made is not None
    assert "name: answers\nowner: me\nmetadata:\n" in made
    assert '          second\n    salt: "0o7"\n\n    # the end of the metadata\n' in made


def test_a_flow_mapping_stays_one_until_it_is_wider_than_a_line() -> None:
    wanted = document()
    wanted["metadata"]["variants"]["maybe"] = False
    assert difference(wanted)[1] == [
        '    variants: {"on": true,  "off": false,  maybe: false}   # a boolean'
    ]
    wanted["metadata"]["rules"][0]["when"]["tenant_id"]["in"] = [f"tenant{i}" for i in range(12)]
    came = difference(wanted)[1]
    assert came[1:4] == ["      when:", "        tenant_id:", "          in:"]
    assert max(map(len, came)) <= 100


def test_a_block_text_stays_one_and_keeps_its_comment() -> None:
    wanted = document()
    wanted["metadata"]["prompt"] = "third\n  fourth\n"
    assert difference(wanted) == (
        ["    prompt: |-   # reviewed", "        first", "          second"],
        ["    prompt: |  # reviewed", "      third", "        fourth"],
    )


def test_line_breaks_and_a_missing_last_one_stay_as_they_are() -> None:
    text = AUTHORED.replace("\n", "\r\n").removesuffix("\r\n")
    wanted = document()
    wanted["metadata"]["default"] = "on"
    made = edited(text, wanted)
    assert made == text.replace("default: 'off'", "default: 'on'")


def test_a_flow_list_over_several_lines_keeps_its_lines_and_comments() -> None:
    text = "kind: flag\nin: [ acme,  # the first\n      initech,   hooli,\n]\n"
    wanted = {"kind": "flag", "in": ["acme", "umbrella", "hooli", "wayne"]}
    made = text.replace("initech", "umbrella").replace("hooli", "hooli, wayne")
    assert edited(text, wanted) == made


def test_an_item_that_is_there_twice_stays_where_it_is() -> None:
    text = "kind: flag\nl:\n- a  # once\n- b\n- a  # again\n"
    assert edited(text, {"kind": "flag", "l": ["b", "a"]}) == text.replace("- a  # once\n", "")


def test_no_comment_becomes_a_part_of_a_text_above_it() -> None:
    text = "kind: flag\nm:\n  prompt: hello\n      # deep below it\nname: x\n"
    wanted = {"kind": "flag", "m": {"prompt": "two\nlines\n"}, "name": "x"}
    assert edited(text, wanted) == text.replace("hello", '"two\\nlines\\n"')


def test_true_is_not_one() -> None:
    assert edited("kind: flag\nm: true\n", {"kind": "flag", "m": 1}) == "kind: flag\nm: 1\n"
    assert not same({"a": [True]}, {"a": [1]})
    assert same({"a": 1, "b": 2}, {"b": 2.0, "a": 1})


def test_a_file_of_one_line_may_become_a_longer_one() -> None:
    wanted = {"kind": "flag", "m": {"a": 1}}
    assert edited("kind: flag", wanted) == "kind: flag\nm:\n  a: 1"
    assert edited("{kind: flag}", wanted) == "{kind: flag, m: {a: 1}}"


@pytest.mark.parametrize(
    "text",
    [
        "? kind\n: flag\nname: x\n",
        "kind: flag\r\nname: x\n",
        "kind: flag # a\x85name: x\n",
        "kind: flag\nname: [a, # why\n  b]\n",
    ],
)
def test_a_text_that_cannot_be_cut_is_left_to_the_caller(text: str) -> None:
    assert edited(text, {"kind": "flag", "name": ["b"]}) is None


WORDS = [
    "on", "off", "no", "y", "1.0", "1e3", "0o7", "0x1f", "1_000", "12:30", "12:30:00",
    "2024-01-01", "null", "~", "true", "NaN", ".inf", "=", "<<", "-", "", " a", "a ", "a: b",
    "a #b", "#a", "a, b", "[a]", "{", "*a", "&a", "!a", "%a", "@a", "`a", "'", '"', "a\nb", "a\n",
    "\na", " a\nb", "a\n\n", "a\n \n", "\t", "a\x85b", "a\u2028b", "\ufeff", "\x7f", "é😀",
    "- a", "? a", "long " * 40,
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_every_yaml_reader_takes_a_written_string_for_that_string(word: str) -> None:
    wanted = {"kind": word, "l": [word, {"k": word}], "m": {"k": word}, "f": [word], word: 1}
    texts = [dump(wanted), edited("kind: 1\nf: [1]\n", wanted), edited("kind: '1'\n", wanted)]
    for text in texts:
        assert text is not None
        assert same(load_yaml(text.encode(), what="text"), wanted)
        assert same(yaml.safe_load(text), wanted)  # YAML 1.1


# --- any document, any change

NAMES = st.sampled_from(["a", "b", "c", "d", "on", "1.0", "two words"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.just(0.5) | st.sampled_from(WORDS)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
)  # fmt: skip


def mappings(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, inner, max_size=4)


TREES = st.recursive(
    SCALARS,
    lambda inner: mappings(inner) | st.lists(inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = mappings(TREES).map(lambda tree: {"kind": "flag", **tree})


class Author:
    """Writes a document in one of the many ways people do, with numbered comments."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.comments: dict[str, tuple[str, ...]] = {}

    def write(self, document: dict[str, Any]) -> str:
        return "# head\n\n" + self.block(document, 0, ()) + "# foot\n"

    def block(self, value: Any, column: int, path: tuple[str, ...] | None) -> str:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        lines = []
        for name, item in items:
            # Only keys have comments that are to stay; an item of a list may be another's.
            here = (*path, str(name)) if path is not None and isinstance(value, dict) else None
            lines.append(self.above(column, here))
            head = self.scalar(name) + ":" if isinstance(value, dict) else "-"
            lines.append(" " * column + head + self.entry(item, column, here))
        return "".join(lines)

    def entry(self, item: Any, column: int, path: tuple[str, ...] | None) -> str:
        step = self._chance.choice([1, 2, 4])
        behind = self.behind(path)
        if isinstance(item, (dict, list)) and item and self._chance.random() < 0.6:
            return f"{behind}\n" + self.block(item, column + step, path)
        return " " * self._chance.choice([1, 3]) + self.flow(item) + f"{behind}\n"

    def flow(self, item: Any) -> str:
        if isinstance(item, dict):
            pairs = [f"{self.scalar(name)}: {self.flow(each)}" for name, each in item.items()]
            return "{" + ",  ".join(pairs) + "}"
        if isinstance(item, list):
            return "[ " + ", ".join(map(self.flow, item)) + " ]"
        return self.scalar(item)

    def scalar(self, item: Any) -> str:
        quotes = self._chance.choice(["'", '"'])
        if isinstance(item, str) and (reads_otherwise(item) or self._chance.random() < 0.5):
            made = flowed(item, quotes)
        else:
            made = flowed(item, None)
        return (
            made
            if "\n" not in made and not set("\x85\u2028\u2029") & set(made)
            else flowed(item, '"')
        )

    def above(self, column: int, path: tuple[str, ...] | None) -> str:
        blank = "\n" * self._chance.choice([0, 0, 1, 2])
        if self._chance.random() < 0.5:
            return blank
        return f"{blank}{' ' * column}{self.comment(path)}\n"

    def behind(self, path: tuple[str, ...] | None) -> str:
        return f"  {self.comment(path)}" if self._chance.random() < 0.5 else ""

    def comment(self, path: tuple[str, ...] | None) -> str:
        text = f"# comment {len(self.comments)}."
        self.comments[text] = path if path is not None else ("", "no key of ours")
        return text


def flowed(item: Any, style: str | None) -> str:
    options: Any = {"default_style": style if isinstance(item, str) else None}
    made: str = yaml.safe_dump([item], default_flow_style=True, width=2**31, **options)
    return made[1:-2]


def is_there(document: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    return True


@given(DOCUMENTS, DOCUMENTS, st.randoms(use_true_random=False))
def test_any_change_gives_the_wanted_document_and_keeps_the_comments_of_the_keys_it_keeps(
    old: dict[str, Any], wanted: dict[str, Any], chance: random.Random
) -> None:
    author = Author(chance)
    text = author.write(old)
    assert same(load_yaml(text.encode(), what="text"), old)
    made = edited(text, wanted)
    assert made is not None, text
    assert same(load_yaml(made.encode(), what="made"), wanted)
    for comment, path in author.comments.items():
        if is_there(wanted, path):
            assert comment in made
    assert made.startswith("# head\n\n")
    assert made.endswith("# foot\n")


# --- the verb


PUBLISHED = """\
# first
kind: flag
name: {}
metadata:
  # the values
  variants: {{"on": true, "off": false}}   # a boolean
  default: "off"   # until May
  environments:
    # at night
    production: {{enabled: {}}}   # see the calendar
"""


def test_pull_replaces_what_an_operator_switched_and_no_other_byte(
    cli: Cli, project: Any, tmp_path: Path
) -> None:
    path = tmp_path / "kept" / "flag.yaml"
    path.parent.mkdir()
    path.write_text(PUBLISHED.format("p_kept", "true"))
    cli("apply", "-f", path, "-e", "production", cwd=project.folder)
    cli("flag", "off", "p_kept", "-e", "production", cwd=project.folder)
    ran = cli("pull", path.parent, "-e", "production", cwd=project.folder)
    assert (ran.code, ran.err) == (0, "")
    assert path.read_text() == PUBLISHED.format("p_kept", "false")


def test_pull_names_a_file_that_it_had_to_write_anew(
    cli: Cli, project: Any, tmp_path: Path
) -> None:
    path = tmp_path / "anew" / "flag.yaml"
    path.parent.mkdir()
    text = PUBLISHED.format("p_anew", "true").replace("name: p_anew", "? name\n: p_anew")
    path.write_text(text)
    cli("apply", "-f", path, "-e", "production", cwd=project.folder)
    cli("flag", "off", "p_anew", "-e", "production", cwd=project.folder)
    ran = cli("pull", path.parent, "-e", "production", cwd=project.folder)
    assert ran.err == f"{path}: written anew; only its first comments are kept\n"
    assert path.read_text().startswith("# first\nkind: flag\nname: p_anew\n")
    assert load_yaml(path.read_bytes(), what="file") == load_yaml(
        PUBLISHED.format("p_anew", "false").encode(), what="wanted"
    )
