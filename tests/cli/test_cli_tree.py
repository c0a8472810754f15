"""`troth tree`: how the tree that the server gives is drawn."""

import json
import time
from itertools import pairwise
from typing import Any

from tests.cli.command_line import CommandLine
from tests.http.fake_api import NOW_MS
from troth.cli.tree import DEPTH_SHOWN_COUNT, INDENTED_LEVELS_COUNT, draw


def call(promise_id: str, parent: str | None, depth: int, **more: Any) -> dict[str, Any]:
    """A promise in a tree, as the server answers it."""
    return {
        "id": promise_id,
        "parent": parent,
        "depth": depth,
        "state": "PENDING",
        "createdOn": NOW_MS - 60_000,
        "timeout": NOW_MS + 3_600_000,
        **more,
    }


def tree_of(*calls: dict[str, Any], cut: bool = False) -> dict[str, Any]:
    return {"id": calls[0]["id"], "cut": cut, "calls": list(calls)}


DONE = {"state": "RESOLVED", "createdOn": NOW_MS - 5000, "completedOn": NOW_MS - 2000}


def test_the_tree_is_drawn(troth: CommandLine) -> None:
    troth.api.say(
        200,
        tree_of(
            call("o", None, 0, function="checkout"),
            call("o.1", "o", 1, function="charge", **DONE),
            call("o.1.1", "o.1", 2, **DONE),
            call("o.9", "o", 1, hint="no worker listens to the group `g`"),
            call("o.10", "o", 1, **DONE),
        ),
    )

    shown = troth("tree", "o")

    (request,) = troth.api.heard
    assert (request.path, request.query) == ("/tree/o", [("depth", str(DEPTH_SHOWN_COUNT))])
    assert shown == (
        "o  checkout()  PENDING  for 1m, times out in 1h\n"
        "├── o.1  charge()  RESOLVED  after 3s, 2s ago\n"
        "│   └── o.1.1  RESOLVED  after 3s, 2s ago\n"
        "├── o.9  PENDING  for 1m, times out in 1h  no worker listens to the group `g`\n"
        "└── o.10  RESOLVED  after 3s, 2s ago\n"
    )
    assert troth.errors == ""


def test_the_tree_as_json_is_the_answer(troth: CommandLine) -> None:
    answer = tree_of(call("o", None, 0), call("o.1", "o", 1))
    troth.api.say(200, answer)

    shown = troth("tree", "o", "--json", "--depth", "1")

    assert troth.api.heard[0].query == [("depth", "1")]
    assert shown.count("\n") == 1
    assert json.loads(shown) == answer


def chain(length: int) -> list[dict[str, Any]]:
    """A promise `o` and as many calls, each made by the one before."""
    ids = ["o", *(f"c{number}" for number in range(1, length))]
    calls = [call("o", None, 0)]
    calls += [call(child, parent, depth) for depth, (parent, child) in enumerate(pairwise(ids), 1)]
    return calls


def test_a_long_chain_is_drawn_in_lines_of_bounded_length(troth: CommandLine) -> None:
    troth.api.say(200, tree_of(*chain(DEPTH_SHOWN_COUNT + 1)))

    shown = troth("tree", "o")

    lines = shown.splitlines()
    assert len(lines) == DEPTH_SHOWN_COUNT + 1
    assert max(len(line) for line in lines) < 4 * INDENTED_LEVELS_COUNT + 80
    assert f"(level {DEPTH_SHOWN_COUNT}) c{DEPTH_SHOWN_COUNT}" in lines[-1]
    assert f"levels below {DEPTH_SHOWN_COUNT} are not shown" in troth.errors


def test_a_tree_that_is_cut_says_so(troth: CommandLine) -> None:
    troth.api.say(200, tree_of(call("o", None, 0), cut=True))

    troth("tree", "o")
    assert "there may be more" in troth.errors


def test_the_time_to_draw_a_chain_grows_with_its_length() -> None:
    def seconds(length: int) -> float:
        calls = chain(length)
        began_s = time.process_time()
        assert draw(calls).count("\n") == length - 1
        return time.process_time() - began_s

    # Ten times the length: 10 times the time, or 100 times if each row passed all above it.
    assert min(seconds(2000) for _ in range(2)) < 40 * min(seconds(200) for _ in range(5))


def test_a_promise_that_does_not_exist_has_no_tree(troth: CommandLine) -> None:
    troth.api.refuse(40400, "The specified promise was not found")

    troth("tree", "o", status=1)
    assert "40400" in troth.errors


def test_a_server_of_another_kind_is_noticed(troth: CommandLine) -> None:
    troth.api.say(200, {"id": "o"})

    troth("tree", "o", status=3)
    assert "is it a Troth server" in troth.errors.replace("Is", "is")
