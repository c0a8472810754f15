"""Which ids may be named: not the server's own, and with an id prefix only those within it."""

from typing import Any

import pytest

from tests.http.admin.test_accounts import bearer, new_token, operator, secret_of
from tests.http.client import FAR_MS, World, running
from troth.core import commands as c
from troth.core.catalog import execution_promise_id, package_id
from troth.core.codes import Code
from troth.core.grammar import task_ids
from troth.core.model import Fence, Promise, PromiseState
from troth.http.api import permissions
from troth.http.wire.errors import ApiError
from troth.http.wire.principals import ANONYMOUS, Principal, PrincipalKind

Request = tuple[str, str, Any]
READ_WRITE = ("promises:read", "promises:write")
LIMITED = Principal(PrincipalKind.TOKEN, frozenset(), id_prefix="a/")


def requests(one: str, other: str) -> dict[str, Request]:
    """A request of every kind that names an id, by endpoint; those with two name both."""
    task = task_ids.invoke_id(one)
    quoted, quoted_task = one.replace("/", "%2F"), task.replace("/", "%2F")
    named = {"id": task, "counter": 1}
    receiver = "poll://any@g"
    callback = {"rootPromiseId": other, "timeout": FAR_MS, "recv": receiver}
    subscription = {"id": "s", "timeout": FAR_MS, "recv": receiver}
    claim = {"processId": "p", "ttl": 1000}
    routed = {"id": one, "timeout": FAR_MS, "tags": {"resonate:invoke": receiver}}
    lock = {"resourceId": one, "executionId": "e"}
    schedule = {"cron": "@daily", "promiseTimeout": 1}
    return {
        "createPromise": ("POST", "/promises", {"id": one, "timeout": FAR_MS}),
        "createPromiseAndTask": ("POST", "/promises/task", {"promise": routed, "task": claim}),
        "readPromise": ("GET", f"/promises/{quoted}", None),
        "completePromise": ("PATCH", f"/promises/{quoted}", {"state": "RESOLVED"}),
        "deletePromise": ("DELETE", f"/promises/{quoted}", None),
        "createCallback": ("POST", "/callbacks", {**callback, "id": "c", "promiseId": one}),
        "createCallbackOfPromise": ("POST", f"/promises/callback/{quoted}", callback),
        "createSubscription": ("POST", "/subscriptions", {**subscription, "promiseId": one}),
        "createSubscriptionOfPromise": ("POST", f"/promises/subscribe/{quoted}", subscription),
        "claimTask": ("POST", "/tasks/claim", {**named, **claim}),
        "claimTaskByLink": ("GET", f"/tasks/claim/{quoted_task}/1", None),
        "completeTask": ("POST", "/tasks/complete", named),
        "completeTaskByLink": ("GET", f"/tasks/complete/{quoted_task}/1", None),
        "dropTask": ("POST", "/tasks/drop", named),
        "dropTaskByLink": ("GET", f"/tasks/drop/{quoted_task}/1", None),
        "createSchedule": ("POST", "/schedules", {"id": one, "promiseId": other, **schedule}),
        "readSchedule": ("GET", f"/schedules/{quoted}", None),
        "deleteSchedule": ("DELETE", f"/schedules/{quoted}", None),
        "updateSchedule": ("PATCH", f"/schedules/{quoted}", {"promiseId": other}),
        "pauseSchedule": ("POST", "/schedules/pause", {"id": one}),
        "resumeSchedule": ("POST", "/schedules/resume", {"id": one}),
        "runSchedule": ("POST", "/schedules/run", {"id": one}),
        "acquireLock": ("POST", "/locks/acquire", {**lock, **claim}),
        "releaseLock": ("POST", "/locks/release", lock),
        "whyPromise": ("GET", f"/why/{quoted}", None),
        "waitingForPromise": ("GET", f"/waiting/{quoted}", None),
        "treeOfPromise": ("GET", f"/tree/{quoted}", None),
        "showTask": ("GET", f"/tasks/show/{quoted_task}", None),
    }


KINDS = sorted(requests("a", "b"))
TWO = ("createCallback", "createCallbackOfPromise", "createSchedule", "updateSchedule")


async def code_of(world: World, request: Request, headers: dict[str, str]) -> int:
    """The code that a request is refused with; 0 if it is not."""
    answer = await world.send(request[0], request[1], request[2], headers)
    return answer.code if answer.status >= 400 else 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_token_with_a_prefix_names_only_ids_that_begin_so(kind: str) -> None:
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a/")
        free = await secret_of(world, *READ_WRITE)
        for exists in (False, True):
            for one in ("b/1", "a", "A/1", ""):
                if not one and kind not in ("readPromise",):
                    continue
                code = await code_of(world, requests(one, "a/2")[kind], limited)
                assert code == Code.FORBIDDEN_PREFIX, (one, exists)
            if kind in TWO:
                code = await code_of(world, requests("a/1", "b/2")[kind], limited)
                assert code == Code.FORBIDDEN_PREFIX
            await world.create("b/1")
            await code_of(world, requests("b/1", "b/2")["createPromiseAndTask"], free)
            await code_of(world, requests("b/1", "b/2")["createSchedule"], free)

        assert await code_of(world, requests("a/1", "a/2")[kind], limited) != Code.FORBIDDEN_PREFIX


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Lock" not in kind])
@pytest.mark.parametrize("reserved", [execution_promise_id("0" * 24), package_id("x"), "troth:"])
async def test_nobody_names_the_servers_own_ids(kind: str, reserved: str) -> None:
    async with running() as world:
        for is_open in (True, False):
            headers = {} if is_open else await secret_of(world, *READ_WRITE)
            code = await code_of(world, requests(reserved, "b")[kind], headers)
            assert code == Code.RESERVED_ID
            if kind in TWO:
                code = await code_of(world, requests("b", reserved)[kind], headers)
                assert code == Code.RESERVED_ID


async def test_locks_are_not_reserved() -> None:
    async with running() as world:
        assert await code_of(world, requests("troth:x", "b")["acquireLock"], {}) == 0


@pytest.mark.parametrize(
    ("schedule_id", "template", "code"),
    [
        ("a/1", "a/{{.timestamp}}", 0),
        ("a/1", "{{.id}}.{{.timestamp}}", 0),
        ("a/1", "{{ .id }}", 0),
        ("a/1", "{{.timestamp}}", Code.FORBIDDEN_PREFIX),
        ("a/1", "a{{.timestamp}}/", Code.FORBIDDEN_PREFIX),
        ("a/1", "x{{.id}}", Code.FORBIDDEN_PREFIX),
        ("a/1", "troth:task/{{.timestamp}}", Code.RESERVED_ID),
        ("troth", "{{.id}}:task/1", Code.RESERVED_ID),
    ],
)
async def test_a_schedules_promises_begin_as_they_must(
    schedule_id: str, template: str, code: int
) -> None:
    body = {"id": schedule_id, "cron": "@daily", "promiseId": template, "promiseTimeout": 1}
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a/")
        assert await code_of(world, ("POST", "/schedules", body), limited) == code


async def test_a_fence_names_a_task_too() -> None:
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a/")
        for root, code in (
            ("b", Code.FORBIDDEN_PREFIX),
            ("troth:task/x", Code.RESERVED_ID),
            ("a/2", Code.TASK_FENCED),
        ):
            headers = {**limited, "Task-Id": task_ids.invoke_id(root), "Task-Counter": "1"}
            assert await code_of(world, requests("a/1", "a/2")["createPromise"], headers) == code


async def test_searches_show_only_what_is_within_the_prefix() -> None:
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a/")
        free = await secret_of(world, *READ_WRITE)
        for number in range(3):
            for prefix in ("a/", "b/"):
                one = f"{prefix}{number}"
                for kind in ("createPromise", "createSchedule"):
                    assert await code_of(world, requests(one, one)[kind], free) == 0
        within = ["a/2", "a/1", "a/0"]
        for path, key in (("/promises", "promises"), ("/schedules", "schedules")):
            for pattern, wanted in (
                ("*", within),
                ("*1", ["a/1"]),
                ("a*", within),
                ("a/1", ["a/1"]),
                ("b/1", []),
                ("b*", []),
            ):
                answer = await world.send("GET", f"{path}?id={pattern}", headers=limited)
                assert [one["id"] for one in answer.json[key]] == wanted, pattern

            # A cursor of somebody who may see more shows no more.
            first = await world.send("GET", f"{path}?id=*&limit=3", headers=free)
            cursor = first.json["cursor"]
            rest = await world.send("GET", f"{path}?cursor={cursor}", headers=limited)
            assert [one["id"] for one in first.json[key]] == ["b/2", "a/2", "b/1"]
            assert [one["id"] for one in rest.json[key]] == within[1:]


async def test_heartbeats_renew_only_what_is_within_the_prefix() -> None:
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a/")
        free = await secret_of(world, *READ_WRITE)
        for one in ("a/1", "a/2", "b/1"):
            for kind in ("createPromiseAndTask", "acquireLock"):
                assert await code_of(world, requests(one, one)[kind], free) == 0
        world.clock.time_ms += 600
        for path, key in (("/tasks", "tasksAffected"), ("/locks", "locksAffected")):
            answer = await world.send("POST", f"{path}/heartbeat", {"processId": "p"}, limited)
            assert answer.json == {key: 2}
        world.clock.time_ms += 600
        for path, key in (("/tasks", "tasksAffected"), ("/locks", "locksAffected")):
            answer = await world.send("POST", f"{path}/heartbeat", {"processId": "p"}, free)
            assert answer.json == {key: 2}, "the one outside has run out"


async def test_a_token_with_a_prefix_listens_only_to_groups_that_begin_so() -> None:
    async with running() as world:
        limited = await secret_of(world, *READ_WRITE, idPrefix="a")
        for target, application in (
            ("/poll/b/w", world.application),
            ("/b/w", world.poll_application),
            ("/poll/A/w", world.application),
        ):
            answer = await world.send("GET", target, headers=limited, application=application)
            assert (answer.status, answer.code) == (403, Code.FORBIDDEN_PREFIX)


async def test_an_import_of_the_servers_own_ids_changes_nothing() -> None:
    promises = [
        {"id": one, "state": "RESOLVED", "timeout": FAR_MS, "createdOn": 1}
        for one in ("x", execution_promise_id("0" * 24))
    ]
    async with running() as world:
        made = await new_token(world, "admin", "promises:read")
        headers = bearer(made.json["token"])
        answer = await world.send("POST", "/admin/import", {"promises": promises}, headers)
        entries = await world.send("GET", "/admin/audit", headers=await operator(world))

        assert (answer.status, answer.code) == (403, Code.RESERVED_ID)
        assert (await world.send("GET", "/promises/x", headers=headers)).status == 404
        assert entries.json[-1]["outcome"] == f"refused {Code.RESERVED_ID.value}"


# --- the table ------------------------------------------------------------------------------------


def test_every_command_of_clients_is_judged_or_the_servers_own() -> None:
    """A new command must be put into one of the tables, or it cannot be asked for by a handler."""
    tables = (permissions.NAMED, permissions.LOCKS, permissions.OWN)

    assert sum(len(table) for table in tables) == len(set().union(*tables))
    with pytest.raises(AssertionError, match="not a command of clients"):
        permissions.refuse_unless_permitted(ANONYMOUS, c.Expire(c.LOCK_TIMER, "x"))


def test_what_is_the_servers_own_is_not_judged_by_id() -> None:
    permissions.refuse_unless_permitted(LIMITED, c.ReadExecution("troth:task/x"))


@pytest.mark.parametrize(
    "command",
    [
        c.CompletePromise("a/1", PromiseState.RESOLVED, fence=Fence("__invoke:b", 1)),
        c.CreateCallback("a/1", "a/2", 1, "r", fence=Fence("__resume:b:a/1", 1)),
        c.ClaimTask("__resume:b:a/1", 1, "p", 1),
        c.ClaimTask("__notify:b:a/1", 1, "p", 1),
        c.ClaimTask("a", 1, "p", 1),
        c.ImportPromise(Promise("b", 0, PromiseState.PENDING, 1, 1)),
    ],
)
def test_the_root_of_a_task_counts(command: c.Command) -> None:
    with pytest.raises(ApiError) as refusal:
        permissions.refuse_unless_permitted(LIMITED, command)
    assert refusal.value.code is Code.FORBIDDEN_PREFIX
