"""Stands for a server process: it takes its seat, and does what a connection tells it.

A connection sends one line, and gets one: `who`, `slow SECONDS` (in flight until then), `hold` (in
flight until there is a file `release` in the data directory), `hang` (the loop stands still), `exit
STATUS`, `fatal TEXT`, `leading EPOCH`, `follows EPOCH`, `leaves`; after `only K` any of these, for
process k.
The environment's `NO_LOAD` names a file: while it is there, no process loads, but ends. While there
is a file `no-prepare` beside it, one that waits for its seat does not become prepared, and makes a
file `preparing`. Files in the data directory, `NAME-k`, say how process k starts: `no-start` (it
ends when it has its seat), `stands-by` (it serves nothing). While there is a file `no-checkpoint`,
no process makes one; one that was told to leaves a file `checkpointing-k`. Its checkpoint does not
cover it while there is a file `not-covered`, and it takes as many bytes as a file `large` says. One
that has its seat early leaves a file `early-k`, and has not read all there is while there is a file
`no-following`; the one before it leaves a file `stayed-k` when it is not replaced after all. One
that was replaced does not end while there is a file `lingers`. A process whose group went to
another node leaves a file `left-k`, and one that keeps it for the next process `kept-k`. In
`serving-k` is what process k was told, one after the other, of whether any process serves.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from troth.http.supervision.seat import OWNER, take
from troth.http.supervision.seated import Seated, wait_to_serve

LONG_S = 120.0
"""A test that has failed leaves no process behind for longer."""


class StandIn:
    """One process."""

    def __init__(self, seated: Seated) -> None:
        self.seated = seated
        self.in_flight_count = 0
        self.accepting = trio.CancelScope()
        self.unowned_s = 0.0
        seated.on_unowned.append(self.note_unowned)
        seated.on_peers.append(self.note_serving)

    def note_serving(self) -> None:
        """Write down whether any process serves."""
        with (Path(self.seated.seat.data) / f"serving-{self.seated.seat.process}").open(
            "a"
        ) as file:
            print(self.seated.is_node_serving, file=file)

    def note_unowned(self, at_s: float) -> None:
        """Keep when there was no owner."""
        self.unowned_s = at_s

    async def run(self) -> None:
        """Serve until told to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.seated.run)
            await self.follow()
            sockets = (*self.seated.handed_over.api, *self.seated.handed_over.poll)
            listeners = [
                trio.SocketListener(trio.socket.from_stdlib_socket(one))
                for one in sockets
                # Where the server stops meanwhile, the supervisor has shut the ports.
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ]
            self.seated.listening()
            if (Path(self.seated.seat.data) / f"stands-by-{self.seated.seat.process}").exists():
                self.seated.stands_by()
                listeners = []
            else:
                if self.seated.seat.process == OWNER:
                    await self.seated.owning()
                self.seated.ready("serving")
            nursery.start_soon(self.accept, listeners, nursery)
            nursery.start_soon(self.checkpoint)
            await self.seated.drain.wait()
            self.accepting.cancel()
            while self.in_flight_count:  # noqa: ASYNC110  it is a test's server
                await trio.sleep(0.01)
            self.seated.drained()
            await self.seated.stop.wait()
            for word, is_so in (("left", self.seated.is_left), ("kept", self.seated.is_replaced)):
                if is_so:
                    (Path(self.seated.seat.data) / f"{word}-{self.seated.seat.process}").touch()
            if self.seated.is_replaced:
                self.seated.gone()
                while (Path(self.seated.seat.data) / "lingers").exists():  # noqa: ASYNC110
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    async def follow(self) -> None:
        """Read as long as another process has the seat, unless a file says that it lags behind."""
        seat = self.seated.seat
        if not self.seated.is_early:
            return
        (Path(seat.data) / f"early-{seat.process}").touch()
        while (Path(seat.data) / "no-following").exists():  # noqa: ASYNC110
            await trio.sleep(0.02)
        self.seated.following()
        while self.seated.is_early:  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def checkpoint(self) -> None:
        """Say that there is a checkpoint, whenever it is asked for and may be."""
        data = Path(self.seated.seat.data)
        while True:
            await self.seated.checkpoint.wait()
            self.seated.checkpoint = trio.Event()
            (data / f"checkpointing-{self.seated.seat.process}").touch()
            while (data / "no-checkpoint").exists():  # noqa: ASYNC110
                await trio.sleep(0.02)
            large = data / "large"
            self.seated.checkpointed(
                is_covered=not (data / "not-covered").exists(),
                memory_bytes=int(large.read_text()) if large.exists() else 1,
            )
            with trio.move_on_after(LONG_S):
                await self.seated.stays.wait()
                (data / f"stayed-{self.seated.seat.process}").touch()

    async def accept(self, listeners: list[trio.SocketListener], nursery: trio.Nursery) -> None:
        """Take connections until there are to be no more."""
        if not listeners:
            return  # all connections are for others
        with self.accepting:
            async with trio.open_nursery() as accepting:
                for one in listeners:
                    accepting.start_soon(self.accept_on, one, nursery)

    async def accept_on(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Take connections until there are to be no more, or the supervisor has shut the port."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return
            self.in_flight_count += 1
            nursery.start_soon(self.answer, stream)

    async def answer(self, stream: trio.SocketStream) -> None:
        """Do what a line says."""
        try:
            async with stream:
                line = bytes(await stream.receive_some(1000)).decode().strip()
                await stream.send_all(await self.answered(line))
        except trio.BrokenResourceError:
            pass  # the client has gone
        finally:
            self.in_flight_count -= 1

    async def answered(self, line: str) -> bytes:
        """Return what a line is answered."""
        word, _, rest = line.partition(" ")
        if word == "only":
            process, _, line = rest.partition(" ")
            for_this = int(process) == self.seated.seat.process
            word, _, rest = line.partition(" ") if for_this else ("who", "", "")
        if word == "hang":
            time.sleep(1000)  # noqa: ASYNC251  that is what is asked for
        if word == "exit":
            os._exit(int(rest))
        if word == "fatal":
            self.seated.fatal(rest)
            os._exit(1)
        if word == "leading":
            self.seated.leading(int(rest))
        if word == "follows":
            self.seated.follows("b", int(rest))
        if word == "leaves":
            self.seated.leaves()
        if word == "hold":
            with trio.move_on_after(LONG_S):
                while not (Path(self.seated.seat.data) / "release").exists():  # noqa: ASYNC110
                    await trio.sleep(0.02)
        if word == "slow":
            await trio.sleep(float(rest))
        seat = self.seated.seat
        shown = {
            "process": seat.process,
            "incarnation": seat.incarnation,
            "pid": os.getpid(),
            "peers": sorted(self.seated.peers),
            "is_node_serving": self.seated.is_node_serving,
            "mesh": self.seated.seat.mesh_address,
            "unowned": self.unowned_s,
            "ended": sorted(self.seated.ended),
            "may_claim": self.seated.may_claim(),
            "inheritable": os.get_inheritable(seat.lock),
            "environment": sorted(name for name in os.environ if "SEAT" in name),
            "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
        }
        return json.dumps(shown).encode()


def _until_prepared(unprepared: Path) -> Iterator[Callable[[], None]]:
    """Yield what takes a moment, as long as there is a file; say so in another one."""
    while unprepared.exists():
        unprepared.with_name("preparing").touch()
        yield lambda: time.sleep(0.02)


def main() -> None:
    """Take the seat and serve."""
    control = take()
    if Path(os.environ.get("NO_LOAD", "/nowhere")).exists():
        sys.exit(3)
    unprepared = Path(os.environ.get("NO_LOAD", "/nowhere")).with_name("no-prepare")
    seated = wait_to_serve(control, _until_prepared(unprepared), may_follow=True)
    seat = seated.seat
    data = Path(seat.data)
    if (data / f"no-start-{seat.process}").exists():
        sys.exit(4)
    with (data / "starts").open("a") as starts:
        starts.write(f"{seat.process} {time.monotonic()}\n")
    trio.run(StandIn(seated).run)


if __name__ == "__main__":
    main()
