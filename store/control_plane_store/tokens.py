"""Who may speak to the store, decided by bearer tokens.

- A token is ``cpt_`` and 32 random bytes in base64url. The store keeps its SHA-256 only, so a
  stolen database opens nothing; 256 random bits need no slow hash.
- A token holds per environment: one string may have a row for each of several. A row says what
  it may do there: ``follow`` reads everything of the environment, ``submit`` also writes.
- A public store answers reads without a token; writing needs one always.
- A revoked token is unknown from the next request on.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence

from control_plane.errors import NotFound, TokenRefused
from control_plane_store.audit import Audit
from control_plane_store.database import Database
from control_plane_store.transactions import Snapshot, TokenRow

PREFIX = "cpt_"
SECRET_BYTES = 32
MAY = ("follow", "submit")


class TokenForbidden(TokenRefused):
    """The token is known here and may not do this."""


def new_secret(random: Callable[[int], bytes]) -> str:
    """A new token; ``random`` gives that many unpredictable bytes."""
    return PREFIX + base64.urlsafe_b64encode(random(SECRET_BYTES)).decode().rstrip("=")


def sha256_of(secret: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def check(snapshot: Snapshot, authorization: str | None, environment: str, action: str) -> TokenRow:
    """The token of an ``Authorization`` header, if it may ``follow`` or ``submit`` here.

    Raises:
        TokenRefused: none, another scheme, unknown in this environment, or revoked.
        TokenForbidden: it may follow and not submit.
    """
    if authorization is None:
        raise TokenRefused(f"{environment}: expected a token, found none; pass --token-file")
    scheme, _, secret = authorization.partition(" ")
    # The lookup compares hashes of secrets, so its timing tells nothing about a secret.
    row = snapshot.token(sha256_of(secret.strip()), environment)
    if scheme.lower() != "bearer" or row is None or row.revoked_at is not None:
        raise TokenRefused(
            f"{environment}: expected a token that holds here, found another;"
            " make one with 'control-plane token new'"
        )
    if action == "submit" and row.may != "submit":
        raise TokenForbidden(
            f"{environment}: expected a token that may submit, found {row.name!r} that may follow;"
            " make one with 'control-plane token new'"
        )
    return row


def issue(
    database: Database,
    audit: Audit,
    *,
    name: str,
    environments: Sequence[str],
    may: str,
    secret: str,
    now_ms: int,
) -> None:
    """Let ``secret`` follow or submit in these environments.

    Raises:
        NotFound: an environment the store does not have.
    """
    with database.write() as transaction:
        for environment in environments:
            if transaction.log(environment) is None:
                raise NotFound(f"expected an environment of this store, found {environment!r}")
            row = TokenRow(name, environment, may, now_ms, None)
            transaction.add_token(sha256_of(secret), row)
        # Before the commit: a crash leaves a line too many, never a token that no line tells of.
        audit.append(
            {"at": now_ms, "event": "token-new", "environment": each, "token": name, "may": may}
            for each in environments
        )


def revoke(
    database: Database, audit: Audit, *, name: str, environment: str | None, now_ms: int
) -> int:
    """Revoke the tokens of that name, in one environment or in all; returns how many.

    Raises:
        NotFound: none is in force.
    """
    with database.write() as transaction:
        count = transaction.revoke_tokens(name, environment, now_ms)
        if not count:
            where = "any environment" if environment is None else environment
            raise NotFound(f"expected a token {name!r} in force in {where}, found none")
        # Before the commit, as above; whoever sees the command die revokes again.
        audit.append(
            [{"at": now_ms, "event": "token-revoked", "environment": environment, "token": name}]
        )
    return count
