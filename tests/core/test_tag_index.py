"""Promises by tag, however many have it, against a list."""

from random import Random

import pytest

from troth.core.limits import INTEGER_MAX
from troth.core.model import PENDING, Promise
from troth.core.tables.promise_table import PromiseTable
from troth.core.tables.serial_index import SerialIndex
from troth.core.tables.tag_index import FEW_COUNT, LateTagIndex, TagIndex

Tags = dict[str, str]


def ids(index: TagIndex, tags: Tags) -> list[str]:
    """What the smallest index names, oldest first."""
    found = [name for _, name in index.smallest(tags).below(INTEGER_MAX, INTEGER_MAX) if name]
    return found[::-1]


@pytest.mark.parametrize("seed", range(10))
def test_each_tag_names_its_promises_in_the_order_of_creation(seed: int) -> None:
    random = Random(seed)
    promises: dict[str, Promise] = {}
    index = TagIndex(lambda name: promises[name].serial)
    for serial in range(1, 400):
        if promises and random.random() < 0.45:
            gone = promises.pop(random.choice(list(promises)))
            index.discard_all([(gone.id, gone.serial, gone.tags)])
        else:
            tags = {"a": random.choice("xyz"), "b": str(serial // (FEW_COUNT + 2)), "c": "1"}
            promise = Promise(str(serial), serial, PENDING, 9, 5, tags=tags)
            promises[promise.id] = promise
            index.add(promise.id, serial, tags.items())
        for name, value in (("a", "x"), ("b", str(random.randint(0, 40))), ("c", "1")):
            expected = [one.id for one in promises.values() if (one.tags or {})[name] == value]
            assert ids(index, {name: value}) == expected
    assert ids(index, {"c": "1", "d": "1"}) == []
    for promise in promises.values():
        index.discard_all([(promise.id, promise.serial, promise.tags)])
    assert list(index.items()) == []


def test_of_several_tags_the_rarest_is_looked_through() -> None:
    promises = {
        str(serial): Promise(
            str(serial), serial, PENDING, 9, 5, tags={"often": "1", "half": str(serial % 2)}
        )
        for serial in range(1, 30)
    }
    index = TagIndex(lambda name: promises[name].serial)
    for promise in promises.values():
        index.add(promise.id, promise.serial, (promise.tags or {}).items())

    assert ids(index, {"often": "1", "half": "1"}) == [str(one) for one in range(1, 30, 2)]


@pytest.mark.parametrize("seed", range(10))
def test_a_late_index_becomes_what_it_would_have_been(seed: int) -> None:
    """While it reads, promises are created, folded and forgotten; it names all that matter."""
    random = Random(seed)
    table, all_promises = PromiseTable(), SerialIndex()
    promises: dict[str, Promise] = {}
    late = LateTagIndex(table, all_promises)
    serial, is_loaded = 0, False
    while not is_loaded or late.read_some(random.randrange(1, 6)):
        for _ in range(2 if is_loaded else 300):
            serial += 1
            name = f"promise-{serial}"
            tags = {"a": random.choice(("x", "y", name)), "b": str(serial // (FEW_COUNT + 2))}
            promise = Promise(
                name, serial, PENDING, INTEGER_MAX, 0, tags=random.choice((tags, None))
            )
            promises[name] = promise
            all_promises.append(serial, name)
            if random.random() < 0.5:
                table.add_folded(promise)
            else:
                table[name] = promise
            if promise.tags is not None:
                late.add(name, serial, promise.tags.items())
        for name in random.sample(sorted(promises), 3):
            promise = promises.pop(name)
            del table[name]
            all_promises.discard(promise.serial)
            late.discard_all([(name, promise.serial, promise.tags)])
        is_loaded = True
        assert set(promises) <= set(late.smallest({"a": "x"}).ids())
    index = late.whole()
    tags_of_all = {tag for one in promises.values() for tag in (one.tags or {}).items()}
    assert {tag for tag, _ in index.items()} == tags_of_all
    for tag in tags_of_all:
        having = [one.id for one in promises.values() if tag in (one.tags or {}).items()]
        assert index.smallest(dict([tag])).ids() == having
