"""What an application does with a replica: import, ask, go on. No store, no socket, no thread.

The demo runs this file as processes of their own. Arguments: the generation to wait for, and a
JSON object with the names to read. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time

from control_plane import ControlPlaneClient

asked = json.loads(sys.argv[2])
with ControlPlaneClient() as client:
    client.wait_for(int(sys.argv[1]), timeout_seconds=10)
    seen = {
        "pid": os.getpid(),
        "environment": client.environment,
        "generation": client.health().generation,
        "flags": {
            name: (result.value, result.reason)
            for name in asked["flags"]
            for result in [client.evaluate(name, None, user_id="u1", tenant_id="tenant123")]
        },
        "config": {name: client.config.get(name) for name in asked["config"]},
        "agents": {
            name: (agent.version, list(agent.tools))
            for name in asked["agents"]
            for agent in [client.registry.get_agent(name)]
        },
        "tools": {name: client.registry.get_tool(name).version for name in asked["tools"]},
    }
    reads = asked["reads"]
    started = time.perf_counter_ns()
    for _ in range(reads):
        client.is_enabled(asked["flags"][0], user_id="u1", tenant_id="tenant123")
    seen["read_ns"] = (time.perf_counter_ns() - started) / reads
print(json.dumps(seen))
