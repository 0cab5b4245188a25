"""Polls one flag and says when its answer changed, by CLOCK_MONOTONIC.

The demo and the benchmark run this file as a process of its own. Arguments: the flag, and how many
changes to wait for. Prints ``ready VALUE`` once the flag is there, then ``VALUE NANOSECONDS`` for
each change.
"""

from __future__ import annotations

import sys
import time

from control_plane import ControlPlaneClient

name, changes = sys.argv[1], int(sys.argv[2])
with ControlPlaneClient() as client:
    client.wait_until_ready(timeout_seconds=10)
    last = None
    while last is None:
        last = client.value(name, None, user_id="u1", tenant_id="tenant123")
        time.sleep(0.0002)
    print("ready", last, flush=True)
    while changes:
        value = client.value(name, None, user_id="u1", tenant_id="tenant123")
        if value != last:
            now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            print(value, now_ns, flush=True)
            last = value
            changes -= 1
        time.sleep(0.0002)
