"""Changes gathered before they are written: what a plan answers about them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from control_plane.replica import plan as plans
from control_plane.replica.format import CONFIG, record_key
from control_plane.replica.plan import BLOBS, HEADS, Operations, Plan, staging_items
from control_plane.replica.writer import ReplicaWriter, WriteTransaction

KEYS = st.text("ab", min_size=1, max_size=4).map(str.encode)
VALUES = st.none() | st.binary(max_size=3)
STEPS = st.lists(
    st.tuples(st.sampled_from([BLOBS, HEADS]), KEYS, VALUES) | st.just(None),
    min_size=20,
    max_size=60,
)


class _Kept:
    """A stand-in for a transaction whose sub-databases are dicts."""

    def __init__(self) -> None:
        self.heads, self.blobs, self.staging = _Table(), _Table(), _Table()


class _Table(dict[bytes, bytes]):
    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def items(self, prefix: bytes = b"") -> Any:
        return iter(sorted(each for each in super().items() if each[0].startswith(prefix)))


# Keys are put into order in two ways: after few new ones, and after many.
@patch.object(plans._Order, "_FEW", 1)
@given(STEPS, st.integers(min_value=1, max_value=20))
def test_a_scan_by_prefix_answers_what_single_keys_do(
    steps: list[tuple[bytes, bytes, bytes | None] | None], often: int
) -> None:
    kept: Any = _Kept()
    kept.blobs[b"ab"] = b"old"
    expected: dict[bytes, dict[bytes, bytes]] = {BLOBS: {b"ab": b"old"}, HEADS: {}}

    def stage(operations: Operations) -> None:
        kept.staging.update(staging_items(operations))

    plan = Plan(lambda: kept, stage)
    for number, step in enumerate(steps):
        if step is None:
            plan._size = plans.STAGED_BYTES + 1
            plan.settle()
            continue
        space, key, value = step
        if value is None:
            plan.remove(space, key)
            expected[space].pop(key, None)
        else:
            plan.put(space, key, value)
            expected[space][key] = value
        if number % often == 0:
            _check(plan, expected)
    _check(plan, expected)
    plan.write(kept)
    assert (kept.blobs, kept.heads, kept.staging) == (expected[BLOBS], expected[HEADS], {})


def _check(plan: Plan, expected: dict[bytes, dict[bytes, bytes]]) -> None:
    for space, values in expected.items():
        for prefix in (b"", b"a", b"ab", b"b", b"ba"):
            found = list(plan.items(space, prefix))
            beginning = {key: value for key, value in values.items() if key.startswith(prefix)}
            assert dict(found) == beginning
            assert len(found) == len(beginning)


def test_a_plan_writes_each_record_as_it_was_put_and_readers_hear_of_its_class(
    open_writer: Callable[..., ReplicaWriter],
) -> None:
    writer, key = open_writer(), record_key(CONFIG, "", "database.url")
    touched: list[set[int]] = []

    def put(change: WriteTransaction) -> None:
        plan = Plan(lambda: change)
        plan.put_record(key, CONFIG, b"body", head=7, served=6, status=1)
        plan.write(change)
        touched.append(set(change.touched))

    with writer.write() as change:
        put(change)
        record = change.get_record(key)
    assert record is not None
    assert (record.body, record.head_generation, record.served_generation) == (b"body", 7, 6)
    assert (record.kind, record.status) == (CONFIG, 1)
    with writer.write() as change:
        put(change)
    # The same bytes once more are no change.
    assert [len(words) for words in touched] == [1, 0]


def test_what_a_plan_looks_at_does_not_grow_with_what_it_holds() -> None:
    looked = 0

    class Counted(bytes):
        def startswith(self, *arguments: Any) -> bool:
            nonlocal looked
            looked += 1
            return super().startswith(*arguments)

    kept: Any = _Kept()
    plan = Plan(lambda: kept)
    for number in range(500):
        plan._set(Counted(BLOBS + b"config%03d" % number), b"value")
        assert len(list(plan.items(BLOBS, b"config%03d" % number))) == 1
    # The key itself and the one after it, each time; here nothing comes after.
    assert looked <= 1_000
