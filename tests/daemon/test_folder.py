"""What a folder of manifests says of an environment."""

from __future__ import annotations

from control_plane.log.statements import Change, Key
from control_plane.publish.proposal import Proposal
from control_plane.publish.publisher import StoredHead
from control_plane_daemon.folder import Contents, propose

SEGMENT = {"kind": "segment", "name": "vips", "metadata": {"shards": 1}}


def heads() -> dict[Key, StoredHead]:
    """A live segment of two shards."""
    parts = [
        Change(action="put", kind="segment", name="vips", replaces=None, shard=shard, digest="d")
        for shard in (None, "0000", "0001")
    ]
    return {change.key: StoredHead(change.key, 1, "d", "", "apply", (), change) for change in parts}


def test_a_segment_in_the_folder_keeps_its_shards() -> None:
    contents = Contents({"segment/vips": SEGMENT})
    proposal = propose(Proposal("production", "r"), contents, heads())
    assert [(each.action, str(each.key)) for each in proposal.changes.values()] == [
        ("put", "segment/vips")
    ]


def test_a_segment_that_left_the_folder_goes_with_its_shards() -> None:
    proposal = propose(Proposal("production", "r"), Contents(), heads())
    assert {each.action for each in proposal.changes.values()} == {"delete"}
    assert set(proposal.changes) == set(heads())
