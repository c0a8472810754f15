"""The planted faults of what is in memory: evicted and folded promises, parked messages."""

from .fault import Fault, fault

TABLE, TEST_TABLE = "core/tables/promise_table.py", "core/test_promise_table.py"
TEST_PARKED = "shards/test_parked.py"

WAITING_FAULTS: tuple[Fault, ...] = (
    fault(
        "a promise that changed after its capture leaves memory",
        "core/state/checkpointing.py",
        "or kept.get(promise_id) is not promise:",
        "or promise_id not in kept:",
        "core/test_retention.py",
    ),
    fault(
        "a promise that completes is still folded, too",
        TABLE,
        "        self.kept[promise_id] = promise\n",
        "        self.kept.setdefault(promise_id, promise)\n",
        TEST_TABLE,
        is_quick=True,
    ),
    fault(
        "a folded promise forgets its idempotency key",
        "core/tables/folding.py",
        "        found.key_for_create,\n",
        "        None,\n",
        TEST_TABLE,
        is_quick=True,
    ),
    fault(
        "a search by tags soon after a start misses what is not read yet",
        "core/tables/tag_index.py",
        "        return self._index\n",
        "        return super().smallest(tags)\n",
        "core/test_tag_index.py",
    ),
    fault(
        "what is created while tags are read is noted before what is older",
        "core/tables/tag_index.py",
        '"""Leave the newest promise for later."""\n',
        "super().add(promise_id, serial, tags)\n",
        "core/test_tag_index.py",
    ),
    fault(
        "a promise that is folded when it is created forgets its headers",
        "core/tables/folding.py",
        "    if param.headers is not None or (data",
        "    if (data",
        "shards/test_folder.py",
        is_quick=True,
    ),
    fault(
        "a row that a group of rows replaces stays in the digest",
        "persistence/checkpoints/store.py",
        "                digest.remove(key, bytes(old))\n    digest",
        "                pass\n    digest",
        "persistence/test_store.py",
    ),
    fault(
        "the newest promise of a checkpoint stays live when it completes",
        "persistence/checkpoints/writing.py",
        "if promise.serial <= stored.get(shard, -1):",
        "if promise.serial < stored.get(shard, -1):",
        "persistence/test_checkpoint_format.py",
        is_quick=True,
    ),
    fault(
        "a start takes the names of a row's tags for the shard's first ones",
        "core/tables/folding.py",
        "    return promise_id, _NUMBER[number] + serial + row[rest_start:]",
        "    return promise_id, _NUMBER[min(number, 0)] + serial + row[rest_start:]",
        TEST_TABLE,
        is_quick=True,
    ),
    fault(
        "a folded promise is taken for one that has left memory",
        "core/deciding.py",
        "        if promise is None:\n            return state.find_cold_promise",
        "        if not isinstance(promise, Promise):\n            return state.find_cold_promise",
        "core/test_against_model.py",
    ),
    fault(
        "promises are folded when they are old, however many there are",
        "shards/upkeep/folder.py",
        "if self.unfolded_count > UNFOLDED_LIMIT_COUNT:",
        "if False:",
        "shards/test_folder.py",
        is_quick=True,
    ),
    fault(
        "a message that waits forgets its counter",
        "shards/delivery/parked.py",
        "address, shipment.receiver, shipment.exact, shipment.counter, shipment.attempt_count",
        "address, shipment.receiver, shipment.exact, 1, shipment.attempt_count",
        TEST_PARKED,
        is_quick=True,
    ),
    fault(
        "after a start only a hundred tasks of a shard are offered",
        "core/decisions/table.py",
        "        (state.later_roots, state.touched_roots),\n",
        "",
        "core/test_dispatch.py",
    ),
)
