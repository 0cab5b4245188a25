"""``python -m control_plane``: the same as the ``control-plane`` command."""

from __future__ import annotations

import sys

from control_plane.cli import main

if __name__ == "__main__":
    sys.exit(main())
