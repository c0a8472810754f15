"""Keys and values of the checkpoint store: order, ranges, limits, and checksums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.model import Promise, PromiseState
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.store import KEY_BYTES_MAX
from troth.persistence.errors import CheckpointDamaged

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
long_texts = st.builds(lambda text, count: text * count, texts, st.integers(1, 300))
shards = st.sampled_from([0, 1, 254, 255, 256, 257, 65279, 65280, 65534, 65535])
serials = st.integers(1, 2**63 - 1)


@given(shard=shards, text=long_texts)
def test_every_id_has_a_key_within_the_limit_and_its_shards_range(shard: int, text: str) -> None:
    """Ids of 64 KiB too."""
    key = rows.id_key(shard, text)
    prefix = rows.shard_key(shard)
    assert 0 < len(key) <= KEY_BYTES_MAX
    assert prefix <= key < rows.after(prefix)


@given(left=long_texts, right=long_texts, shard=shards)
def test_different_ids_have_different_keys(left: str, right: str, shard: int) -> None:
    """Also where they differ after the part that a long key keeps."""
    assert (rows.id_key(shard, left) == rows.id_key(shard, right)) == (left == right)
    tail = "x" * 500
    assert rows.id_key(shard, tail + left) != rows.id_key(shard, tail + left + "y")


@given(shard=shards, prefix=long_texts, rest=long_texts)
def test_a_prefix_range_holds_every_id_that_begins_so(shard: int, prefix: str, rest: str) -> None:
    """However long either is."""
    start, stop = rows.prefix_range(shard, prefix)
    assert start <= rows.id_key(shard, prefix + rest) < stop


@given(prefix=st.binary(min_size=1, max_size=20), rest=st.binary(max_size=20))
def test_after_is_after_everything_that_begins_so(prefix: bytes, rest: bytes) -> None:
    """And before what comes next: it does not begin with the prefix itself."""
    stop = rows.after(prefix)
    assert prefix + rest < stop
    assert not stop.startswith(prefix) or set(prefix) == {0xFF}


@given(left=serials, right=serials)
def test_larger_numbers_come_behind(left: int, right: int) -> None:
    """Within a shard; and the number is in the key."""
    assert (rows.number_bytes(left) < rows.number_bytes(right)) == (left < right)
    assert (rows.number_key(1, left) < rows.number_key(1, right)) == (left < right)
    assert rows.number_key(1, left) < rows.number_key(2, right)
    assert rows.number_of(rows.number_key(1, left)) == left
    assert rows.number_of(rows.number_bytes(left)) == left


@given(tags=st.dictionaries(long_texts, long_texts, max_size=4), serial=serials, shard=shards)
def test_index_keys_stay_within_the_limit(tags: dict[str, str], serial: int, shard: int) -> None:
    """For tags of any length, and in the range that a search reads."""
    promise = Promise("p", serial, PromiseState.RESOLVED, 5, 1, tags=tags, completed_on=3)
    keys = list(rows.index_keys(shard, promise))
    assert all(len(key) <= KEY_BYTES_MAX for _, key in keys)
    for name, value in tags.items():
        prefix = rows.tag_prefix(shard, name, value)
        mine = [key for table, key in keys if table == rows.BY_TAG and key.startswith(prefix)]
        assert prefix + rows.number_bytes(serial) in mine


@given(shard=shards, target=shards, sequence=st.integers(1, 2**63))
def test_outbox_keys_can_be_read_back(shard: int, target: int, sequence: int) -> None:
    """Target and sequence."""
    assert rows.outbox_place(rows.outbox_key(shard, target, sequence)) == (target, sequence)


@given(content=st.binary(max_size=50), data=st.data())
def test_any_flipped_bit_is_noticed(content: bytes, data: st.DataObject) -> None:
    """In the value, and a value that stands under another key or in another table."""
    value = rows.seal(rows.PROMISES, b"key", content)
    assert rows.unseal(rows.PROMISES, b"key", value) == content
    place = data.draw(st.integers(0, len(value) * 8 - 1))
    flipped = bytearray(value)
    flipped[place // 8] ^= 1 << place % 8
    for table, key, wrong in (
        (rows.PROMISES, b"key", bytes(flipped)),
        (rows.PROMISES, b"kez", value),
        (rows.TASKS, b"key", value),
        (rows.PROMISES, b"key", value[:-1] if content else b"123"),
    ):
        with pytest.raises(CheckpointDamaged):
            rows.unseal(table, key, wrong)


def test_a_whole_row_that_is_no_entity_is_damage() -> None:
    """A checksum can be right and the content be none of ours."""
    value = rows.seal(rows.PROMISES, b"key", b"[1,2]")
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        rows.RowDecoder().promise(rows.PROMISES, b"key", value)


def test_a_promise_comes_back_as_it_was() -> None:
    """With everything that JSON could spoil."""
    promise = Promise(
        "ünï\0⏰",
        2**63 - 1,
        PromiseState.REJECTED,
        2**63 - 1,
        0,
        tags={"": "", "\n": "\ud7ff"},
        key_for_create="",
        completed_on=-5,
    )
    key = rows.id_key(3, promise.id)
    value = rows.encode(rows.PROMISES, key, promise)
    decoder = rows.RowDecoder()
    assert decoder.promise(rows.PROMISES, key, value) == promise
    head = decoder.promise_head(key, value)
    assert (head.id, head.serial, head.state) == (promise.id, promise.serial, promise.state)
