"""``python -m control_plane.schemas DIR``: copy the schemas to where editors find them."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from control_plane.schemas import copy_to


def main() -> None:
    """Copy to the folder named on the command line and print what was written."""
    parser = ArgumentParser(prog="python -m control_plane.schemas", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the copies go; made if needed")
    for path in copy_to(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
