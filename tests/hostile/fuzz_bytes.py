"""Look for bytes that make a target fail, by the branches they reach.

    python tests/hostile/fuzz_bytes.py FOLDER NAME [libFuzzer options]

The library is instrumented as it is imported. Seeds lie in ``FOLDER/corpus``, where what reaches
new branches is added; the process ends with another code than 0 at the first bytes that are
neither read nor refused in form, and prints them.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["control_plane", "control_plane_store", "control_plane_daemon"]
):
    import fuzz_targets

MAX_BYTES = 1 << 14


def main(folder: Path, name: str, options: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    made = folder / "made"
    made.mkdir(parents=True)
    target = fuzz_targets.all_targets(made)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    arguments = [sys.argv[0], str(corpus), f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/"]
    atheris.Setup([*arguments, *options], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
