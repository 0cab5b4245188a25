"""The Merkle tree against RFC 6962 itself: its definitions, its example and published roots."""

from __future__ import annotations

import gc
import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import Forked, SyntaxInvalid
from control_plane.log import merkle


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word: independent of the code under test."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 6962, 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def leaves_of(size: int) -> list[bytes]:
    return [f"leaf {index}".encode() for index in range(size)]


def reader(leaves: list[bytes]) -> merkle.HashReader:
    return merkle.subtree_reader([merkle.leaf_hash(leaf) for leaf in leaves])


def frontier(leaves: list[bytes]) -> merkle.Frontier:
    return merkle.Frontier().extended(map(merkle.leaf_hash, leaves))


# The leaves and roots that the certificate-transparency projects publish as test vectors.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert frontier(CT_LEAVES[:size]).root().hex() == CT_ROOTS[size - 1]


def test_the_example_of_rfc_6962_section_2_1_3_has_its_proofs() -> None:
    leaves = leaves_of(7)
    read = reader(leaves)
    a, b, c, d, e, f, j = (merkle.leaf_hash(leaf) for leaf in leaves)
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d), merkle.node_hash(e, f)
    k, l_ = merkle.node_hash(g, h), merkle.node_hash(i, j)
    assert merkle.inclusion_proof(0, 7, read) == [b, h, l_]
    assert merkle.inclusion_proof(3, 7, read) == [c, g, l_]
    assert merkle.inclusion_proof(4, 7, read) == [f, j, k]
    assert merkle.inclusion_proof(6, 7, read) == [i, k]
    assert merkle.consistency_proof(3, 7, read) == [c, d, g, l_]
    assert merkle.consistency_proof(4, 7, read) == [l_]
    assert merkle.consistency_proof(6, 7, read) == [i, j, k]
    assert frontier(leaves).root() == merkle.node_hash(k, l_)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 100])
def test_every_root_and_proof_equals_the_recursive_definition(size: int) -> None:
    leaves = leaves_of(size)
    read = reader(leaves)
    root = frontier(leaves).root()
    assert root == mth(leaves)
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, read)
        assert proof == path(index, leaves)
        merkle.verify_inclusion(merkle.leaf_hash(leaves[index]), index, size, proof, root)
    for old in range(size + 1):
        proof = merkle.consistency_proof(old, size, read)
        assert proof == (subproof(old, leaves, True) if old else [])
        merkle.verify_consistency(old, mth(leaves[:old]), size, root, proof)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_frontier_grows_the_same_in_one_step_or_two(first: int, more: int) -> None:
    leaves = leaves_of(first + more)
    grown = frontier(leaves[:first]).extended(map(merkle.leaf_hash, leaves[first:]))
    assert grown == frontier(leaves)
    assert merkle.Frontier.decode(grown.encode()) == grown
    assert merkle.frontier_at(first, reader(leaves)) == frontier(leaves[:first])


@given(st.data(), st.integers(2, 80))
def test_a_changed_proof_is_refused(data: st.DataObject, size: int) -> None:
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(old, size, reader(leaves))
    old_root, new_root = mth(leaves[:old]), mth(leaves)
    kind = data.draw(st.sampled_from(["flip", "drop", "add", "root"]))
    if kind == "flip":
        at = data.draw(st.integers(0, len(proof) - 1))
        proof[at] = bytes(32)
    elif kind == "drop":
        proof.pop()
    elif kind == "add":
        proof.append(bytes(32))
    else:
        old_root = bytes(32)
    with pytest.raises(Forked):
        merkle.verify_consistency(old, old_root, size, new_root, proof)


@given(st.data(), st.integers(1, 80))
def test_a_leaf_at_another_place_is_refused(data: st.DataObject, size: int) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, reader(leaves))
    with pytest.raises(Forked):
        merkle.verify_inclusion(merkle.leaf_hash(b"other"), index, size, proof, mth(leaves))
    with pytest.raises(Forked):
        merkle.verify_inclusion(merkle.leaf_hash(leaves[index]), size, size, proof, mth(leaves))
    longer = [*proof, bytes(32)]
    with pytest.raises(Forked):
        merkle.verify_inclusion(merkle.leaf_hash(leaves[index]), index, size, longer, mth(leaves))


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(8) + bytes(32), b"\x03" + bytes(7 + 32)])
def test_a_frontier_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(SyntaxInvalid):
        merkle.Frontier.decode(data)


def test_a_frontier_read_again_and_again_takes_no_more_memory() -> None:
    data = frontier(leaves_of((1 << 7) - 1)).encode()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(1_000):
        merkle.Frontier.decode(data)
    assert sys.getallocatedblocks() - before < 100


def test_sizes_out_of_order_are_misuse() -> None:
    with pytest.raises(ValueError, match="expected sizes in order"):
        merkle.consistency_proof(3, 2, reader(leaves_of(3)))
    with pytest.raises(ValueError, match="expected an index below"):
        merkle.inclusion_proof(3, 3, reader(leaves_of(3)))
