"""`troth tree`: which promises are below which, and how the tree is drawn."""

import base64
import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.http.fake_api import NOW_MS, FakeApi, promise
from troth.cli import command as cli
from troth.cli import output as cli_output
from troth.cli import tree as cli_tree
from troth.cli.tree import (
    DEPTH_SHOWN_COUNT,
    INDENTED_LEVELS_COUNT,
    draw,
    function_name,
    in_order,
)
from troth.core import lineage


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    for variable in list(os.environ):
        if variable.startswith("TROTH_"):
            monkeypatch.delenv(variable)
    for module in (cli_output, cli_tree):
        monkeypatch.setattr(module, "now_ms", lambda: NOW_MS)
    with FakeApi() as fake:
        yield fake


def call(name: str) -> dict[str, str]:
    return {"data": base64.b64encode(json.dumps({"func": name}).encode()).decode()}


def by_id(*promises: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in promises}


def tagged(promise_id: str, **tags: str) -> dict[str, Any]:
    return promise(promise_id, tags={f"resonate:{name}": text for name, text in tags.items()})


def parents_of(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return lineage.parents_of("o", {name: row.get("tags") for name, row in found.items()})


def test_the_tree_is_drawn_from_all_pages(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    done = {"state": "RESOLVED", "createdOn": NOW_MS - 5000, "completedOn": NOW_MS - 2000}
    api.say(200, promise("o", param=call("checkout"), state="PENDING"))
    second_page = [promise("o.1.1", **done), promise("o.1", param=call("charge"), **done)]
    api.say(200, {"cursor": "c", "promises": [promise("o.10", **done), promise("o.9", **done)]})
    api.say(200, {"cursor": None, "promises": second_page})
    api.say(200, {"cursor": None, "promises": []})

    assert cli.run(["tree", "o", "--server", api.url]) == 0

    assert [request.query for request in api.heard] == [
        [],
        [("id", "o.*")],
        [("cursor", "c")],
        [("id", "o:*")],
    ]
    assert capsys.readouterr().out == (
        "o  checkout()  PENDING  for 1m, times out in 1h\n"
        "├── o.1  charge()  RESOLVED  after 3s, 2s ago\n"
        "│   └── o.1.1  RESOLVED  after 3s, 2s ago\n"
        "├── o.9  RESOLVED  after 3s, 2s ago\n"
        "└── o.10  RESOLVED  after 3s, 2s ago\n"
    )


def test_the_tree_as_json_has_parents(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [promise("o"), promise("o.1"), promise("o.1.1"), promise("o.2")]
    api.say(200, rows[0])
    api.say(200, {"cursor": None, "promises": rows[:0:-1]})
    api.say(200, {"cursor": None, "promises": []})

    assert cli.run(["tree", "o", "--json", "--depth", "1", "--server", api.url]) == 0

    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert json.loads(shown) == {
        "id": "o",
        "promises": [
            {"parent": None, "promise": rows[0]},
            {"parent": "o", "promise": rows[1]},
            {"parent": "o", "promise": rows[3]},
        ],
    }


def test_tags_find_calls_with_ids_of_their_own(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.say(200, tagged("o", root="top"))
    api.say(200, {"cursor": None, "promises": []})
    api.say(200, {"cursor": None, "promises": []})
    others = [tagged("x", root="top", parent="o"), tagged("y", root="top", parent="top")]
    api.say(200, {"cursor": None, "promises": others})

    assert cli.run(["tree", "o", "--server", api.url]) == 0

    assert api.heard[3].query == [("id", "*"), ("tags[resonate:root]", "top")]
    shown = capsys.readouterr().out
    assert "└── x" in shown
    assert "y" not in shown


def test_the_calls_of_a_workflow_are_drawn(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"target": "poll://any@default", "origin": "o", "branch": "o", "parent": "o"}
    api.say(200, tagged("o", **tags))
    api.say(200, {"cursor": None, "promises": []})
    calls = [tagged("o:1.1", parent="o:1", origin="o"), tagged("o:1", parent="o", origin="o")]
    api.say(200, {"cursor": None, "promises": calls})
    api.say(200, {"cursor": None, "promises": [tagged("named", parent="o:1", origin="o"), *calls]})

    assert cli.run(["tree", "o", "--json", "--server", api.url]) == 0

    assert api.heard[3].query == [("id", "*"), ("tags[resonate:origin]", "o")]
    rows = json.loads(capsys.readouterr().out)["promises"]
    assert [(row["parent"], row["promise"]["id"]) for row in rows] == [
        (None, "o"),
        ("o", "o:1"),
        ("o:1", "named"),
        ("o:1", "o:1.1"),
    ]


def chain(length: int) -> list[dict[str, Any]]:
    """A promise `o` and as many calls, each made by the one before."""
    ids = ["o", *(f"c{number}" for number in range(1, length))]
    return [
        promise("o"),
        *(tagged(child, parent=parent) for parent, child in pairwise(ids)),
    ]


def test_a_long_chain_is_drawn_in_lines_of_bounded_length(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = chain(3000)
    api.say(200, tagged("o", root="o"))
    api.say(200, {"cursor": None, "promises": []})
    api.say(200, {"cursor": None, "promises": []})
    api.say(200, {"cursor": None, "promises": rows[1:]})

    assert cli.run(["tree", "o", "--server", api.url]) == 0

    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == DEPTH_SHOWN_COUNT + 1
    assert max(len(line) for line in lines) < 4 * INDENTED_LEVELS_COUNT + 80
    assert f"(level {DEPTH_SHOWN_COUNT}) c{DEPTH_SHOWN_COUNT}" in lines[-1]
    assert f"{3000 - len(lines)} more below level {DEPTH_SHOWN_COUNT}" in shown.err


def test_the_time_to_draw_a_chain_grows_with_its_length() -> None:
    def seconds(length: int) -> float:
        found = by_id(*chain(length))
        began_s = time.process_time()
        parents = parents_of(found)
        drawn = draw(in_order("o", found, parents, None), parents)
        assert drawn.count("\n") == length - 1
        return time.process_time() - began_s

    # Ten times the length: 10 times the time, or 100 times if each row passed all above it.
    assert min(seconds(2000) for _ in range(2)) < 40 * min(seconds(200) for _ in range(5))


def test_a_promise_that_does_not_exist_has_no_tree(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse(40400, "The specified promise was not found")

    assert cli.run(["tree", "o", "--server", api.url]) == 1
    assert "40400" in capsys.readouterr().err


ids = st.lists(st.sampled_from("123"), max_size=4).map(lambda parts: ".".join(["o", *parts]))


@given(st.dictionaries(ids, st.fixed_dictionaries({}, optional={"parent": ids, "root": ids})))
def test_every_promise_of_the_tree_is_drawn_once_below_its_parent(
    tags: dict[str, dict[str, str]],
) -> None:
    found = by_id(
        promise("o"), *(tagged(promise_id, **given) for promise_id, given in tags.items())
    )
    parents = parents_of(found)
    order = [row["id"] for row in in_order("o", found, parents, None)]

    assert order[0] == "o"
    assert sorted(order) == sorted(["o", *parents])
    assert all(order.index(parent) < order.index(child) for child, parent in parents.items())


@pytest.mark.parametrize(
    ("param", "name"),
    [
        (call("buy"), "buy"),
        (call(""), None),
        (call("x" * 121), None),
        ({"data": base64.b64encode(b"[1]").decode()}, None),
        ({"data": base64.b64encode(b'{"func": 1}').decode()}, None),
        ({"data": base64.b64encode(b"\xff").decode()}, None),
        ({"data": "not base64"}, None),
        ({}, None),
    ],
)
def test_function_names(param: dict[str, str], name: str | None) -> None:
    assert function_name(promise(param=param)) == name
