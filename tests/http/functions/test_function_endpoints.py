"""Functions and tags over HTTP, and that nobody sees another account's."""

import pytest
import trio

from tests.http.client import NOW_MS, running
from tests.http.documents.json_schema import served, validator
from tests.http.tenants import tenant
from troth.core.catalog import Capabilities, FunctionKind, Language, Scope
from troth.core.commands import CancelExecution, CreateExecution
from troth.core.executions import DAY_MS, ExecutionPlan
from troth.http.documents.table import API_ENDPOINTS
from troth.http.functions import entries as v1_entries
from troth.http.functions import function_endpoints, label_endpoints
from troth.http.wire.answers import schema_of

NOBODY = "0123456789abcdef01234567"


async def test_a_function_is_made_read_and_listed() -> None:
    async with running() as world:
        owner = tenant(world)
        label_id = await owner.tag("production", color="#2e7d32")
        function_id = await owner.function(
            name="resize-image_2", type="DOCKER", lang="py", description="Thumbs", tag=[label_id]
        )
        row = {
            "id": function_id,
            "name": "resize-image_2",
            "description": "Thumbs",
            "type": "code",
            "lang": "py",
            "paused": False,
            "tags": [{"id": label_id, "name": "production", "color": "#2e7d32"}],
            "createdAt": str(NOW_MS // 1000),
        }

        assert (await owner.send("GET", f"/function/{function_id}")).json == {
            **row,
            "capabilities": {
                "timeout": 10,
                "cpuCount": 0,
                "memSize": 0,
                "networkLatency": 0,
                "privileged": False,
            },
            "metrics": {
                "todaysTasks": 0,
                "pendingTasks": 0,
                "weekTasks": 0,
                "completedTasks": 0,
            },
        }
        assert (await owner.send("GET", "/function/list")).json == [row]


async def test_a_function_that_calls_a_url() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function(type="http", lang=None, url="https://example.com/a?b=c")
        changed = await owner.send(
            "PATCH", f"/function/{function_id}", {"url": "http://10.0.0.1:8080/"}
        )
        function = (await owner.send("GET", f"/function/{function_id}")).json

        assert changed.status == 204
        assert (function["type"], function["lang"]) == ("http", "")
        assert function["url"] == "http://10.0.0.1:8080/"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "with space"}, "name"),
        ({"name": "é"}, "name"),
        ({"name": "n" * 129}, "name"),
        ({"name": "ok\n"}, "name"),
        ({"description": "é"}, "description"),
        ({"description": "d" * 81}, "description"),
        ({"type": None}, "type"),
        ({"type": "LAMBDA"}, "type"),
        ({"lang": None}, "lang"),
        ({"lang": "GO"}, "lang"),
        ({"lang": "cobol"}, "lang"),
        ({"url": "http://x/"}, "url"),
        ({"type": "HTTP"}, "lang"),
        ({"type": "HTTP", "lang": None}, "url"),
        ({"type": "HTTP", "lang": None, "url": "ftp://x/"}, "url"),
        ({"type": "HTTP", "lang": None, "url": "poll://any@g"}, "url"),
        ({"type": "HTTP", "lang": None, "url": "http://"}, "url"),
        ({"type": "HTTP", "lang": None, "url": "http://x/" + "a" * 2048}, "url"),
        ({"tag": ["x"]}, "tag"),
        ({"tag": [NOBODY, {"id": NOBODY}]}, "tag"),
        ({"tag": [f"{n:024x}" for n in range(65)]}, "tag"),
        ({"tag": [1]}, "tag[0]"),
        ({"capabilities": {"timeout": 0}}, "capabilities.timeout"),
        ({"capabilities": {"timeout": 3601}}, "capabilities.timeout"),
        ({"capabilities": {"cpuCount": -1}}, "capabilities.cpuCount"),
        ({"capabilities": {"privileged": 1}}, "capabilities.privileged"),
    ],
)
async def test_a_wrong_function_is_refused(changes: dict[str, object], field: str) -> None:
    async with running() as world:
        body = {"name": "f", "type": "CODE", "lang": "PY", **changes}
        answer = await tenant(world).send("POST", "/function", body)

        assert (answer.status, answer.code) == (400, 40000)
        assert answer.wrong_fields == [field]


async def test_languages_that_are_not_run_are_named() -> None:
    async with running() as world:
        body = {"name": "f", "type": "DOCKER", "lang": "RS"}
        answer = await tenant(world).send("POST", "/function", body)

        assert "the nodes run no other language (GO, CS, RB, RS)" in answer.body.decode()


async def test_only_what_is_given_changes() -> None:
    async with running() as world:
        owner = tenant(world)
        first, second = await owner.tag("one"), await owner.tag("two")
        function_id = await owner.function(description="old", tag=[{"id": first, "name": "?"}])
        place = f"/function/{function_id}"

        for change in ({}, {"name": "new"}, {"description": ""}, {"tag": [second, first]}):
            assert (await owner.send("PATCH", place, change)).status == 204
        function = (await owner.send("GET", place)).json
        assert function["name"] == "new"
        assert function["description"] == ""
        assert [one["name"] for one in function["tags"]] == ["two", "one"]

        await owner.send("PATCH", place, {"tag": []})
        assert (await owner.send("GET", place)).json["tags"] == []
        refused = await owner.send("PATCH", place, {"url": "http://x/"})
        assert refused.wrong_fields == ["url"]


async def test_capabilities_change_one_by_one() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function(capabilities={"timeout": 120, "memSize": 2048})
        place = f"/function/{function_id}/capabilities"

        assert (await owner.send("POST", place, {"cpuCount": 4, "privilaged": True})).status == 204
        assert (await owner.send("POST", place, {"memSize": 0})).status == 204
        assert (await owner.send("GET", place)).json == {
            "timeout": 120,
            "cpuCount": 4,
            "memSize": 0,
            "networkLatency": 0,
            "privileged": True,
        }
        refused = await owner.send("POST", place, {"timeout": -1, "networkLatency": 60_001})
        assert refused.wrong_fields == ["timeout", "networkLatency"]


async def test_pausing_is_undone_by_pausing() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        states = []
        for _ in range(2):
            paused = await owner.send("POST", f"/function/{function_id}/togglePause")
            assert (paused.status, paused.body) == (204, b"")
            states.append((await owner.send("GET", f"/function/{function_id}")).json["paused"])

        assert states == [True, False]


async def test_a_deleted_function_is_gone() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        place = f"/function/{function_id}"

        assert (await owner.send("DELETE", place)).status == 204
        for method in ("GET", "DELETE"):
            answer = await owner.send(method, place)
            assert (answer.status, answer.code) == (404, 40411)
        assert (await owner.send("GET", "/function/list")).json == []


async def test_lists_are_whole_or_in_pages_and_newest_first() -> None:
    async with running() as world:
        owner = tenant(world)
        label_id = await owner.tag()
        ids = []
        for number in range(12):
            ids.append(await owner.function(tag=[label_id] if number % 2 else None))
            world.clock.time_ms += 1
        ids.reverse()

        async def listed(query: str) -> list[str]:
            answer = await owner.send("GET", f"/function/list{query}")
            assert answer.status == 200
            return [row["id"] for row in answer.json]

        assert await listed("") == ids
        assert await listed("?page=1") == ids[:10]
        assert await listed("?page=2") == ids[10:]
        assert await listed("?page=2&limit=5") == ids[5:10]
        assert await listed("?page=9") == []
        assert await listed(f"?tag={label_id}") == ids[::2]
        assert await listed(f"?tag={label_id}&limit=2") == ids[:4:2]
        assert await listed(f"?tag={NOBODY}") == []
        for query in ("page=0", "page=x", "limit=0", "limit=1001", "limit=-1"):
            assert (await owner.send("GET", f"/function/list?{query}")).status == 400


async def test_tags_are_changed_and_taken_off() -> None:
    async with running() as world:
        owner = tenant(world)
        first = await owner.tag("one", color="#FFF")
        world.clock.time_ms += 1
        second = await owner.tag("two")
        function_id = await owner.function(tag=[first, second])

        assert (await owner.send("PATCH", f"/tag/{first}", {"name": "uno"})).status == 204
        assert (await owner.send("PATCH", f"/tag/{second}", {"color": "#00ff00"})).status == 204
        assert (await owner.send("GET", "/tag/list")).json == [
            {"id": second, "name": "two", "color": "#00ff00"},
            {"id": first, "name": "uno", "color": "#FFF"},
        ]
        assert (await owner.send("DELETE", f"/tag/{first}")).status == 204
        function = (await owner.send("GET", f"/function/{function_id}")).json
        assert [one["id"] for one in function["tags"]] == [second]
        for method, body in (("PATCH", {}), ("DELETE", None)):
            gone = await owner.send(method, f"/tag/{first}", body)
            assert (gone.status, gone.code) == (404, 40413)
        for wrong in ({}, {"name": ""}, {"name": "ü"}, {"name": "n" * 81}):
            assert (await owner.send("POST", "/tag", wrong)).wrong_fields == ["name"]
        for color in ("red", "#12345", "#gggggg"):
            refused = await owner.send("POST", "/tag", {"name": "x", "color": color})
            assert refused.wrong_fields == ["color"]


async def test_an_unknown_tag_is_not_found() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        body = {"name": "f", "type": "CODE", "lang": "PY", "tag": [NOBODY]}

        for method, place in (("POST", "/function"), ("PATCH", f"/function/{function_id}")):
            answer = await owner.send(method, place, body)
            assert (answer.status, answer.code) == (404, 40413)


async def test_an_account_has_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_endpoints, "FUNCTIONS_LIMIT_COUNT", 1)
    monkeypatch.setattr(label_endpoints, "LABELS_LIMIT_COUNT", 1)
    async with running() as world:
        owner, other = tenant(world), tenant(world, 2)
        await owner.function()
        await owner.tag()

        body = {"name": "f", "type": "CODE", "lang": "PY"}
        assert (await owner.send("POST", "/function", body)).wrong_fields == ["account"]
        assert (await owner.send("POST", "/tag", body)).wrong_fields == ["account"]
        await other.function()
        await other.tag()


async def test_usage_is_counted_by_function_and_account() -> None:
    async with running() as world:
        owner, other = tenant(world), tenant(world, 2)
        function_id = await owner.function()
        plan = ExecutionPlan(
            owner.account_id, function_id, FunctionKind.CODE, Capabilities(), Language.PYTHON, "b"
        )

        async def run(name: str) -> None:
            timeout = world.clock.time_ms + DAY_MS * 30
            await world.api.shards.ask(CreateExecution(f"troth:task/{name}", timeout, plan))

        await run("a")
        world.clock.time_ms += DAY_MS * 2
        await run("b")
        await run("c")
        await world.api.shards.ask(CancelExecution("troth:task/c"))

        metrics = (await owner.send("GET", f"/function/{function_id}")).json["metrics"]
        assert metrics == {
            "todaysTasks": 2,
            "pendingTasks": 2,
            "weekTasks": 3,
            "completedTasks": 1,
        }
        usage = (await owner.send("GET", "/metrics")).json
        assert usage["pendingTasks"] == 2
        assert usage["todayTasks"] == 2
        assert usage["completedTasks"] == 1
        assert set((await other.send("GET", "/metrics")).json.values()) == {0}
        world.clock.time_ms += DAY_MS * 5
        metrics = (await owner.send("GET", f"/function/{function_id}")).json["metrics"]
        assert (metrics["todaysTasks"], metrics["weekTasks"]) == (0, 2)


async def test_changes_at_the_same_time_do_not_swallow_each_other() -> None:
    async with running() as world:
        owner = tenant(world)
        labels = [await owner.tag(str(number)) for number in range(5)]
        function_id = await owner.function(tag=labels)
        answers = []

        async def ask(method: str, place: str, body: object) -> None:
            answers.append((await owner.send(method, place, body)).status)

        async with trio.open_nursery() as nursery:
            for number, label_id in enumerate(labels[:4]):
                nursery.start_soon(ask, "DELETE", f"/tag/{label_id}", None)
                nursery.start_soon(ask, "POST", f"/function/{function_id}/togglePause", None)
                changes = [{"timeout": 20}, {"cpuCount": 1}, {"memSize": 2}, {"privileged": True}]
                place = f"/function/{function_id}/capabilities"
                nursery.start_soon(ask, "POST", place, changes[number])
        function = (await owner.send("GET", f"/function/{function_id}")).json

        assert set(answers) == {204}
        assert function["paused"] is False
        assert [one["id"] for one in function["tags"]] == labels[4:]
        assert list(function["capabilities"].values()) == [20, 1, 2, 0, True]


async def test_a_change_that_never_gets_its_turn_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(v1_entries, "CHANGE_ATTEMPTS_COUNT", 0)
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        for method in ("PATCH", "DELETE"):
            answer = await owner.send(method, f"/function/{function_id}", {"name": "x"})
            assert (answer.status, answer.code) == (409, 40911)


async def test_answers_are_as_described() -> None:
    async with running() as world:
        owner = tenant(world)
        label_id = await owner.tag(color="#fff")
        function_id = await owner.function(tag=[label_id])
        of_url = await owner.function(type="HTTP", lang=None, url="http://x/")
        good, bad = await owner.built(function_id), await owner.built(function_id, b"bad")
        asked = {
            "listTags": ["/tag/list"],
            "listFunctions": ["/function/list", "/function/list?page=9"],
            "readFunction": [f"/function/{function_id}", f"/function/{of_url}"],
            "readCapabilities": [f"/function/{function_id}/capabilities"],
            "listBuilds": ["/build/list", "/build/list?functionId=x"],
            "readBuild": [f"/build/{good['id']}", f"/build/{bad['id']}"],
            "showUsage": ["/metrics"],
        }
        by_name = {endpoint.name: endpoint for endpoint in API_ENDPOINTS}
        document = await served(world)
        for name, places in asked.items():
            (success,) = by_name[name].successes
            described = validator(schema_of(success.shape), document)
            for place in places:
                answer = await owner.send("GET", place)
                assert answer.status == success.status
                described.validate(answer.json)


OF_FUNCTIONS = [
    ("PATCH", "/function/{}", {"name": "x"}),
    ("GET", "/function/{}", None),
    ("POST", "/function/{}/togglePause", None),
    ("GET", "/function/{}/capabilities", None),
    ("POST", "/function/{}/capabilities", {"timeout": 20}),
    ("POST", "/build/{}?arch=amd64", None),
    ("DELETE", "/function/{}", None),
]
OF_TAGS = [
    ("PATCH", "/tag/{}", {"name": "x"}),
    ("DELETE", "/tag/{}", None),
]
OF_BUILDS = [
    ("GET", "/build/{}", None),
    ("GET", "/build/{}/archive", None),
]


async def test_nobody_sees_another_accounts_things() -> None:
    async with running() as world:
        owner, other = tenant(world), tenant(world, 2)
        function_id, label_id = await owner.function(), await owner.tag()
        build = await owner.built(function_id)
        asked = [(function_id, *row) for row in OF_FUNCTIONS]
        asked += [(label_id, *row) for row in OF_TAGS]
        asked += [(build["id"], *row) for row in OF_BUILDS]

        for identifier, method, path, body in asked:
            seen = []
            # Of others, of nobody, of another kind, and what is no id at all.
            for one in (identifier, NOBODY, other.account_id, "x", "%2e%2e"):
                answer = await other.send(
                    method, path.format(one), body, headers={"Request-Id": "same"}
                )
                assert answer.status == 404, (method, path, one, answer.body)
                seen.append(answer.body)
            assert len(set(seen)) == 1, (method, path)
        for path in ("/function/list", "/tag/list"):
            assert (await other.send("GET", path)).json == []
        for path in ("/build/list", f"/build/list?functionId={function_id}"):
            assert (await other.send("GET", path)).json["totalCount"] == 0
        stolen = {"name": "f", "type": "CODE", "lang": "PY", "tag": [label_id]}
        assert (await other.send("POST", "/function", stolen)).status == 404

        function = (await owner.send("GET", f"/function/{function_id}")).json
        assert function["name"] == "f"
        assert function["paused"] is False
        assert function["buildId"] == build["id"]
        assert (await owner.send("GET", "/tag/list")).json[0]["name"] == "t"


async def test_a_token_does_only_what_it_is_for() -> None:
    async with running() as world:
        owner = tenant(world)
        function_id = await owner.function()
        build = await owner.built(function_id)
        reader = tenant(world, scopes=(Scope.FUNCTIONS_READ,))
        writer = tenant(world, scopes=(Scope.FUNCTIONS_WRITE,))
        node = tenant(world, scopes=(Scope.NODE,))
        stranger = tenant(world, scopes=(Scope.TASKS_READ, Scope.ADMIN))
        archive = f"/build/{build['id']}/archive"

        for one, allowed in ((reader, True), (writer, False), (node, False), (stranger, False)):
            answer = await one.send("GET", f"/function/{function_id}")
            assert answer.status == (200 if allowed else 403)
        for one, allowed in ((reader, True), (writer, False), (node, True), (stranger, False)):
            assert (await one.send("GET", archive)).status == (200 if allowed else 403)
        for one, allowed in ((reader, False), (writer, True), (node, False), (stranger, False)):
            answer = await one.send("PATCH", f"/function/{function_id}", {})
            assert answer.status == (204 if allowed else 403)
        assert (await world.send("GET", "/v1/function/list")).status == 401
