"""Replay all recorded vectors and scenes through any node of a cluster whose groups are shared.

HAProxy stands in front of three nodes and sends each request to the next one, also those of one
connection. So a promise is created at one node, read at another and completed at the third, and
most requests come to a node that does not own their group. Workers' streams go to any node too.
"""

import argparse
import tempfile
from pathlib import Path

from tests.conformance.replaying import all_vectors, replay, replay_scenes_patiently
from tests.deploy.cluster_world import NODES, haproxy
from tests.helpers.shared_nodes import ENGINES, place_of, shared_nodes, until_served


def run(engine: str) -> None:
    """Replay everything once, and print what holds. Raises AssertionError with what differs."""
    with (
        tempfile.TemporaryDirectory(prefix="troth-vectors-") as name,
        place_of(engine) as place,
        shared_nodes(Path(name), place.url, NODES, len(NODES), place.monitor) as three,
        haproxy(Path(name), three.nodes, "roundrobin") as front,
    ):
        until_served(f"{front.url}/ready", f"{front.poll_url}/ping")
        said = replay(front)
        assert said == all_vectors(), said
        print(f"{engine}: {said}", flush=True)
        print(f"{engine}: {replay_scenes_patiently(front)}", flush=True)


def main() -> None:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: both")
    failed = []
    for engine in parser.parse_args().engine or ENGINES:
        try:
            run(engine)
        except AssertionError as error:
            failed.append(engine)
            print(f"{engine}: {error}", flush=True)
    if failed:
        raise SystemExit(f"differs on {' and '.join(failed)}")


if __name__ == "__main__":
    main()
