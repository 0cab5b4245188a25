"""The Merkle tree of RFC 6962 (section 2.1) with SHA-256: roots, frontiers and proofs.

A leaf hashes as SHA-256(0x00 || data), a node as SHA-256(0x01 || left || right); the left subtree
holds the largest power of two of leaves below the size. Every hash that ever has to be kept is
that of a *complete* subtree, named by its level (2^level leaves) and index, so a proof needs only
a function that reads those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from control_plane.errors import Forked, SyntaxInvalid

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

HashReader = Callable[[int, int], bytes]
"""(level, index) to the hash of the complete subtree of the 2^level leaves from index * 2^level."""


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962's hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962's hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The complete subtrees a tree of ``size`` leaves ends in, the largest first.

    It is all that appending needs: at most 64 hashes, one for each bit set in the size.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def extended(self, leaf_hashes: Iterable[bytes]) -> Frontier:
        """The frontier after appending these leaf hashes in order."""
        size, hashes = self.size, list(self.hashes)
        for added in leaf_hashes:
            subtree, position = added, size
            while position & 1:
                subtree = node_hash(hashes.pop(), subtree)
                position >>= 1
            hashes.append(subtree)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """The tree's root hash; RFC 6962 gives the empty tree SHA-256 of nothing."""
        return _fold_right(self.hashes) if self.hashes else EMPTY_ROOT

    def encode(self) -> bytes:
        """Size as u64 little-endian, then the hashes."""
        return self.size.to_bytes(8, "little") + b"".join(self.hashes)

    @classmethod
    def decode(cls, data: bytes) -> Frontier:
        """Read what ``encode`` wrote.

        Raises:
            SyntaxInvalid: when the number of hashes is not the number of bits set in the size.
        """
        size = int.from_bytes(data[:8], "little")
        body = data[8:]
        if len(data) < 8 or len(body) != HASH_BYTES * size.bit_count():
            raise SyntaxInvalid(
                f"frontier: expected {size.bit_count()} hashes for size {size}, found {len(body)}"
                " bytes"
            )
        return cls(size, _split(body))


EMPTY = Frontier()
"""The frontier of the empty tree."""


def inclusion_proof(index: int, size: int, read: HashReader) -> list[bytes]:
    """RFC 6962's audit path PATH(index, D[size]), the leaf's sibling first.

    Raises:
        ValueError: for an index outside the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"expected an index below the size {size}, found {index}")
    return _path(index, 0, size, read)


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf hash stands at the index of the tree with that root.

    Raises:
        Forked: when the proof does not lead from the leaf to the root.
    """
    if not 0 <= index < size:
        raise Forked(f"inclusion proof: expected an index below the size {size}, found {index}")
    if len(proof) != _path_length(index, size) or _climb(leaf, index, size, proof) != root:
        raise Forked(
            f"inclusion proof: expected to reach the root of size {size} from leaf {index}, found"
            " another root"
        )


def consistency_proof(old: int, new: int, read: HashReader) -> list[bytes]:
    """RFC 6962's PROOF(old, D[new]); empty when nothing has to be shown (old is 0 or new).

    Raises:
        ValueError: when the sizes are out of order.
    """
    if not 0 <= old <= new:
        raise ValueError(f"expected sizes in order, found {old} and {new}")
    if old in (0, new):
        return []
    return _subproof(old, 0, new, True, read)


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of size ``old`` is a prefix of size ``new`` (RFC 9162, 2.1.4.2).

    Raises:
        Forked: when no single history explains both roots.
    """
    if not 0 <= old <= new:
        raise Forked(f"consistency proof: expected a size of at least {old}, found {new}")
    if old == 0 or old == new:
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise Forked(f"consistency proof: expected one root at size {old}, found two")
        return
    if _roots_from(old, old_root, new, proof) != (old_root, new_root):
        raise Forked(
            f"consistency proof: expected size {old} to be a prefix of size {new}, found it is not"
        )


def subtree_reader(leaf_hashes: Sequence[bytes]) -> HashReader:
    """A reader over leaf hashes held in memory; complete subtrees are computed when asked for."""

    def read(level: int, index: int) -> bytes:
        start, width = index << level, 1 << level
        if start + width > len(leaf_hashes):
            raise LookupError(f"subtree {level}/{index} is not complete at size {len(leaf_hashes)}")
        return Frontier().extended(leaf_hashes[start : start + width]).root()

    return read


def range_root(start: int, end: int, read: HashReader) -> bytes:
    """The hash of leaves start..end of a tree, where ``start`` is where RFC 6962 would split."""
    return _fold_right([read(level, index) for level, index in _complete_subtrees(start, end)])


def frontier_at(size: int, read: HashReader) -> Frontier:
    """The frontier of the first ``size`` leaves."""
    return Frontier(size, tuple(read(level, index) for level, index in _complete_subtrees(0, size)))


def _fold_right(hashes: Sequence[bytes]) -> bytes:
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _split(body: bytes) -> tuple[bytes, ...]:
    # By a list: CPython makes a generator's tuple in one of another size and lets it shrink. Each
    # such tuple leaves an empty one behind for later use, thousands for each length.
    return tuple([body[at : at + HASH_BYTES] for at in range(0, len(body), HASH_BYTES)])


def _largest_power_below(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _complete_subtrees(start: int, end: int) -> list[tuple[int, int]]:
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            # A subtree starts at a multiple of its width.
            level = min(level, (start & -start).bit_length() - 1)
        found.append((level, start >> level))
        start += 1 << level
    return found


def _path(index: int, start: int, end: int, read: HashReader) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _largest_power_below(end - start)
    if index < middle:
        return [*_path(index, start, middle, read), range_root(middle, end, read)]
    return [*_path(index, middle, end, read), range_root(start, middle, read)]


def _path_length(index: int, size: int) -> int:
    length, last = 0, size - 1
    while last:
        if index & 1 or index != last:
            length += 1
        index >>= 1
        last >>= 1
    return length


def _climb(subtree: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    last, steps = size - 1, iter(proof)
    while last:
        if index & 1:
            subtree = node_hash(next(steps), subtree)
        elif index != last:
            subtree = node_hash(subtree, next(steps))
        index >>= 1
        last >>= 1
    return subtree


def _subproof(old: int, start: int, end: int, whole: bool, read: HashReader) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2; ``whole`` is its b: the old root needs no hash of its own."""
    if start + old == end:
        return [] if whole else [range_root(start, end, read)]
    split = _largest_power_below(end - start)
    middle = start + split
    if old <= split:
        return [*_subproof(old, start, middle, whole, read), range_root(middle, end, read)]
    return [*_subproof(old - split, middle, end, False, read), range_root(start, middle, read)]


def _roots_from(
    old: int, old_root: bytes, new: int, proof: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """The old and new root that a proof computes; None when its length does not fit."""
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    if not path:
        return None
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        position >>= 1
        last >>= 1
    return (first, second) if last == 0 else None
