"""Configuration as an instance of an application's own class, always of one generation.

- A binding reads everything below its prefix from one snapshot and makes one instance of it.
  Whoever asks gets that instance until the values below the prefix are others; then a new one is
  made as a whole and takes its place. An instance is never changed, and is the same object for as
  long as nothing changed, so that it may be compared with ``is``.
- Nothing runs in between: asking compares one word of the header, and only if that moved reads.
- New values that do not fit leave the last good instance in its place, and are reported once: one
  warning for each generation that brought other values which do not fit, and `Binding.error`.
  Only a first instance that cannot be made is an error of the call, so a service does not start.
- While a moved replica cannot be read, the last good instance stays, too.
- A dataclass is made by the rules of `conversion`; a pydantic model or pydantic dataclass by
  pydantic, which is imported only where the class is its own.

The instance is shared by all who ask: make the class frozen, or leave its attributes alone.
"""

from __future__ import annotations

import logging
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from control_plane.configs.conversion import Converter, Unfit, converter, kind_of
from control_plane.configs.layers import decode_path, same
from control_plane.configs.merged import ABSENT, key_not_found, merged_value
from control_plane.configs.overrides import overridden
from control_plane.copies import fresh
from control_plane.defaults import require_environment
from control_plane.errors import ControlPlaneError, ReplicaUnavailable, SettingsInvalid
from control_plane.replica.header import CONFIG_REVISION, TOMBSTONE
from control_plane.shown import MAX_SHOWN_NAME, shown

if TYPE_CHECKING:
    from control_plane.configs.settings import ConfigManager
    from control_plane.replica.reader import View

T = TypeVar("T")

_WORD = 8 * CONFIG_REVISION
_TOMBSTONE = 8 * TOMBSTONE
_log = logging.getLogger("control_plane")


class Binding(Generic[T]):
    """Holds the current instance of a class; made by `ConfigManager.bind`.

    ``binding.value`` and ``binding()`` are that instance. Safe from any thread and after a fork.
    """

    __slots__ = ("__weakref__", "_config", "_make", "_path", "_state", "_tenant")

    def __init__(self, config: ConfigManager, model: type[T], path: str, tenant: str) -> None:
        self._config = config
        self._path = path
        self._tenant = tenant
        self._make = maker(model)
        # One attribute, set at once: what two threads find at the same time never mixes.
        self._state: State[T] = self._first()

    @property
    def value(self) -> T:
        """The instance made of the newest values that fit."""
        state = self._state
        words = state.words
        if self._config._source.words is words and words[_WORD] == state.revision:
            return state.value
        return self._renewed().value

    def __call__(self) -> T:
        """As ``value``."""
        return self.value

    @property
    def error(self) -> Exception | None:
        """Why the newest values do not fit or cannot be read; None where ``value`` is theirs."""
        return self._renewed().error

    @property
    def generation(self) -> int:
        """The newest generation whose values ``value`` is made of, or that did not change them."""
        return self._renewed().generation

    def __repr__(self) -> str:
        # The values stay out: they may be private, and representations end in logs.
        what = shown(self._path or "everything", MAX_SHOWN_NAME)
        return f"<Binding of {what} at generation {self._state.generation}>"

    def _first(self) -> State[T]:
        source = self._config._source
        replica = source.open()
        if replica is None:
            require_environment(source)
            raise ReplicaUnavailable(str(source.error))
        words = source.words
        revision = _revision(words)
        with replica.view() as view:
            tree, generation = self._read(view), view.generation
            if tree is ABSENT and self._path:
                raise key_not_found(view, self._path, source.environment or "")
        state = State(generation, tree, self._made({} if tree is ABSENT else tree), None)
        state.words, state.revision = words, revision
        return state

    def _renewed(self) -> State[T]:
        """The state after the replica moved; it takes the place of the one before."""
        before = self._state
        source = self._config._source
        replica = source.open()
        words = source.words
        if replica is None or (words is before.words and words[_WORD] == before.revision):
            return before
        # Words and revision before the snapshot: what moves in between is read once more.
        revision = _revision(words)
        try:
            with replica.view() as view:
                tree, generation = self._read(view), view.generation
        except (ControlPlaneError, ValueError) as error:
            if str(error) != str(before.error):
                _log.warning("%r: the last good values stay: %s", self, shown(error))
            # With the old revision: the next call tries again.
            self._state = before.with_error(error)
            return self._state
        state = self._following(before, tree, generation)
        state.words, state.revision = words, revision
        newest = self._state
        if newest.words is words and newest.generation > generation:
            # Another thread looked later and was done first.
            return newest
        self._state = state
        return state

    def _following(self, before: State[T], tree: Any, generation: int) -> State[T]:
        """The state with these values; they are looked at again only where they are others."""
        if same(tree, before.tree):
            known = before.generation if before.unfit else generation
            return State(known, tree, before.value, before.error if before.unfit else None)
        try:
            return State(generation, tree, self._made(tree), None)
        except SettingsInvalid as error:
            _log.warning("generation %d: %s; the last good values stay", generation, shown(error))
            return State(before.generation, tree, before.value, error)

    def _read(self, view: View) -> Any:
        tree = merged_value(view, self._path, self._tenant)
        return overridden(self._config.overrides, self._path, tree)

    def _made(self, tree: Any) -> T:
        """The instance these values make.

        Raises:
            SettingsInvalid: they do not fit.
        """
        try:
            if tree is ABSENT:
                raise Unfit("values", "none")
            made: T = self._make(tree)
            return made
        except Unfit as error:
            keys = (*(decode_path(self._path) if self._path else ()), *error.path)
            environment = self._config.environment
            whose = f"{environment}, {self._tenant}" if self._tenant else environment
            place = shown(".".join(map(str, keys)) or "everything", MAX_SHOWN_NAME)
            raise SettingsInvalid(f"config {place} ({whose}): {error}", keys) from None


class State(Generic[T]):
    """What a binding holds, and from where; complete before anybody sees it.

    ``tree`` are the values looked at last. Where they did not fit, ``error`` says why, and
    ``value`` and ``generation`` are of the last ones that did.
    """

    __slots__ = ("error", "generation", "revision", "tree", "value", "words")

    def __init__(self, generation: int, tree: Any, value: T, error: Exception | None) -> None:
        self.words: memoryview | None = None
        self.revision = -1
        self.generation = generation
        self.tree = tree
        self.value = value
        self.error = error

    @property
    def unfit(self) -> bool:
        """Whether the values looked at last did not fit."""
        return isinstance(self.error, SettingsInvalid)

    def with_error(self, error: Exception) -> State[T]:
        """The same; newer values could not be read."""
        state = State(self.generation, self.tree, self.value, self.error if self.unfit else error)
        state.words, state.revision = self.words, self.revision
        return state


def maker(model: type[T]) -> Converter:
    """The function that makes an instance from a mapping, or raises `Unfit`.

    Raises:
        TypeError: for what is neither a dataclass nor a pydantic model.
    """
    if isinstance(model, type):
        # Only a class that pydantic made has it: then pydantic is there to be imported.
        if hasattr(model, "__pydantic_validator__"):
            return _pydantic_maker(model)
        if is_dataclass(model):
            return converter(model)
    raise TypeError(f"expected a dataclass or a pydantic model, found {model!r}")


def _pydantic_maker(model: type) -> Converter:
    from pydantic import TypeAdapter, ValidationError

    validate: Converter = TypeAdapter(model).validate_python

    def make(tree: Any) -> Any:
        try:
            # A copy: pydantic keeps the containers it is given where a field takes any value.
            return validate(fresh(tree))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            raise _unfit(details[0], len(details) - 1) from None

    return make


def _unfit(detail: Any, others: int) -> Unfit:
    if detail["type"] == "missing":
        expected, found = "a value", "none"
    else:
        expected = detail["msg"].removeprefix("Input should be ")
        found = kind_of(detail["input"])
    return Unfit(expected, f"{found}; and {others} more" if others else found, detail["loc"])


def _revision(words: memoryview) -> int:
    """What to compare with later; in a folder given up nothing is equal, the next is looked for."""
    revision: int = words[_WORD]
    return -1 if words[_TOMBSTONE] else revision
