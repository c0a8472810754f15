"""What the proof of nodes that share groups waits for, with nodes that are not there."""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from . import shared_kill
from .cluster_kill import ProofEngine
from .shared_kill import SharedProof


def test_a_halted_node_may_have_groups_again_before_the_clients_of_its_round_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = Counter({"a": 1, "b": 2, "c": 1})
    engine = ProofEngine(("--log", "nats://nowhere/troth"), groups_count=4)
    proof = SharedProof(tmp_path, 1, print, engine, nodes_count=3)
    ending = proof._nodes[0]

    def takes_over(*_: object) -> None:
        holders.clear()
        holders.update({"b": 2, "c": 2})

    def goes_on(*_: object) -> None:
        holders.clear()
        holders.update({"a": 1, "b": 1, "c": 2})

    def wait_until(is_true: Callable[[], bool], _node: object) -> None:
        assert is_true(), "this never comes"

    monkeypatch.setattr(shared_kill, "holders_of", lambda _: holders)
    for name, act in {
        "_start_load": lambda *_, **__: ([], [], []),
        "_end": takes_over,
        "_go_on": goes_on,
        "_is_ready": lambda _: True,
        "_wait_until": wait_until,
        "_asking": contextlib.nullcontext,
        **dict.fromkeys(("_keep_short", "_wait_until_writes"), lambda *_: None),
        "_settle": lambda *_, **__: None,
    }.items():
        monkeypatch.setattr(proof, name, act)
    proof._round_of(0, "halt")
    assert proof._server is not ending
