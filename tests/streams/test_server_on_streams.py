"""A whole server with its log in PostgreSQL or NATS: killed, halted, replaced; its engine too."""

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.nats import NatsServer, nats_server
from tests.helpers.postgres import PostgresServer
from tests.helpers.server import ServerDiedError, ServerProcess, http_json
from tests.http.envelope.conversation import VERSION
from tests.proofs.cluster_kill import ClusterProof, ProofEngine
from tests.proofs.support import Client
from troth.cli import command
from troth.cli.doctor.database import examine_database
from troth.cli.doctor.findings import Finding, Soundness
from troth.core.limits import STREAM_LEASE_MS
from troth.http import serve
from troth.http.settings.settings import Settings

pytestmark = pytest.mark.slow
_PATIENCE_S = 60.0
_databases = count()


class StreamEngine(NamedTuple):
    """What keeps a new log: arguments of a server, how to halt it, and how to kill it.

    `creation` are those of `troth cluster create`, `serving` those of a server of a cluster.
    """

    arguments: tuple[str, ...]
    halted: Callable[[], AbstractContextManager[None]]
    crash: Callable[[], None]
    creation: tuple[str, ...]
    serving: tuple[str, ...]
    looked_at: Settings


@pytest.fixture
def postgres(postgres_server_of_session: PostgresServer) -> PostgresServer:
    return postgres_server_of_session


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """Return where a new, empty database is."""
    name = f"d{next(_databases)}"
    postgres.query(f"CREATE DATABASE {name}")
    return postgres.url.replace("///postgres", f"///{name}")


def _nats_arguments(nats: NatsServer) -> tuple[str, ...]:
    url = f"{nats.url}/s{next(_databases)}"
    return ("--log", url, "--nats-monitor", nats.monitor_url, "--replicas", "1")


@pytest.fixture(params=["postgres", "nats"])
def engine(request: pytest.FixtureRequest) -> StreamEngine:
    if request.param == "nats":
        nats: NatsServer = request.getfixturevalue("nats_server_of_session")

        def crash() -> None:
            nats.stop(signal.SIGKILL)
            nats.start()

        arguments = _nats_arguments(nats)
        log, url, *monitored = arguments[:4]
        return StreamEngine(
            arguments,
            nats.halted,
            crash,
            (log, url, "--replicas", "1"),
            (log, url, *monitored),
            Settings(log=url, nats_monitor=nats.monitor_url),
        )
    postgres: PostgresServer = request.getfixturevalue("postgres")

    def kill_backends() -> None:
        """Kill processes; after each PostgreSQL starts again from its own log."""
        for backend in postgres.backends():
            os.kill(backend, signal.SIGKILL)

    url = request.getfixturevalue("url")
    arguments = ("--log", url)
    return StreamEngine(
        arguments, postgres.halted, kill_backends, arguments, arguments, Settings(log=url)
    )


def _create(server: ServerProcess, name: str) -> int:
    body = {"id": name, "timeout": 2**53, "param": {"data": "YQ=="}}
    status, _ = http_json("POST", f"{server.url}/promises", body)
    return status


def _is_there(server: ServerProcess, name: str) -> bool:
    """Return whether a server has a promise; ask again if its lease is over for a moment."""
    ends_s = time.monotonic() + _PATIENCE_S
    while (status := server.request("GET", f"/promises/{name}")[0]) == 503:
        assert time.monotonic() < ends_s, server.log()
        time.sleep(0.05)
    assert status in (200, 404), status
    return status == 200


class Load:
    """Creates promises, one after the other; `made` are those that were acknowledged."""

    def __init__(self, server: ServerProcess, prefix: str = "p") -> None:
        self.made: list[str] = []
        self._server = server
        self._prefix = prefix
        self._is_over = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        for number in count():
            if self._is_over:
                return
            try:
                if _create(self._server, f"{self._prefix}{number}") == 201:
                    self.made.append(f"{self._prefix}{number}")
            except OSError:
                time.sleep(0.01)  # the server is not there just now

    def wait_for_more(self, more_count: int = 20) -> None:
        """Wait until so many more were acknowledged."""
        wanted_count = len(self.made) + more_count
        ends_s = time.monotonic() + _PATIENCE_S
        while len(self.made) < wanted_count:
            assert time.monotonic() < ends_s, "nothing is acknowledged any more"
            time.sleep(0.01)


def _assert_all_there(server: ServerProcess, names: list[str]) -> None:
    missing = [name for name in names if not _is_there(server, name)]
    assert not missing, (len(missing), len(names), missing[:5])


def test_nothing_acknowledged_is_lost_with_the_server_and_its_directory(
    tmp_path: Path, engine: StreamEngine
) -> None:
    with ServerProcess(tmp_path / "a", *engine.arguments) as first, Load(first) as load:
        load.wait_for_more()
        first.kill9()
    with ServerProcess(tmp_path / "b", *engine.arguments) as second:
        _assert_all_there(second, load.made)
        assert _create(second, "another") == 201
        status, made = second.request("POST", "/admin/snapshots", headers=_operator(second))
        assert (status, made["name"], made["problem"]) == (201, "database", None)
        assert _create(second, "last") == 201
        assert second.terminate() == 0
    began_s = time.monotonic()
    with ServerProcess(tmp_path / "c", *engine.arguments) as third:
        _assert_all_there(third, [*load.made, "another", "last"])
        assert time.monotonic() - began_s < 30
        assert "what is acknowledged is on one machine" in third.log()
        assert "began with a snapshot" in third.log()
        ((promises, records),) = re.findall(r"promises=(\d+) records=(\d+)", third.log())
        assert int(promises) >= len(load.made) + 2
        assert 1 <= int(records) < 100, "what was in the snapshot is read again"


def test_nothing_acknowledged_is_lost_when_the_engine_crashes(
    tmp_path: Path, engine: StreamEngine
) -> None:
    with ServerProcess(tmp_path / "a", *engine.arguments) as server:
        with Load(server) as load:
            for _ in range(2):
                load.wait_for_more()
                engine.crash()
                load.wait_for_more()
        _assert_all_there(server, load.made)
    with ServerProcess(tmp_path / "b", *engine.arguments) as other:
        _assert_all_there(other, load.made)


def test_a_start_reads_only_what_no_checkpoint_has(
    tmp_path: Path, url: str, postgres: PostgresServer
) -> None:
    """A database that was set back since is refused, but not by an empty directory."""
    with ServerProcess(tmp_path / "a", "--log", url) as server:
        for number in range(140):
            assert _create(server, f"p{number}") == 201
        assert server.terminate() == 0
        server.start()
        _wait_for("recovery_ms=", server, 2)
        recovered = re.findall(r"promises=(\d+) records=(\d+)", server.log())
        assert recovered[-1][0] == "140"
        assert int(recovered[-1][1]) == 0
        assert _is_there(server, "p139")
        assert server.terminate() == 0
        mark = json.loads((server.data / "stream.json").read_text())["number"]
        assert mark >= 64
        postgres.query(f"DELETE FROM troth_log_0_0 WHERE number >= {mark}", url)
        with pytest.raises(ServerDiedError, match="set back to an earlier state"):
            server.start()


def test_an_owner_that_is_killed_or_halted_is_replaced_by_one_that_stands_by(
    tmp_path: Path, url: str
) -> None:
    """The short version of the proof."""
    print("seed 1")
    proof = ClusterProof(tmp_path, 1, print, ProofEngine(("--log", url)), 2)

    proof.run_all(2)

    print(proof.costs())
    assert proof.report.rounds_count == proof.report.kills_count == 2
    assert proof.report.acknowledged_count > 50, "there was hardly any load"
    assert set(proof.away_s) == {"kill", "halt"}


def test_a_command_of_the_operator_does_not_stand_by(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waited for the server elsewhere to end, without a word; SIGTERM did not end it."""
    monkeypatch.setattr(serve, "_TAKEOVER_LIMIT_S", 5.0)
    monkeypatch.setenv("TROTH_LOG", url)
    with ServerProcess(tmp_path / "a", "--log", url, "--node", "a") as server:
        assert command.run(["account", "add", "ann", "--data", str(tmp_path / "b")]) == 1
        assert "has its log" in capsys.readouterr().err
        assert server.terminate() == 0
    assert command.run(["account", "add", "ann", "--data", str(tmp_path / "b")]) == 0


def test_a_server_without_its_engine_tells_nothing_after_its_lease(
    tmp_path: Path, engine: StreamEngine
) -> None:
    """It is halted: nobody knows whether another server owns the log."""
    with ServerProcess(tmp_path / "a", *engine.arguments) as server:
        assert _create(server, "one") == 201
        with engine.halted():
            time.sleep((STREAM_LEASE_MS + 500) / 1000)
            answers: list[int] = []
            asking = threading.Thread(
                target=lambda: answers.append(server.request("GET", "/promises/one")[0])
            )
            asking.start()
            _wait_for("requests are refused", server)
            assert not answers, "it has answered, though its lease was over"
            status, answer = server.request("GET", "/promises/one")
            assert status == 503
            assert "What keeps the log does not answer" in json.dumps(answer)
            assert server.request("GET", "/ready")[0] == 503
            assert server.request("GET", "/health")[0] == 200
            waiting = threading.Thread(target=lambda: answers.append(_envelope_get(server, "one")))
            waiting.start()
            waiting.join(0.5)
            assert not answers, "requests of POST / wait"
        asking.join(_PATIENCE_S)
        waiting.join(_PATIENCE_S)
        assert answers == [200, 200]
        _wait_for("answers again", server)
        assert _create(server, "two") == 201


def test_nodes_of_a_cluster_take_over_all_groups(
    tmp_path: Path, engine: StreamEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The owner is killed, then the next one's process 0 is halted: its others must not go on."""

    def cluster(*words: str, status: int = 0) -> str:
        log = engine.creation if words[0] == "create" else engine.creation[:2]
        assert command.run(["cluster", *words, *log]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    def assert_owned(*expected: tuple[str, int]) -> None:
        """Wait until it is noted who owns the groups, and in which epochs."""
        ends_s = time.monotonic() + _PATIENCE_S
        while True:
            shown = json.loads(cluster("status", "orders", "--json"))
            found = [(one["node"], one["epoch"]) for one in shown["groups"]]
            if found == [*expected]:
                return
            assert time.monotonic() < ends_s, found

    assert "has no cluster" in cluster("status", status=1)
    options = (*engine.serving, "--cluster", "orders", "--node")
    with pytest.raises(ServerDiedError, match="has no cluster"):
        ServerProcess(tmp_path / "early", *options, "a").start()
    assert "2 groups, 16 shards" in cluster("create", "orders", "--groups", "2")
    assert "was there already" in cluster("create", "orders", "--groups", "2")
    for other in (("orders", "--groups", "3"), ("other", "--groups", "2")):
        assert "has the cluster orders already" in cluster("create", *other, status=1)
    assert "at least 9" in cluster("create", "x", "--groups", "9", "--shards", "8", status=2)
    with pytest.raises(ServerDiedError, match="has a cluster of 2 groups"):
        ServerProcess(tmp_path / "early", *engine.arguments).start()
    with pytest.raises(ServerDiedError, match="has the cluster orders, not others"):
        ServerProcess(tmp_path / "early", *engine.serving, "--cluster", "others").start()
    second = ServerProcess(tmp_path / "b", *options, "b")
    with ServerProcess(tmp_path / "a", *options, "a") as first, contextlib.ExitStack() as closing:
        closing.callback(second.__exit__, None, None, None)
        with Load(first) as load:
            load.wait_for_more()
            assert command.run(["restart", "--data", str(first.data)]) == 0
            assert "process 1: restarted" in capsys.readouterr().out
            load.wait_for_more()
            assert_owned(("a", 2), ("a", 2))
            with _standing_by(second):
                assert second.request("GET", "/promises/p0")[0] == 503
                load.wait_for_more()
                status, made = first.request("POST", "/admin/snapshots", headers=_operator(first))
                assert (status, made["name"], made["problem"]) == (201, "database", None)
                os.kill(first.serving_ids()[1], signal.SIGKILL)
                assert_owned(("a", 2), ("a", 3))
                load.wait_for_more()
                first.kill9()
        _assert_all_there(second, load.made)
        assert_owned(("b", 3), ("b", 4))
        seen = {one.subject: one.found for one in examine_database(engine.looked_at)}
        assert "of 2 groups" in seen["log"]
        assert "in use by a, b" in seen["log"]
        # The name of the one that was killed is taken for 12 s.
        third = ServerProcess(tmp_path / "c", *options, "c")
        closing.callback(third.__exit__, None, None, None)
        with Load(second, "q") as more:
            more.wait_for_more()
            with _standing_by(third):
                os.kill(second.serving_ids()[0], signal.SIGSTOP)
        assert second.wait() == 1
        assert "Another server has taken over the cluster orders" in second.log()
        _assert_all_there(third, load.made + more.made)
        assert_owned(("c", 4), ("c", 5))
        assert third.terminate() == 0


@contextlib.contextmanager
def _standing_by(server: ServerProcess) -> Iterator[None]:
    """Start a server; in the block it stands by with all its processes, at its end it serves."""
    stood_by_count = server.log().count("standing by until")
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        _wait_for("standing by until", server, stood_by_count + 2)
        yield
    finally:
        starting.join()


def _operator(server: ServerProcess) -> dict[str, str]:
    """Return the headers of the operator of a server."""
    return {"Authorization": f"Bearer {(server.data / 'admin.key').read_text().strip()}"}


def _envelope_get(server: ServerProcess, name: str) -> int:
    """Ask for a promise by the envelope protocol; return the status in the answer."""
    head = {"corrId": "1", "version": VERSION}
    _, answer = server.request(
        "POST", "/", {"kind": "promise.get", "head": head, "data": {"id": name}}
    )
    status: int = answer["head"]["status"]
    return status


def _wait_for(text: str, server: ServerProcess, times: int = 1) -> None:
    """Wait until a text was written to the server's log so many times."""
    ends_s = time.monotonic() + _PATIENCE_S
    while server.log().count(text) < times:
        assert time.monotonic() < ends_s, server.log()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--log", "mysql://h/d"], "must be none or a connection string"),
        (["--replicas", "3"], "replicas: must be as it is by default, unless log"),
        (["--log", "postgresql://h/d", "--unsafe-fsync"], "unless log is in NATS"),
        (["--nats-monitor", "ftp://h"], "must be none, URLs that begin with http"),
        (["--log", "postgresql://h/d", "--processes", "2"], "with log one process has all of it"),
        (["--cluster", "c"], "none, unless log says where it is"),
        (["--log", "postgresql://h/d", "--cluster", "c", "--processes", "2"], "one for each of"),
        (["--log", "postgresql://h/d", "--cluster", "c", "--shards", "1"], "must be auto"),
        (["--log", "postgresql://h/d", "--cluster", "c", "--convert"], "keeps its number of"),
        (["--log", "nats://h/d", "--cluster", "c", "--replicas", "3"], "replicas: must be auto"),
        (["--log", "postgresql://h/d", "--in-memory"], "log says where everything is kept"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    tmp_path: Path, arguments: list[str], text: str
) -> None:
    server = ServerProcess(tmp_path, *arguments)
    with pytest.raises(ServerDiedError, match=text):
        server.start()


def test_an_owner_on_nats_that_is_killed_is_replaced_by_one_that_stands_by(
    tmp_path: Path, nats_server_of_session: NatsServer
) -> None:
    """The shortest version of the proof."""
    print("seed 1")
    engine = ProofEngine(_nats_arguments(nats_server_of_session))
    proof = ClusterProof(tmp_path, 1, print, engine, 2)

    proof.run_all(1)

    print(proof.costs())
    assert proof.report.kills_count == 1
    assert proof.report.acknowledged_count > 25, "there was hardly any load"


def test_nats_that_may_lose_what_it_acknowledges_is_refused_and_can_be_accepted(
    tmp_path: Path,
) -> None:
    with nats_server(sync_interval="2m") as unsafe:
        url = f"{unsafe.url}/s{next(_databases)}"
        log = ("--log", url, "--replicas", "1")
        for arguments, text in (
            (log, "Name their monitors with --nats-monitor, or accept"),
            ((*log, "--nats-monitor", unsafe.monitor_url), "n1 acknowledge what no disk has"),
            ((*log, "--nats-monitor", "http://127.0.0.1:1"), "no monitor answers"),
        ):
            with pytest.raises(ServerDiedError, match=text):
                ServerProcess(tmp_path / "refused", *arguments).start()
        accepted = (*log, "--nats-monitor", unsafe.monitor_url, "--unsafe-fsync")
        with ServerProcess(tmp_path / "a", *accepted) as server:
            assert "a power cut can lose acknowledged writes" in server.log()
            key = (server.data / "admin.key").read_text().strip()
            headers = {"Authorization": f"Bearer {key}"}
            with Client(server.url, headers=headers) as http:
                assert "\ntroth_stream_unsafe_fsync 1.0\n" in http.call("GET", "/metrics")[1]


def test_doctor_looks_at_nats(tmp_path: Path, nats_server_of_session: NatsServer) -> None:
    nats = nats_server_of_session
    arguments = _nats_arguments(nats)
    url = arguments[1]

    def found(log: str, **options: Any) -> dict[str, Finding]:
        settings = Settings(**{"log": log, "nats_monitor": nats.monitor_url, **options})
        return {one.subject: one for one in examine_database(settings)}

    assert found("nats://127.0.0.1:1")["NATS"].verdict is Soundness.FAILURE
    assert found("nats://h/a/b")["NATS"].verdict is Soundness.FAILURE
    assert found(url)["log"].verdict is Soundness.NOTE, "there is none yet"
    subject = "servers of NATS"
    assert found(url, nats_monitor=None)[subject].verdict is Soundness.FAILURE
    unsafe = found(url, nats_monitor=None, unsafe_fsync=True)
    assert unsafe[subject].verdict is Soundness.WARNING
    silent = found(url, nats_monitor="http://127.0.0.1:1")
    assert silent[subject].verdict is Soundness.WARNING
    with ServerProcess(tmp_path / "a", *arguments, "--node", "first"):
        seen = found(url)
        assert seen["NATS"].verdict in (Soundness.OK, Soundness.WARNING)
        assert seen[subject].verdict is Soundness.OK
        assert seen["copies of the log"].verdict is Soundness.WARNING
        assert seen["log"].verdict is Soundness.OK
        assert "in use by first" in seen["log"].found
        assert "clock of NATS" not in seen


def test_a_directory_of_a_server_with_its_own_log_is_refused(tmp_path: Path, url: str) -> None:
    with ServerProcess(tmp_path) as server:
        assert server.terminate() == 0

    with pytest.raises(ServerDiedError, match="holds a server's own log"):
        ServerProcess(tmp_path, "--log", url).start()


def test_doctor_looks_at_the_database(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(log: str) -> dict[str, Finding]:
        return {one.subject: one for one in examine_database(Settings(log=log))}

    assert list(examine_database(Settings())) == []
    assert found("postgresql:///d?host=/nowhere")["database"].verdict is Soundness.FAILURE
    assert found("postgresql://h/d?colour=blue")["database"].verdict is Soundness.FAILURE
    assert found(url)["log"].verdict is Soundness.NOTE, "there is none yet"
    with ServerProcess(tmp_path / "a", "--log", url, "--node", "first"):
        seen = found(url)
        assert seen["database"].verdict in (Soundness.OK, Soundness.WARNING)
        assert seen["standby of the database"].verdict is Soundness.WARNING
        assert seen["log"].verdict is Soundness.OK
        assert "in use by first" in seen["log"].found
        assert "clock of the database" not in seen
    later_s = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later_s)
    assert found(url)["clock of the database"].verdict is Soundness.WARNING
