"""Planted faults in data directories, their groups of shards, processes, and what the log does."""

from .fault import Fault, fault
from .node_link_faults import NODE_LINK_FAULTS
from .sharing_faults import SHARING_FAULTS

GROUPS = "persistence/test_conversion_groups.py"
DIRECTORY = "persistence/test_data_directory.py"
SUPERVISOR = "cli/supervising/test_supervisor.py"
LIVES, SEATED = "cli/supervising/test_lives.py", "http/supervision/test_seated.py"
KILLS = "persistence/test_conversion_kills.py"

DEBUGGING, DEBUGGED = "shards/gathered/debugging.py", "shards/gathered/test_debugging.py"

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
    fault(
        "two servers of ours share a port",
        "http/sockets/ports.py",
        "        if bound is None:\n",
        "        if bound is None:\n"
        "            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n",
        "http/sockets/test_ports.py",
        is_quick=True,
    ),
    fault(
        "the processes do not inherit the directory's lock",
        "cli/supervising/children.py",
        "pass_fds=(theirs.fileno(), seat.lock, ",
        "pass_fds=(theirs.fileno(), ",
        f"{SUPERVISOR}::test_a_process_inherits_what_is_its_own_and_no_more",
    ),
    fault(
        "a process outlives its supervisor",
        "http/supervision/seated.py",
        "                self._is_gone = True\n                self.drain.set()\n",
        "                return\n",
        SEATED,
        is_quick=True,
    ),
    fault(
        "programs that a process starts inherit the lock",
        "http/supervision/seat.py",
        "            os.set_inheritable(descriptor, False)\n",
        "            pass\n",
        SEATED,
    ),
    fault(
        "a process ends its group while others have requests in flight",
        "cli/supervising/supervisor.py",
        "not all(child.has_drained for child in children)",
        "not any(child.has_drained for child in children)",
        f"{SUPERVISOR}::test_what_is_in_flight_is_finished",
    ),
    fault(
        "a failing disk of one process is no end of all",
        "cli/supervising/supervisor.py",
        "        if child.problem is not None:\n",
        "        if False:\n",
        f"{SUPERVISOR}::test_an_end_that_concerns_all_ends_all",
    ),
    fault(
        "a restart ends a process before the next program has loaded",
        "cli/supervising/rolling.py",
        "if self.successor.has_loaded and old is not None:",
        "if old is not None:",
        f"{SUPERVISOR}::test_a_restart_that_cannot_begin_touches_nothing",
    ),
    fault(
        "a hanging process is never down",
        "cli/supervising/lives.py",
        "self.has_spoken and silence_s >= DOWN_AFTER_S",
        "False",
        LIVES,
        is_quick=True,
    ),
    fault(
        "a process that cannot start is started again and again without a pause",
        "cli/supervising/lives.py",
        "        self.ends_count += 1\n",
        "",
        LIVES,
    ),
    fault(
        "a supervisor that stood still takes its processes for hanging",
        "cli/supervising/lives.py",
        "        self.heard_at_s += pause_s\n",
        "        pass\n",
        LIVES,
    ),
    fault(
        "the time of a request is set in one process only",
        DEBUGGING,
        "        await ask_all(self._calls, TIME, TimeSet(now_ms))\n",
        "        self._own.set_time(now_ms)\n",
        f"{DEBUGGED}::test_what_happens_is_the_same_as_with_one_process",
    ),
    fault(
        "the limit of connections of an address counts for each process",
        "http/sockets/shared_room.py",
        "            self._calls.note_all(FULL, [FullAddress(address, is_full)])\n",
        "",
        "http/sockets/test_shared_room.py::test_an_address_has_its_limit_at_all_processes",
    ),
    fault(
        "a process writes on into an audit log that another has renamed",
        "http/identity/audit.py",
        "                if self._is_newest(descriptor):\n",
        "                if descriptor:\n",
        "http/identity/test_audit.py::test_several_processes_write_whole_lines_in_order",
    ),
    fault(
        "a restore goes on to what another group has not archived",
        "persistence/snapshots/restoring.py",
        "                    one.go_on(archive, self.limit_ms)\n",
        "                    one.go_on(archive)\n",
        "http/processes/test_archive_of_processes.py",
    ),
    *NODE_LINK_FAULTS,
    *SHARING_FAULTS,
    fault(
        "the lane waits while a task could run",
        "http/sockets/lane_waiting.py",
        "if trios.tasks_runnable or trios.run_sync_soon_queue_size:",
        "if trios.run_sync_soon_queue_size:",
        "http/sockets/test_lane_waiting.py",
        is_quick=True,
    ),
    fault(
        "the lane of one port keeps that of another waiting",
        "http/sockets/lane_waiting.py",
        "if neighbor.is_rung:",
        "if False:",
        "http/sockets/test_lane_waiting.py",
        is_quick=True,
    ),
)
