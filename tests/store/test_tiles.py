"""The static files rebuild the tree without the store's help."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from control_plane.log.checkpoint import open_checkpoint
from control_plane.log.envelope import Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import leaf_hash
from control_plane.log.tiles import TILE_WIDTH, decode_entries, tile_path


def tree_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    left, right = tree_root(hashes[:split]), tree_root(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def grow(database: Any, log: Any, size: int) -> None:
    """Append leaves of no meaning to a log until it has that size."""
    from dataclasses import replace

    with database.write() as transaction:
        while log.frontier.size < size:
            number = log.frontier.size
            data = Leaf(log.sequenced_at, Envelope("test", str(number).encode())).encode()
            hashed = leaf_hash(data)
            transaction.append(log, data, hashed, statement=str(number), payload_type="test")
            log = replace(log, frontier=log.frontier.extended([hashed]))
        transaction.move(log)


async def fetched(served: Any, size: int, level: int | str) -> list[bytes]:
    """All tiles of a level, the last one partial."""
    tiles = []
    for index in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        answer = await served.request("GET", f"/production/1/{tile_path(level, index, width)}")
        assert answer.status == 200, answer.body
        tiles.append(answer.body)
    return tiles


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
async def test_tiles_rebuild_the_signed_root(
    serve: Any, database: Any, installation: Any, sequencer: Any, size: int
) -> None:
    grow(database, sequencer().position("production").log, size)
    async with serve() as served:
        note = (await served.request("GET", "/production/1/checkpoint")).body
        checkpoint = open_checkpoint(note, installation.signers["production"].vkeys).checkpoint
        bundles = await fetched(served, size, "entries")
        leaves = [leaf for bundle in bundles for leaf in decode_entries(bundle)]
        hashes = b"".join(await fetched(served, size, 0))
        above = b"".join(await fetched(served, size // TILE_WIDTH, 1))
    assert checkpoint.size == size == len(leaves)
    assert tree_root([leaf_hash(leaf) for leaf in leaves]) == checkpoint.root
    assert hashes == b"".join(map(leaf_hash, leaves))
    full = [hashes[at : at + 8192] for at in range(0, len(hashes) - 8191, 8192)]
    parents = [tree_root([each[at : at + 32] for at in range(0, 8192, 32)]) for each in full]
    assert above == b"".join(parents)


async def test_a_tile_the_tree_has_not_reached_is_not_found(served: Any) -> None:
    for path in ("tile/0/000.p/2", "tile/0/000", "tile/1/000.p/1", "tile/entries/001.p/1"):
        answer = await served.request("GET", f"/production/1/{path}")
        assert (answer.status, answer.body["code"]) == (404, "not_found"), path


async def test_a_path_that_is_no_tile_is_refused(served: Any) -> None:
    for path in ("tile/0/0", "tile/0/000.p/257", "tile/64/000", "tile/0/x000/001"):
        answer = await served.request("GET", f"/production/1/{path}")
        assert (answer.status, answer.body["code"]) == (400, "syntax_invalid"), path


async def test_files_say_how_long_they_may_be_kept(served: Any) -> None:
    tile = await served.request("GET", "/production/1/tile/0/000.p/1")
    assert tile.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    note = await served.request("GET", "/production/1/checkpoint")
    assert note.headers["Cache-Control"] == "private, no-cache"
    assert note.headers["Content-Type"].startswith("text/plain")


async def test_a_public_store_lets_caches_keep_its_files(serve: Any) -> None:
    async with serve(public=True) as served:
        tile = await served.request("GET", "/production/1/tile/0/000.p/1", token=None)
    assert tile.headers["Cache-Control"] == "public, max-age=31536000, immutable"
