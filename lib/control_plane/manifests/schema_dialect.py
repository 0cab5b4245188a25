"""Words that tool schemas of other systems use where JSON Schema has its own.

- ``type``: Python's words, as data sets for function calling have them, become JSON Schema's;
  ``any`` is no type at all; capitals do not matter. A list of types is translated one by one.
- ``items`` as a list, which older drafts of JSON Schema have, is ``prefixItems``, and
  ``additionalItems`` beside it ``items``.
- ``nullable: true``, OpenAPI's, is refused: without it null would be refused where it was meant.

Only places where a schema stands are translated: a ``default`` or an ``enum`` is data. Whatever
else JSON Schema does not know is an annotation there and stays.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import Json
from control_plane.names import MAX_DEPTH

TYPES: Final = {
    "dict": "object", "float": "number", "double": "number", "tuple": "array", "list": "array",
    "set": "array", "str": "string", "int": "integer", "long": "integer", "bool": "boolean",
    "none": "null",
}  # fmt: skip
_OWN: Final = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_ANY: Final = "any"
_MAPS: Final = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
)
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if",
    "then", "else", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip

Path = tuple[str | int, ...]


class Translation:
    """Schemas in JSON Schema's words; ``told`` counts what was said otherwise."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    def translated(self, schema: Json, path: Path = ()) -> Any:
        """A schema of its own with the words replaced.

        Raises:
            ManifestInvalid: for a word that has no other here, and for more than 64 levels.
        """
        if not isinstance(schema, dict):
            return schema
        if len(path) > 2 * MAX_DEPTH:
            raise ManifestInvalid(f"expected at most {MAX_DEPTH} levels, found more", path)
        whole: dict[str, Any] = {}
        for key, value in schema.items():
            place = (*path, key)
            if key in _MAPS and isinstance(value, dict):
                whole[key] = {
                    name: self.translated(each, (*place, name)) for name, each in value.items()
                }
            elif isinstance(value, list) and (key in _LISTS or key == "items"):
                whole[key] = [self.translated(each, (*place, n)) for n, each in enumerate(value)]
            elif key in _SINGLE:
                whole[key] = self.translated(value, place)
            else:
                whole[key] = value
        self._type(whole)
        self._items(whole)
        if whole.get("nullable") is True:
            raise ManifestInvalid(
                "expected JSON Schema, found nullable: true of OpenAPI; list null in type",
                (*path, "nullable"),
            )
        return whole

    def _type(self, schema: dict[str, Any]) -> None:
        word = schema.get("type")
        if isinstance(word, list):
            schema["type"] = [self._word(each) for each in word]
        elif isinstance(word, str) and word.lower() == _ANY:
            del schema["type"]
            self.told["type any is no type"] += 1
        elif word is not None:
            schema["type"] = self._word(word)

    def _word(self, word: Any) -> Any:
        if not isinstance(word, str) or word in _OWN:
            return word
        # Some write them in capitals: STRING, Object.
        lower = word.lower()
        known = lower if lower in _OWN else TYPES.get(lower)
        if known is None:
            return word
        self.told[f"type {word} is {known}"] += 1
        return known

    def _items(self, schema: dict[str, Any]) -> None:
        if isinstance(schema.get("items"), list):
            schema["prefixItems"] = schema.pop("items")
            if "additionalItems" in schema:
                schema["items"] = schema.pop("additionalItems")
            self.told["items as a list is prefixItems"] += 1
