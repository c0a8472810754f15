"""Builds: uploaded, checked, used, handed to nodes, and removed when nobody needs them."""

import hashlib
from functools import partial
from typing import Any

import pytest
import trio

from tests.helpers.zips import Item, plain_zip, raw_zip
from tests.http.client import NOW_MS, World, running
from tests.http.tenants import HANDLER, Tenant, tenant
from troth.core.catalog import (
    Build,
    BuildStatus,
    Capabilities,
    Function,
    FunctionKind,
    Language,
    Node,
    Scope,
    package_id,
)
from troth.core.codes import Code
from troth.core.commands import (
    AssignExecution,
    CancelExecution,
    Command,
    CreateEntry,
    CreateExecution,
    ReadPromise,
    StorePackage,
)
from troth.core.executions import ExecutionPlan
from troth.core.grammar.packages import Package, PackageLimits
from troth.core.model import replace
from troth.core.replies import Reply
from troth.http.functions import builder as builder_module
from troth.http.functions.builder import Builder
from troth.http.functions.entries import change_own
from troth.http.settings.settings import Settings
from troth.shards.errors import Overloaded

MOMENT = "2027-01-15T08:00:00Z"


async def ids_of(owner: Tenant, function_id: str) -> list[str]:
    """The builds of a function, newest first."""
    page = await owner.send("GET", f"/build/list?functionId={function_id}&limit=1000")
    return [row["id"] for row in page.json["results"]]


async def has_package(world: World, build_id: str) -> bool:
    """Whether the package of a build is stored."""
    return (await world.api.shards.ask(ReadPromise(package_id(build_id)))).code.status == 200


def task_of(owner: Tenant, function_id: str, build_id: str) -> CreateExecution:
    """A function task that needs a build."""
    plan = ExecutionPlan(
        owner.account_id,
        function_id,
        FunctionKind.CODE,
        Capabilities(),
        Language.PYTHON,
        build_id,
    )
    return CreateExecution(f"troth:task/{build_id}", NOW_MS + 1_000_000, plan)


async def test_a_good_build_becomes_what_new_tasks_run() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        package = plain_zip({"handler.py": HANDLER, "data/x.txt": "x"})
        first = await owner.upload(function_id, package)
        build = await owner.checked(first)

        assert build == {
            "id": first,
            "functionId": function_id,
            "status": "SUCCESS",
            "arch": ["amd64"],
            "size": len(package),
            "digest": hashlib.sha256(package).hexdigest(),
            "timeline": [
                {"status": "PENDING", "time": MOMENT},
                {"status": "SUCCESS", "time": MOMENT},
            ],
            "log": build["log"],
        }
        assert build["log"][0] == f"2 files, {len(HANDLER) + 1} bytes unpacked"
        assert (await owner.send("GET", f"/function/{function_id}")).json["buildId"] == first
        world.clock.time_ms += 1
        rebuilt = await owner.built(function_id)
        assert rebuilt["log"][0] == f"1 file, {len(HANDLER)} bytes unpacked"
        second = rebuilt["id"]
        world.clock.time_ms += 1
        bad = (await owner.built(function_id, b"bad"))["id"]
        assert (await owner.send("GET", f"/function/{function_id}")).json["buildId"] == second
        assert (await owner.send("GET", "/build/list")).json == {
            "pageCount": 1,
            "pageSize": 10,
            "totalCount": 3,
            "results": [
                {"id": one, "functionId": function_id, "status": status, "createdAt": MOMENT}
                for one, status in ((bad, "FAILED"), (second, "SUCCESS"), (first, "SUCCESS"))
            ],
        }
        paged = (await owner.send("GET", "/build/list?limit=2&page=2")).json
        assert (paged["pageCount"], [row["id"] for row in paged["results"]]) == (2, [first])


@pytest.mark.parametrize(
    ("language", "package", "problem"),
    [
        ("PY", b"no zip", "is not a zip archive"),
        ("PY", raw_zip([Item("../x"), Item("b", mode=0o120777)]), "'../x': its name"),
        ("PY", plain_zip({"main.py": HANDLER}), "has no handler.py at its top"),
        ("PY", plain_zip({"f/handler.py": HANDLER}), "zip what is in the folder 'f'"),
        ("PY", plain_zip({"handler.py": "def handle(:"}), "handler.py, line 1: "),
        ("PY", plain_zip({"handler.py": "x = 1"}), "has no function 'handle'"),
        ("JS", plain_zip({"handler.py": HANDLER}), "has no handler.js or handler.mjs"),
        ("JS", plain_zip({"handler.js": b"\xff"}), "handler.js: is not UTF-8"),
    ],
)
async def test_a_bad_build_fails_and_says_why(language: str, package: bytes, problem: str) -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function(lang=language)
        build = await owner.built(function_id, package)

        assert build["status"] == "FAILED"
        assert problem in build["log"][0]
        assert "buildId" not in (await owner.send("GET", f"/function/{function_id}")).json


async def test_javascript_is_accepted_by_its_name() -> None:
    async with running() as world:
        owner = tenant(world)
        for name in ("handler.js", "handler.mjs"):
            function_id = await owner.function(lang="JS")
            assert (await owner.built(function_id, plain_zip({name: "?"})))["status"] == "SUCCESS"


async def test_uploads_that_are_refused_at_once() -> None:
    async with running(Settings(build_limit_bytes=1024)) as world:
        owner = tenant(world)
        place = f"/build/{await owner.function()}"
        of_url = await owner.function(type="HTTP", lang=None, url="http://x/")
        kind = {"Content-Type": "application/octet-stream"}

        async def refused(place: str, raw: bytes, headers: dict[str, str]) -> tuple[int, object]:
            answer = await owner.send("POST", place, raw=raw, headers=headers)
            fields = answer.wrong_fields if answer.status == 400 else answer.code
            return answer.status, fields

        assert await refused(place, b"", kind) == (400, ["body"])
        assert await refused(f"{place}?arch=arm64", b"x", kind) == (400, ["query arch"])
        assert await refused(place, b"x" * 1025, kind) == (413, 41300)
        assert await refused(f"/build/{of_url}", b"x", kind) == (400, ["path functionId"])
        json_kind = {"Content-Type": "application/json"}
        assert await refused(place, b"x", json_kind) == (400, ["header Content-Type"])
        accepted = {"Content-Type": "Application/ZIP; x=y"}
        assert (await owner.send("POST", place, raw=b"x", headers=accepted)).status == 201
        assert (await owner.send("POST", place, raw=b"x")).status == 201


async def test_a_build_whose_archive_is_not_stored_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        ask, builder = world.api.shards.ask, world.builder

        async def refuse(kind: type[Command], command: Command, *held: Any) -> Reply:
            if isinstance(command, kind):
                raise Overloaded
            return await ask(command, *held)

        for kind, left in ((CreateEntry, []), (StorePackage, ["FAILED"])):
            with monkeypatch.context() as patched:
                patched.setattr(world.api.shards, "ask", partial(refuse, kind))
                answer = await owner.send("POST", f"/build/{function_id}", raw=b"x")
            assert answer.status == 503
            await builder.wait_settled()
            rows = (await owner.send("GET", "/build/list")).json["results"]
            assert [row["status"] for row in rows] == left
        assert builder.statistics().waiting_count == 0


async def test_too_many_uploads_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "BUILDS_OF_ACCOUNT_WAITING_LIMIT_COUNT", 1)
    monkeypatch.setattr(builder_module, "BUILDS_WAITING_LIMIT_COUNT", 2)
    async with running() as world:
        world.api.builder = Builder(world.api)  # nobody works
        owner, second, third = (tenant(world, number) for number in (1, 2, 3))
        function_id = await owner.function()
        await owner.upload(function_id)
        full = await owner.send("POST", f"/build/{function_id}", raw=b"x")
        await second.upload(await second.function())
        all_full = await third.send("POST", f"/build/{await third.function()}", raw=b"x")

        assert (full.status, full.code) == (503, 50301)
        assert full.header("retry-after") is not None
        assert all_full.status == 503
        assert (await owner.send("GET", "/metrics")).json["pendingBuilds"] == 1
        assert (await third.send("GET", "/metrics")).json["pendingBuilds"] == 0
        assert len(await ids_of(owner, function_id)) == 1


async def test_only_the_newest_builds_stay_and_what_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builder_module, "BUILDS_KEPT_COUNT", 2)
    async with running() as world:
        owner, other = tenant(world), tenant(world, 2)
        function_id = await owner.function()
        theirs = (await other.built(await other.function()))["id"]
        made = []
        for content in (None, None, b"bad", b"bad", b"bad"):
            world.clock.time_ms += 1
            made.append((await owner.built(function_id, content))["id"])
            if len(made) == 1:
                await world.api.shards.ask(task_of(owner, function_id, made[0]))

        async def stay(expected: list[str]) -> None:
            assert await ids_of(owner, function_id) == expected
            for one in made:
                assert await has_package(world, one) is (one in expected)

        # The first has an unfinished task, the second is what new tasks run.
        await stay([made[4], made[3], made[1], made[0]])
        await world.api.shards.ask(CancelExecution(f"troth:task/{made[0]}"))
        world.clock.time_ms += 1
        made.append((await owner.built(function_id))["id"])
        await stay([made[5], made[4]])
        assert await has_package(world, theirs)


async def test_a_deleted_functions_builds_go_when_no_task_needs_them() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        first = (await owner.built(function_id))["id"]
        second = (await owner.built(function_id, b"bad"))["id"]
        await world.api.shards.ask(task_of(owner, function_id, first))

        assert (await owner.send("DELETE", f"/function/{function_id}")).status == 204
        assert await ids_of(owner, function_id) == [first]
        assert not await has_package(world, second)
        await world.api.shards.ask(CancelExecution(f"troth:task/{first}"))
        await world.builder.tidy()
        assert await ids_of(owner, function_id) == []
        assert not await has_package(world, first)


async def test_a_defect_costs_one_build_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: bytes, limits: PackageLimits) -> Package:
        raise RuntimeError("a defect")

    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        with monkeypatch.context() as patched:
            patched.setattr(builder_module, "inspect", fail)
            build = await owner.built(function_id)
        assert build["status"] == "FAILED"
        assert "the server could not check it" in build["log"][0]
        with monkeypatch.context() as patched:
            patched.setattr(builder_module, "_superfluous", fail)
            assert (await owner.built(function_id))["status"] == "SUCCESS"
        assert (await owner.built(function_id))["status"] == "SUCCESS"


async def test_what_was_needed_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "TIDY_INTERVAL_S", 0)
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        build_id = (await owner.built(function_id))["id"]
        await world.api.shards.ask(task_of(owner, function_id, build_id))
        await owner.send("DELETE", f"/function/{function_id}")
        assert await ids_of(owner, function_id) == [build_id]

        await world.api.shards.ask(CancelExecution(f"troth:task/{build_id}"))
        with trio.fail_after(60):
            while await ids_of(owner, function_id):
                await trio.lowlevel.checkpoint()


async def test_a_function_is_deleted_although_its_builds_cannot_be_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(promise_ids: object) -> int:
        raise Overloaded

    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        build_id = (await owner.built(function_id))["id"]
        with monkeypatch.context() as patched:
            patched.setattr(world.api.shards, "delete_packages", refuse)
            assert (await owner.send("DELETE", f"/function/{function_id}")).status == 204
        assert await ids_of(owner, function_id) == [build_id]

        monkeypatch.setattr(builder_module, "TIDY_INTERVAL_S", 0)
        await owner.built(await owner.function())  # wakes it, and then its interval is over
        with trio.fail_after(60):
            while await ids_of(owner, function_id):
                await trio.lowlevel.checkpoint()


async def test_what_an_earlier_run_has_left_is_taken_up() -> None:
    async with running() as world:
        owner = tenant(world)
        world.api.builder = Builder(world.api)  # uploads are taken, and nobody checks them
        used, cut_off = await owner.function(), await owner.function()
        good = await owner.upload(used)
        # As if the server had stopped between the two things that are stored, and before a
        # successful build became the one that is used.
        halves = Build("f" * 24, 1, NOW_MS, owner.account_id, cut_off, BuildStatus.PENDING, "d", 1)
        orphan = Build("e" * 24, 1, NOW_MS, owner.account_id, "d" * 24, BuildStatus.SUCCESS, "d", 1)
        for entry in (halves, orphan):
            await world.api.shards.ask(CreateEntry(entry))

        later = world.builder = world.api.builder = Builder(world.api)
        async with trio.open_nursery() as nursery:
            await nursery.start(later.run)
            assert (await owner.checked(good))["status"] == "SUCCESS"
            failed = await owner.checked(halves.id)
            nursery.cancel_scope.cancel()
        assert failed["status"] == "FAILED"
        assert "the archive could not be stored" in failed["log"][0]
        assert (await owner.send("GET", f"/build/{orphan.id}")).status == 404
        assert (await owner.send("GET", f"/function/{used}")).json["buildId"] == good
        assert later.statistics().waiting_count == 0


async def test_a_build_that_succeeded_runs_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads SUCCESS may create a task at once."""
    changed: list[type] = []

    async def seen(api: Any, kind: Any, *rest: Any) -> Any:
        changed.append(kind)
        return await change_own(api, kind, *rest)

    monkeypatch.setattr(builder_module, "change_own", seen)
    async with running() as world:
        owner = tenant(world)
        await owner.built(await owner.function())

    assert changed == [Function, Build]


async def test_a_build_that_runs_is_not_found_bad_after_a_crash() -> None:
    """The crash came between its use and its status; now its package cannot even be read."""
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        pending = Build(
            "f" * 24, 1, NOW_MS, owner.account_id, function_id, BuildStatus.PENDING, "d", 1
        )
        await world.api.shards.ask(CreateEntry(pending))
        await change_own(
            world.api,
            Function,
            function_id,
            owner.account_id,
            Code.FUNCTION_NOT_FOUND,
            lambda function: replace(function, build_id=pending.id),
        )
        async with trio.open_nursery() as nursery:
            later = Builder(world.api)
            await nursery.start(later.run)
            await later.wait_settled()
            nursery.cancel_scope.cancel()
        assert (await owner.send("GET", f"/build/{pending.id}")).json["status"] == "SUCCESS"


async def test_the_archive_is_for_its_owner_and_nodes_that_run_it() -> None:
    async with running() as world:
        owner, other = tenant(world), tenant(world, 2, (Scope.NODE,))
        reader = tenant(world, 2, (Scope.FUNCTIONS_READ,))
        package = plain_zip({"handler.py": HANDLER})
        function_id = await owner.function()
        build_id = await owner.upload(function_id, package)
        await owner.checked(build_id)
        place = f"/build/{build_id}/archive"
        shared, private = (
            Node(f"node-{name}", 1, NOW_MS, other.account_id, shared=name == "shared")
            for name in ("shared", "private")
        )
        for node in (shared, private):
            await world.api.shards.ask(CreateEntry(node))

        mine = await owner.send("GET", place)
        assert (mine.status, mine.body) == (200, package)
        assert mine.header("content-type") == "application/zip"
        assert mine.header("etag") == f'"{hashlib.sha256(package).hexdigest()}"'
        # A shared node gets only what it runs, as long as it does.
        assert (await other.send("GET", place)).status == 404
        task = task_of(owner, function_id, build_id)
        await world.api.shards.ask(task)
        assert (await other.send("GET", place)).status == 404
        assign = AssignExecution(f"__invoke:{task.id}", 1, private.id, 10_000)
        assert (await world.api.shards.ask(assign)).code.status == 201
        assert (await other.send("GET", place)).status == 404
        await world.api.shards.ask(CancelExecution(task.id))
        again = CreateExecution("troth:task/again", task.timeout, task.plan)
        await world.api.shards.ask(again)
        assign = AssignExecution(f"__invoke:{again.id}", 1, shared.id, 10_000)
        assert (await world.api.shards.ask(assign)).code.status == 201
        assert (await other.send("GET", place)).body == package
        assert (await reader.send("GET", place)).status == 404
        await world.api.shards.ask(CancelExecution(again.id))
        assert (await other.send("GET", place)).status == 404
