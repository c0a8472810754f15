"""Planted faults in data directories, their groups of shards, processes, and what the log does."""

from .fault import Fault, fault

GROUPS = "persistence/test_conversion_groups.py"
DIRECTORY = "persistence/test_data_directory.py"
KILLS = "persistence/test_conversion_kills.py"

PROCESS_FAULTS: tuple[Fault, ...] = (
    fault(
        "a read of what nobody waited for waits until it is written anyway",
        "shards/turns.py",
        "            committer.want()  # it shows what may still lie there\n",
        "",
        "shards/test_turns.py",
    ),
    fault(
        "a conversion reads only the first group",
        "persistence/conversion/old_data.py",
        "range(self.identity.groups_count)",
        "range(1)",
        GROUPS,
        is_quick=True,
    ),
    fault(
        "a conversion that was killed while it built is in the way of the next",
        "persistence/building.py",
        "            _empty(building, mark)\n            (building",
        "            (building",
        KILLS,
        is_quick=True,
    ),
    fault(
        "a conversion that was killed between its two names is not made good",
        "persistence/conversion/convert.py",
        "    if (building / MARK.name).exists():",
        "    if False:",
        KILLS,
    ),
    fault(
        "a conversion removes the old directory instead of keeping it",
        "persistence/conversion/convert.py",
        "    _rename(data, before)\n    try:",
        "    shutil.rmtree(data)\n    try:",
        KILLS,
    ),
    fault(
        "what has not reached another group is lost in a conversion",
        "persistence/conversion/old_data.py",
        "            self._settle(now_ms)\n",
        "",
        GROUPS,
    ),
    fault(
        "a conversion deals rows to the wrong group",
        "persistence/conversion/dealing.py",
        "        first += count\n",
        "        first += 1\n",
        GROUPS,
    ),
    fault(
        "the tasks of a shard change places in a conversion",
        "persistence/conversion/old_data.py",
        "heapq.merge(cold, hot, key=_PLACE)",
        "[*cold, *hot]",
        GROUPS,
    ),
    fault(
        "the identity file gets its name before its content is on disk",
        "persistence/data_directory.py",
        "encode_identity(identity))\n        file.sync()",
        "encode_identity(identity))",
        DIRECTORY,
    ),
    fault(
        "a group's log is taken for that of another",
        "persistence/data_directory.py",
        "if record.shard not in shards:",
        "if False:",
        DIRECTORY,
        is_quick=True,
    ),
    fault(
        "a directory of several groups is served as one",
        "persistence/data_directory.py",
        "        if groups_count != identity.groups_count:\n",
        "        if False:\n",
        DIRECTORY,
    ),
)
