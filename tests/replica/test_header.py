"""The header file, to the byte."""

import os
import stat
from pathlib import Path

import pytest

from control_plane.errors import FormatUnsupported, ReplicaCorrupt, ReplicaUnavailable
from control_plane.replica import header


def test_the_header_has_the_bytes_of_the_format(tmp_path):
    path = str(tmp_path / "header")
    header.create_header(path, {word: 0x1000 + word for word in range(2, 15)})
    page = (tmp_path / "header").read_bytes()
    assert len(page) == 4096
    assert page[0:16].hex() == "43504c414e4501000000000000000000"
    assert page[64:72].hex() == "0100000000000000"
    for word in range(2, 15):
        assert page[64 * word : 64 * word + 16].hex() == f"{word:02x}10" + "00" * 14
    assert page[64 * 15 :] == bytes(64 * 49)


def test_nothing_is_safe_to_read_before_the_writer_says_so(tmp_path):
    path = str(tmp_path / "header")
    header.create_header(path, {})
    assert header.map_header(path)[8 * header.SAFE_TXNID] == 2**64 - 1


def test_a_stored_word_is_seen_through_another_map(tmp_path):
    path = str(tmp_path / "header")
    header.create_header(path, {})
    words = header.map_header(path)
    writer = header.HeaderWriter(path)
    writer[header.GENERATION] = 41
    writer[header.REVISION] = 2**63
    writer.close()
    assert words[8 * header.GENERATION] == 41
    assert words[8 * header.REVISION] == 2**63


def test_the_header_is_world_readable_whatever_the_umask(tmp_path):
    path = str(tmp_path / "header")
    before = os.umask(0o077)
    try:
        header.create_header(path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o644


def test_a_header_is_never_replaced(tmp_path):
    path = str(tmp_path / "header")
    header.create_header(path, {header.GENERATION: 1})
    inode = Path(path).stat().st_ino
    with pytest.raises(FileExistsError):
        header.create_header(path, {header.GENERATION: 2})
    assert Path(path).stat().st_ino == inode
    assert header.map_header(path)[8 * header.GENERATION] == 1


def test_a_map_of_the_header_cannot_be_written(tmp_path):
    path = str(tmp_path / "header")
    header.create_header(path, {})
    words = header.map_header(path)
    with pytest.raises(TypeError):
        words[8 * header.STATE] = 1


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (b"", ReplicaCorrupt),
        (b"CPLANE\x01\x00" + bytes(4087), ReplicaCorrupt),
        (bytes(4096), ReplicaCorrupt),
        (b"CPLANE\x02\x00" + bytes(56) + b"\x02" + bytes(4031), FormatUnsupported),
    ],
)
def test_a_file_that_is_no_header_is_refused(tmp_path, page, error):
    path = tmp_path / "header"
    path.write_bytes(page)
    with pytest.raises(error):
        header.map_header(str(path))


def test_an_absent_header_is_unavailable(tmp_path):
    with pytest.raises(ReplicaUnavailable, match="start the daemon"):
        header.map_header(str(tmp_path / "header"))
