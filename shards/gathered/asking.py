"""Asking all processes of a server the same question, for an answer about the whole server.

What one process does not know is not left out: if one is away, there is no answer, and the caller
is told to ask again (`OutOfReach`). Questions change nothing, so it does not matter whether the
other had taken one before it went away.
"""

from collections.abc import Mapping
from typing import TypeVar

from troth.shards.errors import LinkBroken, OutOfReach, ShardsError, Stopping
from troth.shards.mesh.calls import ProcessCall, ProcessCalls

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


async def ask_all(
    calls: ProcessCalls, call: ProcessCall[Asked, Answered], asked: Asked
) -> list[Answered]:
    """Return what all processes answer, in their order. Raises ShardsError."""
    everyone = dict.fromkeys((calls.own, *calls.others), asked)
    return list((await ask_each(calls, call, everyone)).values())


async def ask_each(
    calls: ProcessCalls, call: ProcessCall[Asked, Answered], asked: Mapping[int, Asked]
) -> dict[int, Answered]:
    """Return what some processes answer, each to its own question. Raises ShardsError."""
    found = await calls.call_each(call, asked, needs_all=True)
    return dict(zip(sorted(found), all_of(found, calls.own), strict=True))


async def ask_one(
    calls: ProcessCalls, process: int, call: ProcessCall[Asked, Answered], asked: Asked
) -> Answered:
    """Return what one process answers. Raises ShardsError."""
    return (await ask_each(calls, call, {process: asked}))[process]


def all_of(found: Mapping[int, Answered | ShardsError], own: int) -> list[Answered]:
    """Return what processes have answered to a call. Raises ShardsError if one has not."""
    answered: list[Answered] = []
    for process in sorted(found):
        answer = found[process]
        if isinstance(answer, LinkBroken) or (isinstance(answer, Stopping) and process != own):
            raise OutOfReach  # it is started again, or was not waited for any more
        if isinstance(answer, ShardsError):
            raise answer
        answered.append(answer)
    return answered
