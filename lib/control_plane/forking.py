"""What a process that reads replicas does before it forks: it ends the imports it put off.

The reader imports rarely needed modules when they are first needed, in whatever thread that is.
CPython holds a lock for a module while it is imported and does not renew these locks in a forked
child: forked meanwhile, the child would wait for ever for a thread that it does not have. So the
forking thread imports them all first, waiting for the thread that is at one of them; after that
no reader imports any more, and the children of a preforking server share what was loaded.

`logging` is not among them: it has hooks of its own around a fork, which must not come into being
in the midst of one. It is imported when something is first complained of.
"""

from __future__ import annotations

PUT_OFF = (
    "atexit",
    "contextlib",
    "datetime",
    "difflib",
    "hashlib",
    "json",
    "msgpack",
    "warnings",
    "control_plane.shown",
    "control_plane.usage.file",
    "control_plane.feature_flags.bucketings",
    "control_plane.feature_flags.definition",
    "control_plane.feature_flags.explaining",
    "control_plane.feature_flags.flag_manager",
    "control_plane.feature_flags.flagd_bucketing",
    "control_plane.feature_flags.segments",
    "control_plane.feature_flags.table",
    "control_plane.feature_flags.targeting",
    "control_plane.feature_flags.targeting_code",
    "control_plane.configs.settings",
    "control_plane.configs.views",
    "control_plane.registries.registry_manager",
)
"""What evaluating flags, reading configuration and looking up manifests import when needed."""


def end_imports() -> None:
    """Import what was put off; what is not installed here is left out."""
    for name in PUT_OFF:
        try:
            __import__(name)
        except ImportError:
            continue
