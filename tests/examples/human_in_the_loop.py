"""A workflow that waits for a person to decide.

The question is a durable promise, and the answer is its value. Anyone who may talk to the server
can give it, with the command line, with curl or from a web page, today or in a month; the workflow
needs to know nothing of that. Meanwhile the worker may be stopped and started.

In three terminals, with the SDK of the same API (`pip install resonate-sdk==0.4.12`):

    troth serve
    python human_in_the_loop.py worker
    python human_in_the_loop.py start expense-1 250

and then, as the person who decides, one of

    troth promises resolve expense-1.approval --data '"approved by Ada"'

    curl -X PATCH http://127.0.0.1:8001/promises/expense-1.approval \\
      --json '{"state": "RESOLVED", "value": {"data": "ImFwcHJvdmVkIGJ5IEFkYSI="}}'

Data is base64 on the wire; this SDK wants JSON in it, hence the two kinds of quotes.
"""

import sys
import threading
from collections.abc import Generator
from typing import Any

from resonate import Context, Resonate
from resonate.targets import poll
from resonate.task_sources import Poller

NEEDS_APPROVAL_FROM = 100


def expense(ctx: Context, expense_id: str, amount: int) -> Generator[Any, Any, str]:
    """The workflow: small amounts are paid at once, others when somebody has agreed."""
    approval = "needs no approval"
    if amount >= NEEDS_APPROVAL_FROM:
        question = yield ctx.promise(id=f"{expense_id}.approval")
        print(f"worker: {expense_id}.approval is to be decided", flush=True)
        approval = yield question
    yield ctx.lfc(pay, amount)
    return f"{amount} paid: {approval}"


def pay(ctx: Context, amount: int) -> None:
    """The step that must happen once, and only after the decision."""
    print(f"worker: pays {amount}", flush=True)


def main(role: str, *arguments: str) -> None:
    """Be the worker, or hand in an expense and wait for what becomes of it."""
    if role == "start":
        expense_id, amount = arguments
        resonate = Resonate(task_source=Poller(group="expense-starters"))
        handle = resonate.trigger(expense_id, poll("expenses"), "expense", expense_id, int(amount))
        print(handle.result(), flush=True)
        return
    resonate = Resonate(task_source=Poller(group="expenses"))
    resonate.register(expense)
    print("worker: ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
