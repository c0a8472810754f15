"""`troth data move`: a data directory becomes the beginning of a log in PostgreSQL or NATS."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.nats import NatsServer
from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerDiedError, ServerProcess
from tests.persistence.groups import digests_of
from tests.shards.stage import EPOCH_MS
from troth.cli import command
from troth.persistence.conversion.convert import NewPlacement, convert
from troth.persistence.conversion.old_data import read_identity
from troth.persistence.data_directory import checkpoints_name, write_identity
from troth.persistence.files import RealFiles
from troth.persistence.inspection.data_statistics import read_statistics
from troth.persistence.streams.postgres_keeping import PostgresKeeping
from troth.shards.streams import moving
from troth.shards.streams.moving import MoveTarget, move
from troth.shards.streams.stream_snapshots import read_pieces, restore_snapshot

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parents[1] / "persistence" / "golden" / "version_2" / "data"
FAR_MS = 2**53

Troth = Callable[..., str]
_places = count()


@pytest.fixture
def postgres(postgres_server_of_session: PostgresServer) -> tuple[str, ...]:
    """Return the arguments for a new, empty database."""
    name = f"moved{next(_places)}"
    postgres_server_of_session.query(f"CREATE DATABASE {name}")
    return ("--log", postgres_server_of_session.url.replace("///postgres", f"///{name}"))


@pytest.fixture
def nats(nats_server_of_session: NatsServer) -> tuple[str, ...]:
    """Return the arguments for a new name in a NATS server."""
    url = f"{nats_server_of_session.url}/moved{next(_places)}"
    monitor = ("--nats-monitor", nats_server_of_session.monitor_url)
    return ("--log", url, *monitor, "--replicas", "1")


@pytest.fixture(params=["postgres", "nats"])
def place(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the arguments for an empty place in each engine."""
    arguments: tuple[str, ...] = request.getfixturevalue(request.param)
    return arguments


@pytest.fixture
def troth(capsys: pytest.CaptureFixture[str]) -> Troth:
    """Return what runs a command."""

    def run(*words: str, status: int = 0) -> str:
        assert command.run([*words]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with promises, tasks, an account and a token; a server wrote it."""
    with ServerProcess(tmp_path / "old") as server:
        for number in range(50):
            body = {"id": f"p{number}", "timeout": FAR_MS, "param": {"data": "YQ=="}}
            assert server.request("POST", "/promises", body)[0] == 201
        for number in range(25):
            done = {"state": "RESOLVED", "value": {"data": "YWI="}}
            assert server.request("PATCH", f"/promises/p{number}", done)[0] == 201
        assert server.terminate() == 0, server.log()
        yield server.data


def _promises(server: ServerProcess, **headers: str) -> list[Any]:
    """Return the promises of the directory, as a server has them."""
    found = [server.request("GET", f"/promises/p{number}", headers=headers) for number in range(50)]
    assert {status for status, _ in found} == {200}
    return [body for _, body in found]


def test_a_server_goes_on_in_the_engine_with_all_that_was_in_the_directory(
    tmp_path: Path, data: Path, place: tuple[str, ...], troth: Troth
) -> None:
    with ServerProcess(tmp_path / "old") as before:
        expected = _promises(before)
        assert before.terminate() == 0
    troth("account", "add", "ops", "--data", str(data))
    scopes = ("--scope", "promises:read")
    token = troth("token", "create", "ops", *scopes, "--data", str(data)).split()[0]
    entities = read_statistics(RealFiles(), data)

    said = json.loads(troth("data", "move", str(data), *place, "--json").splitlines()[0])

    assert (said["groups"], said["shards"]) == (1, entities.shard_count)
    assert said["entities"] >= 50
    assert said["snapshot_bytes"] > 1_000
    with ServerProcess(tmp_path / "new", *place) as server:
        assert "began with a snapshot" in server.log()
        headers = {"Authorization": f"Bearer {token}"}
        assert _promises(server, **headers) == expected, "also what it signs is as it was"
        assert server.request("GET", "/promises/p0")[0] == 401
    # It cannot be served, moved or written over any more.
    with pytest.raises(ServerDiedError, match="was moved to where --log says"):
        ServerProcess(tmp_path / "old").start()
    with pytest.raises(ServerDiedError, match=r"holds a server's own log \(troth.json.moved\)"):
        ServerProcess(tmp_path / "old", *place).start()
    assert "Give the directory that" in troth("data", "move", str(data), *place, status=1)
    (data / "troth.json.moved").rename(data / "troth.json")
    assert "has a log already" in troth("data", "move", str(data), *place, status=1)
    assert not data.with_name("data.moving").exists()


def test_a_directory_becomes_a_cluster(
    tmp_path: Path, data: Path, place: tuple[str, ...], troth: Troth
) -> None:
    named = ("--cluster", "orders")
    words = ("data", "move", str(data), *place)
    assert "give --cluster too" in troth(*words, "--groups", "2", status=2)
    if "--replicas" not in place:
        assert "for nats:// only" in troth(*words, *named, "--replicas", "1", status=2)

    said = troth(*words, *named, "--groups", "2")

    assert "groups    2" in said
    assert "Next: troth serve --log URL --cluster orders --node NAME --data ANOTHER-DIR" in said
    served = [*place, *named, "--node", "a"]
    if "--replicas" in served:  # a cluster has them since it was made
        at = served.index("--replicas")
        del served[at : at + 2]
    with ServerProcess(tmp_path / "a", *served) as server:
        assert len(_promises(server)) == 50
        body = {"id": "more", "timeout": FAR_MS}
        assert server.request("POST", "/promises", body)[0] == 201
    shown = json.loads(troth("cluster", "status", "orders", *place[:2], "--json"))
    assert [one["epoch"] for one in shown["groups"]] == [2, 2]
    (data / "troth.json.moved").rename(data / "troth.json")
    other = troth(*words, "--cluster", "other", "--groups", "2", status=1)
    assert "has the cluster orders. Nothing was changed." in other
    assert "has a log already" in troth(*words, *named, "--groups", "2", status=1)


def test_every_row_comes_to_its_group(tmp_path: Path, postgres: tuple[str, ...]) -> None:
    """What servers begin with is what a conversion to as many groups makes of the directory."""
    for name in ("data", "converted"):
        shutil.copytree(GOLDEN, tmp_path / name)
    convert(tmp_path / "converted", NewPlacement(groups_count=2), now_ms=EPOCH_MS)
    expected = digests_of(tmp_path / "converted")
    url = postgres[1]

    moved = move(tmp_path / "data", MoveTarget(url, "orders", 2), now_ms=EPOCH_MS)

    fetched = tmp_path / "fetched"
    for group in range(2):
        (fetched / checkpoints_name(group)).mkdir(parents=True)
        with contextlib.closing(PostgresKeeping(url, group)) as keeping:
            found = keeping.snapshot()
            assert found is not None
            file = tmp_path / f"{group}.snapshot"
            file.write_bytes(b"".join(read_pieces(keeping, found)))
        restore_snapshot(file, fetched / checkpoints_name(group), moved.identity, group)
    write_identity(RealFiles(), str(fetched), moved.identity)
    assert digests_of(fetched) == expected
    assert expected["live_promises"][0] > 0
    assert moved.identity.secret == read_identity(tmp_path / "converted")[1].secret


def test_a_move_that_was_interrupted_serves_nobody_and_is_run_again(
    tmp_path: Path,
    data: Path,
    place: tuple[str, ...],
    troth: Troth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between any two steps: in the engine there is a claim, and perhaps half a snapshot."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    words = ("data", "move", str(data), *place)
    for step in ("deal_out", "take_snapshot"):
        with monkeypatch.context() as patched:
            patched.setattr(moving, step, killed)
            with pytest.raises(Killed):
                troth(*words)
        assert (data / "troth.json").exists()
        with pytest.raises(ServerDiedError, match="is being moved here, and not all of it"):
            ServerProcess(tmp_path / f"early-{step}", *place).start()
    with ServerProcess(tmp_path / "old") as before:
        assert "in use by another process" in troth(*words, status=1)
        assert len(_promises(before)) == 50, "it is as it was"
    assert "moved to" in troth(*words)
    with ServerProcess(tmp_path / "new", *place) as server:
        assert len(_promises(server)) == 50


def test_a_place_that_is_used_is_not_moved_into(
    tmp_path: Path, data: Path, place: tuple[str, ...], troth: Troth
) -> None:
    with ServerProcess(tmp_path / "other", *place) as other:
        assert other.request("POST", "/promises", {"id": "its", "timeout": FAR_MS})[0] == 201
        assert "has a log already. Nothing was changed." in troth(
            "data", "move", str(data), *place, status=1
        )
        assert other.request("GET", "/promises/its")[0] == 200
    assert (data / "troth.json").exists()
