"""A checkout that waits for a person and sleeps, with the newest Python SDK.

What is done once stays done, whoever is killed: the worker, the server or both. With Python 3.12 or
newer and `pip install resonate-sdk`, in three terminals:

    troth serve
    python checkout.py worker
    python checkout.py start order-9 250

The worker reserves the goods and asks whether 250 may be charged. The question is a durable
promise, and the answer its value, here JSON in base64 (`"yes, says Ada"`):

    curl -X PATCH http://127.0.0.1:8001/promises/order-9:2 \\
      -d '{"state": "RESOLVED", "value": {"data": "Inllcywgc2F5cyBBZGEi"}}'

`checkout.mts` is the same in TypeScript. Each can start what the other's worker carries out.
"""

import asyncio
import os
import sys
from datetime import timedelta

from resonate.context import Context
from resonate.resonate import Resonate

URL = os.environ.get("RESONATE_URL", "http://127.0.0.1:8001")


async def checkout(ctx: Context, amount: int) -> str:
    """The workflow. It runs from its beginning whenever it goes on; finished steps do not."""
    await ctx.run(reserve, amount)
    question = ctx.promise()
    print(f"worker: {await question.id()} is to be decided", flush=True)
    decision = await question
    await ctx.sleep(timedelta(seconds=1))
    await ctx.run(ship)
    return f"shipped for {amount}: {decision}"


async def reserve(ctx: Context, amount: int) -> None:
    """The first step."""
    print(f"worker: reserves goods for {amount}", flush=True)


async def ship(ctx: Context) -> None:
    """The last step."""
    print("worker: ships", flush=True)


async def main(role: str, *arguments: str) -> None:
    """Be a worker, or start a checkout and wait for what becomes of it."""
    if role == "worker":
        resonate = Resonate(url=URL, group="checkouts")
        resonate.register(checkout)
        print("worker: ready", flush=True)
        await asyncio.Event().wait()
    order_id, amount = arguments
    resonate = Resonate(url=URL, group="customers")
    handle = resonate.options(target="checkouts").rpc(order_id, "checkout", int(amount))
    print(await handle.result(), flush=True)
    await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
