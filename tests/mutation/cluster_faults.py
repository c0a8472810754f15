"""Planted faults of logs that are streams: `stream_faults.py`, and more that the design names.

Those that the simulation of several nodes finds, which knows nothing of them, are planted once
more: one of its seeds has to fail.
"""

from dataclasses import replace
from typing import Final

from .fault import Fault, fault
from .stream_faults import LOG, OWNERSHIP, STREAM_FAULTS

_CHAIN: Final = "persistence/streams/test_chain.py"
_TEST: Final = (
    "tests/simulation/cluster/test_cluster.py::test_nodes_on_one_stream_keep_their_promises"
)
_LIMIT_S: Final = 3_600
"""All seeds end before that: a test that has no end counts as one that notices."""

_HEARD: Final = (
    "self._own = self._own.acknowledged() if is_durable else self._own.unanswered()\n"
    "            return\n"
)

_FAULTS: Final[tuple[Fault, ...]] = (
    fault(
        "the lease of an owner is counted from the acknowledgment",
        "persistence/streams/stream_log.py",
        _HEARD,
        "object.__setattr__(self._own, 'sent_ms', self._boot_ms())\n            " + _HEARD,
        LOG,
    ),
    fault(
        "a refusal is taken for an acknowledgment",
        "persistence/streams/stream_log.py",
        _HEARD,
        "self._own = self._own.acknowledged()\n            return\n",
        LOG,
    ),
    fault(
        "a refusal is taken for another owner's frame",
        "persistence/streams/stream_log.py",
        _HEARD,
        "if not is_durable:\n"
        "                raise self._fail(Deposed(self._stream.name))\n"
        "            self._own = self._own.acknowledged()\n            return\n",
        LOG,
    ),
    fault(
        "an owner's time is below that of the last frame",
        "persistence/streams/stream_log.py",
        "time_ms=max(self._now_ms(), self.told_ms(), chain.time_ms),",
        "time_ms=max(self._now_ms(), self.told_ms()),",
        LOG,
    ),
    fault(
        "a frame of an older owner is read",
        "persistence/streams/chain.py",
        "        elif (frame.epoch, frame.incarnation) != expected:\n",
        "        elif frame.epoch > self.epoch:\n",
        _CHAIN,
    ),
    fault(
        "what is in memory is told although the lease is over",
        "http/api/dispatch.py",
        "        if self.api.may_answer is not None and match.endpoint.sheltered:\n",
        "        if False:\n",
        "http/bulk/test_bulk.py",
        is_quick=True,
    ),
    fault(
        "a new owner waits as if no clock were wrong",
        "persistence/streams/ownership.py",
        "self.heard_ms + STREAM_TAKEOVER_WAIT_MS",
        "self.heard_ms + STREAM_LEASE_MS",
        OWNERSHIP,
    ),
)

_NAMES: Final = (
    "a new owner does not wait for the lease of the old one",
    "another's frame is taken for ours",
    "reads are answered although the lease is over",
    "time goes back at a takeover",
    "the lease of an owner is counted from the acknowledgment",
    "an owner's time is below that of the last frame",
)

_KNOWN: Final = {one.name: one for one in (*STREAM_FAULTS, *_FAULTS)}

CLUSTER_FAULTS: Final[tuple[Fault, ...]] = (
    *STREAM_FAULTS,
    *_FAULTS,
    *(
        replace(
            _KNOWN[name],
            name=f"simulated nodes: {name}",
            tests=(_TEST,),
            is_quick=False,
            limit_s=_LIMIT_S,
            all_seeds=True,
        )
        for name in _NAMES
    ),
    fault(
        "a stream that a server shows less of for a while counts as set back",
        "persistence/streams/stream_log.py",
        "self._boot_ms() + self._stream.behind_ms",
        "self._boot_ms()",
        "persistence/streams/test_standing_by.py",
    ),
)
