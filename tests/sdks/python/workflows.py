"""Workflows of ours for the Python SDKs of the envelope protocol, and a worker that runs them.

`python workflows.py URL GROUP [TTL_MS]` is a worker. It takes commands, one JSON object a line,
from its input, and writes what happens in the same way; when its input ends, it stops. Python 3.12
and an SDK of 0.7 or 0.8 run it, which this repository's own environment does not have.
`../typescript/workflows.ts` has the same workflows and understands the same commands.
"""

import asyncio
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from resonate.context import Context
from resonate.resonate import Resonate
from resonate.retry import Constant, Never

GATE_POLL_S = 0.02


def say(**event: Any) -> None:
    """Tell the test what has happened."""
    print(json.dumps(event), flush=True)


def note(journal: str, line: str) -> bool:
    """Append a line to a file that outlives this process; return whether it was not there yet."""
    with Path(journal).open("a+", encoding="utf-8") as file:
        file.seek(0)
        is_new = line not in file.read().splitlines()
        file.write(line + "\n")
    return is_new


def wait_for(path: Path) -> None:
    """Wait until there is such a file."""
    while not path.exists():
        time.sleep(GATE_POLL_S)


async def hello(ctx: Context, name: str) -> str:
    """One step."""
    return await ctx.run(greet, name)


async def greet(ctx: Context, name: str) -> str:
    """The step of `hello`."""
    return f"hello, {name}"


async def order(ctx: Context, item: str, count: int, shop: str) -> dict[str, Any]:
    """A step that runs in a worker of another group."""
    price = await ctx.options(target=shop).rpc("price", item)
    return {"total": price["price"] * count, "priced_by": price["by"], "ordered_by": os.getpid()}


async def price(ctx: Context, item: str) -> dict[str, int]:
    """What `order` asks the other worker for."""
    return {"price": len(item), "by": os.getpid()}


async def fan_out(ctx: Context, count: int, group: str) -> list[int]:
    """Many steps at once, each a task of its own."""
    futures = [ctx.options(target=group).rpc("double", number) for number in range(count)]
    return [await future for future in futures]


async def double(ctx: Context, number: int) -> int:
    """A step of `fan_out`."""
    return 2 * number


async def nap(ctx: Context, duration_ms: int, group: str) -> str:
    """A sleep that needs no process."""
    await ctx.options(target=group).sleep(timedelta(milliseconds=duration_ms))
    return "awake"


async def trip(ctx: Context, journal: str) -> str:
    """A saga: one step is tried again, one fails for good, and what was done is undone."""
    booked = []
    try:
        for what in ("flight", "hotel", "car"):
            policy = Never() if what == "car" else Constant(max_retries=3, delay=0)
            await ctx.options(retry_policy=policy).run(book, journal, what)
            booked.append(what)
    except Exception as error:
        for what in reversed(booked):
            await ctx.run(cancel, journal, what)
        return f"cancelled: {error}"
    return "booked"


async def book(ctx: Context, journal: str, what: str) -> None:
    """Book; the hotel works at the second attempt, the car at none."""
    is_first_attempt = note(journal, f"book {what}")
    if what == "car":
        raise RuntimeError("no car left")
    if what == "hotel" and is_first_attempt:
        raise RuntimeError("the hotel's line is busy")


async def cancel(ctx: Context, journal: str, what: str) -> None:
    """Undo a booking."""
    note(journal, f"cancel {what}")


async def refused(ctx: Context, reason: str) -> None:
    """A workflow that fails because a step of it does."""
    await ctx.options(retry_policy=Never()).run(refuse, reason)


async def refuse(ctx: Context, reason: str) -> None:
    """The step that fails."""
    raise RuntimeError(reason)


async def expense(ctx: Context, amount: int) -> str:
    """Wait for a person, who completes a promise."""
    question = ctx.promise()
    say(event="asked", id=await question.id())
    return f"{amount}: {await question}"


async def fibonacci(ctx: Context, number: int, group: str) -> int:
    """Call itself, through the server."""
    if number < 2:
        return number
    routed = ctx.options(target=group)
    before, before_that = (routed.rpc("fibonacci", number - n, group) for n in (1, 2))
    return await before + await before_that


async def shipment(ctx: Context, journal: str, group: str) -> str:
    """Start something that this workflow does not wait for, and return its id."""
    return await ctx.options(target=group).detached("send_mail", journal).id()


async def send_mail(ctx: Context, journal: str) -> str:
    """What `shipment` starts."""
    note(journal, "mail sent")
    return "sent"


async def tick(ctx: Context, journal: str) -> str:
    """What a schedule starts."""
    note(journal, "tick")
    return "ticked"


async def report(ctx: Context, gate: str) -> dict[str, int]:
    """Two steps; during the second one, this process is killed."""
    return {
        "counted_by": await ctx.run(count_pages),
        "printed_by": await ctx.run(print_pages, gate),
    }


async def count_pages(ctx: Context) -> int:
    """The first step of `report`."""
    say(event="counts")
    return os.getpid()


async def print_pages(ctx: Context, gate: str) -> int:
    """The second step of `report`: lasts until there is a file `gate`."""
    say(event="prints")
    await asyncio.to_thread(wait_for, Path(gate))
    return os.getpid()


async def journey(ctx: Context, stages: int, journal: str, group: str) -> list[int]:
    """Steps, calls and sleeps in turn, so that something is always under way."""
    routed = ctx.options(target=group)
    reached = []
    for stage in range(stages):
        await ctx.run(reach, journal, stage)
        reached.append(await routed.rpc("double", stage))
        await routed.sleep(timedelta(milliseconds=100))
    return reached


async def reach(ctx: Context, journal: str, stage: int) -> None:
    """A step of `journey`."""
    note(journal, f"stage {stage}")


WORKFLOWS = (
    *(hello, order, price, fan_out, double, nap, trip, refused, expense, fibonacci),
    *(shipment, send_mail, tick, report, journey),
)
STEPS = (greet, book, cancel, refuse, count_pages, print_pages, reach)


async def obey(resonate: Resonate, command: dict[str, Any]) -> None:
    """Do what a command says, and say what came of it."""
    name = command["id"]
    try:
        match command["do"]:
            case "run":
                handle = resonate.run(name, command["function"], *command["arguments"])
                value = await handle.result()
            case "wait":
                value = await (await resonate.get(name)).result()
            case "schedule":
                arguments = tuple(command["arguments"])
                await resonate.schedule(name, command["cron"], command["function"], arguments)
                value = None
            case "unschedule":
                value = await resonate.schedules.delete(name)
            case unknown:
                raise ValueError(f"unknown command {unknown!r}")
    except Exception as error:
        say(id=name, done=command["do"], error=str(error))
    else:
        say(id=name, done=command["do"], value=value)


async def main(url: str, group: str, ttl_ms: str = "60000") -> None:
    """Be a worker until the input ends."""
    resonate = Resonate(url=url, group=group, ttl=timedelta(milliseconds=int(ttl_ms)))
    for function in (*WORKFLOWS, *STEPS):
        resonate.register(function)
    # 0.7.4 refuses what it is asked before its connection has started, which takes it a moment.
    await asyncio.sleep(0.2)
    say(event="ready")
    running = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        running.add(asyncio.create_task(obey(resonate, json.loads(line))))
    await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
