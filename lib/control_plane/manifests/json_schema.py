"""JSON Schema 2020-12 as manifests may use it: compiled once, bounded, and never fetched.

One engine decides *and* explains (jsonschema-rs), so that no value passes one judge and fails the
other. What an author's schema may not do:

- reach outside itself: a ``$ref`` starts with ``#``; the engine's retriever is off besides.
- name another dialect than 2020-12.
- make a regular expression backtrack: patterns run on an automaton of bounded size, which has no
  look-around and no back-references.
- multiply: what it applies to one place, references followed, is counted and bounded. A schema
  whose branches each recurse into the same deeper place can still double with every level of the
  *value*; values are at most 64 levels deep, and only an authorised author can publish either.

A refusal is worded from the engine's first finding as *expected*, *found* and a *cure*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

from control_plane.errors import ManifestInvalid, MissingExtra, SyntaxInvalid
from control_plane.log.canonical import Json, canonical

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_APPLIED = 10_000
"""How many subschemas one schema may apply to one place."""
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


class CompiledSchema:
    """A schema ready to judge values; safe to share between threads."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Compile without judging the schema itself; see ``compile_schema`` for authors' own."""
        try:
            import jsonschema_rs
        except ImportError as error:
            raise MissingExtra.of("jsonschema-rs", "publish") from error
        self._schema = schema
        self._error = jsonschema_rs.ValidationError
        self._validator = jsonschema_rs.Draft202012Validator(
            schema,
            offline=True,
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(
                size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES
            ),
        )

    def first_finding(self, value: Json) -> Finding | None:
        """The first reason the value is refused, None when it is valid."""
        try:
            self._validator.validate(value)
        except self._error as error:
            return self._worded(error, titled=False)
        return None

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
            return Finding(path, f"keys that are {inner.expected}", inner.found, inner.cure)
        place = self._at(error.schema_path[:-1])
        expected, cure = _expected(error, place)
        if titled and error.kind.name in _TITLED and isinstance(place, Mapping):
            expected = place.get("title", expected)
        return Finding(tuple(error.instance_path), expected, _found(error), cure)

    def _at(self, schema_path: list[Any]) -> Any:
        place: Any = self._schema
        for step in schema_path:
            try:
                place = place[step]
            except (KeyError, IndexError, TypeError):
                return None
        return place


def compile_schema(schema: Any, *, path: Path = ()) -> CompiledSchema:
    """An author's schema, checked against the rules above.

    Raises:
        ManifestInvalid: with the place inside the schema after ``path``; the message is one line
            without the document's name, which the caller puts first.
    """
    for place, reference in _references(schema):
        if not (isinstance(reference, str) and reference.startswith("#")):
            raise _refused(
                "a $ref that stays inside the schema (#…)",
                shown(reference),
                (*path, *place),
                "copy the schema under $defs",
            )
    _check_dialect(schema, path)
    _check_applied(schema, path)
    try:
        return CompiledSchema(schema)
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
    line = " ".join(text.split())
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


def _references(schema: Any) -> Iterator[tuple[Path, Any]]:
    pending: list[tuple[Path, Any]] = [((), schema)]
    while pending:
        path, part = pending.pop()
        if not isinstance(part, Mapping):
            continue
        for key in _REFERENCES:
            if key in part:
                yield (*path, key), part[key]
        for in_place in (True, False):
            pending.extend(
                ((*path, *steps), child) for steps, child in _children(part, in_place=in_place)
            )


def _check_dialect(schema: Any, path: Path) -> None:
    if isinstance(schema, Mapping) and schema.get("$schema", DIALECT) not in (
        DIALECT,
        DIALECT + "#",
    ):
        raise _refused(DIALECT, shown(schema["$schema"]), (*path, "$schema"))


def _check_applied(schema: Any, path: Path) -> None:
    """Refuse a schema that comes back to itself in one place, or applies too much there."""
    counted: dict[int, int] = {}
    open_places: set[int] = set()

    def applied(part: Any) -> int:
        if not isinstance(part, Mapping):
            return 1
        if id(part) in counted:
            return counted[id(part)]
        if id(part) in open_places:
            raise _refused("a $ref that ends", "one that leads back to itself", path)
        open_places.add(id(part))
        total = 1 + sum(applied(child) for _, child in _children(part, in_place=True))
        for key in _REFERENCES:
            if key in part:
                total += applied(_resolve(schema, part[key]))
        open_places.discard(id(part))
        if total > MAX_APPLIED:
            raise _refused(f"at most {MAX_APPLIED} subschemas for one value", "more", path)
        counted[id(part)] = total
        return total

    pending = [schema]
    try:
        while pending:
            part = pending.pop()
            applied(part)
            if isinstance(part, Mapping):
                for in_place in (True, False):
                    pending.extend(child for _, child in _children(part, in_place=in_place))
    except RecursionError as error:
        raise _refused("a shorter chain of $ref", "one too long to follow", path) from error


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


def _expected(error: Any, place: Any) -> tuple[str, str]:
    kind = error.kind
    name: str = kind.name
    if name == "additionalProperties":
        return _known_fields(place, kind.unexpected)
    if name == "required":
        return f"the field {kind.property}", ""
    if name == "type":
        return " or ".join(_TYPES.get(word, word) for word in kind.types), ""
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
