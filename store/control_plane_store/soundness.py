"""Whether what a database holds of a log is one history, and what it leads to.

At a start every newest log's tree is computed from its hashes and compared with its position and
with the checkpoint signed last, and the policy in force is folded again from the trust entries of
all epochs. Before each signature the tree must extend the one signed before. Nothing here writes.
"""

from __future__ import annotations

from control_plane.errors import Forked
from control_plane.log.envelope import PAYLOAD_TYPE
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import EMPTY_ROOT, frontier_at
from control_plane.log.statements import Key
from control_plane.log.steps import judge
from control_plane.trust.state import Policy
from control_plane_store.transactions import Log, Snapshot


def policy_at_end(snapshot: Snapshot, newest: Log) -> Policy:
    """The policy in force at the log's end: the fold of the trust entries of all its epochs.

    Raises:
        Forked: the log has none.
        TrustError, InputInvalid: they do not lead to a policy.
    """
    policy = None
    for log in reversed(snapshot.epochs(newest.environment)):
        for index, data in snapshot.leaves_of_type(log, PAYLOAD_TYPE["trust"]):
            verdict = judge(
                log.generation_of(index),
                Leaf.decode(data),
                origin=log.origin,
                environment=log.environment,
                policy=policy,
                heads=_no_head,
                blobs=lambda digest: snapshot.held_blob(newest.environment, digest),
            )
            policy = verdict.policy
    if policy is None:
        raise Forked(f"{newest.origin}: expected a trust entry first, found an empty log")
    return policy


def check_tree(snapshot: Snapshot, log: Log) -> None:
    """Refuse a database whose hashes, position and last checkpoint are not of one tree.

    Raises:
        Forked: they are not.
    """
    size, reader = log.frontier.size, snapshot.hash_reader(log)
    try:
        same = frontier_at(size, reader) == log.frontier
        signed = EMPTY_ROOT if not log.note_size else frontier_at(log.note_size, reader).root()
    except LookupError:
        same, signed = False, b""
    if not same or snapshot.hashes(log, 0, size, size + 1):
        raise Forked(f"{log.origin}: expected the hashes of {size} entries, found others")
    if log.note and signed != log.note_root:
        raise Forked(
            f"{log.origin}: expected the tree signed at size {log.note_size}, found another;"
            " was the database restored from a backup?"
        )


def check_grown(log: Log) -> None:
    """Refuse to sign a tree that does not extend the one signed before.

    Raises:
        Forked: it is smaller, or another of the same size.
    """
    size = log.frontier.size
    if size < log.note_size or (size == log.note_size and log.frontier.root() != log.note_root):
        raise Forked(
            f"{log.origin}: expected to sign a tree that extends size {log.note_size}, found"
            f" another of size {size}"
        )


def _no_head(_key: Key) -> None:
    """Trust entries are judged without heads."""
