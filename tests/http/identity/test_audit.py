"""The audit log: what it says, where, that it lasts, and that it holds no secrets."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.http.admin.test_accounts import new_account, new_token, operator
from tests.http.client import NOW_MS, running
from troth.core.codes import Code
from troth.http.identity.audit import FILE_NAME, AuditLog
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import OPERATOR, Principal, PrincipalKind
from troth.http.wire.requests import Request
from troth.shards.clock import SystemClock

WRITERS_COUNT = 4
LINES_COUNT = 40
TOKEN = Principal(PrincipalKind.TOKEN, frozenset(), "billing", "acc", "tok")
USER = Principal(PrincipalKind.USER, frozenset(), "ann")


def request(principal: Principal = OPERATOR) -> Request:
    """A request of somebody."""
    return Request("POST", b"/", b"", {}, peer="10.0.0.1", id="r1", principal=principal)


def lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def sizes_in(directory: Path) -> dict[str, int]:
    """How large the files of a directory are, by name."""
    return {path.name: path.stat().st_size for path in directory.iterdir()}


async def test_an_entry_says_who_what_when_from_where_and_how_it_ended(tmp_path: Path) -> None:
    audit = AuditLog(lambda: NOW_MS, tmp_path)
    for principal in (OPERATOR, TOKEN, USER):
        async with audit.act(request(principal), "token.revoke", token="t") as told:
            told["name"] = None

    entries = lines(tmp_path / FILE_NAME)
    assert entries[0] == {
        "time": "2027-01-15T08:00:00.000Z",
        "act": "token.revoke",
        "outcome": "done",
        "by": "operator",
        "from": "10.0.0.1",
        "request": "r1",
        "token": "t",
    }
    assert [entry["by"] for entry in entries[1:]] == ["token tok of billing (acc)", "user ann"]
    assert await audit.read(2) == entries[1:]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_refused_act_is_noted_with_its_code(tmp_path: Path) -> None:
    audit = AuditLog(lambda: NOW_MS, tmp_path)
    with pytest.raises(ApiError):
        async with audit.act(request(), "token.revoke"):
            raise ApiError(Code.TOKEN_NOT_FOUND)

    assert lines(tmp_path / FILE_NAME)[0]["outcome"] == "refused 40416"


async def test_files_are_rotated_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    audit = AuditLog(lambda: NOW_MS, tmp_path, limit_bytes=400, files_count=3)
    for number in range(20):
        await audit.write(request(), "act", what={"number": number})

    sizes = sizes_in(tmp_path)
    assert sorted(sizes) == [FILE_NAME, f"{FILE_NAME}.1", f"{FILE_NAME}.2"]
    assert max(sizes.values()) <= 400
    numbers = [entry["number"] for entry in await audit.read(100)]
    assert numbers == list(range(numbers[0], 20))
    assert [entry["number"] for entry in await audit.read(3)] == [17, 18, 19]


def number_of(name: str) -> int:
    """Return how often a file was renamed."""
    return int(name.removeprefix(FILE_NAME).removeprefix(".") or 0)


def write_many(directory: Path, writer: int, limit_bytes: int) -> None:
    """Write as one process of a server does."""

    async def write() -> None:
        audit = AuditLog(SystemClock().now_ms, directory, limit_bytes=limit_bytes, files_count=500)
        for number in range(LINES_COUNT):
            await audit.write(request(), "act", what={"writer": writer, "number": number})

    trio.run(write)


@pytest.mark.parametrize("limit_bytes", [2_000, 1_000_000])
def test_several_processes_write_whole_lines_in_order(tmp_path: Path, limit_bytes: int) -> None:
    """And each file is renamed once, whichever process finds it full."""
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=write_many, args=(tmp_path, writer, limit_bytes))
        for writer in range(WRITERS_COUNT)
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * WRITERS_COUNT

    names = sorted(sizes_in(tmp_path), key=number_of, reverse=True)
    entries = [entry for name in names for entry in lines(tmp_path / name)]
    assert len(entries) == WRITERS_COUNT * LINES_COUNT
    for writer in range(WRITERS_COUNT):
        numbers = [one["number"] for one in entries if one["writer"] == writer]
        assert numbers == list(range(LINES_COUNT))
    times = [one["time"] for one in entries]
    assert times == sorted(times)
    sizes = sizes_in(tmp_path)
    assert max(sizes.values()) <= limit_bytes
    full = [size for name, size in sizes.items() if name != FILE_NAME]
    assert all(size > limit_bytes - 300 for size in full), "none was renamed before it was full"


async def test_lines_are_in_order_over_files(tmp_path: Path) -> None:
    """The first line of a file is not before the last one of the file that was full."""
    times = iter((NOW_MS, NOW_MS - 20))
    audit = AuditLog(lambda: next(times), tmp_path, limit_bytes=1)
    for _ in range(2):
        await audit.write(request(), "act")
    assert sorted(sizes_in(tmp_path)) == [FILE_NAME, f"{FILE_NAME}.1"]
    older, newer = (lines(tmp_path / name)[0] for name in (f"{FILE_NAME}.1", FILE_NAME))
    assert newer["time"] == older["time"]


async def test_lines_go_back_only_with_the_clock(tmp_path: Path) -> None:
    times = iter((NOW_MS, NOW_MS - 20, NOW_MS - 3_600_000))
    audit = AuditLog(lambda: next(times), tmp_path)
    for _ in range(3):
        await audit.write(request(), "act")

    first, second, third = (entry["time"] for entry in lines(tmp_path / FILE_NAME))
    assert first == second
    assert third == "2027-01-15T07:00:00.000Z"


async def test_half_a_line_of_a_crash_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"act": "o')
    audit = AuditLog(lambda: NOW_MS, tmp_path)
    await audit.write(request(), "act")

    assert [entry["act"] for entry in await audit.read(10)] == ["act"]


@pytest.mark.parametrize("ending", ["\n", "\r", "\x0b", "\x85", "\u2028", "\u2029", "\x9b2J"])
async def test_no_text_ends_a_line_or_reaches_a_terminal(tmp_path: Path, ending: str) -> None:
    """Or an act could be hidden by how it names what it is about."""
    audit = AuditLog(lambda: NOW_MS, tmp_path)
    await audit.write(request(), "act", what={"node": f"a{ending}{{}}{ending}b"})

    assert [entry["node"] for entry in await audit.read(10)] == [f"a{ending}{{}}{ending}b"]
    written = (tmp_path / FILE_NAME).read_bytes()
    assert written.isascii()
    assert written.count(b"\n") == 1
    assert written[:-1].decode().isprintable()


async def test_an_act_that_cannot_be_noted_is_not_acknowledged(tmp_path: Path) -> None:
    audit = AuditLog(lambda: NOW_MS, tmp_path / "missing")
    with pytest.raises(ApiError) as refusal:
        await audit.write(request(), "act")

    assert refusal.value.code is Code.INTERNAL


async def test_what_the_endpoints_note_holds_no_secret() -> None:
    async with running() as world:
        await new_account(world)
        made = await new_token(world, "promises:read", name="nightly", idPrefix="a/")
        admin = await operator(world)
        await world.send("PATCH", "/admin/accounts/billing", {"disabled": True}, admin)
        await world.send("PATCH", "/admin/accounts/billing", {"disabled": False}, admin)
        await world.send("DELETE", f"/admin/tokens/{made.json['id']}", headers=admin)
        await world.send("DELETE", "/admin/tokens/x", headers=admin)
        answer = await world.send("GET", "/admin/audit?limit=50", headers=admin)

        assert [(entry["act"], entry["outcome"]) for entry in answer.json] == [
            ("account.add", "done"),
            ("token.create", "done"),
            ("account.disable", "done"),
            ("account.enable", "done"),
            ("token.revoke", "done"),
            ("token.revoke", "refused 40416"),
        ]
        text = answer.body.decode()
        (token,) = world.api.credentials.tokens()
        for secret in (made.json["token"], token.digest, world.api.credentials.operator_key):
            assert secret not in text
        for limit in ("0", "1001", "x"):
            refused = await world.send("GET", f"/admin/audit?limit={limit}", headers=admin)
            assert (refused.status, refused.wrong_fields) == (400, ["query limit"])
