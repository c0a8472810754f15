"""Which promise is whose parent, by the traces of client libraries of both APIs."""

import time

import pytest

from troth.core.lineage import origin_of, parents_of, possible_parents

Lineages = dict[str, dict[str, str] | None]


def tagged(**tags: str) -> dict[str, str]:
    return {f"resonate:{name}": text for name, text in tags.items()}


def first(promise_id: str) -> dict[str, str]:
    """The tags of a workflow's first promise."""
    return tagged(origin=promise_id, branch=promise_id, parent=promise_id)


@pytest.mark.parametrize(
    ("lineages", "parents"),
    [
        pytest.param(
            dict.fromkeys(("o.1", "o.1.2", "o.3.4.5", "o2.1", "o2")),
            {"o.1": "o", "o.1.2": "o.1", "o.3.4.5": "o"},
            id="by the beginning of the id, whatever is missing between",
        ),
        pytest.param(
            dict.fromkeys(("o:1", "o:1.2", "o:3.4", "o:5:6", "oo:1")),
            {"o:1": "o", "o:1.2": "o:1", "o:3.4": "o", "o:5:6": "o"},
            id="by the beginning of a workflow's id",
        ),
        pytest.param(
            {"x": tagged(parent="o"), "y": tagged(parent="x"), "o.1": tagged(parent="y")},
            {"x": "o", "y": "x", "o.1": "y"},
            id="by the parent's tag, which wins over the id",
        ),
        pytest.param(
            {"x": tagged(root="o"), "y": tagged(root="p"), "o.1": tagged(parent="gone")},
            {"x": "o", "o.1": "o"},
            id="by the root's tag, if nothing says more",
        ),
        pytest.param(
            {"x": tagged(origin="o"), "y": tagged(origin="p"), "z": tagged(origin="x")},
            {"x": "o", "z": "x"},
            id="by the origin's tag, if nothing says more",
        ),
        pytest.param(
            {
                "o:1": tagged(origin="o", branch="o", parent="o", scope="local"),
                "o:2": tagged(origin="o", branch="o:2", parent="o", target="poll://any@g"),
                "o:2.1": tagged(origin="o", branch="o:2", parent="o:2"),
                "o:d0123456789abcdef": tagged(origin="o", branch="o:d0", parent="o"),
            },
            {"o:1": "o", "o:2": "o", "o:2.1": "o:2", "o:d0123456789abcdef": "o"},
            id="a workflow of the Python SDK 0.8",
        ),
        pytest.param(
            {
                "o.0": tagged(origin="o", branch="o.0", parent="o"),
                "o.0.1": tagged(origin="o.0", branch="o.0.1", parent="o.0"),
            },
            {"o.0": "o", "o.0.1": "o.0"},
            id="a workflow of the Rust SDK, whose origin is the nearest function called from afar",
        ),
        pytest.param(
            {"o.1700000000000": first("o.1700000000000"), "o.1700000000000:1": None},
            {},
            id="the first of a lineage is below nothing, whatever its id begins with",
        ),
        pytest.param(
            {
                "x": tagged(parent="y"),
                "y": tagged(parent="x"),
                "z": tagged(parent="z", root="o"),
            },
            {"z": "o"},
            id="parents in a circle lead nowhere",
        ),
        pytest.param({"o": tagged(parent="x"), "x": tagged(parent="o")}, {"x": "o"}, id="the root"),
    ],
)
def test_parents(lineages: Lineages, parents: dict[str, str]) -> None:
    assert parents_of("o", {"o": None, **lineages}) == parents


def test_possible_parents_come_with_the_most_certain_first() -> None:
    tags = tagged(parent="p", origin="r")

    assert list(possible_parents("a:b.c", tags)) == ["p", "a:b", "a", "r"]
    assert list(possible_parents(":.x", None)) == [":"]
    assert list(possible_parents("", None)) == []


def test_the_origin_is_what_either_api_calls_it() -> None:
    assert origin_of(tagged(origin="a", root="b")) == "a"
    assert origin_of(tagged(root="b")) == "b"
    assert origin_of({}) is None
    assert origin_of(None) is None


def test_lineages_of_others_are_passed_once() -> None:
    foreign = {f"c{number}": tagged(parent=f"c{number + 1}") for number in range(20_000)}
    began_s = time.process_time()

    assert parents_of("o", {"o": None, **foreign}) == {}
    assert time.process_time() - began_s < 5
