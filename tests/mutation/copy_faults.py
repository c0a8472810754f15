"""Planted faults in what process 0 owns for all processes of a server. See `faults.py`."""

from .fault import Fault, fault

SPREADING, COPIED = "http/identity/spreading.py", "http/identity/copied.py"
PLACED = "shards/mesh/placed_executions.py"
COPIES = "http/identity/test_copies.py"
EXECUTIONS = "shards/mesh/test_placed_executions.py"

COPY_FAULTS: tuple[Fault, ...] = (
    fault(
        "a change of the catalog is answered before all processes have it",
        SPREADING,
        "            if not ends_s:",
        "            if True:",
        COPIES,
        is_quick=True,
    ),
    fault(
        "a process that is cut off lets a token in that was revoked",
        COPIED,
        "return self._now_s() < self._until_s",
        "return self._until_s > 0",
        COPIES,
    ),
    fault(
        "the lease of a copy is counted from the answer instead of the question",
        COPIED,
        "renewed(asked_s + self._credentials.lease_s)",
        "renewed(self._now_s() + self._credentials.lease_s)",
        COPIES,
    ),
    fault(
        "an owner that has started again does not wait for leases of the one before",
        SPREADING,
        "process: self._now_s() + self._lease_s for process",
        "process: 0.0 for process",
        COPIES,
    ),
    fault(
        "an owner that has started again takes it that copies have all the one before has done",
        SPREADING,
        "_NOTHING: Final = -1",
        "_NOTHING: Final = 0",
        COPIES,
        is_quick=True,
    ),
    fault(
        "an owner on another node does not wait for copies of the node before",
        SPREADING,
        "(*calls.others, _ELSEWHERE) if of_cluster else",
        "tuple(calls.others) if of_cluster else",
        COPIES,
    ),
    fault(
        "copies of a node stay good while another node may own the accounts",
        "cli/supervising/supervisor.py",
        "        if self._plan.cluster is not None:\n            return\n",
        "",
        "cli/supervising/test_supervisor.py",
    ),
    fault(
        "a session that was ended goes on in other processes",
        COPIED,
        "self.sessions.end_by_digest(change.digest)",
        "pass",
        COPIES,
    ),
    fault(
        "a stale copy becomes good again when the owner ends",
        COPIED,
        "        if self.is_current():\n            self._until_s = max(",
        "        if True:\n            self._until_s = max(",
        COPIES,
    ),
    fault(
        "processes are told of no owner when one has begun",
        "cli/supervising/supervisor.py",
        "if is_due and (owner is None or not owner.is_owning):",
        "if is_due:",
        "cli/supervising/test_supervisor.py",
    ),
    fault(
        "streams of tokens go on in a process that is cut off",
        COPIED,
        "self._credentials.end_all_streams()",
        "pass",
        COPIES,
    ),
    fault(
        "each process counts the failed attempts of an address for itself",
        "http/identity/shared_attempts.py",
        "self._calls.note(home, FAILED, network)",
        "pass",
        "http/identity/test_shared_attempts.py",
    ),
    fault(
        "what has ended while a group was away keeps its slot of a node",
        PLACED,
        "self._placement.finished(ended)",
        "pass",
        EXECUTIONS,
    ),
    fault(
        "process 0 is not told that an execution of another group has ended",
        "shards/mesh/homes.py",
        "self._parcels.put(EXECUTIONS_HOME, EndedExecutions(tuple(promise_ids)))",
        "pass",
        EXECUTIONS,
    ),
)
