"""Who may speak to the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import NotFound
from control_plane_store import tokens

READS = (
    "/v1/production/heads",
    "/v1/production/history",
    "/v1/production/pending",
    "/v1/production/follow?epoch=1&size=0",
    "/v1/production/blob/sha256/" + "0" * 64,
    "/production/1/checkpoint",
    "/production/1/tile/0/000.p/1",
    "/production/1/blob/sha256/" + "0" * 64,
)


@pytest.mark.parametrize("path", READS)
async def test_every_read_wants_a_token(served: Any, path: str) -> None:
    answer = await served.request("GET", path, token=None)
    assert (answer.status, answer.body["code"]) == (401, "token_refused")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_health_is_told_to_anyone(served: Any) -> None:
    answer = await served.request("GET", "/healthz", token=None)
    assert (answer.status, answer.body) == (200, {"format": 1, "status": "ok"})


async def test_a_public_store_answers_reads_and_still_guards_writes(serve: Any) -> None:
    async with serve(public=True) as served:
        checkpoint = await served.request("GET", "/production/1/checkpoint", token=None)
        written = await served.request("POST", "/v1/production/changes", b"{}", token=None)
    assert (checkpoint.status, written.status) == (200, 401)


async def test_a_follow_token_may_not_submit(served: Any) -> None:
    before = await served.standing()
    answer = await served.request("POST", "/v1/production/changes", b"{}", token="follow")
    assert (answer.status, answer.body["code"]) == (403, "token_refused")
    put = await served.request("PUT", f"/v1/production/blob/sha256/{'0' * 64}", b"", token="follow")
    assert put.status == 403
    assert await served.standing() == before


async def test_a_token_holds_in_its_environment_only(served: Any, database: Any) -> None:
    issue(served, database, "one", ("staging",))
    here = await served.request("GET", "/v1/staging/heads", token="one")
    there = await served.request("GET", "/v1/production/heads", token="one")
    assert (here.status, there.status) == (200, 401)


async def test_an_environment_without_log_is_not_told_from_a_wrong_token(served: Any) -> None:
    answer = await served.request("GET", "/v1/nowhere/heads")
    assert (answer.status, answer.body["code"]) == (401, "token_refused")


async def test_a_revoked_token_is_refused_at_the_next_request(served: Any, database: Any) -> None:
    issue(served, database, "ci", ("production", "staging"))
    assert (await served.request("GET", "/v1/production/heads", token="ci")).status == 200
    count = tokens.revoke(database, served.audit, name="ci", environment="production", now_ms=5)
    refused = await served.request("GET", "/v1/production/heads", token="ci")
    elsewhere = await served.request("GET", "/v1/staging/heads", token="ci")
    assert (count, refused.status, elsewhere.status) == (1, 401, 200)
    last = json.loads(served.audit.path.read_bytes().splitlines()[-1])
    assert (last["event"], last["token"]) == ("token-revoked", "ci")


async def test_only_the_hash_of_a_token_is_kept(served: Any, database: Any) -> None:
    secret = issue(served, database, "ci", ("production",))
    kept = b"".join(path.read_bytes() for path in database.path.parent.iterdir() if path.is_file())
    assert secret.encode() not in kept
    assert tokens.sha256_of(secret).encode() in kept


async def test_a_token_for_an_unknown_environment_is_not_made(served: Any, database: Any) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        issue(served, database, "ci", ("production", "nowhere"))
    with database.read() as snapshot:
        assert "ci" not in {row.name for row in snapshot.tokens()}


def issue(served: Any, database: Any, name: str, environments: tuple[str, ...]) -> str:
    secret = tokens.new_secret(name.encode().ljust)
    served.secrets[name] = secret
    tokens.issue(
        database, served.audit, name=name, environments=environments,
        may="follow", secret=secret, now_ms=1,
    )  # fmt: skip
    return secret
