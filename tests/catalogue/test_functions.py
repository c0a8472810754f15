"""The catalogue's entries about functions: what they do to the node that runs them."""

import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.server import REPOSITORY, ServerProcess
from tests.http import test_log_output
from tests.http.sockets import test_early_answers
from tests.http.wire import test_decoding_properties
from tests.node import (
    test_changing_files,
    test_limits_of_server,
    test_neighbors,
    test_node,
    test_node_parts,
    test_surroundings,
)
from tests.node.conftest import Ground
from tests.node.fake_server import FakeServer
from tests.node.node_process import MODES, NodeProcess
from tests.persistence import test_log_end_doubt
from troth.node import runner


def test_function_swaps_a_folder_for_a_link_while_root_empties_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "function swaps a folder for a link while root empties it": no file of the host changes."""
    test_changing_files.test_a_folder_that_becomes_a_link_changes_no_file_elsewhere(
        tmp_path, monkeypatch
    )


def test_function_swaps_a_folder_for_a_link_while_root_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "function swaps a folder for a link while root empties it": nor is it looked at."""
    test_changing_files.test_a_folder_that_becomes_a_link_is_not_looked_into(tmp_path, monkeypatch)


def test_functions_read_the_servers_key(tmp_path: Path) -> None:
    """ "node and server of one user: functions read the server's key": the node does not start.

    `tests/node/test_neighbors.py` has it with a real server and a real node.
    """
    test_neighbors.test_a_key_is_found_by_what_a_server_has_open(tmp_path, "lock")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_forked_grandchild_of_a_function_survives_sigkill_of_the_node(
    tmp_path: Path, mode: str
) -> None:
    """ "a forked grandchild of a function survives SIGKILL of the node": a guard ends it."""
    with FakeServer() as server:
        test_node.test_functions_do_not_outlive_a_node_that_is_killed(tmp_path, server, mode)


def test_newest_log_segment_zeroed() -> None:
    """ "newest log segment zeroed, and started from as if it were new": said where others show it.

    After a checkpoint of what is missing, the start is refused, and changes nothing.
    """
    test_log_end_doubt.test_a_zeroed_segment_after_a_roll_over_is_said()
    test_log_end_doubt.test_a_zeroed_segment_that_was_half_full_is_said()
    test_log_end_doubt.test_a_log_that_ends_before_the_checkpoint_is_refused_and_left_as_it_is()


def test_a_refusal_seen_as_a_broken_pipe(shared_server: ServerProcess) -> None:
    """ "a refusal seen as a broken pipe": who sends 15 MB before reading gets the 413."""
    test_early_answers.test_a_body_that_is_refused_from_its_head_is_not_a_broken_pipe(
        shared_server, "/promises", 15 << 20, 413
    )


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """A node, and the server that it works for."""
    with FakeServer() as server, NodeProcess(tmp_path / "node", server, "--memory", "128") as node:
        assert server.connected.wait(30), node.log()
        yield Ground(server, node)


def test_programs_that_a_function_starts_die_of_an_inherited_limit(ground: Ground) -> None:
    """ "programs that a function starts die of an inherited limit": of what they only reserve."""
    test_surroundings.test_a_program_that_reserves_much_can_be_started_by_python(ground)
    test_surroundings.test_memory_that_a_process_has_for_itself_is_limited(ground)


def test_what_is_written_at_import_exists_in_the_first_execution_only(ground: Ground) -> None:
    """ "what is written at import exists in the first execution only": in none of them."""
    test_surroundings.test_files_of_loading_are_in_no_execution(ground)


def test_a_task_id_longer_than_a_constant() -> None:
    """ "a setting on one side, a constant on the other": the limit of an id is a setting."""
    test_decoding_properties.test_a_task_id_may_be_as_long_as_the_head_of_a_request_that_a_setting_allows()


@pytest.mark.slow
def test_a_setting_on_one_side_a_constant_on_the_other(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ "a setting on one side, a constant on the other": the node learns what the server takes."""
    test_limits_of_server.test_headers_of_a_result_fit_into_the_request_that_carries_them()
    test_limits_of_server.test_a_body_limit_that_was_raised_holds_for_results_and_archives(
        tmp_path, tmp_path_factory
    )


def test_what_cannot_be_represented_is_answered_as_success(tmp_path: Path) -> None:
    """ "what cannot be represented is answered as success": refused by name, in JavaScript.

    `tests/node/test_results.py` has all of them, in a node. Here the runner is alone.
    """
    (tmp_path / "handler.js").write_text("exports.handle = () => ({items: new Set([1])});")
    program = textwrap.dedent(
        f"""
        import json, os, socket, subprocess
        # Descriptor 3 is the other end's.
        kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
        ours, theirs = socket.socketpair()
        runner = ["node", {str(REPOSITORY / "node" / "runner.js")!r}, {str(tmp_path)!r}, "1000"]
        os.dup2(theirs.fileno(), 3)
        process = subprocess.Popen(runner, pass_fds=(3,))
        os.close(3)
        theirs.close()
        meta = json.dumps(dict(headers=[], query="", method="POST", host="", id="1")).encode()
        payload = len(meta).to_bytes(4, "big") + meta
        ours.sendall(b"Q" + len(payload).to_bytes(4, "big") + payload)
        answer = b""
        while b"}}" not in answer and (part := ours.recv(65536)):
            answer += part
        ours.close()
        process.wait()
        print(answer[5:].decode())
        """
    )
    command = ("python3", "-c", program)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert "the result.items is a Set, which JSON cannot hold" in done.stdout


def test_what_cannot_be_represented_in_python() -> None:
    """ "what cannot be represented is answered as success": nor is a name left out in silence."""
    for value in ({"Body": "x", "Headers": {}}, {"Header": {"a": None}}, {1, 2}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            runner.response_of(value)
    # What the server would leave out is not sent to it.
    for header in (["a", "\u00fc"], ["content-encoding", "gzip"]):
        test_node_parts.test_a_response_that_cannot_be_sent_is_a_failure(
            {"status": 200, "headers": [header]}
        )


def test_the_log_keeps_the_wrong_end() -> None:
    """ "the log keeps the wrong end": of what a function has printed, the reason is last."""
    test_log_output.test_of_what_a_program_printed_the_end_is_kept_on_one_line()
