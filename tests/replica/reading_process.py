"""A reader in a process of its own: evaluates the expressions on its input, one a line.

The file of a replica may be open only once in a process, so a test that holds the writer reads
here. Each answer is one line: the value's repr, or the error's class and message.
"""

import os
import sys

from control_plane.replica import format, header
from control_plane.replica.reader import OPEN
from control_plane.replica.source import ReplicaSource

NAMES = {
    "format": format,
    "header": header,
    "OPEN": OPEN,
    "os": os,
    "source": ReplicaSource(sys.argv[1]),
    "views": [],
}


def key(name: str) -> bytes:
    return format.record_key(format.FLAG, name)


def body(name: str) -> bytes | None:
    _, [raw] = NAMES["source"].open().read(key(name))
    return None if raw is None else format.decode_record(key(name), raw).body


NAMES |= {"key": key, "body": body}
for line in sys.stdin:
    try:
        answer = ("value", eval(line, NAMES))
    except Exception as error:
        answer = ("error", (type(error).__name__, str(error)))
    print(repr(answer), flush=True)
