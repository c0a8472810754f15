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


class _Awaited(Struct, eq=False):
    """The count of missing replies; `all_there` is set when it reaches zero."""

    outstanding_count: int
    all_there: trio.Event
    failure: ShardsError | None = None
    room_bytes: float = math.inf

    def count_one(self) -> None:
        """Note one more answer."""
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


class _Answer(Struct, eq=False):
    """The reply to one command; the `Asker` that the shards call."""

    awaited: _Awaited
    reply: Reply | None = None

    def answer(self, place: int, reply: Reply) -> None:  # noqa: ARG002  there is only one place
        """Take the reply, unless it only shows what is there and there is no room for it."""
        awaited = self.awaited
        if awaited.room_bytes > 0 or reply.code is not Code.OK:
            self.reply = reply
            if reply.promise is not None:
                awaited.room_bytes -= reply.promise.size
        awaited.count_one()

    def refuse(self, error: ShardsError) -> None:
        """Take an error instead; it speaks for all."""
        self.awaited.failure = error
        self.awaited.count_one()


async def ask_in_order(
    shards: ShardsPort, commands: Sequence[Command], held: HeldMessages | None
) -> list[Reply]:
    """Return the replies to commands that are carried out in this order.

    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out, those before others.
    """
    awaited = _Awaited(len(commands), trio.Event())
    answers = [_Answer(awaited) for _ in commands]
    try:
        for number, (command, answer) in enumerate(zip(commands, answers, strict=True)):
            if number % SLICE_COUNT == SLICE_COUNT - 1:
                shards.flush()
                await trio.lowlevel.checkpoint()
            if not _is_submitted(shards, command, held, answer):
                await _submit_later(shards, command, held, answer)
            shards.run_turn(is_last=False)
    finally:
        shards.flush()
    await awaited.wait()
    return [answer.reply for answer in answers if answer.reply is not None]


async def ask_together(
    shards: ShardsPort,
    commands: Sequence[Command],
    held: HeldMessages | None,
    limit_bytes: int,
) -> list[Reply | None]:
    """Return the replies to commands that are carried out as one batch for the log.

    A reply that changed nothing is dropped, None, if those before take `limit_bytes` already.
    Raises ApiError (503) if the shards fail, or have no room for too long: then some may have been
    carried out.
    """
    awaited = _Awaited(len(commands), trio.Event(), room_bytes=limit_bytes)
    answers = [_Answer(awaited) for _ in commands]
    try:
        for command, answer in zip(commands, answers, strict=True):
            if not _is_submitted(shards, command, held, answer):
                await _submit_later(shards, command, held, answer)
    finally:
        shards.run_turn()
    await awaited.wait()
    return [answer.reply for answer in answers]


def _is_submitted(
    shards: ShardsPort, command: Command, held: HeldMessages | None, answer: _Answer
) -> bool:
    """Hand a command over; return False if its shard has no room. Raises ApiError."""
    try:
        shards.submit(command, held, answer)
    except Overloaded:
        return False
    except ShardsError as error:
        raise ApiError(error.code) from error
    return True


async def _submit_later(
    shards: ShardsPort, command: Command, held: HeldMessages | None, answer: _Answer
) -> None:
    """Hand a command over as soon as its shard has room. Raises ApiError."""
    with trio.move_on_after(ROOM_LIMIT_S):
        while not _is_submitted(shards, command, held, answer):
            shards.run_turn()
            shards.flush()
            await trio.sleep(ROOM_WAIT_S)
        return
    raise ApiError(Overloaded.code)
