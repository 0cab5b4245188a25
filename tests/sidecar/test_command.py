"""``control-plane sidecar`` as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from control_plane.testing import ReplicaKit

COMMAND = [sys.executable, "-m", "control_plane", "sidecar"]


def test_it_says_where_it_answers_and_ends_clean(kit: ReplicaKit, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with subprocess.Popen(
        [*COMMAND, "--listen", f"unix:{path}", "--socket-mode", "0600"],
        env={**os.environ, **kit.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(path))
            asking.sendall(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: asking.recv(65_536), b""))
        mode = path.stat().st_mode & 0o777
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert ready == f"sidecar ready at unix:{path}\n"
    assert (answer[:12], mode) == (b"HTTP/1.1 200", 0o600)
    assert (process.returncode, errors, path.exists()) == (0, "", False)


def test_tcp_without_tokens_is_refused() -> None:
    found = subprocess.run(
        [*COMMAND, "--listen", "127.0.0.1:0"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert "expected --token-file with TCP, found none" in found.stderr
