"""Many commands of one request, with one wait for the disk.

In order, each is carried out before the next is handed over, whatever shards they belong to, so the
order of creation is that of the request. Together, only those for one shard keep their order.
"""

import math
from collections.abc import Sequence
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
    none is kept once that is `limit_size`.
    """

    replies: list[Reply | None]
    outstanding_count: int
    all_there: trio.Event
    limit_size: float = math.inf
    size: int = 0
    failure: ShardsError | None = None

    def answer(self, place: int, reply: Reply) -> None:
        """Take a reply, unless it only shows what is there and there is no room for it."""
        if self.size < self.limit_size or reply.code is not _OK:
            self.replies[place] = reply
            if reply.promise is not None:
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


def _answers(commands: Sequence[Command], limit_size: float = math.inf) -> Answers:
    count = len(commands)
    return Answers([None] * count, count, trio.Event(), limit_size)


async def ask_in_order(
    shards: ShardsPort, commands: Sequence[Command], held: HeldMessages | None
) -> list[Reply]:
    """Return the replies to commands that are carried out in this order.

    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out, those before others.
    """
    answers = _answers(commands)
    try:
        for number in range(len(commands)):
            if number % SLICE_COUNT == SLICE_COUNT - 1:
                shards.flush()
                await trio.lowlevel.checkpoint()
            if not _submitted_count(shards, commands, held, answers, number, number + 1):
                await _submit_later(shards, commands, held, answers, number)
            shards.run_turn(is_last=False)
    finally:
        shards.flush()
    await answers.wait()
    return [reply for reply in answers.replies if reply is not None]


async def ask_together(
    shards: ShardsPort,
    commands: Sequence[Command],
    held: HeldMessages | None,
    limit_size: int,
) -> Answers:
    """Return the replies to commands that are carried out as one batch for the log.

    A reply that changed nothing is dropped, None, if those before take `limit_size` already.
    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out.
    """
    answers = _answers(commands, limit_size)
    done_count = 0
    try:
        while True:
            done_count += _submitted_count(
                shards, commands, held, answers, done_count, len(commands)
            )
            if done_count == len(commands):
                break
            await _submit_later(shards, commands, held, answers, done_count)
            done_count += 1
    finally:
        shards.run_turn()
    await answers.wait()
    return answers


def _submitted_count(
    shards: ShardsPort,
    commands: Sequence[Command],
    held: HeldMessages | None,
    answers: Answers,
    first: int,
    last: int,
) -> int:
    """Hand over those from `first` up to before `last`; return how many had room.

    Raises ApiError.
    """
    try:
        return shards.submit_all(commands, held, answers, first, last)
    except ShardsError as error:
        raise ApiError(error.code) from error


async def _submit_later(
    shards: ShardsPort,
    commands: Sequence[Command],
    held: HeldMessages | None,
    answers: Answers,
    number: int,
) -> None:
    """Hand one command over as soon as its shard has room. Raises ApiError."""
    with trio.move_on_after(ROOM_LIMIT_S):
        while not _submitted_count(shards, commands, held, answers, number, number + 1):
            shards.run_turn()
            shards.flush()
            await trio.sleep(ROOM_WAIT_S)
        return
    raise ApiError(Overloaded.code)
