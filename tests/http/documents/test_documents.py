"""What the server says about itself: OpenAPI, the pages, the metrics, the table behind them all."""

import gzip
import re
from typing import Any
from urllib.parse import urljoin

import msgspec
import orjson
import pytest
from msgspec import Struct

from tests.http.client import FAR_MS, Answer, World, running
from troth.core.codes import EXPLANATIONS, MESSAGES, Code
from troth.core.lifecycles import TASK
from troth.core.model import PromiseState
from troth.http.documents.api_page import group_anchor
from troth.http.documents.pages import STYLE
from troth.http.documents.refusals import refusals_of
from troth.http.documents.table import API_ENDPOINTS, POLL_ENDPOINTS
from troth.http.wire.answers import example_of, schema_of
from troth.http.wire.fields import RequestLimits, example, problems
from troth.http.wire.schema_parts import reference

from .json_schema import served, validator
from .meaning import status_of

SIZE_LIMIT_BYTES = 202_500
"""What the description may have at the most. It is lowered when the description gets shorter."""

ENDPOINT_LIMIT_BYTES = 1_750
"""What an endpoint may have on average, with its share of the components."""

LIMITS = RequestLimits()
BODIES = sorted(
    {endpoint.body for endpoint in API_ENDPOINTS if endpoint.body}, key=lambda body: body.__name__
)


async def _openapi() -> dict[str, Any]:
    async with running() as world:
        return await served(world)


async def test_every_endpoint_is_described() -> None:
    document = await _openapi()
    described = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert set(described) == {
        (endpoint.method, endpoint.path.replace("...", "")) for endpoint in API_ENDPOINTS
    }
    for endpoint in API_ENDPOINTS:
        operation = described[endpoint.method, endpoint.path.replace("...", "")]
        assert operation["operationId"] == endpoint.name
        statuses = {str(success.status) for success in endpoint.successes}
        statuses |= {str(code.status) for code in refusals_of(endpoint)}
        shown = set(operation["responses"])
        for wildcard in shown & {"4XX", "5XX"}:
            codes = _resolved(document, operation["responses"][wildcard])["x-codes"]
            assert {status_of(code)[0] for code in codes} == {wildcard[0]}
            shown = shown - {wildcard} | set(map(status_of, codes))
        assert shown == statuses
        names = {_resolved(document, part)["name"] for part in operation["parameters"]}
        assert names >= set(re.findall(r"\{(\w+)", endpoint.path))
        assert names >= {header.value for header in endpoint.headers}
        sent = endpoint.body or endpoint.raw_body
        assert ("requestBody" in operation) == (sent is not None)
    assert len({endpoint.name for endpoint in API_ENDPOINTS}) == len(API_ENDPOINTS)


async def test_the_description_stays_short() -> None:
    async with running() as world:
        size_bytes = len((await world.send("GET", "/openapi.json")).body)

    assert size_bytes < SIZE_LIMIT_BYTES
    assert size_bytes < ENDPOINT_LIMIT_BYTES * len(API_ENDPOINTS)


async def test_the_description_holds_together() -> None:
    document = await _openapi()
    text = orjson.dumps(document).decode()

    assert document["openapi"] == "3.0.3"
    assert set(re.findall(r'"type":(\[)', text)) == set()
    assert '"examples":[' not in text
    for found in set(re.findall(r'"\$ref":"([^"]+)"', text)):
        _, components, kind, name = found.split("/")
        assert components == "components"
        assert name in document["components"][kind]
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            parameters = [_resolved(document, part) for part in operation["parameters"]]
            in_path = {part["name"] for part in parameters if part["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            for status, response in operation["responses"].items():
                assert _resolved(document, response)["description"], (path, status)


def _resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    _, components, kind, name = part["$ref"].split("/")
    found: dict[str, Any] = document[components][kind][name]
    return found


async def test_refusals_say_which_codes_they_have() -> None:
    document = await _openapi()
    found = set()
    for name, response in document["components"]["responses"].items():
        if "x-codes" not in response:
            continue
        codes = [Code(code) for code in response["x-codes"]]
        found |= {code.value for code in codes}
        if "XX" in name:
            assert response["description"] == "One of `x-codes`; see `/docs/errors`."
        else:
            shown = " ".join(f"{code.value}: {MESSAGES[code]}." for code in codes)
            assert response["description"] == shown

    assert found == {code.value for endpoint in API_ENDPOINTS for code in refusals_of(endpoint)}


SHAPES = {
    f"{endpoint.name} {success.status}": success.shape
    for endpoint in API_ENDPOINTS
    for success in endpoint.successes
    if success.shape is not None
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
async def test_the_example_of_every_answer_is_valid(name: str) -> None:
    shape = SHAPES[name]
    validator(schema_of(shape), await _openapi()).validate(example_of(shape))


@pytest.mark.parametrize("body", BODIES)
async def test_the_example_of_a_body_is_accepted_and_valid(body: type[Struct]) -> None:
    shown = example(body)
    decoded = msgspec.json.decode(orjson.dumps(shown), type=body)

    assert problems(decoded, LIMITS) == []
    validator(reference(body.__name__), await _openapi()).validate(shown)


@pytest.mark.parametrize(
    ("given", "is_accepted"),
    [
        ({"id": "a"}, True),
        ({"id": "a", "timeout": None, "param": None, "tags": None}, True),
        ({"id": "a", "param": {"headers": None, "data": None}}, True),
        ({"id": "a", "param": {"headers": {"h": None}, "data": "aG\nk=\r"}}, True),
        ({"id": "a", "what": 1}, True),
        ({}, False),
        ({"id": ""}, False),
        ({"id": None}, False),
        ({"id": "a", "timeout": 2**63}, False),
        ({"id": "a", "timeout": 1.5}, False),
        ({"id": "a", "tags": {"t": 1}}, False),
        ({"id": "a", "tags": {str(n): "" for n in range(65)}}, False),
        ({"id": "a", "param": {"data": "aGk"}}, False),
        ({"id": "x" * 1024}, True),
        ({"id": "x" * 1025}, False),
        ([], False),
    ],
)
async def test_the_schema_says_exactly_what_is_accepted(given: object, is_accepted: bool) -> None:
    async with running() as world:
        described = validator(reference("CreatePromiseBody"), await served(world))
        answer = await world.send("POST", "/promises", raw=orjson.dumps(given))

        assert described.is_valid(given) is is_accepted
        assert (answer.status == 201) is is_accepted


async def _answers(world: World) -> list[tuple[str, Answer]]:
    """One good answer at least of every endpoint that answers with a JSON object of ours."""
    routed = {"resonate:invoke": "default", "b": "1", "a": "2"}
    promise = {"id": "p", "timeout": FAR_MS, "tags": routed, "param": {"data": "eA=="}}
    task = {"id": "__invoke:p", "counter": 1, "processId": "w", "ttl": 1000}
    claimed = {"promise": {**promise, "id": "q"}, "task": {"processId": "w", "ttl": 1}}
    lock = {"resourceId": "r", "executionId": "e", "processId": "w", "ttl": 1}
    root = {"id": "x", "rootPromiseId": "q", "promiseId": "p", "recv": "x", "timeout": FAR_MS}
    schedule = {"id": "s", "cron": "@daily", "promiseId": "{{.id}}", "promiseTags": routed}
    key = {"Idempotency-Key": "k"}
    asked: list[tuple[str, str, str, object]] = [
        ("createPromise", "POST", "/promises", promise),
        ("createPromiseAndTask", "POST", "/promises/task", claimed),
        ("createPromiseAndTask", "POST", "/promises/task", claimed),
        ("readPromise", "GET", "/promises/p", None),
        ("createCallback", "POST", "/callbacks", root),
        ("createCallbackOfPromise", "POST", "/promises/callback/p", root),
        ("createSubscription", "POST", "/subscriptions", root),
        ("createSubscriptionOfPromise", "POST", "/promises/subscribe/p", root),
        ("searchPromises", "GET", "/promises?id=*&limit=1", None),
        ("claimTask", "POST", "/tasks/claim", task),
        ("heartbeatTasks", "POST", "/tasks/heartbeat", task),
        ("completeTask", "POST", "/tasks/complete", task),
        ("completePromise", "PATCH", "/promises/p", {"state": "RESOLVED"}),
        ("claimTaskByLink", "GET", "/tasks/claim/__resume:q:p/1", None),
        ("createSchedule", "POST", "/schedules", schedule),
        ("readSchedule", "GET", "/schedules/s", None),
        ("searchSchedules", "GET", "/schedules?id=*", None),
        ("acquireLock", "POST", "/locks/acquire", lock),
        ("heartbeatLocks", "POST", "/locks/heartbeat", lock),
        ("ping", "GET", "/ping", None),
        ("ready", "GET", "/ready", None),
    ]
    answers = []
    for name, method, target, body in asked:
        answer = await world.send(method, target, body, key)
        assert answer.status < 300, (name, answer.body)
        answers.append((name, answer))
    return answers


async def test_real_answers_are_as_described() -> None:
    by_name = {endpoint.name: endpoint for endpoint in API_ENDPOINTS}
    async with running() as world:
        document = await served(world)
        for name, answer in await _answers(world):
            described = {success.status: success for success in by_name[name].successes}
            shape = described[answer.status].shape
            validator(schema_of(shape), document).validate(answer.json)
        for target in ("/promises/x", "/promises?", "/nothing"):
            refused = await world.send("GET", target)
            validator(reference("Error"), document).validate(refused.json)


async def test_the_documentation_lists_every_endpoint_and_state() -> None:
    async with running() as world:
        answer = await world.send("GET", "/docs")
        text = answer.body.decode()

        assert answer.header("content-type") == "text/html; charset=utf-8"
        for endpoint in API_ENDPOINTS:
            assert f"<h3 id={endpoint.name}>" in text
            assert f'href="#{group_anchor(endpoint.group)}"' in text
        for state in PromiseState:
            assert f">{state.value}</text>" in text
        for (_, event), step in TASK.items():
            assert event.value in text
            assert step.state is None or step.state.value in text
        assert text.count("<svg") == text.count("</svg>") == 2
        assert re.findall(r'(?:src|href)="(https?:[^"]*)"', text) == []


async def test_the_error_page_explains_every_code() -> None:
    async with running() as world:
        text = (await world.send("GET", "/docs/errors")).body.decode()

        for code in EXPLANATIONS:
            assert f'id="{code.value}"' in text
            assert str(code.value) in text
        assert text.count("<h2") == len(MESSAGES)


async def test_the_first_page_points_to_the_others() -> None:
    async with running() as world:
        text = (await world.send("GET", "/")).body.decode()

        links = re.findall(r'href="([^"#:]+)"', text)
        assert len(links) == 6  # the style is one of them
        for path in links:
            first = await world.send("GET", f"/{path}")
            again = await world.send("GET", f"/{path}")
            assert first.status == 200
            assert len(again.headers) == len(first.headers)


async def test_pages_have_no_style_or_script_in_html() -> None:
    async with running() as world:
        for page in ("/", "/docs", "/docs/errors", "/docs/metrics"):
            answer = await world.send("GET", page)
            text = answer.body.decode()
            assert not re.search(r"<style|<script>|\bstyle=|\bon\w+=", text), page
            policy = answer.header("content-security-policy") or ""
            assert policy == (
                "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:"
            )
            small = await world.send("GET", page, headers={"Accept-Encoding": "gzip"})
            assert gzip.decompress(small.body) == answer.body
        for path, media_type in (("style.css", "text/css"), ("script.js", "text/javascript")):
            file = await world.send("GET", f"/docs/{path}")
            assert (file.status, file.header("content-type")) == (
                200,
                f"{media_type}; charset=utf-8",
            )


def _luminance(color: str) -> float:
    """The relative luminance of a color, as WCAG 2 defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _shades(style: str, name: str) -> tuple[str, str]:
    """The colors of a name, in light and in dark."""
    ((light, dark),) = re.findall(rf"--{name}: light-dark\((#\w{{6}}), (#\w{{6}})\);", style)
    return light, dark


def test_what_is_written_can_be_read() -> None:
    style = STYLE.read_text()
    for name in ("accent", "quiet"):
        for ground in ("page", "sunken"):
            for ink, paper in zip(_shades(style, name), _shades(style, ground), strict=True):
                lighter, darker = sorted((_luminance(ink), _luminance(paper)), reverse=True)
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5


async def test_links_between_pages_work_under_any_prefix() -> None:
    async with running() as world:
        for page in ("/", "/docs", "/docs/errors", "/docs/metrics"):
            text = (await world.send("GET", page)).body.decode()
            for link in set(re.findall(r'href="?([^">]*)', text)) - {"data:,"}:
                place = urljoin(f"http://x/some/prefix{page}", link)
                assert place.startswith("http://x/some/prefix/"), link
                path, _, fragment = place.removeprefix("http://x/some/prefix").partition("#")
                answer = await world.send("GET", path)
                assert answer.status == 200, link
                assert not fragment or re.search(
                    rf'id="?{re.escape(fragment)}"?[ >]', answer.body.decode()
                )


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/docs/", "../docs"),
        ("/docs/errors/", "../errors"),
        ("/metrics/?a=b", "../metrics?a=b"),
        ("/v1/function/list/", "../list"),
        ("/%64ocs/", "../docs"),
    ],
)
async def test_a_slash_too_much_leads_to_the_page(target: str, location: str) -> None:
    async with running() as world:
        for method in ("GET", "HEAD"):
            answer = await world.send(method, target)
            assert (answer.status, answer.header("location")) == (308, location)
        for method, other in (("POST", target), ("GET", f"{target.partition('?')[0]}/")):
            assert (await world.send(method, other)).status in {404, 405}


def test_the_poll_port_has_the_stream_and_the_probes() -> None:
    assert [(endpoint.method, endpoint.path) for endpoint in POLL_ENDPOINTS] == [
        ("GET", "/{group}/{id...}"),
        ("GET", "/ping"),
        ("GET", "/health"),
        ("GET", "/ready"),
    ]
