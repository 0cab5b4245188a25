"""What the command line refuses before any verb runs: names, references and texts out of form.

A malformed argument is a wrong call and ends with 2, whatever the store holds; one in form that
names nothing is an answer and ends with 1. Each check here is the one the log makes later, so
nothing is refused that could have been published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from control_plane.errors import ManifestInvalid
from control_plane.names import CHANNEL, ENVIRONMENT, MAX_REASON_BYTES, check_name

Function = TypeVar("Function", bound=Callable[..., Any])


def name_argument(kind: str) -> Callable[[Function], Function]:
    """``NAME`` of a flag or segment; ``flag/x`` is understood as ``x``."""

    def checked(context: click.Context, parameter: click.Parameter, value: str) -> str:
        name = value.removeprefix(f"{kind}/")
        try:
            check_name(kind, name)
        except ManifestInvalid as error:
            raise click.UsageError(str(error), context) from error
        return name

    return click.argument("name", callback=checked)


def checked_reference(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """The callback of an argument like ``flag/x``, ``tool/t@1.2.0`` or ``kill/x``."""
    if value is not None:
        _check_reference(context, value)
    return value


def checked_references(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """The callback of an argument that takes several references."""
    for reference in value:
        _check_reference(context, reference)
    return value


def checked_environment(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """An environment becomes a part of a path and of signatures, so its form is checked first."""
    if value is not None and not ENVIRONMENT.fullmatch(value):
        raise click.UsageError(
            f"expected an environment like {ENVIRONMENT.pattern}, found {value!r}", context
        )
    return value


def checked_channel(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The callback of ``--channel``."""
    if not CHANNEL.fullmatch(value):
        raise click.UsageError(f"expected a channel like {CHANNEL.pattern}, found {value!r}")
    return value


def reason_option(function: Function) -> Function:
    """``--reason``, which stands in the log and is bounded by it."""
    return click.option(
        "--reason",
        default="",
        metavar="TEXT",
        callback=_checked_reason,
        help="Why; stands in the log.",
    )(function)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence that names up to three names like it; nothing when none is."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(names), n=3)
    return f"; nearest: {', '.join(found)}" if found else ""


def _checked_reason(context: click.Context, parameter: click.Parameter, value: str) -> str:
    # An argument that is no UTF-8 arrives with surrogates; no statement can hold those.
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > MAX_REASON_BYTES:
        raise click.UsageError(
            f"expected --reason of at most {MAX_REASON_BYTES} bytes, found {size}", context
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise click.UsageError("expected --reason in UTF-8, found other bytes", context)
    return value


def _check_reference(context: click.Context, text: str) -> None:
    from control_plane.manifests.documents import parse_reference

    try:
        if text.startswith("kill/"):
            check_name("flag", text.removeprefix("kill/"))
        else:
            parse_reference(text)
    except ManifestInvalid as error:
        raise click.UsageError(str(error), context) from error
