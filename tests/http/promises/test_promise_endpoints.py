"""Promises over HTTP: answers as rest.md describes them, and every way to ask wrongly."""

import pytest

from tests.http.client import FAR_MS, NOW_MS, World, running
from troth.http.settings.settings import Settings

KEY = {"Idempotency-Key": "k"}


async def test_answers_have_the_keys_and_the_order_of_the_reference() -> None:
    async with running() as world:
        created = await world.create(
            "a/b/c",
            param={"headers": {"z": "1", "a": "2"}, "data": "aGVsbG8="},
            tags={"x": "y", "b": "c"},
        )

        assert created.status == 201
        assert created.body == (
            b'{"id":"a/b/c","state":"PENDING","param":{"headers":{"a":"2","z":"1"},'
            b'"data":"aGVsbG8="},"value":{},"timeout":4102444800000,"tags":{"b":"c","x":"y"},'
            b'"createdOn":1800000000000}'
        )
        assert created.header("content-type") == "application/json; charset=utf-8"
        assert created.header("resonate-version") == "0.8.2"


async def test_empty_parts_are_left_out() -> None:
    async with running() as world:
        created = await world.create("a", tags={}, param={"headers": {}, "data": ""})

        assert created.json == {
            "id": "a",
            "state": "PENDING",
            "param": {},
            "value": {},
            "timeout": FAR_MS,
            "createdOn": NOW_MS,
        }


async def test_a_null_field_is_as_good_as_an_absent_one() -> None:
    async with running() as world:
        body = {"id": "a", "timeout": None, "param": None, "tags": {"t": None}}
        created = await world.send("POST", "/promises", body)

        assert created.status == 201
        assert (created.json["timeout"], created.json["tags"]) == (0, {"t": ""})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b"", ["body"]),
        (b"null", ["id"]),
        (b"[]", ["body"]),
        (b'"x"', ["body"]),
        (b'{"id":"a"} x', ["body"]),
        (b"\xef\xbb\xbf", ["body"]),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", ["body"]),  # one byte order mark is no fault
        (b"\xef\xbb\xbf{}", ["id"]),
        (b'{"id":"\xff"}', ["body"]),
        (b'{"other":"\xff"}', ["body"]),
        (b'{"id":"\\ud800"}', ["body"]),
        (b'{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ["body"]),
        (b"{}", ["id"]),
        (b'{"id":""}', ["id"]),
        (b'{"id":null}', ["id"]),
        (b'{"id":5}', ["id"]),
        (b'{"id":"' + b"x" * 1025 + b'"}', ["id"]),
        (b'{"id":"' + "é".encode() * 513 + b'"}', ["id"]),
        (b'{"id":"a","timeout":1.0}', ["timeout"]),
        (b'{"id":"a","timeout":1e3}', ["timeout"]),
        (b'{"id":"a","timeout":"5"}', ["timeout"]),
        (b'{"id":"a","timeout":true}', ["timeout"]),
        (b'{"id":"a","timeout":9223372036854775808}', ["timeout"]),
        (b'{"id":"a","timeout":-9223372036854775809}', ["timeout"]),
        (b'{"id":"a","tags":[]}', ["tags"]),
        (b'{"id":"a","tags":{"t":1}}', ["tags"]),
        (b'{"id":"a","param":"x"}', ["param"]),
        (b'{"id":"a","param":{"headers":{"h":1}}}', ["param.headers"]),
        (b'{"id":"a","param":{"data":"@@"}}', ["param.data"]),
        (b'{"id":"a","param":{"data":"aGk"}}', ["param.data"]),
        (b'{"id":"a","param":{"data":"_-=="}}', ["param.data"]),
        (b'{"id":"a","param":{"data":"QQ==QQ=="}}', ["param.data"]),
        (b'{"id":"a","param":{"data":"\xc3\xa9aaa"}}', ["param.data"]),
        (b'{"timeout":9223372036854775808,"param":{"data":"@"}}', ["id", "timeout", "param.data"]),
    ],
)
async def test_a_wrong_body_is_refused_and_every_wrong_field_named(
    raw: bytes, fields: list[str]
) -> None:
    async with running() as world:
        answer = await world.send("POST", "/promises", raw=raw)

        assert (answer.status, answer.code) == (400, 40000)
        assert answer.wrong_fields == fields
        assert (await world.send("GET", "/promises/a")).status == 404


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("aGVs\r\nbG8=\n", "aGVsbG8="),
        ("QR==", "QQ=="),  # bits beyond the last byte are ignored, as Go does
        ("AAAA", "AAAA"),
    ],
)
async def test_data_comes_back_in_canonical_base64(given: str, kept: str) -> None:
    async with running() as world:
        created = await world.create("a", param={"data": given})

        assert created.json["param"] == {"data": kept}


async def test_limits_of_tags_and_headers_are_those_of_the_settings() -> None:
    settings = Settings(
        tags_limit_count=2,
        tag_limit_bytes=256,
        id_limit_bytes=64,
        value_headers_limit_count=1,
    )
    async with running(settings) as world:
        for more, field in (
            ({"tags": {"a": "", "b": "", "c": ""}}, "tags"),
            ({"tags": {"a": "x" * 256}}, "tags"),
            ({"param": {"headers": {"a": "", "b": ""}}}, "param.headers"),
        ):
            answer = await world.create("a", **more)
            assert (answer.status, answer.wrong_fields) == (400, [field])
        assert (await world.create("x" * 65)).wrong_fields == ["id"]
        assert (await world.create("x" * 64, tags={"a": "", "b": ""})).status == 201


async def test_unknown_and_repeated_keys_are_tolerated() -> None:
    async with running() as world:
        answer = await world.send("POST", "/promises", raw=b'{"id":"a","what":[],"id":"b"}')

        assert (answer.status, answer.json["id"]) == (201, "b")


async def test_an_empty_idempotency_key_is_a_key() -> None:
    async with running() as world:
        empty = {"Idempotency-Key": ""}
        body = {"id": "a", "timeout": FAR_MS}
        created = await world.send("POST", "/promises", body, empty)

        assert created.json["idempotencyKeyForCreate"] == ""
        assert (await world.send("POST", "/promises", body, empty)).status == 200
        conflict = await world.send("POST", "/promises", body)
        assert (conflict.status, conflict.code) == (409, 40900)


@pytest.mark.parametrize(
    ("given", "status"),
    [("1", 409), ("t", 409), ("True", 409), ("", 200), ("0", 200), ("F", 200), ("yes", 400)],
)
async def test_strict_takes_the_words_that_go_knows(given: str, status: int) -> None:
    async with running() as world:
        await world.send("POST", "/promises", {"id": "a", "timeout": FAR_MS}, KEY)
        await world.send("PATCH", "/promises/a", {"state": "resolved"})
        answer = await world.send(
            "POST", "/promises", {"id": "a", "timeout": FAR_MS}, {**KEY, "Strict": given}
        )

        assert answer.status == status
        assert status != 400 or answer.wrong_fields == ["header Strict"]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (b"approval \xfc", "approval \u00fc"),
        ("approval \u00fc".encode(), "approval \u00fc"),
        (b"\xff\xfe", "\u00ff\u00fe"),
        ("\u2603".encode(), "\u2603"),
        (b"\xfc" * 512, "\u00fc" * 512),
    ],
)
async def test_a_key_is_utf8_or_else_latin1(given: bytes, key: str) -> None:
    async with running() as world:
        body = {"id": "a", "timeout": FAR_MS}
        for status in (201, 200):
            headers = [(b"idempotency-key", given), (b"traceparent", b"\xff"), (b"task-id", b"")]
            answer = await world.send("POST", "/promises", body, headers)
            assert (answer.status, answer.json["idempotencyKeyForCreate"]) == (status, key)
        again = {"Idempotency-Key": key}
        assert (await world.send("POST", "/promises", body, again)).status == 200
        headers = [(b"idempotency-key", given)]
        answer = await world.send("PATCH", "/promises/a", {"state": "RESOLVED"}, headers)
        assert answer.json["idempotencyKeyForComplete"] == key


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idempotency-key", b"x" * 1025),
        ("idempotency-key", b"\xfc" * 513),
        ("traceparent", b"x" * 1025),
        ("tracestate", b"x" * 1025),
        ("task-counter", b"one"),
        ("task-counter", b"9223372036854775808"),
    ],
)
async def test_a_wrong_header_is_refused_before_the_body_is_looked_at(
    name: str, value: bytes
) -> None:
    async with running() as world:
        answer = await world.send(
            "POST", "/promises", headers=[(name.encode(), value)], raw=b"not json"
        )

        assert answer.status == 400
        assert [field.lower() for field in answer.wrong_fields] == [f"header {name}"]


async def test_a_stale_fence_is_refused_with_412() -> None:
    async with running() as world:
        fence = {"Task-Id": "__invoke:other", "Task-Counter": "1"}
        body = {"id": "a", "timeout": FAR_MS}

        answer = await world.send("POST", "/promises", body, fence)

        assert (answer.status, answer.code) == (412, 41200)
        assert (await world.send("GET", "/promises/a")).status == 404
        unfenced = await world.send("POST", "/promises", body, {**fence, "Task-Id": ""})
        assert unfenced.status == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"state": ""},
        {"state": None},
        {"state": 5},
        {"state": "PENDING"},
        {"state": "REJECTED_TIMEDOUT"},
        {"state": "nope"},
    ],
)
async def test_a_wrong_state_is_refused_before_the_promise_is_looked_for(body: object) -> None:
    async with running() as world:
        answer = await world.send("PATCH", "/promises/absent", body)

        assert (answer.status, answer.code) == (400, 40000)
        assert answer.wrong_fields == ["state"]


async def test_completing_takes_the_state_in_any_case() -> None:
    async with running() as world:
        await world.create("a")
        body = {"state": "rejected_Canceled", "value": {"headers": {"q": "r"}, "data": "eA=="}}
        answer = await world.send("PATCH", "/promises/a", body, KEY)

        assert (answer.status, answer.json["state"]) == (201, "REJECTED_CANCELED")
        assert answer.json["value"] == {"headers": {"q": "r"}, "data": "eA=="}
        assert answer.json["idempotencyKeyForComplete"] == "k"
        assert (await world.send("PATCH", "/promises/a", body, KEY)).status == 200
        refused = await world.send("PATCH", "/promises/a", body)
        assert (refused.status, refused.code) == (403, 40302)


async def test_create_promise_and_task_names_nested_fields() -> None:
    async with running() as world:
        empty = await world.send("POST", "/promises/task", {})
        wrong = await world.send(
            "POST",
            "/promises/task",
            {"promise": {"id": "a"}, "task": {"processId": "p", "ttl": -1}},
        )

        assert empty.wrong_fields == ["promise.id", "task.processId"]
        assert wrong.wrong_fields == ["task.ttl"]


async def test_create_promise_and_task_claims_the_task() -> None:
    async with running() as world:
        body = {
            "promise": {
                "id": "a",
                "timeout": FAR_MS,
                "tags": {"resonate:invoke": "default"},
            },
            "task": {"processId": "p", "ttl": 5},
        }
        unrouted = await world.send(
            "POST", "/promises/task", {**body, "promise": {"id": "a", "timeout": FAR_MS}}
        )
        created = await world.send("POST", "/promises/task", body, KEY)
        repeated = await world.send("POST", "/promises/task", body, KEY)

        assert (unrouted.status, unrouted.code) == (404, 40404)
        assert unrouted.json["error"]["details"][0]["@type"] == "ServerError"
        assert created.status == 201
        assert created.json["task"] == {
            "id": "__invoke:a",
            "counter": 1,
            "timeout": FAR_MS,
            "rootPromiseId": "a",
            "processId": "p",
            "createdOn": NOW_MS,
        }
        assert (repeated.status, repeated.json["task"]) == (200, None)


async def _callback(world: World, **body: object) -> tuple[int, object]:
    answer = await world.send("POST", "/callbacks", body)
    if answer.status == 400:
        return answer.code, answer.wrong_fields if answer.code == 40000 else None
    return answer.status, answer.json["callback"] and answer.json["callback"]["id"]


async def test_callbacks_need_an_id_that_may_be_blank_or_capitalised() -> None:
    async with running() as world:
        await world.create("leaf")
        rest: dict[str, object] = {"promiseId": "leaf", "recv": "x"}

        assert await _callback(world, rootPromiseId="r", **rest) == (40000, ["id"])
        assert await _callback(world, id="", rootPromiseId="r", **rest) == (40000, ["id"])
        made = (201, "__resume:r:leaf")
        assert await _callback(world, id=" ", rootPromiseId="r", **rest) == made
        assert await _callback(world, Id="x", rootPromiseId="r", **rest) == (200, None)
        assert await _callback(world, id="x", rootPromiseId="leaf", **rest) == (40001, None)


@pytest.mark.parametrize(
    "receiver",
    [
        b"",
        b',"recv":null',
        b',"recv":18446744073709551616',
        b',"recv":[1e300]',
        b',"recv":' + b"[" * 40 + b"]" * 40,
        b',"recv":"' + b"x" * 9000 + b'"',
        b',"recv":"\\ud800"',
    ],
)
async def test_an_unusable_receiver_is_refused(receiver: bytes) -> None:
    async with running() as world:
        await world.create("leaf")
        raw = b'{"id":"s","promiseId":"leaf","timeout":1' + receiver + b"}"
        answer = await world.send("POST", "/subscriptions", raw=raw)

        assert (answer.status, answer.code) == (400, 40000)


@pytest.mark.parametrize("receiver", ["x", {"type": "poll", "data": {"group": "g"}}, 5, [], True])
async def test_any_other_json_is_a_receiver(receiver: object) -> None:
    async with running() as world:
        await world.create("le/af")
        body = {"id": "s", "timeout": FAR_MS, "recv": receiver}
        answer = await world.send("POST", "/promises/subscribe/le/af", body)

        assert answer.status == 201
        assert answer.json["callback"] == {
            "id": "__notify:le/af:s",
            "promiseId": "le/af",
            "rootPromiseId": "le/af",
            "timeout": FAR_MS,
            "createdOn": NOW_MS,
        }


async def test_callback_of_promise_takes_the_id_from_the_path() -> None:
    async with running() as world:
        await world.create("leaf")
        body = {"promiseId": "ignored", "rootPromiseId": "root", "recv": "x", "timeout": FAR_MS}
        answer = await world.send("POST", "/promises/callback/leaf", body)

        assert answer.status == 201
        assert answer.json["callback"]["promiseId"] == "leaf"
        assert answer.json["callback"]["rootPromiseId"] == "root"


@pytest.mark.parametrize("value", ["null", '{"type":"http"}', '{"type":"poll","data":null}', "5"])
async def test_tags_that_crash_the_reference_server_do_no_harm(value: str) -> None:
    async with running() as world:
        answer = await world.create("a", tags={"resonate:invoke": value})

        assert answer.status == 201
        assert (await world.send("GET", "/promises/a")).status == 200
