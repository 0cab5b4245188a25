"""What a snapshot tells of the records that the last commits changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.replica.changed import (
    MAX_NAMED_KEYS,
    SLOTS,
    change_count,
    changed_keys,
    note_changes,
)


class Log(dict[bytes, bytes]):
    """The sub-database, as its writer and its readers see it."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def read_log(self, *keys: bytes) -> list[bytes | None]:
        return [self.get(key) for key in keys]


COMMITS = st.lists(st.frozensets(st.binary(min_size=1, max_size=3), min_size=1), max_size=100)


@given(COMMITS, st.integers(0, 100))
def test_it_is_every_key_since_then_or_nothing_is_known(
    commits: list[frozenset[bytes]], since: int
) -> None:
    log = Log()
    for keys in commits:
        note_changes(log, keys)
    count = change_count(log)
    assert count == len(commits)
    found = changed_keys(log, since, count)
    if since > count or count - since > SLOTS:
        assert found is None
    else:
        assert found == frozenset().union(*commits[since:])


def test_nothing_is_known_of_a_commit_with_more_keys_than_are_named() -> None:
    log = Log()
    note_changes(log, [b"a"])
    note_changes(log, [b"%d" % number for number in range(MAX_NAMED_KEYS + 1)])
    note_changes(log, [b"b"])
    assert changed_keys(log, 0, 3) is None
    assert changed_keys(log, 2, 3) == {b"b"}


def test_nothing_is_known_of_a_damaged_slot() -> None:
    log = Log()
    note_changes(log, [b"key"])
    [slot] = [key for key, value in log.items() if b"key" in value]
    for place in range(len(log[slot])):
        value = log[slot]
        log[slot] = value[:place] + bytes((value[place] ^ 1,)) + value[place + 1 :]
        assert changed_keys(log, 0, 1) is None
        log[slot] = value
    assert changed_keys(log, 0, 1) == {b"key"}


def test_nothing_is_known_where_nobody_counted_but_that_nothing_was_counted() -> None:
    assert change_count(Log()) == 0
    assert changed_keys(Log(), 0, 1) is None


def test_what_another_commit_left_in_a_slot_is_not_taken() -> None:
    log = Log()
    note_changes(log, [b"a"])
    assert changed_keys(log, SLOTS, SLOTS + 1) is None


def test_the_slots_stay_as_many_as_they_are() -> None:
    log = Log()
    for _ in range(3 * SLOTS):
        note_changes(log, [b"a"])
    assert len(log) == SLOTS + 1
