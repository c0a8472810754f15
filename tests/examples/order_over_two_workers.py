"""A workflow over two workers: the shop takes an order, the warehouse does a part of it.

The two are programs of their own, each in a group. The shop's workflow calls the warehouse's
function by its name, as if it were its own; while it waits, it holds no thread and no connection.
Both may run many times over, be stopped and be replaced: the workflow's steps are durable promises
on the server, and whoever is there takes the next one.

In four terminals, with the SDK of the same API (`pip install resonate-sdk==0.4.12`):

    troth serve
    python order_over_two_workers.py warehouse
    python order_over_two_workers.py shop
    python order_over_two_workers.py start order-1 apples 3

The last one prints what became of the order. With the same id again it prints the same and orders
nothing. `troth tree order-1` shows the promises behind it.
"""

import os
import sys
import threading
from collections.abc import Generator
from typing import Any

from resonate import Context, Resonate
from resonate.targets import poll
from resonate.task_sources import Poller

PRICES = {"apples": 2, "pears": 5}


def order(ctx: Context, order_id: str, item: str, count: int) -> Generator[Any, Any, str]:
    """The workflow, at the shop. Each `yield` is a step that is done once."""
    shelf = yield ctx.rfc("reserve", item, count).options(
        id=f"{order_id}.reservation", send_to=poll("warehouse")
    )
    price = yield ctx.lfc(charge, item, count)
    return f"{count} {item} from {shelf} for {price}"


def charge(ctx: Context, item: str, count: int) -> int:
    """A step at the shop itself."""
    print(f"shop: charges {count} {item}", flush=True)
    return PRICES[item] * count


def reserve(ctx: Context, item: str, count: int) -> str:
    """The step at the warehouse."""
    print(f"warehouse: reserves {count} {item}", flush=True)
    return f"shelf-{item[0]}"


def main(role: str, *arguments: str) -> None:
    """Be one of the workers, or start an order and wait for it."""
    resonate = Resonate(task_source=Poller(group=role))
    if role == "start":
        order_id, item, count = arguments
        handle = resonate.trigger(order_id, poll("shop"), "order", order_id, item, int(count))
        print(handle.result(), flush=True)
        return
    for function in (order,) if role == "shop" else (reserve,):
        resonate.register(function)
    print(f"{role}: ready, process {os.getpid()}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
