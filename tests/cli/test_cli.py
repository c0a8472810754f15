"""The `troth` command as a whole: help texts, exit statuses, and what goes wrong on the way."""

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import trustme

from tests.helpers.repository import ROOT
from tests.helpers.server import ServerProcess
from tests.http.fake_api import FakeApi, promise
from troth import __version__
from troth.cli import command as cli
from troth.cli import serve as cli_serve
from troth.cli.connection.addresses import path_of
from troth.cli.connection.client import ApiClient
from troth.http.settings.sources import describe

CLOSED_URL = "http://127.0.0.1:1"
"""Nobody listens there: binding the port takes rights that no test has."""


def all_commands() -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path, groups too."""
    found: list[tuple[tuple[str, ...], click.Command]] = []

    def walk(path: tuple[str, ...], command: click.Command) -> None:
        found.append((path, command))
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="troth")
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                walk((*path, name), below)

    walk((), cli.troth)
    return found


def help_text(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", [path for path, _ in all_commands()], ids=" ".join)
def test_every_help_text_explains_and_has_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = help_text(path, capsys)

    assert re.search(r"^  Examples?\b.*:\n    troth ", shown, re.MULTILINE), shown
    assert max(map(len, shown.splitlines())) <= 100
    group_noun = {
        "promises": "romise is a value",
        "tasks": "task is an order",
        "schedules": "schedule ",
        "locks": "lock ",
        "tree": "promise stands for a value",
        "serve": "durable promises: values",
    }.get(path[0] if path else "", "")
    assert group_noun in " ".join(shown.split())


@pytest.mark.parametrize(
    "path",
    [path for path, command in all_commands() if isinstance(command, click.Group)],
    ids=" ".join,
)
def test_no_summary_is_cut_off(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = help_text(path, capsys).partition("Commands:")[2]

    assert listed.strip()
    assert "..." not in listed


def test_options_of_the_connection_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    own, heading, shared = help_text(("promises", "get"), capsys).partition(
        "Connection and output:"
    )

    assert heading
    assert "--server" not in own
    assert all(flag in shared for flag in ("--server", "--token", "--user", "--password", "--json"))


def test_every_setting_is_under_a_heading_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_text(("serve",), capsys)
    named = [name for names in cli_serve.SECTIONS.values() for name in names]

    assert len(named) == len(set(named))
    assert {row.name for row in describe()} == set(named) - {"config", "help"}
    assert f"\n{cli_serve.OTHER}:" not in shown
    assert all(f"\n{title}:" in shown for title in cli_serve.SECTIONS)


def test_serve_is_not_disturbed_by_the_variables_of_the_other_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in cli_serve.CLIENT_VARIABLES:
        monkeypatch.setenv(variable, "x")

    # A later mistake is found: these variables were no mistake.
    assert cli.run(["serve", "--log-level", "loud"]) == 2
    assert (
        "--log-level: must be debug or info or warning or error (got 'loud')"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0
    assert capsys.readouterr().out == f"troth {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promise"], "No such command 'promise'"),
        (["promises", "get"], "Missing argument 'ID'"),
        (["promises", "get", ""], "must not be empty"),
        (["promises", "get", "\udc80"], "must be valid UTF-8"),
        (["promises", "get", "a", "--server", "ftp://a"], "must begin with http:// or https://"),
        (["promises", "get", "a", "--server", "http://a:port"], "it is not a valid URL"),
        (["promises", "get", "a", "--user", "ann"], "belong together"),
        (["promises", "create", "a", "--timeout", "5 minutes"], "'5 minutes' is not a duration"),
        (["promises", "create", "a", "--tag", "billing"], "'billing' is not NAME=CONTENT"),
        (["promises", "create", "a", "--data", "x", "--data-file", "-"], "exclude each other"),
        (["promises", "create", "a", "--data-file", "/no/such/file"], "No such file"),
        (["promises", "create", "a", "--idempotency-key", "a\nb"], "control characters"),
        (["promises", "create", "a", "--idempotency-key", " a"], "begin or end with a space"),
        (["promises", "complete", "a", "--state", "pending"], "'pending' is not one of"),
        (["promises", "search", "--limit", "101"], "1<=x<=100"),
        (["tasks", "claim", "a", "first"], "'first' is not a valid integer"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "--help' for help" in captured.err or "Try 'troth" in captured.err


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_an_unreachable_server_ends_with_status_3_and_one_line(
    extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["promises", "get", "a", "--server", CLOSED_URL, *extra]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"Error: no server can be reached at {CLOSED_URL} (Connection refused). "
        "Start one with `troth serve`, or name it with --server.\n"
    )


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": "a"}', b"null", b""])
@pytest.mark.parametrize(
    "arguments", [["promises", "get", "a"], ["promises", "search", "--all"], ["tree", "a"]]
)
def test_something_that_is_no_troth_server_ends_with_status_3(
    arguments: list[str], body: bytes, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        api.say(200, body)

    assert cli.run([*arguments, "--server", api.url]) == 3
    assert "Is it a Troth server?" in capsys.readouterr().err


def test_the_poll_port_given_for_the_api_is_noticed_though_its_stream_never_ends(
    shared_server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    # `/promises/a` is there the stream of worker `a` in the group `promises`.
    assert cli.run(["promises", "get", "a", "--server", shared_server.poll_url]) == 3
    assert "streams messages to workers" in capsys.readouterr().err


def test_a_refusal_ends_with_status_1_and_says_code_meaning_and_hint(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse(40400, "The specified promise was not found", "No promise has this id.")

    assert cli.run(["promises", "get", "a", "--server", api.url]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "Error: 40400 The specified promise was not found\n"
        "  No promise has this id.\n"
        "  Hint: `troth promises search 'PREFIX*'` finds ids.\n"
    )


def test_every_wrong_field_is_shown(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.refuse(40000, "The request is invalid", "id: too long", "tags: too many")

    assert cli.run(["promises", "create", "a", "--server", api.url]) == 1
    assert capsys.readouterr().err == (
        "Error: 40000 The request is invalid\n  id: too long\n  tags: too many\n"
    )


def test_a_refusal_without_details_is_explained(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse(40305, "The task is already claimed")

    assert cli.run(["tasks", "claim", "t", "1", "--server", api.url]) == 1
    assert "A worker has claimed the task" in capsys.readouterr().err


def test_a_refusal_in_json_is_the_answer_for_scripts(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse(40400, "not found")

    assert cli.run(["promises", "get", "a", "--json", "--server", api.url]) == 1
    captured = capsys.readouterr()
    assert captured.out == '{"error":{"code":40400,"message":"not found","details":[]}}\n'
    assert captured.err.startswith("Error: 40400")


def test_an_overloaded_server_says_when_to_try_again(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse(50301, "The api submission queue is full", retry_after="7")

    assert cli.run(["promises", "get", "a", "--server", api.url]) == 1
    assert "Hint: Try again after 7 s." in capsys.readouterr().err


def test_a_refusal_that_is_not_the_apis_is_shown_as_it_is(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.say(502, b"bad \x1b[31mgateway")

    assert cli.run(["promises", "get", "a", "--server", api.url]) == 1
    assert capsys.readouterr().err == "Error: HTTP status 502 Bad Gateway\n  bad \\x1b[31mgateway\n"


def test_credentials_come_from_options_or_environment_and_are_never_shown(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROTH_SERVER", api.url)
    monkeypatch.setenv("TROTH_USER", "ann")
    monkeypatch.setenv("TROTH_PASSWORD", "s3cret")
    api.say(401)
    api.say(200, promise(state="RESOLVED"))

    assert cli.run(["promises", "get", "a"]) == 1
    assert cli.run(["promises", "get", "a", "--user", "bob"]) == 0

    sent = [request.headers["authorization"].removeprefix("Basic ") for request in api.heard]
    assert [base64.b64decode(text) for text in sent] == [b"ann:s3cret", b"bob:s3cret"]
    captured = capsys.readouterr()
    assert "TROTH_PASSWORD" in captured.err
    assert "s3cret" not in captured.out + captured.err


def test_a_password_in_the_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    url = CLOSED_URL.replace("//", "//ann:s3cret@")

    assert cli.run(["promises", "get", "a", "--server", url]) == 3
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("all_proxy", "socks://127.0.0.1:1", "proxy settings of the environment"),
        ("https_proxy", "nonsense://x", "proxy settings of the environment"),
        ("SSL_CERT_FILE", "/nonexistent", "SSL_CERT_FILE or SSL_CERT_DIR: /nonexistent holds no"),
        ("TROTH_CA_FILE", "/nonexistent", "--ca-file (or TROTH_CA_FILE): /nonexistent holds no"),
    ],
)
def test_an_environment_that_cannot_be_used_is_said_in_one_line(
    variable: str,
    text: str,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, text)

    assert cli.run(["promises", "get", "a", "--server", "https://troth.invalid"]) in {1, 2}
    shown = capsys.readouterr().err
    assert problem in shown
    assert "Traceback" not in shown


def test_a_private_authority_is_trusted_by_its_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with FakeApi(tls) as server:
        server.say(200, promise("a", state="RESOLVED"))
        server.say(200, promise("a", state="RESOLVED"))
        command = ["promises", "get", "a", "--server", server.url]

        assert cli.run(command) == 3
        refused = capsys.readouterr().err
        assert cli.run([*command, "--ca-file", str(tmp_path / "ca.pem")]) == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert cli.run(command) == 0

    assert "is not trusted" in refused
    assert "--ca-file" in refused
    assert "troth serve" not in refused


@pytest.mark.parametrize("command", [["--help"], ["version"], ["promises", "get", "a"]])
def test_a_full_disk_behind_the_output_is_said_in_one_line(
    command: list[str], api: FakeApi
) -> None:
    api.say(200, promise("a"))
    environment = {**os.environ, "TROTH_SERVER": api.url}

    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "troth", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
        )

    assert ended.returncode == 1
    assert ended.stderr == "Error: the output cannot be written (No space left on device).\n"


def test_a_defect_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a wrong turn")

    monkeypatch.setattr(cli.troth, "main", fails)

    assert cli.run(["promises", "get", "a"]) == 70
    assert capsys.readouterr().err == (
        "Error: this command has a bug (RuntimeError: a wrong turn). Run it again with "
        "TROTH_TRACEBACK=1 and report what it prints.\n"
    )
    monkeypatch.setenv("TROTH_TRACEBACK", "1")
    assert cli.run(["promises", "get", "a"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_the_server_may_be_given_without_scheme_and_with_a_path(api: FakeApi) -> None:
    api.say(200, promise(state="RESOLVED"))
    api.say(200, promise(state="RESOLVED"))

    assert cli.run(["promises", "get", "a", "--server", api.url.removeprefix("http://")]) == 0
    assert cli.run(["promises", "get", "a", "--server", f"{api.url}/behind/proxy/"]) == 0
    assert [request.path for request in api.heard] == ["/promises/a", "/behind/proxy/promises/a"]


@pytest.mark.parametrize(
    "promise_id",
    [
        "a/b",
        "/a",
        "a//b",
        "..",
        ".",
        "a/../b",
        "50%",
        "a?b#c",
        "a b+c",
        "é€😀",
        "%2F",
        "a\tb",
        "a;b:c",
    ],
)
def test_an_id_reaches_the_server_as_it_is(promise_id: str, api: FakeApi) -> None:
    api.say(200, {})

    with ApiClient(api.url, None, None) as client:
        client.ask("GET", path_of("promises", promise_id))

    assert api.heard[0].path == f"/promises/{promise_id}"
    # What somebody on the way might take for a path of its own is encoded.
    assert api.heard[0].raw_path.count("/") == 2
    assert not api.heard[0].raw_path.endswith(("/.", "/.."))


def test_ctrl_c_ends_quietly_with_status_130(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ApiClient, "ask", interrupt)

    assert cli.run(["promises", "get", "a", "--server", api.url]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", "")


def run_process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", "troth", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


def test_ctrl_c_in_a_real_process(api: FakeApi) -> None:
    for _ in range(1000):
        api.say(200, promise())
    with run_process("promises", "wait", "a", "--server", api.url) as process:
        deadline = time.monotonic() + 60
        while not api.heard and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)

    assert (process.returncode, out, errors.strip()) == (130, b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_has_colors_and_tables_that_fit(
    api: FakeApi, variables: dict[str, str], colored: bool
) -> None:
    terminal, terminal_end = os.openpty()
    rows = [promise("order-" + "7" * 150, state="RESOLVED", completedOn=0)]
    api.say(200, {"cursor": None, "promises": rows})
    api.say(200, rows[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "90"}
    environment.pop("NO_COLOR", None)
    shown = ""
    for command in (("search",), ("get", "a")):
        subprocess.run(
            [sys.executable, "-m", "troth", "promises", *command, "--server", api.url],
            stdout=terminal_end,
            stderr=subprocess.DEVNULL,
            env=environment | variables,
            check=True,
        )
        shown += os.read(terminal, 100_000).decode()
    os.close(terminal_end)
    os.close(terminal)

    table, _, fields = shown.partition("  id ")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", table)
    assert max(map(len, plain.splitlines())) <= 90
    assert re.sub(r"[^7]", "", plain).count("7") >= 150
    assert ("\x1b[32mRESOLVED" in table) is colored
    assert ("\x1b[32mRESOLVED" in fields) is colored


def test_a_reader_that_leaves_ends_the_command_quietly(api: FakeApi) -> None:
    api.say(200, promise())
    with run_process("promises", "get", "a", "--server", api.url) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (141, b"")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name: str) -> None:
    found = cli.troth.get_command(click.Context(cli.troth), name)
    assert found is not None
    listed = click.Command(name, help=cli.COMMANDS[name].summary)

    assert listed.get_short_help_str(1_000) == found.get_short_help_str(1_000)


def test_commands_of_clients_start_without_the_server() -> None:
    program = (
        "import sys\n"
        "from troth.cli import command as cli\n"
        f"cli.run(['promises', 'get', 'a', '--server', '{CLOSED_URL}'])\n"
        # Not trio: httpx brings it along if it is installed.
        "heavy = {'quart', 'hypercorn', 'lmdb', 'troth.http.settings.settings', 'troth.shards'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_the_commands_work_on_a_real_server(
    shared_server: ServerProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TROTH_SERVER", shared_server.url)
    picture = tmp_path / "picture"
    picture.write_bytes(b"\x89PNG\r\n\x00")

    def troth(*arguments: str, status: int = 0) -> str:
        assert cli.run([*arguments]) == status, capsys.readouterr().err
        return capsys.readouterr().out

    assert "Created\n" in troth(
        *("promises", "create", "cli/../it", "--timeout", "1h", "--idempotency-key", "k"),
        *("--data", '{"func": "buy"}', "--tag", "team=cli", "--header", "a=b"),
    )
    assert "Already created" in troth("promises", "create", "cli/../it", "--idempotency-key", "k")
    troth("promises", "create", "cli/../it", status=1)
    troth("promises", "create", "cli/../it.1", "--data-file", str(picture))
    assert "buy()" in troth("tree", "cli/../it")
    assert "cli/../it.1" in troth("promises", "search", "cli/*", "--limit", "1", "--all")
    assert "cli/../it.1" not in troth("promises", "search", "cli/*", "--tag", "team=cli")
    assert "Completed\n" in troth("promises", "resolve", "cli/../it", "--data", "sent")
    assert "sent" in troth("promises", "wait", "cli/../it")
    assert "REJECTED_CANCELED" in troth("promises", "cancel", "cli/../it.1")
    troth("promises", "reject", "cli/../it", status=1)
    for number in range(3):
        troth("promises", "create", f"cli-bulk-{number}", "--tag", "team=bulk")
    wanted = ("--id", "cli-bulk-*", "--tag", "team=bulk")
    assert "cli-bulk-1" in troth("bulk", "cancel", *wanted, "--state", "pending", "--dry-run")
    assert "done     3\n" in troth("bulk", "cancel", *wanted, "--data", "enough")
    assert "3 (completed)" in troth("bulk", "reject", *wanted)
    assert "done     3\n" in troth("bulk", "delete", *wanted)
    assert "delete promises" in troth("bulk", "list")
    assert "found    0\n" in troth("bulk", "retry", "--root", "cli-bulk-*")
    assert "nothing was changed" in troth("bulk", "pause", "--id", "cli-bulk-*", "--dry-run")
    detached = json.loads(troth("bulk", "resume", "--id", "cli-bulk-*", "--detach", "--json"))
    assert "resume schedules" in troth("bulk", "show", detached["id"])
    troth("bulk", "stop", "none", status=1)

    assert troth("promises", "delete", "cli/../it.1") == "Deleted cli/../it.1\n"
    troth("promises", "delete", "cli/../it.1", status=1)

    troth("promises", "create", "cli-work", "--tag", "resonate:invoke=poll://any@nobody")
    assert "cli-work" in troth("tasks", "claim", "__invoke:cli-work", "1", "--process-id", "p")
    assert "p: 1\n" in troth("tasks", "heartbeat", "--process-id", "p")
    assert "Given back" in troth("tasks", "drop", "__invoke:cli-work", "1")
    troth("tasks", "claim", "__invoke:cli-work", "2", "--process-id", "p")
    assert "Completed" in troth("tasks", "complete", "__invoke:cli-work", "2")

    assert "next run" in troth(
        *("schedules", "create", "cli-nightly", "--cron", "0 3 * * *"),
        *("--promise-id", "r-{{.timestamp}}", "--description", "the report"),
    )
    assert "the report" in troth("schedules", "get", "cli-nightly")
    assert "cli-nightly" in troth("schedules", "search", "cli-*")
    assert "0 4 * * *" in troth("schedules", "update", "cli-nightly", "--cron", "0 4 * * *")
    troth("schedules", "update", "cli-nightly", status=2)
    assert "paused" in troth("schedules", "pause", "cli-nightly")
    assert "paused" in troth("schedules", "search", "cli-*")
    assert "paused" not in troth("schedules", "resume", "cli-nightly", "--catch-up", "0")
    assert "Created\n" in troth("schedules", "run", "cli-nightly")
    assert troth("schedules", "preview", "@every 90s", "--zone", "UTC").count("in ") == 10
    assert troth("schedules", "delete", "cli-nightly") == "Deleted cli-nightly\n"

    assert "Acquired" in troth("locks", "acquire", "cli-printer", "run", "--process-id", "q")
    troth("locks", "acquire", "cli-printer", "other", status=1)
    assert "q: 1\n" in troth("locks", "heartbeat", "--process-id", "q")
    assert troth("locks", "release", "cli-printer", "run") == "Released cli-printer\n"
