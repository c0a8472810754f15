"""Planted faults in nodes, and in what a start says about the end of the log.

See `faults.py`. Each is noticed by a test that needs no other process.
"""

from .fault import Fault, fault

FILES, CHANGING = "node/files.py", "node/test_changing_files.py"
DIRECTORY, DOUBT = "persistence/data_directory.py", "persistence/test_log_end_doubt.py"

NODE_FAULTS: tuple[Fault, ...] = (
    fault(
        "a folder that is emptied may be a link",
        FILES,
        "_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
        "_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY",
        CHANGING,
        is_quick=True,
    ),
    fault(
        "a folder that is measured may be a link",
        FILES,
        "_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW",
        "_PLACE: Final = os.O_PATH | os.O_DIRECTORY",
        CHANGING,
        is_quick=True,
    ),
    fault(
        "a directory is emptied as long as new folders come",
        FILES,
        "if limit_count is not None and removed_count + len(pending) > limit_count:",
        "if False:",
        CHANGING,
    ),
    fault(
        "only the usual directory is searched for a server's key",
        "node/neighbors.py",
        "for root, directory in (*directories, *_directories_in_use()):",
        "for root, directory in directories:",
        "node/test_neighbors.py::test_a_key_is_found_by_what_a_server_has_open",
    ),
    fault(
        "headers of a result may fill the head of a request",
        "node/limits.py",
        "room_bytes = (request_head_bytes - REQUEST_HEAD_EXTRA_BYTES) * 3 // 4",
        "room_bytes = request_head_bytes",
        "node/test_limits_of_server.py",
    ),
    fault(
        "an answer that comes before all was sent is not read",
        "node/client.py",
        "return await connection.response()\n            raise",
        "raise\n            raise",
        "node/test_limits_of_server.py",
    ),
    fault(
        "what an exchange took along is forgotten when the shards fail",
        "http/nodes/node_exchange.py",
        "                placement.not_assigned(along)\n",
        "",
        "http/nodes/test_node_exchange.py",
    ),
    fault(
        "a node is told by its stream, too, of what an exchange took along",
        "shards/placement/node_connections.py",
        "self._waiting = kept + self._waiting",
        "self._waiting = waiting + self._waiting",
        "shards/test_taken_along.py",
        is_quick=True,
    ),
    fault(
        "a log is started that ends before the checkpoint",
        DIRECTORY,
        "if end.next_sequence < from_sequence:",
        "if False:",
        DOUBT,
        is_quick=True,
    ),
    fault(
        "a segment that was begun for nothing raises no doubt",
        DIRECTORY,
        "if end.is_begun_for_nothing:",
        "if False:",
        DOUBT,
    ),
    fault(
        "what the next segment says about the last one stays",
        "persistence/wal/segmented_log.py",
        '            if self._files.exists(f"{self._log_path}/{NEXT_NAME}"):\n'
        "                # It says",
        "            if False:\n                # It says",
        DOUBT,
    ),
)
