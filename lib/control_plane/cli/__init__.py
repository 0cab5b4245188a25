"""The ``control-plane`` command.

``main`` is the one place where errors become exit codes; see ``failures``. Nothing heavy loads
before a verb is chosen, and without the packages of the extra ``cli`` the command says which one
is missing and ends with 3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from control_plane.errors import MissingExtra


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; prints errors in one line on stderr."""
    try:
        from control_plane.cli.failures import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("control_plane"):
            raise
        missing = MissingExtra.of(error.name, "cli")
        print(f"control-plane: {missing}", file=sys.stderr)
        return 3
    return run(sys.argv[1:] if argv is None else list(argv))
