"""Planted faults in what several processes do for workers: homes, streams. See `faults.py`."""

from .fault import Fault, fault

HOMES, PARCELS, NOTES = (f"shards/mesh/{name}.py" for name in ("homes", "parcels", "dialect_notes"))
STREAMS = "http/sockets/stream_homes.py"
MESSAGES, BROUGHT = "shards/mesh/test_homes.py", "http/sockets/test_stream_homes.py"

HOME_FAULTS: tuple[Fault, ...] = (
    fault(
        "a stream is given to a process that is not its home",
        STREAMS,
        "home = self._finder.of_group(group)",
        "home = self._place.process",
        BROUGHT,
        is_quick=True,
    ),
    fault(
        "a connection that was given up stays open in a home that hangs",
        "http/sockets/listener.py",
        "connected.shutdown(socket.SHUT_WR)",
        "pass",
        BROUGHT,
    ),
    fault(
        "what a home has lost is not asked for again",
        HOMES,
        "when_lost=self._lose,",
        "when_lost=lambda _: None,",
        MESSAGES,
    ),
    fault(
        "messages and reports are lost with a link",
        PARCELS,
        "for parcel, _ in way.kept:",
        "for parcel, _ in ():",
        MESSAGES,
    ),
    fault(
        "it is not told that reports were dropped",
        PARCELS,
        "if way.is_after_loss:",
        "if False:",
        MESSAGES,
    ),
    fault(
        "a home that is away holds up the messages of a root for others",
        HOMES,
        "for report in _not_sent(key, counter):",
        "for report in ():",
        MESSAGES,
    ),
    fault(
        "a home keeps messages of tasks that have ended",
        HOMES,
        "self._parcels.put(home, Withdrawal(task_id))",
        "pass",
        MESSAGES,
    ),
    fault(
        "more messages than there is room for are on their way to a home",
        HOMES,
        "if self._parcels.room_count(home):",
        "if True:",
        MESSAGES,
    ),
    fault(
        "a late report is taken for one of a newer message",
        HOMES,
        "if self.there.get(key) == counter:",
        "if key in self.there:",
        MESSAGES,
    ),
    fault(
        "each process has its own breaker for a push target",
        HOMES,
        "return self.of_group(address.target)",
        "return None",
        MESSAGES,
    ),
    fault(
        "what a worker speaks is not told to other processes",
        NOTES,
        "polls.when_decided = self._tell",
        "pass",
        MESSAGES,
    ),
    fault(
        "what workers speak is not told to a process that was started again",
        NOTES,
        "calls.when_linked.append(self._tell_all)",
        "pass",
        MESSAGES,
    ),
    fault(
        "parcels for the next owner of a group go to the one before",
        PARCELS,
        "                self._linked.discard(process)\n",
        "                pass\n",
        "shards/mesh/test_parcels.py",
    ),
    fault(
        "parcels for the next owner of a group go to the one before, which has linked again",
        PARCELS,
        "        if incarnation < way.incarnation:\n            return\n",
        "",
        "shards/mesh/test_parcels.py",
    ),
)
