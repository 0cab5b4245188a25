"""From the JSON of a configuration to the annotated types of dataclasses.

The rules, and there are no others:

- ``int``: a number without a fraction (5.0 is 5). ``float``: any number. Neither takes booleans.
- ``str``: text. ``bool``: true or false. ``None``: null. ``Any``: whatever is there.
- ``X | Y``: the first that takes the value. ``Literal``, ``Enum``: one of its values, of the same
  JSON type.
- ``list[X]``, ``tuple[X, …]``: a list. ``dict[str, X]``, ``Mapping[str, X]``: a mapping.
- ``datetime``: text in ISO 8601 with an offset. ``Path``: text.
- A dataclass: a mapping. Keys it has no field for are left out, so that a new key may be published
  before the code that reads it. A field without a value takes its default; null is a value. A
  field's key is its name, or ``field(metadata={"key": "gpt-4.1"})``. ``__post_init__`` may refuse
  with ``ValueError``.

Nothing is guessed: text is never read as a number, a number never written as text. An error names
path, what was expected and what kind of value was found; the value itself may be private.

A class is read once, into functions of one value each; an annotation that no rule covers is
misuse of the call and raises ``TypeError`` then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from control_plane.configs.layers import same
from control_plane.copies import fresh

Converter = Callable[[Any], Any]


class Unfit(Exception):
    """A value that a type does not take, and where: keys and indexes below the value converted."""

    def __init__(self, expected: str, found: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found
        self.path = path

    def below(self, step: str | int) -> Unfit:
        """The same, seen from one level up."""
        return Unfit(self.expected, self.found, (step, *self.path))


def kind_of(value: object) -> str:
    """What a JSON value is called in an error."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (int, float)):
        return "a number" if float(value).is_integer() else "a number with a fraction"
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), type(value).__name__)


def converter(model: type) -> Converter:
    """The function that makes an instance of a dataclass from a mapping, or raises `Unfit`.

    Raises:
        TypeError: for an annotation that no rule covers; names class and field.
    """
    return _Classes().converter(model)


class _Classes:
    """The classes met so far: one may contain itself."""

    def __init__(self) -> None:
        self._known: dict[type, Converter] = {}

    def converter(self, model: type) -> Converter:
        if model not in self._known:
            # Until it is made, those inside it look it up when they are called.
            self._known[model] = lambda value: self._known[model](value)
            self._known[model] = self._dataclass(model)
        return self._known[model]

    def _dataclass(self, model: type) -> Converter:
        hints = get_type_hints(model)
        made: list[tuple[str, str, Converter, bool]] = []
        for field in fields(model):
            if not field.init:
                continue
            try:
                convert = self._of(hints[field.name])
            except TypeError as error:
                raise TypeError(f"{model.__qualname__}.{field.name}: {error}") from None
            required = field.default is MISSING and field.default_factory is MISSING
            key = field.metadata.get("key", field.name)
            made.append((field.name, key, convert, required))

        def convert_all(value: Any) -> Any:
            if not isinstance(value, dict):
                raise Unfit("a mapping", kind_of(value))
            given = {}
            for name, key, convert, required in made:
                if key in value:
                    try:
                        given[name] = convert(value[key])
                    except Unfit as error:
                        raise error.below(key) from None
                elif required:
                    raise Unfit("a value", "none", (key,))
            try:
                return model(**given)
            except ValueError as error:
                raise Unfit(
                    f"what {model.__qualname__} takes", f"values it refuses ({error})"
                ) from error

        return convert_all

    def _of(self, annotation: Any) -> Converter:
        if annotation in _PLAIN:
            return _PLAIN[annotation]
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (Union, UnionType):
            return _union([self._of(each) for each in arguments])
        if origin is Literal:
            return _one_of({each: each for each in arguments})
        if origin is list or (origin is tuple and arguments[1:] == (...,)):
            return _sequence(origin, self._of(arguments[0]))
        if origin in (dict, Mapping) and arguments[0] is str:
            return _mapping(self._of(arguments[1]))
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return _one_of({each.value: each for each in annotation})
        if isinstance(annotation, type) and is_dataclass(annotation):
            return self.converter(annotation)
        raise TypeError(
            f"expected a type that configuration can be converted to, found {annotation!r}; "
            "see control_plane.configs.conversion, or use a pydantic model"
        )


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise Unfit("a whole number", kind_of(value))


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise Unfit("a number", kind_of(value))


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    raise Unfit("text", kind_of(value))


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise Unfit("true or false", kind_of(value))


def _null(value: Any) -> None:
    if value is not None:
        raise Unfit("null", kind_of(value))


def _moment(value: Any) -> datetime:
    expected = "a time in ISO 8601 with an offset"
    if type(value) is not str:
        raise Unfit(expected, kind_of(value))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Unfit(expected, "other text") from None
    if moment.tzinfo is None:
        raise Unfit(expected, "a time without one")
    return moment


def _path(value: Any) -> Path:
    return Path(_text(value))


_PLAIN: dict[Any, Converter] = {
    int: _whole,
    float: _number,
    str: _text,
    bool: _boolean,
    None: _null,
    NoneType: _null,
    Any: fresh,
    list: lambda value: _sequence(list, fresh)(value),
    dict: lambda value: _mapping(fresh)(value),
    datetime: _moment,
    Path: _path,
}


def _union(members: list[Converter]) -> Converter:
    def convert(value: Any) -> Any:
        failed: list[Unfit] = []
        for member in members:
            try:
                return member(value)
            except Unfit as error:
                failed.append(error)
        # The member that came furthest tells most: an absent alternative is seldom meant.
        deepest = max(failed, key=lambda error: len(error.path))
        if deepest.path:
            raise deepest
        raise Unfit(" or ".join(dict.fromkeys(error.expected for error in failed)), failed[0].found)

    return convert


def _one_of(values: Mapping[Any, Any]) -> Converter:
    def convert(value: Any) -> Any:
        for wanted, meant in values.items():
            if same(wanted, value):
                return meant
        found = f"other {kind_of(value)}" if isinstance(value, str) else kind_of(value)
        raise Unfit(f"one of {', '.join(map(str, values))}", found)

    return convert


def _sequence(make: Callable[[list[Any]], Any], item: Converter) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise Unfit("a list", kind_of(value))
        items = []
        for index, each in enumerate(value):
            try:
                items.append(item(each))
            except Unfit as error:
                raise error.below(index) from None
        return make(items)

    return convert


def _mapping(item: Converter) -> Converter:
    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Unfit("a mapping", kind_of(value))
        items = {}
        for key, each in value.items():
            try:
                items[key] = item(each)
            except Unfit as error:
                raise error.below(key) from None
        return items

    return convert
