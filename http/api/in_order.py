"""Many commands of one request, with one wait for the disk.

In order, each is carried out before the next is handed over, whatever shards they belong to, so the
order of creation is that of the request. Together, only those for one shard keep their order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import trio
from msgspec import Struct

from troth.core.codes import Code
from troth.core.commands import Command
from troth.core.replies import Reply
from troth.http.wire.errors import ApiError
from troth.shards.errors import Overloaded, ShardsError
from troth.shards.held import HeldMessages

from .shards_port import ShardsPort

SLICE_COUNT: Final = 100
"""Commands after which others get their turn."""
ROOM_WAIT_S: Final = 0.02
ROOM_LIMIT_S: Final = 30.0
"""How long to wait for room in a shard that others keep busy."""
_OK: Final = Code.OK  # see PENDING in model.py


class Answers(Struct, eq=False):
    """The replies to commands that were asked together; the `Asker` that the shards call.

    `size` is about how many characters the replies hold. Of those that only show what is there,
    none is kept once that is `limit_size`. With `counts_made` false, what was made by the commands
    is not counted: it is as large as they were.
    """

    replies: list[Reply | None]
    outstanding_count: int
    all_there: trio.Event
    limit_size: float = math.inf
    counts_made: bool = True
    size: int = 0
    failure: ShardsError | None = None

    def answer(self, place: int, reply: Reply) -> None:
        """Take a reply, unless it only shows what is there and there is no room for it."""
        shows = reply.code is _OK
        if not shows or self.size < self.limit_size:
            self.replies[place] = reply
            if (shows or self.counts_made) and reply.promise is not None:
                self.size += reply.promise.size
        self.outstanding_count -= 1
        if not self.outstanding_count:
            self.all_there.set()

    def refuse(self, error: ShardsError) -> None:
        """Take an error instead; it speaks for all."""
        self.failure = error
        self.outstanding_count -= 1
        if not self.outstanding_count:
            self.all_there.set()

    async def wait(self) -> None:
        """Wait for all replies. Raises ApiError (503) if the shards have failed."""
        if self.outstanding_count:
            await self.all_there.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise ApiError(self.failure.code) from self.failure


def _answers(
    commands: Sequence[Command], limit_size: float = math.inf, *, counts_made: bool = True
) -> Answers:
    count = len(commands)
    return Answers([None] * count, count, trio.Event(), limit_size, counts_made)


async def ask_in_order(
    shards: ShardsPort, commands: Sequence[Command], held: HeldMessages | None
) -> list[Reply]:
    """Return the replies to commands that are carried out in this order.

    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out, those before others.
    """
    answers = _answers(commands)
    done_count = 0

    def hand_over(places: range) -> int:
        try:
            return shards.run_in_order(commands, places, held, answers)
        except ShardsError as error:
            raise ApiError(error.code) from error

    try:
        while done_count < len(commands):
            places = range(done_count, min(done_count + SLICE_COUNT, len(commands)))
            made_count = hand_over(places)
            done_count += made_count
            if made_count < len(places):
                await _later(shards, hand_over, done_count)
                done_count += 1
            # What others flush in their turns is written with it; the rest is one write at the end.
            await trio.lowlevel.checkpoint()
    finally:
        shards.flush()
    await answers.wait()
    return [reply for reply in answers.replies if reply is not None]


async def ask_together(
    shards: ShardsPort,
    commands: Sequence[Command],
    held: HeldMessages | None,
    limit_size: int,
    *,
    counts_made: bool = True,
) -> Answers:
    """Return the replies to commands that are carried out as one batch for the log.

    A reply that changed nothing is dropped, None, if those before take `limit_size` already; what
    the commands make counts for that unless told not to.
    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out.
    """
    answers = _answers(commands, limit_size, counts_made=counts_made)

    def hand_over(places: range) -> int:
        try:
            return shards.submit_all(commands, places, held, answers)
        except ShardsError as error:
            raise ApiError(error.code) from error

    try:
        done_count = hand_over(range(len(commands)))
        while done_count < len(commands):
            await _later(shards, hand_over, done_count)
            done_count += 1
            done_count += hand_over(range(done_count, len(commands)))
    finally:
        shards.run_turn()
    await answers.wait()
    return answers


async def _later(shards: ShardsPort, hand_over: Callable[[range], int], place: int) -> None:
    """Hand one command over as soon as its shard has room. Raises ApiError."""
    with trio.move_on_after(ROOM_LIMIT_S):
        while not hand_over(range(place, place + 1)):
            shards.run_turn()
            shards.flush()
            await trio.sleep(ROOM_WAIT_S)
        return
    raise ApiError(Overloaded.code)
