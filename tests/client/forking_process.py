"""Fork while another thread imports MODULE, then evaluate and exit in the child: ROOT MODULE."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from types import ModuleType

from control_plane import ControlPlaneClient


class Slow:
    """A finder that makes one import take a while; the module's lock is held meanwhile."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = threading.Event()

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name == self.name:
            self.begun.set()
            time.sleep(0.3)


def main(root: str, module: str) -> int:
    client = ControlPlaneClient(root, "production")
    client.is_enabled("new_ai_model")
    assert module not in sys.modules
    slow = Slow(module)
    sys.meta_path.insert(0, slow)  # type: ignore[arg-type]
    thread = threading.Thread(target=importlib.import_module, args=[module])
    thread.start()
    slow.begun.wait()
    child = os.fork()
    if child == 0:
        for _ in range(2_000):
            client.is_enabled("new_ai_model")
        importlib.import_module(module)
        os._exit(0)
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
