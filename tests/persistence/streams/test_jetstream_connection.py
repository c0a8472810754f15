"""Who may connect to NATS and how, what its servers say of themselves, and what a URL may say."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.helpers.nats import NatsServer, nats_server
from tests.helpers.nats_credentials import operated_account
from troth.persistence.streams.jetstream_connection import JetStreamConnection, JetStreamRefusal
from troth.persistence.streams.jetstream_layout import refused
from troth.persistence.streams.jetstream_servers import look_at_servers
from troth.persistence.streams.jetstream_stream import JetStreamStream
from troth.persistence.streams.jetstream_url import read_jetstream_url
from troth.persistence.streams.stream import StreamRefused, StreamUnreachable

pytestmark = pytest.mark.slow

_ACCOUNTS = """
accounts {
  troth { jetstream: enabled, users: [{user: troth, password: "it's me"}] }
  other { users: [{user: other, password: other}] }
  SYS { users: [{user: system, password: system}] }
}
system_account: SYS
"""


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with nats_server(_ACCOUNTS) as server:
        yield server


def _found(url: str) -> bytes:
    stream = JetStreamStream(url, replicas_count=1)
    try:
        return stream.found(b"who it is")
    finally:
        stream.close()


def test_a_user_with_a_password_is_let_in(server: NatsServer) -> None:
    assert _found(f"nats://troth:it%27s%20me@{server.address}/a") == b"who it is"


@pytest.mark.parametrize("who", ["", "troth:wrong@", "wrong@"])
def test_a_wrong_user_is_refused_without_a_second_try(server: NatsServer, who: str) -> None:
    with pytest.raises(StreamRefused, match="does not accept this user") as refused:
        _found(f"nats://{who}{server.address}/a")
    assert "wrong" not in str(refused.value)


def test_servers_that_are_away_for_now_are_no_refusal() -> None:
    """As on a busy machine right after the start of all of them."""
    for text, kind in (
        ("peer offline", StreamUnreachable),
        ("insufficient storage", StreamRefused),
    ):
        with pytest.raises(kind, match=text), refused("nats://here/log"):
            raise JetStreamRefusal(10005, f"no suitable peers for placement, {text}")


def test_an_account_without_jetstream_is_refused(server: NatsServer) -> None:
    with pytest.raises(StreamRefused, match="JetStream is not enabled, for this account at least"):
        _found(f"nats://other:other@{server.address}/a")


def test_no_server_is_told_as_such_and_the_next_is_asked(server: NatsServer) -> None:
    with pytest.raises(StreamUnreachable, match="Connect call failed"):
        _found("nats://127.0.0.1:1/a")
    assert _found(f"nats://troth:it%27s%20me@127.0.0.1:1,{server.address}/a") == b"who it is"


@pytest.mark.parametrize("count", [1, 8])
def test_questions_that_are_sent_together_end_when_no_server_answers(
    server: NatsServer, count: int
) -> None:
    """They are the first ones: none of them may end the others while it connects."""
    url = f"nats://troth:it%27s%20me@{server.address}/a"
    connection = JetStreamConnection(read_jetstream_url(url), 300)
    questions: list[tuple[str, dict[str, str]]] = [("INFO", {})] * count
    with server.halted(), pytest.raises(StreamUnreachable):
        connection.api_each(questions)
    assert len(connection.api_each(questions)) == count
    with server.halted(), pytest.raises(StreamUnreachable):
        connection.api_each(questions)
    connection.close()


def test_a_connection_can_be_encrypted_and_both_ends_known(tmp_path: Path) -> None:
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "server", "client")}
    authority.cert_pem.write_to_path(files["ca"])
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files["server"])
    authority.issue_cert("troth.example").private_key_and_cert_chain_pem.write_to_path(
        files["client"]
    )
    settings = (
        f'tls {{ cert_file: "{files["server"]}", key_file: "{files["server"]}", '
        f'ca_file: "{files["ca"]}", verify: true }}'
    )
    with nats_server(settings) as server:
        known = f"tls://{server.address}/a?tls_ca={files['ca']}"
        assert _found(f"{known}&tls_cert={files['client']}") == b"who it is"
        with pytest.raises((StreamUnreachable, StreamRefused)):
            _found(known)
        with pytest.raises(StreamUnreachable, match=r"(?i)certificate"):
            _found(f"tls://{server.address}/a")
    with pytest.raises(StreamRefused, match="The files for TLS in log cannot be used"):
        read_jetstream_url("tls://h/a?tls_ca=/nowhere")


def test_a_file_of_credentials_lets_in(tmp_path: Path) -> None:
    made = operated_account()
    file, another = tmp_path / "troth.creds", tmp_path / "another.creds"
    file.write_text(made.credentials)
    another.write_text(operated_account().credentials)
    with nats_server(made.settings) as server:
        assert _found(f"nats://{server.address}/a?credentials={file}") == b"who it is"
        with pytest.raises(StreamRefused, match="does not accept this user"):
            _found(f"nats://{server.address}/a?credentials={another}")
    with pytest.raises(StreamRefused, match="credentials in log cannot be read"):
        read_jetstream_url("nats://h/a?credentials=/nowhere")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nats:///a", "it names no server"),
        ("nats://h/a/b", "a log's name has letters"),
        ("nats://h/a?colour=blue", "colour is not one of credentials"),
        ("nats://h:many/a", "Port could not be cast"),
        ("nats://h,:4222/a", "a server has no name"),
        ("nats://h/a?tls_ca", "bad query field"),
    ],
)
def test_what_is_no_url_is_refused(url: str, text: str) -> None:
    with pytest.raises(StreamRefused, match=f"{text}.*Give one such as nats://host:4222/NAME"):
        read_jetstream_url(url)


def test_a_url_says_who_asks_and_shows_no_secret() -> None:
    url = read_jetstream_url("nats://me:se%40cret@one,two:4223,[::1]:7/x")

    assert url.servers == ("nats://one:4222", "nats://two:4223", "nats://[::1]:7")
    assert url.options == {"user": "me", "password": "se@cret"}
    assert (url.name, url.shown) == ("x", "nats://one,two:4223,[::1]:7/x")
    assert "cret" not in repr(url)
    assert read_jetstream_url("nats://token@h").options == {"token": "token"}
    assert read_jetstream_url("nats://h").name == "troth"


# What servers say of themselves


def test_a_server_says_that_it_syncs(server: NatsServer) -> None:
    found = look_at_servers(f"{server.monitor_url},http://127.0.0.1:1")
    assert (found.names, found.too_old, found.unsafe) == (("n1",), (), ())
    assert found.silent == ("http://127.0.0.1:1",)


def test_servers_say_so_to_the_system_account_too(server: NatsServer) -> None:
    assert look_at_servers(f"nats://system:system@{server.address}").names == ("n1",)
    assert look_at_servers(f"nats://other:other@{server.address}").names == ()
    assert look_at_servers("nats://system:system@127.0.0.1:1").silent


def test_a_server_says_that_it_does_not_sync() -> None:
    with nats_server(sync_interval="2m") as server:
        assert look_at_servers(server.monitor_url).unsafe == ("n1",)


@contextmanager
def _monitor(said: dict[str, Any]) -> Iterator[str]:
    """Run a monitor that says something."""

    class Monitor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Monitor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("said", "too_old", "unsafe"),
    [
        ({"version": "2.11.9", "jetstream": {}}, ("n1 (2.11.9)",), ()),
        ({"version": "2.12.0", "jetstream": {}}, (), ()),
        ({"version": "2.12.0", "jetstream": {"config": {"sync_interval": 1}}}, (), ("n1",)),
        ({"version": "3.0.0-beta", "jetstream": {"config": {"sync_always": True}}}, (), ()),
        ({}, ("n1 (None)",), ()),
    ],
)
def test_what_servers_say_is_understood(
    said: dict[str, Any], too_old: tuple[str, ...], unsafe: tuple[str, ...]
) -> None:
    with _monitor({"server_name": "n1", **said}) as url:
        found = look_at_servers(url)
    assert (found.too_old, found.unsafe) == (too_old, unsafe)


def test_an_old_server_is_refused_where_it_is_connected_to(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.persistence.streams.jetstream_connection.VERSION_LEAST", (99, 0))
    connection = JetStreamConnection(read_jetstream_url(f"nats://other:other@{server.address}"))
    with pytest.raises(StreamRefused, match=r"nats-server 99\.0 or newer is needed \(it has"):
        connection.api("INFO")
    connection.close()
