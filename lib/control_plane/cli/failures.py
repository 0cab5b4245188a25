"""How a run of the command ends: the one map from errors to exit codes.

    0  done
    1  refused, or the answer is no
    2  the command was called wrongly
    3  a package of an extra is missing
    4  the store is not reachable
    5  somebody changed it first: a conflict
    6  bytes are not what they claim to be: a trust failure

Every failure is one line on stderr, ``control-plane: <message>``. An error outside the tree is our
own bug and keeps its traceback.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from control_plane.cli.root import root
from control_plane.errors import (
    Conflict,
    ControlPlaneError,
    MissingExtra,
    StoreUnreachable,
    TrustError,
)
from control_plane.shown import shown

DONE: Final = 0
NEGATIVE: Final = 1
USAGE: Final = 2
MAX_LINE: Final = 16_000
"""Characters of a failure that are printed; one may list many conflicts."""

EXIT_CODES: Final[tuple[tuple[type[ControlPlaneError], int], ...]] = (
    (MissingExtra, 3),
    (StoreUnreachable, 4),
    (Conflict, 5),
    (TrustError, 6),
    (ControlPlaneError, NEGATIVE),
)


def exit_code(error: ControlPlaneError) -> int:
    """The code a run ends with when this error ends it."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def run(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    try:
        result = root.main(arguments, prog_name="control-plane", standalone_mode=False)
    except click.exceptions.Abort:
        return _failed("interrupted", 130)
    except click.UsageError as error:
        return _failed(_usage(error), USAGE)
    except click.ClickException as error:
        return _failed(error.format_message(), NEGATIVE)
    except Conflict as error:
        return _failed(_with_cure(str(error)), exit_code(error))
    except ControlPlaneError as error:
        return _failed(str(error), exit_code(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("control_plane"):
            raise
        return _failed(
            f"expected the package {error.name}, found none; pip install 'control-plane[all]'", 3
        )
    except OSError as error:
        return _failed(_os_error(error), NEGATIVE)
    return result if isinstance(result, int) else DONE


def _failed(message: str, code: int) -> int:
    # What others wrote may be quoted here; it must not steer the terminal.
    line = shown(" ".join(message.split()), MAX_LINE)
    print(f"control-plane: {line}", file=sys.stderr)
    return code


def _with_cure(message: str) -> str:
    """The store words a conflict alike for everybody; what to do next is its caller's."""
    if ";" in message:
        return message
    return f"{message}; look at 'control-plane history', then make the change anew"


def _usage(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "control-plane"
    return f"{message[:1].lower()}{message[1:]}; see '{command} --help'"


def _os_error(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)
