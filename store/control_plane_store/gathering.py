"""Change sets that wait for signatures: what they gather, and how many may wait.

A set that waits keeps the signatures that came, and with enough of them it is one like any other.
``MAX_PENDING_SETS`` may wait for a log, of which one key's holder may have signed
``MAX_PENDING_A_KEY``, so that nobody takes the others' places. Sets that can no longer be sequenced
give up theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from control_plane.errors import Refused, SyntaxInvalid
from control_plane.log.envelope import Envelope
from control_plane.names import MAX_SIGNATURES
from control_plane.trust.state import Policy
from control_plane_store.admission import Waiting
from control_plane_store.transactions import Log, PendingRow, Transaction

MAX_PENDING_SETS = 1_000
MAX_PENDING_A_KEY = 100


def gathered(waiting: bytes | None, envelope: Envelope, policy: Policy) -> Envelope:
    """The envelope with the signatures that came before, except by keys revoked since.

    Raises:
        SyntaxInvalid: more than an envelope may have.
    """
    if waiting is None:
        return envelope
    known, given = policy.keys(), {each.key_id for each in envelope.signatures}
    for signature in Envelope.decode(waiting).signatures:
        if signature.key_id in known and signature.key_id not in given:
            envelope = envelope.with_signature(signature)
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise SyntaxInvalid(
            f"envelope: expected at most {MAX_SIGNATURES} signatures with those that wait, found"
            f" {len(envelope.signatures)}"
        )
    return envelope


def keep_waiting(transaction: Transaction, log: Log, found: Waiting, now_ms: int) -> None:
    """Keep a set, or its further signatures, if there is a place for it.

    Raises:
        Refused: all places are taken, or all that one of its signers may take.
    """
    statement = found.envelope.identity
    transaction.drop_late_pending(log, now_ms)
    known = transaction.pending_envelope(log, statement) is not None
    if not known and transaction.pending_count(log) >= MAX_PENDING_SETS:
        raise Refused(
            f"{log.environment}: expected at most {MAX_PENDING_SETS} change sets waiting for"
            " signatures, found as many"
        )
    if not known:
        _check_places(found.envelope, transaction.pending(log))
    row = PendingRow(statement, found.envelope.encode(), found.threshold, found.found, now_ms)
    transaction.keep_pending(log, row, not_after=found.not_after)


def _check_places(envelope: Envelope, waiting: Sequence[PendingRow]) -> None:
    if len(waiting) < MAX_PENDING_A_KEY:
        return
    signers = Counter(
        each.key_id for row in waiting for each in Envelope.decode(row.envelope).signatures
    )
    for signature in envelope.signatures:
        if signers[signature.key_id] >= MAX_PENDING_A_KEY:
            raise Refused(
                f"key {signature.key_id[:16]}: expected at most {MAX_PENDING_A_KEY} change sets"
                " waiting with its signature, found as many"
            )
