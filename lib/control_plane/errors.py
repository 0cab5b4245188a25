"""Every error this package raises about data, and what its caller would do about it.

    ControlPlaneError                 nobody raises the base
    ├── Unavailable                   try again later; what was served before is still served
    │   ├── StoreUnreachable          the store did not answer
    │   ├── ReplicaUnavailable        no replica at that place (yet)
    │   ├── ReplicaBusy               the writer kept moving under the read
    │   ├── ReplicaLocked             another process writes this replica
    │   ├── ReplicaUnwritable         the disk is full or does not let the writer in
    │   ├── ViewExpired               a pinned view outlived the grace period
    │   ├── WaitTimeout               wait_for or wait_until_ready ran out of time
    │   ├── ToolTimeout               a bound tool did not answer in the time its manifest gives it
    │   └── CircuitOpen               a bound tool failed too often and is left alone for a while
    ├── InputInvalid                  mend the input: it was refused and changed nothing
    │   ├── SyntaxInvalid             bytes that are not the YAML, JSON, note or envelope expected
    │   ├── ManifestInvalid           a document that breaks its kind's schema or rules
    │   ├── SettingsInvalid           configuration that does not fit the class bound to it
    │   ├── ToolInputInvalid          the input of a bound tool does not fit its schema
    │   └── StatementInvalid          a change set, trust, snapshot or epoch statement out of form
    ├── NotFound                      ask for something else
    │   └── KeyNotFoundError          a configuration key (also a KeyError)
    ├── Refused                       the request was understood and denied
    │   ├── Conflict                  the head moved: pull, look, sign again
    │   ├── NotDelegated              no delegation gives that key that name
    │   ├── ThresholdNotReached       more signatures are needed
    │   ├── Late                      sequenced after the statement's not_after
    │   ├── EpochMoved                the log goes on in a later epoch
    │   ├── KeyFileRefused            a key file that is open to others, locked, or in the way
    │   └── TokenRefused              no token, a wrong one, or one that may not do this
    ├── TrustError                    call security: somebody's bytes are not what they claim to be
    │   ├── SignatureInvalid          a signature that does not verify
    │   ├── ChecksumMismatch          bytes that do not have their digest
    │   ├── RolledBack                a checkpoint smaller than the one held
    │   ├── Forked                    two checkpoints that cannot both be true
    │   ├── EpochDiverged             a new epoch that leaves the history held
    │   └── TrustExpired              the policy in force has expired
    ├── ReplicaInvalid                rebuild: the file is not what this version can read
    │   ├── ReplicaCorrupt            a record, header or database that fails its own checks
    │   ├── FormatUnsupported         written by a newer version; names the one that reads it
    │   └── ReplicaForeign            the replica of another log; it is left as it is
    ├── ToolOutputInvalid             mend the handler: its answer does not fit the tool's schema
    ├── MissingExtra                  install the extra that brings the package
    └── UnsupportedPlatformError      this platform cannot map a replica

A message is one line: what was expected, what was found, the name; after a semicolon the cure.
Misuse of a call is ``TypeError``, ``ValueError`` or ``RuntimeError`` and stays outside this tree.
"""

from __future__ import annotations


class ControlPlaneError(Exception):
    """The root of the tree; catch it to catch everything below, never raise it."""

    code = "error"


class Unavailable(ControlPlaneError):
    """Something needed is out of reach now; retrying can help."""

    code = "unavailable"


class StoreUnreachable(Unavailable):
    """The store did not answer."""

    code = "store_unreachable"


class ReplicaUnavailable(Unavailable):
    """There is no replica to read at the place that was named."""

    code = "replica_unavailable"


class ReplicaBusy(Unavailable):
    """A hundred attempts found the writer moving; the last good value still stands."""

    code = "replica_busy"


class ReplicaLocked(Unavailable):
    """Another process is the writer of this replica; the message names it."""

    code = "replica_locked"


class ReplicaUnwritable(Unavailable):
    """The replica could not be written; what was committed before is still there."""

    code = "replica_unwritable"


class ViewExpired(Unavailable):
    """A pinned view is older than the oldest snapshot the writer keeps."""

    code = "view_expired"


class WaitTimeout(Unavailable):
    """The state waited for was not reached in time."""

    code = "wait_timeout"


class ToolTimeout(Unavailable):
    """A bound tool did not answer within its manifest's ``timeout_ms``."""

    code = "tool_timeout"


class CircuitOpen(Unavailable):
    """A bound tool is not called now; ``retry_after_seconds`` says when the next call may pass."""

    code = "circuit_open"

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class InputInvalid(ControlPlaneError):
    """The input is out of form; it was refused and nothing changed."""

    code = "invalid"


class SyntaxInvalid(InputInvalid):
    """Bytes that do not parse; ``line`` and ``column`` count from 1 where they are known."""

    code = "syntax_invalid"

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class ManifestInvalid(InputInvalid):
    """A document that breaks a rule of its kind; ``path`` leads to the place inside it.

    ``document`` names it (``config/database@acme``) where it may be another than the one in hand.
    """

    code = "manifest_invalid"

    def __init__(self, message: str, path: tuple[str | int, ...] = (), document: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.document = document


class SettingsInvalid(InputInvalid):
    """Configuration that does not fit the class bound to it; ``path`` leads to the value."""

    code = "settings_invalid"

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class ToolInputInvalid(InputInvalid):
    """The input of a bound tool does not fit its ``inputs_schema``; ``path`` leads to the place.

    Message and path hold nothing of the input itself: a key that the schema does not name is
    ``*`` in both.
    """

    code = "tool_input_invalid"

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class StatementInvalid(InputInvalid):
    """A signed statement out of form."""

    code = "statement_invalid"


class NotFound(ControlPlaneError):
    """The thing named does not exist here."""

    code = "not_found"


class KeyNotFoundError(NotFound, KeyError):
    """A configuration key without a value; ``nearest`` holds similar keys that have one.

    Keys are as ``get`` takes them: a string, or a tuple where a part of the key holds a dot.
    """

    code = "key_not_found"

    def __init__(
        self,
        message: str,
        key: str | tuple[str, ...] = "",
        nearest: tuple[str | tuple[str, ...], ...] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.nearest = nearest

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; the message is a sentence.
        return str(self.args[0])


class Refused(ControlPlaneError):
    """The request is in form and is denied."""

    code = "refused"


class Conflict(Refused):
    """``conflicts`` lists each stale key with the generations expected and found."""

    code = "conflict"

    def __init__(self, message: str, conflicts: tuple[dict[str, object], ...] = ()) -> None:
        super().__init__(message)
        self.conflicts = conflicts


class NotDelegated(Refused):
    """No delegation gives the signing keys this name."""

    code = "not_delegated"


class ThresholdNotReached(Refused):
    """``found`` valid signatures of ``threshold`` needed."""

    code = "threshold_not_reached"

    def __init__(self, message: str, threshold: int = 0, found: int = 0) -> None:
        super().__init__(message)
        self.threshold = threshold
        self.found = found


class Late(Refused):
    """The statement's ``not_after`` has passed."""

    code = "late"


class EpochMoved(Refused):
    """The environment's log goes on in another epoch: ``epoch``, the newest there is."""

    code = "epoch_moved"

    def __init__(self, message: str, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = epoch


class KeyFileRefused(Refused):
    """A private key file that others can read, that is locked, or that would be overwritten."""

    code = "key_file_refused"


class TokenRefused(Refused):
    """The bearer token is absent, unknown, revoked or may not do this."""

    code = "token_refused"


class TrustError(ControlPlaneError):
    """Bytes that are not what they claim to be."""

    code = "trust"


class SignatureInvalid(TrustError):
    """A signature that does not verify with the key it names."""

    code = "signature_invalid"


class ChecksumMismatch(TrustError):
    """Bytes whose SHA-256 is not the one that was signed."""

    code = "checksum_mismatch"


class RolledBack(TrustError):
    """A checkpoint of a smaller tree than one already held."""

    code = "rolled_back"


class Forked(TrustError):
    """Two checkpoints of one log that no single history explains."""

    code = "forked"


class EpochDiverged(TrustError):
    """An epoch, signed by root, that continues an earlier or another history than the one held.

    ``origin`` is the new log's, ``root_version`` the root that names it; ``size`` and ``root`` are
    what it continues of the epoch before (root hash in hex).
    """

    code = "epoch_diverged"

    def __init__(
        self, message: str, origin: str = "", root_version: int = 0, size: int = 0, root: str = ""
    ) -> None:
        super().__init__(message)
        self.origin = origin
        self.root_version = root_version
        self.size = size
        self.root = root


class TrustExpired(TrustError):
    """The root or targets metadata in force has passed its expiry."""

    code = "trust_expired"


class ReplicaInvalid(ControlPlaneError):
    """A replica this version cannot use."""

    code = "replica_invalid"


class ReplicaCorrupt(ReplicaInvalid):
    """A record, header or database that fails its own checks."""

    code = "replica_corrupt"


class FormatUnsupported(ReplicaInvalid):
    """Written by a newer version than this one; the message names the version it needs."""

    code = "format_unsupported"


class ReplicaForeign(ReplicaInvalid):
    """The folder holds the replica of another log; it was left as it is."""

    code = "replica_foreign"


class ToolOutputInvalid(ControlPlaneError):
    """A handler's answer does not fit its tool's ``outputs_schema``; ``path`` leads to the place.

    As with `ToolInputInvalid`, nothing of the answer is in message or path.
    """

    code = "tool_output_invalid"

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class MissingExtra(ControlPlaneError):
    """A package this call needs is not installed; the message names its extra."""

    code = "missing_extra"

    @classmethod
    def of(cls, package: str | None, extra: str) -> MissingExtra:
        """The refusal of a call that needs ``package``, which ``extra`` would bring."""
        return cls(
            f"expected the package {package}, found none; pip install 'control-plane[{extra}]'"
        )


class UnsupportedPlatformError(ControlPlaneError):
    """Replicas cannot be mapped on this platform."""

    code = "unsupported_platform"
