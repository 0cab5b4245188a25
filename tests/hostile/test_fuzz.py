"""A fuzzer that follows branches finds no bytes that crash, hang or fill the memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_bytes.py")
BOUNDS = ("-runs=200000", "-max_total_time=12", "-timeout=5", "-rss_limit_mb=1024")


@pytest.mark.torture
def test_no_bytes_break_a_reader(target_name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python or platform")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "work"), target_name, *BOUNDS],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )  # fmt: skip
    said = ended.stdout.decode("utf-8", "backslashreplace")
    assert ended.returncode == 0, said[-4000:]
    assert "DONE" in said
