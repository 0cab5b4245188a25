"""JSON Schema 2020-12 as manifests may use it: compiled once, bounded, and never fetched.

One engine decides *and* explains (jsonschema-rs), so that no value passes one judge and fails the
other. What an author's schema may not do:

- reach outside itself: a ``$ref`` is a path from its top (``#``, ``#/$defs/x``), never an anchor or
  an escaped spelling, and only the top has an ``$id``, so that what is counted below is what the
  engine follows; its retriever is off besides.
- name another dialect than 2020-12.
- make a regular expression backtrack: patterns run on an automaton of bounded size, which has no
  look-around and no back-references.
- be without bound: it has at most 10,000 subschemas, references are followed at most 100 times on
  end, and what it applies to one place is counted and bounded. Where branches each recurse into the
  same deeper place, so that the work could double with every level of a *value*, the work is
  counted for each value before the engine does it.

A refusal is worded from the engine's first finding as *expected*, *found* and a *cure*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any

from control_plane.errors import ManifestInvalid, MissingExtra, SyntaxInvalid
from control_plane.log.canonical import Json, canonical
from control_plane.names import MAX_DEPTH
from control_plane.shown import shown as printable

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_APPLIED = 10_000
"""How many subschemas one schema may apply to one place."""
MAX_SUBSCHEMAS = 10_000
"""How many subschemas one schema may have."""
MAX_CHAIN = 100
"""How many subschemas may lead one to the next for one place: the engine's stack is bounded."""
MAX_JUDGEMENTS = 1_000_000
"""How often a schema whose branches multiply may be applied to one value and all below it."""
MAX_PATTERN_BYTES = 1 << 20
"""The size of a compiled regular expression."""

# Keywords by what stands under them; what is under others is data and never read as a schema.
_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_BELOW = (
    "items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema",
)  # fmt: skip
_BELOW_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_REFERENCES = ("$ref", "$dynamicRef")
_ONE_OF_MANY = ("properties", "prefixItems")
_MAX_FOUND_LENGTH = 60
_MAX_FINDINGS = 200

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a value breaks a schema, in words."""

    path: Path
    expected: str
    found: str
    cure: str = ""
    keyword: str = ""
    conditional: bool = False
    """Whether another part of the schema decided that this part is asked at all."""


class CompiledSchema:
    """A schema ready to judge values; safe to share between threads."""

    def __init__(self, schema: dict[str, Any], *, multiplies: bool = False) -> None:
        """Compile without judging the schema itself; see ``compile_schema`` for authors' own.

        With ``multiplies`` a value is refused that would take too long to judge.
        """
        try:
            import jsonschema_rs
        except ImportError as error:
            raise MissingExtra.of("jsonschema-rs", "publish") from error
        self._schema = schema
        self._multiplies = multiplies
        self._error = jsonschema_rs.ValidationError
        self._validator = jsonschema_rs.Draft202012Validator(
            schema,
            offline=True,
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(
                size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES
            ),
        )

    @property
    def multiplies(self) -> bool:
        """Whether the work for a value may grow beyond its size."""
        return self._multiplies

    def first_finding(self, value: Json) -> Finding | None:
        """The first reason the value is refused, None when it is valid."""
        if self._multiplies and _takes_long(self._schema, value):
            return _TAKES_LONG
        try:
            self._validator.validate(value)
        except self._error as error:
            return self._worded(error, titled=False)
        return None

    def findings(self, value: Json, limit: int) -> list[Finding]:
        """Up to ``limit`` reasons the value is refused, none when it is valid."""
        if self._multiplies and _takes_long(self._schema, value):
            return [_TAKES_LONG]
        if self._validator.is_valid(value):
            return []
        errors = islice(self._validator.iter_errors(value), limit)
        return [self._worded(error, titled=False) for error in errors]

    def nearest_finding(self, value: Json) -> Finding | None:
        """The reason nearest the top of the value, where an author looks first.

        For our own schemas, whose titles say what is expected in words.
        """
        if self._validator.is_valid(value):
            return None
        errors = list(islice(self._validator.iter_errors(value), _MAX_FINDINGS))
        nearest = min(errors, key=lambda error: len(error.instance_path))
        return self._worded(nearest, titled=True)

    def _worded(self, error: Any, *, titled: bool) -> Finding:
        branch = _telling_branch(error)
        if branch is not error:
            return self._worded(branch, titled=titled)
        if error.kind.name == "propertyNames":
            # A key has no place of its own: it is told at the mapping that has it.
            inner = self._worded(error.kind.error, titled=titled)
            path = tuple(error.instance_path)
            return Finding(
                path, f"keys that are {inner.expected}", inner.found, inner.cure,
                "propertyNames", inner.conditional or _is_conditional(error),
            )  # fmt: skip
        place = self._at(error.schema_path[:-1])
        expected, cure = _expected(error, place)
        if titled and error.kind.name in _TITLED and isinstance(place, Mapping):
            expected = place.get("title", expected)
        return Finding(
            tuple(error.instance_path), expected, _found(error), cure,
            error.kind.name, _is_conditional(error),
        )  # fmt: skip

    def _at(self, schema_path: list[Any]) -> Any:
        place: Any = self._schema
        for step in schema_path:
            try:
                place = place[step]
            except (KeyError, IndexError, TypeError):
                return None
        return place


_TAKES_LONG = Finding(
    (),
    f"at most {MAX_JUDGEMENTS} applications of the schema",
    "more",
    "its branches multiply with the depth of the value",
)


def compile_schema(schema: Any, *, path: Path = ()) -> CompiledSchema:
    """An author's schema, checked against the rules above.

    Raises:
        ManifestInvalid: with the place inside the schema after ``path``; the message is one line
            without the document's name, which the caller puts first.
    """
    parts = _parts(schema, path)
    _check_dialect(schema, path)
    _check_applied(schema, parts, path)
    try:
        return CompiledSchema(schema, multiplies=_multiplies(schema, parts))
    except MissingExtra:
        raise
    except Exception as error:
        # The engine has several classes for this and promises none: ValidationError,
        # ReferencingError, ValueError. All of them are about the schema it was given.
        where = tuple(getattr(error, "instance_path", ()))
        problem = str(getattr(error, "message", error)).splitlines()[0]
        raise _refused("JSON Schema 2020-12", _short(problem), (*path, *where)) from error


def refusal(what: str, finding: Finding, prefix: Path = ()) -> ManifestInvalid:
    """``flag/x: expected …, found … at metadata.variants; cure``."""
    path = (*prefix, *finding.path)
    place = f" at {written_path(path)}" if path else ""
    cure = f"; {finding.cure}" if finding.cure else ""
    return ManifestInvalid(
        f"{what}: expected {finding.expected}, found {finding.found}{place}{cure}", path
    )


def written_path(path: Path) -> str:
    """``metadata.rules[0].when``; a key with a dot or another odd character is quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isprintable() and step and not set(step) & set('.[]" '):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def shown(value: Any) -> str:
    """A value as canonical JSON, cut to what fits into a line."""
    try:
        return _short(canonical(value).decode("utf-8"))
    except SyntaxInvalid:
        return _short(ascii(value))


def _short(text: str) -> str:
    # What a document of others says must not steer the terminal that shows it.
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MAX_FOUND_LENGTH else line[: _MAX_FOUND_LENGTH - 1] + "…"


def _refused(expected: str, found: str, path: Path, cure: str = "") -> ManifestInvalid:
    ending = f"; {cure}" if cure else ""
    return ManifestInvalid(
        f"expected {expected}, found {found} at {written_path(path)}{ending}", path
    )


# What an author's schema refers to


def _children(schema: Mapping[str, Any], *, in_place: bool) -> Iterator[tuple[Path, Any]]:
    """The subschemas under a schema: those for the same place, or those for deeper ones."""
    for key in _IN_PLACE if in_place else _BELOW:
        if key in schema:
            yield (key,), schema[key]
    for key in _IN_PLACE_LISTS if in_place else ("prefixItems",):
        items = schema.get(key)
        if isinstance(items, list):
            yield from (((key, index), item) for index, item in enumerate(items))
    for key in ("dependentSchemas",) if in_place else _BELOW_MAPS:
        members = schema.get(key)
        if isinstance(members, Mapping):
            yield from (((key, name), member) for name, member in members.items())


def _parts(schema: Any, path: Path) -> list[Mapping[str, Any]]:
    """Every subschema that the top leads to, through keywords and references, each once."""
    found: dict[int, Mapping[str, Any]] = {}
    pending: list[tuple[Path, Any]] = [((), schema)]
    while pending:
        place, part = pending.pop()
        if not isinstance(part, Mapping) or id(part) in found:
            continue
        found[id(part)] = part
        if len(found) > MAX_SUBSCHEMAS:
            raise _refused(f"at most {MAX_SUBSCHEMAS} subschemas", "more", path)
        if place and "$id" in part:
            raise _refused("$id at the top only", shown(part["$id"]), (*path, *place, "$id"))
        for key in _REFERENCES:
            if key in part:
                _check_reference(part[key], (*path, *place, key))
                pending.append(((*place, key), _resolve(schema, part[key])))
        for in_place in (True, False):
            pending.extend(
                ((*place, *steps), child) for steps, child in _children(part, in_place=in_place)
            )
    return list(found.values())


def _check_reference(reference: Any, place: Path) -> None:
    if not (isinstance(reference, str) and reference.startswith("#")):
        raise _refused(
            "a $ref that stays inside the schema (#…)",
            shown(reference),
            place,
            "copy the schema under $defs",
        )
    if reference != "#" and (not reference.startswith("#/") or "%" in reference):
        raise _refused(
            "a $ref that is a path from the top (#/$defs/…)",
            shown(reference),
            place,
            "write the path in place of an anchor, and its characters as they are",
        )


def _check_dialect(schema: Any, path: Path) -> None:
    if isinstance(schema, Mapping) and schema.get("$schema", DIALECT) not in (
        DIALECT,
        DIALECT + "#",
    ):
        raise _refused(DIALECT, shown(schema["$schema"]), (*path, "$schema"))


def _check_applied(schema: Any, parts: list[Mapping[str, Any]], path: Path) -> None:
    """Refuse a schema that comes back to itself in one place, or applies too much there."""
    counted: dict[int, tuple[int, int]] = {}
    open_places: set[int] = set()

    def applied(part: Any) -> tuple[int, int]:
        """How many subschemas are applied to one place, and how many of them on end."""
        if not isinstance(part, Mapping):
            return 1, 1
        if id(part) in counted:
            return counted[id(part)]
        if id(part) in open_places:
            raise _refused("a $ref that ends", "one that leads back to itself", path)
        if len(open_places) > MAX_CHAIN:
            raise _refused("a shorter chain of $ref", "one too long to follow", path)
        open_places.add(id(part))
        inner = [applied(each) for each in _same_place(schema, part)]
        open_places.discard(id(part))
        total = 1 + sum(count for count, _ in inner)
        length = 1 + max((each for _, each in inner), default=0)
        if length > MAX_CHAIN:
            raise _refused("a shorter chain of $ref", "one too long to follow", path)
        if total > MAX_APPLIED:
            raise _refused(f"at most {MAX_APPLIED} subschemas for one value", "more", path)
        counted[id(part)] = total, length
        return total, length

    for part in parts:
        applied(part)


def _same_place(root: Any, part: Mapping[str, Any]) -> Iterator[Any]:
    """What a subschema applies to the place it is applied to itself."""
    for _, child in _children(part, in_place=True):
        yield child
    for key in _REFERENCES:
        if key in part:
            yield _resolve(root, part[key])


def _multiplies(root: Any, parts: list[Mapping[str, Any]]) -> bool:
    """Whether some chain of ever deeper places could have more than ``MAX_APPLIED`` applied.

    Counted from the deepest place up, as if every branch that may lead into a place did: too many
    rather than too few. In-place chains are bounded by now, so the recursion is.
    """
    below: dict[int, int] = {}
    for _ in range(MAX_DEPTH):
        here: dict[int, int] = {}
        if max((_chained(root, part, here, below) for part in parts), default=0) > MAX_APPLIED:
            return True
        if here == below:
            return False
        below = here
    return False


def _chained(root: Any, part: Any, here: dict[int, int], below: dict[int, int]) -> int:
    if not isinstance(part, Mapping):
        return 1
    if id(part) not in here:
        total = 1 + sum(_chained(root, each, here, below) for each in _same_place(root, part))
        for keyword, children in _deeper(part):
            counts = [below.get(id(child), 1) for child in children]
            # A place has one name or index: of these only one leads into it.
            total += max(counts, default=0) if keyword in _ONE_OF_MANY else sum(counts)
        here[id(part)] = total
    return here[id(part)]


def _deeper(part: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for key in _BELOW:
        if key in part:
            yield key, [part[key]]
    for key in ("properties", "patternProperties"):
        if isinstance(part.get(key), Mapping):
            yield key, list(part[key].values())
    if isinstance(part.get("prefixItems"), list):
        yield "prefixItems", part["prefixItems"]


def _takes_long(root: Any, value: Json) -> bool:
    """Whether a schema is applied too often to a value and all below, as far as can be told."""
    count, pending = 0, [(root, value)]
    while pending:
        part, place = pending.pop()
        if not isinstance(part, Mapping):
            continue
        here = ((each, place) for each in _same_place(root, part))
        for each in chain(here, _applied_below(part, place)):
            count += 1
            if count > MAX_JUDGEMENTS:
                return True
            pending.append(each)
    return False


def _applied_below(part: Mapping[str, Any], value: Json) -> Iterator[tuple[Any, Any]]:
    """What is applied to the members of a value; every pattern is taken to match."""
    if isinstance(value, dict):
        properties = part.get("properties", {})
        patterns = part.get("patternProperties", {})
        for key, inner in value.items():
            if key in properties:
                yield properties[key], inner
            elif "additionalProperties" in part:
                yield part["additionalProperties"], inner
            for child in patterns.values():
                yield child, inner
            if "unevaluatedProperties" in part:
                yield part["unevaluatedProperties"], inner
            if "propertyNames" in part:
                yield part["propertyNames"], key
    elif isinstance(value, list):
        first = part.get("prefixItems", [])
        for index, inner in enumerate(value):
            if index < len(first):
                yield first[index], inner
            elif "items" in part:
                yield part["items"], inner
            for keyword in ("contains", "unevaluatedItems"):
                if keyword in part:
                    yield part[keyword], inner


def _resolve(root: Any, reference: str) -> Any:
    """What a local reference names; None where the engine will find out for itself."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    place = root
    for step in reference[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping):
            place = place.get(key)
        elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        else:
            return None
    return place


# Words


def _telling_branch(error: Any) -> Any:
    """Of alternatives that all failed, the failure of the one the author meant.

    That is the only one whose type fits the value. When none or several do, the alternatives'
    own title says more than any of them.
    """
    if error.kind.name not in ("anyOf", "oneOf") or not getattr(error.kind, "context", None):
        return error
    here = len(error.instance_path)
    fitting = [
        branch
        for branch in error.kind.context
        if branch
        and not any(
            inner.kind.name in ("type", "const", "enum") and len(inner.instance_path) == here
            for inner in branch
        )
    ]
    return fitting[0][0] if len(fitting) == 1 else error


def _is_conditional(error: Any) -> bool:
    """Whether the error may be due to a branch that another value chose; rather yes than no."""
    return not _CONDITIONS.isdisjoint(map(str, error.schema_path))


def _expected(error: Any, place: Any) -> tuple[str, str]:
    kind = error.kind
    name: str = kind.name
    if name == "additionalProperties":
        return _known_fields(place, kind.unexpected)
    if name == "required":
        return f"the field {kind.property}", ""
    if name == "type":
        # The commonest slip: YAML reads 1.0 and true without quotes as a number and a truth value.
        unquoted = list(kind.types) == ["string"] and isinstance(error.instance, (int, float))
        expected = " or ".join(_TYPES.get(word, word) for word in kind.types)
        return expected, "write it in quotes" if unquoted else ""
    if name == "enum":
        return f"one of {shown(kind.options)}", ""
    if name == "const":
        return shown(kind.expected_value), ""
    if name == "pattern":
        return f"text like {kind.pattern}", ""
    if name == "format":
        return f"a {kind.format}", ""
    if name in _LIMITS:
        return _LIMITS[name].format(shown(kind.limit)), ""
    return _OTHERS.get(name, f"what {name} asks"), ""


_CONDITIONS = frozenset(
    ("if", "then", "else", "not", "anyOf", "oneOf", "contains", "dependentSchemas")
)
_TITLED = ("anyOf", "oneOf", "pattern")
_TYPES = {
    "object": "a mapping", "array": "a list", "string": "a string", "number": "a number",
    "integer": "a whole number", "boolean": "true or false", "null": "null",
}  # fmt: skip
_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}", "minLength": "{} or more characters",
    "maxLength": "at most {} characters", "minItems": "{} or more items",
    "maxItems": "at most {} items", "minProperties": "{} or more fields",
    "maxProperties": "at most {} fields",
}  # fmt: skip
_OTHERS = {
    "anyOf": "one of several forms", "oneOf": "exactly one of several forms",
    "uniqueItems": "each item once", "falseSchema": "nothing here",
    "not": "a value that is not this", "multipleOf": "a multiple",
}  # fmt: skip


def _known_fields(place: Any, unexpected: list[str]) -> tuple[str, str]:
    known = sorted(place.get("properties", {})) if isinstance(place, Mapping) else []
    close = get_close_matches(unexpected[0], known, n=1)
    cure = f"did you mean {close[0]}?" if close else "unknown fields are refused"
    return ("only " + _short(", ".join(known)) if known else "no other field"), cure


def _found(error: Any) -> str:
    if error.kind.name == "additionalProperties":
        return ", ".join(shown(name) for name in islice(error.kind.unexpected, 3))
    if error.kind.name == "required":
        return "none"
    if error.kind.name in ("minItems", "maxItems", "minProperties", "maxProperties"):
        return str(len(error.instance))
    if error.kind.name in ("minLength", "maxLength"):
        return str(len(error.instance))
    return shown(error.instance)
