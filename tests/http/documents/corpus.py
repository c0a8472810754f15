"""One answer at least of every endpoint, recorded: what was asked, the status and the bytes.

Three servers without sockets are asked the same things in the same order. Their clocks show a fixed
day, and the first one's goes on by a millisecond with each request. What is random in an answer
(ids, secrets, cursors) is replaced by names in the order in which it appears, and the words of
refusals are left out; everything else must not change by a byte.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import trio
import trio.testing

from tests.helpers.zips import plain_zip
from tests.http.client import FAR_MS, NOW_MS, Answer, ManualClock, World, running
from tests.http.function_world import (
    NODE,
    FunctionWorld,
    ScriptedNode,
    functions_running,
    ready_node,
)
from tests.http.tenants import tenant
from troth.http.api.router import Router
from troth.http.documents.table import API_ENDPOINTS
from troth.http.settings.retention import RetentionRules, rule_texts
from troth.shards.upkeep.retention import Sweeper

NOT_RECORDED = {
    "listSnapshots": "times and sizes of files",
    "writeSnapshot": "times and sizes of files",
    "takeSnapshot": "bytes of a file, with the time and a secret in it",
    "streamWork": "a stream, which does not end",
    "poll": "a stream, which does not end",
    "events": "a stream, which does not end",
    "retryTask": "needs delivery, which these servers have not; see test_why_for_real.py",
}
"""Endpoints that are not in the corpus, and why."""

_PAGES = frozenset(
    {
        "metrics",
        "settings",
        "openapi",
        "start",
        "documentation",
        "errorDocumentation",
        "documentationStyle",
        "ui",
    }
)
"""Endpoints whose content has tests of its own: only the kind of content is recorded."""

_VOLATILE = re.compile(
    r"(?P<secret>troth_[A-Za-z0-9_-]{43})"
    r'|(?P<text>(?<=")[A-Za-z0-9_-]{43}(?="))'
    r'|(?P<cursor>(?<="cursor":")[A-Za-z0-9_.-]+)'
    r"|(?P<id>(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f]))"
    r"|(?P<digest>(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f]))"
    r'|(?P<duration>(?<="durationMs":)\d+)'
    r"|(?P<python>Python 3\.\d+)"
    r'|(?P<words>(?<="message":)"(?:[^"\\]|\\.)*")'
)

_PART_MS = 1_000
_REPLACED = {"duration": "0", "python": "Python 3.x", "words": '"..."'}


@dataclass
class Corpus:
    """What was recorded so far. `covered` has the endpoints' names and statuses."""

    lines: list[str] = field(default_factory=list)
    covered: set[tuple[str, int]] = field(default_factory=set)
    _router: Router = field(default_factory=lambda: Router(API_ENDPOINTS))
    _names: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Everything, as it is kept."""
        return "\n".join(self.lines) + "\n"

    def add(self, method: str, target: str, body: object, answer: Answer) -> None:
        """Note an answer."""
        row = self._router.match(method, target.partition("?")[0].encode()).endpoint
        self.covered.add((row.name, answer.status))
        asked = f"> {method} {target}"
        if isinstance(body, bytes):
            asked += f" ({len(body)} bytes)" if len(body) > 99 else f" {body.decode()}"
        elif body is not None:
            asked += f" {json.dumps(body)}"
        kind = answer.header("content-type") or "-"
        shown = "".join(
            character if character.isprintable() else f"<U+{ord(character):04X}>"
            for character in answer.body.decode(errors="replace")
        )
        if row.name in _PAGES:
            shown = "(a page)"
        elif kind == "application/zip":
            shown = "(an archive)"
        self.lines.append(self._stable(f"# {row.name}\n{asked}\n< {answer.status} {kind}\n{shown}"))

    def _stable(self, text: str) -> str:
        return _VOLATILE.sub(self._name_of, text)

    def _name_of(self, found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        if kind in _REPLACED:
            return _REPLACED[kind]
        known = sum(name.startswith(f"<{kind} ") for name in self._names.values())
        return self._names.setdefault(found[0], f"<{kind} {known + 1}>")


Ask = Callable[..., Awaitable[Answer]]


def _asker(corpus: Corpus, world: World, credentials: Mapping[str, str]) -> Ask:
    async def ask(
        method: str,
        target: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if isinstance(world.clock, ManualClock):
            world.clock.time_ms += 1  # so that what was made first is older
        given = {"Request-Id": "asked", **credentials, **(headers or {})}
        answer = await world.send(method, target, body, given, raw=raw)
        corpus.add(method, target, body if raw is None else raw, answer)
        return answer

    return ask


async def record() -> Corpus:
    """Ask everything."""
    corpus = Corpus()
    async with running() as world:
        parts = (_promises, _tasks, _others, _administration, _functions)
        for number, part in enumerate(parts):
            # What is added to one part does not change the times in the next.
            world.clock.time_ms = NOW_MS + number * _PART_MS
            await part(corpus, world)
    async with running() as world:
        await _batches(corpus, world)
    async with functions_running() as functions:
        await _executions(corpus, functions)
    return corpus


async def _promises(corpus: Corpus, world: World) -> None:
    ask = _asker(corpus, world, {})
    key = {"Idempotency-Key": "k\u00e9".encode().decode("latin-1")}
    full = {
        "id": "p/ä 1",
        "timeout": FAR_MS,
        "param": {"headers": {"z": "1", "a": 'q"\\\n\x7f\u2028'}, "data": "aGk="},
        "tags": {"resonate:invoke": "default", "b": "2", "a": "1"},
    }
    await ask("POST", "/promises", full, headers={"Idempotency-Key": "create"})
    await ask("POST", "/promises", full, headers={"Idempotency-Key": "create"})
    await ask("POST", "/promises", full, headers=key)
    await ask("POST", "/promises", {"id": "bare", "timeout": FAR_MS})
    await ask("POST", "/promises", {"id": "past", "timeout": 0, "tags": {}})
    await ask("POST", "/promises", {"id": "", "timeout": "x", "param": {"data": "?"}})
    await ask("POST", "/promises", {"id": "", "param": {"data": "?"}, "tags": {"a": "x" * 9999}})
    await ask("GET", "/promises/p/%C3%A4%201")
    await ask("GET", "/promises/none")
    claim = {"processId": "w", "ttl": 1000}
    for promise_id in ("q", "q"):
        routed = {**full, "id": promise_id}
        create = {"Idempotency-Key": "create"}
        await ask("POST", "/promises/task", {"promise": routed, "task": claim}, headers=create)
    unrouted = {"promise": {"id": "u", "timeout": FAR_MS}, "task": claim}
    await ask("POST", "/promises/task", unrouted)
    waiting = {"id": "x", "rootPromiseId": "q", "promiseId": "bare", "timeout": FAR_MS}
    for target in ("/callbacks", "/promises/callback/bare"):
        await ask("POST", target, {**waiting, "recv": "poll://any@default"})
    await ask("POST", "/promises/callback/past", {**waiting, "recv": {"type": "poll", "data": {}}})
    await ask("POST", "/promises/callback/past", {**waiting, "recv": "default"})
    await ask("POST", "/promises/callback/p/%C3%A4%201", {**waiting, "recv": "default"})
    for promise_id in ("bare", "p/ä 1", "bare"):
        body = {**waiting, "promiseId": promise_id, "recv": "default"}
        await ask("POST", "/callbacks", {**body, "rootPromiseId": "past"})
    subscribed = {"id": "me", "promiseId": "bare", "timeout": FAR_MS, "recv": "default"}
    for target in ("/subscriptions", "/promises/subscribe/bare", "/promises/subscribe/q"):
        await ask("POST", target, subscribed)
    for _ in range(2):
        await ask("POST", "/subscriptions", {**subscribed, "id": "you"})
    for query in ("id=*", "id=*&limit=2", "id=*&state=rejected", "id=nothing", "state=x&limit=-1"):
        await ask("GET", f"/promises?{query}")
    done = {"state": "RESOLVED", "value": {"headers": {"z": "1", "a": "2"}, "data": "aGk="}}
    for _ in range(2):
        await ask("PATCH", "/promises/bare", done, headers={"Idempotency-Key": "complete"})
    await ask("PATCH", "/promises/bare", {"state": "REJECTED"})
    await ask("PATCH", "/promises/past", {"state": "REJECTED_CANCELED"})
    await ask("GET", "/promises/bare")
    await ask("POST", "/promises", {"id": "gone", "timeout": FAR_MS})
    await ask("DELETE", "/promises/gone")
    await ask("PATCH", "/promises/gone", {"state": "RESOLVED"})
    for _ in range(2):
        await ask("DELETE", "/promises/gone")
    await ask("DELETE", "/promises/bare")


async def _tasks(corpus: Corpus, world: World) -> None:
    ask = _asker(corpus, world, {})
    task = {"id": "__invoke:p/ä 1", "counter": 1, "processId": "w", "ttl": 5000}
    link = "__invoke:p/%C3%A4%201/1"
    await ask("POST", "/tasks/claim", task)
    await ask("POST", "/tasks/claim", task)
    await ask("POST", "/tasks/heartbeat", task)
    await ask("GET", f"/tasks/heartbeat/{link}")
    await ask("POST", "/tasks/drop", task)
    await ask("POST", "/tasks/drop", {**task, "counter": 2})
    held = {"id": "held", "timeout": FAR_MS, "tags": {"resonate:invoke": "default"}}
    lease = {"processId": "w", "ttl": 5_000}
    await ask("POST", "/promises/task", {"promise": held, "task": lease})
    await ask("POST", "/tasks/release", {"id": "__invoke:held"})
    await ask("POST", "/tasks/release", {"id": "none"})
    await ask("POST", "/tasks/retry", {"id": "none"})
    await ask("GET", "/tasks/claim/__invoke:p/%C3%A4%201/2")
    await ask("GET", "/tasks/heartbeat/__invoke:p/%C3%A4%201/2")
    await ask("GET", "/tasks/drop/__invoke:p/%C3%A4%201/2")
    await ask("GET", "/tasks/drop/__invoke:p/%C3%A4%201/3")
    await ask("GET", "/tasks/claim/__invoke:p/%C3%A4%201/3")
    for _ in range(2):
        await ask("GET", "/tasks/complete/__invoke:p/%C3%A4%201/3")
    await ask("POST", "/tasks/claim", {**task, "id": "__resume:q:bare"})
    for _ in range(2):
        await ask("POST", "/tasks/complete", {**task, "id": "__resume:q:bare"})
    await ask("POST", "/tasks/complete", {**task, "id": "none"})
    await ask("GET", "/tasks/complete/none/x")
    await ask("POST", "/tasks/claim", {**task, "id": "__notify:bare:me"})


async def _bulk(ask: Ask) -> None:
    wanted = {"id": "p/*", "state": "resolved"}
    body = {"action": "cancel", "filter": wanted, "value": {"data": "aGk="}}
    job = (await ask("POST", "/bulk", body)).json["id"]
    await trio.testing.wait_all_tasks_blocked()
    await ask("GET", f"/bulk/{job}")
    await ask("DELETE", f"/bulk/{job}")
    for number in range(2):
        await ask("POST", "/promises", {"id": f"slow/{number}", "timeout": FAR_MS})
    slow = {"action": "resolve", "filter": {"id": "slow/*"}, "ratePerSecond": 1}
    job = (await ask("POST", "/bulk", slow)).json["id"]
    await trio.testing.wait_all_tasks_blocked()
    await ask("DELETE", f"/bulk/{job}")
    await ask("GET", "/bulk")
    await ask("POST", "/bulk", {"action": "burn", "filter": {"stat": "x"}})
    await ask("POST", "/bulk", {"action": "cancel", "filter": {"id": "*", "stat": "x"}})
    await ask("GET", "/bulk/none")


async def _others(corpus: Corpus, world: World) -> None:
    ask = _asker(corpus, world, {})
    schedule = {"id": "s", "cron": "0 3 * * *", "promiseId": "s.{{.timestamp}}"}
    await ask("POST", "/schedules", schedule)
    more = {
        "id": "t",
        "description": "often",
        "tags": {"z": "1", "a": "2"},
        "promiseTimeout": 5,
        "promiseParam": {"headers": {"z": "1", "a": "2"}, "data": "aGk="},
        "promiseTags": {"z": "1", "a": "2"},
    }
    for _ in range(2):
        await ask("POST", "/schedules", {**schedule, **more}, headers={"Idempotency-Key": "k"})
    await ask("POST", "/schedules", {**schedule, "id": "never", "cron": "0 0 30 2 *"})
    await ask("POST", "/schedules", {**schedule, "id": "x", "cron": "x", "promiseId": "{{.x}}"})
    for target in (
        *("/why/q", "/why/bare", "/why/none", "/waiting/q", "/waiting/bare", "/waiting/none"),
        *("/tree/p", "/tree/q?depth=1&limit=5", "/tree/none", "/tasks", "/tasks?limit=1"),
        *("/tasks?kind=envelope&states=x", "/tasks?root=q&states=completed,init"),
        *("/tasks/show/__resume:q:bare", "/tasks/show/none", "/timers?limit=2", "/timers?until=x"),
    ):
        await ask("GET", target)
    await ask("GET", "/schedules/t")
    await ask("GET", "/schedules/x")
    await ask("GET", "/schedules?id=*")
    await ask("GET", "/schedules?id=*&limit=1")
    await ask("PATCH", "/schedules/t", {"cron": "0 4 * * *", "description": "", "tags": {}})
    await ask("PATCH", "/schedules/none", {"cron": "x"})
    await ask("POST", "/schedules/pause", {"id": "t"})
    await ask("GET", "/schedules/t")
    await ask("POST", "/schedules/resume", {"id": "t", "catchUp": 0})
    await ask("POST", "/schedules/resume", {"id": "t", "catchUp": 101})
    for _ in range(2):
        await ask("POST", "/schedules/run", {"id": "t"})
    await ask("POST", "/schedules/run", {"id": "none"})
    await ask("POST", "/schedules/preview", {"cron": "@every 1h", "timeZone": "UTC"})
    await ask("POST", "/schedules/preview", {"cron": "x"})
    await ask("DELETE", "/schedules/t")
    await ask("DELETE", "/schedules/t")
    lock = {"resourceId": "r", "executionId": "e", "processId": "w", "ttl": 1000}
    await ask("POST", "/locks/acquire", lock)
    await ask("POST", "/locks/acquire", {**lock, "executionId": "f"})
    await ask("GET", "/locks")
    await ask("POST", "/locks/acquire", {**lock, "resourceId": "stuck", "ttl": 10**9})
    await ask("POST", "/locks/heartbeat", lock)
    await ask("POST", "/locks/release", lock)
    await ask("POST", "/locks/release", lock)
    head = {"corrId": "1", "version": "2026-04-01"}
    for promise_id in ("bare", "none"):
        envelope = {"kind": "promise.get", "head": head, "data": {"id": promise_id}}
        await ask("POST", "/", envelope)
    for target in (
        "/ping",
        "/health",
        "/ready",
        "/",
        "/docs",
        "/docs/errors",
        "/docs/style.css",
        "/docs/script.js",
        "/docs/metrics",
        "/openapi.json",
    ):
        await ask("GET", target)
    await ask("GET", "/", headers={"Accept": "text/html"})
    for target in ("/ui", "/ui/promises/x", "/ui/assets/x.js"):
        await ask("GET", target)
    await _bulk(ask)
    await ask("GET", "/metrics")
    await ask("GET", "/whoami")
    own = {"Sec-Fetch-Site": "same-origin"}
    await ask("POST", "/session", {"token": "wrong"}, headers=own)
    await ask("POST", "/session", {}, headers=own)
    await ask("GET", "/session")
    await ask("DELETE", "/session")
    await ask("GET", "/workers")
    await ask("GET", "/queues?limit=2")
    await ask("POST", "/queues/retry", {"receiver": "poll://default"})
    await ask("GET", "/failures?kind=promise,login&limit=2")
    await ask("GET", "/failures?kind=none")
    await ask("GET", "/statistics?resolution=1m&since=5")
    await ask("GET", "/statistics?resolution=2m")
    await ask("GET", "/cluster")


async def _administration(corpus: Corpus, world: World) -> None:
    rules = RetentionRules().from_text("resolved:7d,all:0s:a=1")
    shards = cast(Any, world.api.shards)
    world.api.sweeper = Sweeper(
        shards, rules, rule_texts(rules), interval_ms=1_000, now_ms=world.clock.now_ms
    )
    world.api.credentials.operator_key = "k" * 64
    ask = _asker(corpus, world, {"Authorization": f"Bearer {'k' * 64}"})
    await ask("POST", "/admin/retention", {"dryRun": True})
    await ask("POST", "/admin/retention", {"dryRun": True, "retain": "all:0s"})
    await ask("POST", "/admin/retention", {"dryRun": False})
    await ask("POST", "/locks/break", {"resourceId": "stuck"})
    await ask("POST", "/locks/break", {"resourceId": "stuck"})
    old = {"id": "old", "state": "RESOLVED", "timeout": 9, "createdOn": 5, "completedOn": 7}
    changed = {**old, "value": {"data": "eA=="}}
    await ask("POST", "/admin/import", {"promises": [old, old, changed]})
    billing = {"name": "billing"}
    account_id = (await ask("POST", "/admin/accounts", billing)).json["id"]
    await ask("POST", "/admin/accounts", billing)
    await ask("PATCH", "/admin/accounts/billing", {"disabled": True})
    await ask("PATCH", f"/admin/accounts/{account_id}", {"disabled": False})
    await ask("GET", "/admin/accounts")
    token = {"account": "billing", "scopes": ["promises:read", "tasks:write"], "name": "nightly"}
    limited = {**token, "idPrefix": "b/", "expiresIn": 60_000}
    token_id = (await ask("POST", "/admin/tokens", limited)).json["id"]
    await ask("POST", "/admin/tokens", token)
    await ask("POST", "/admin/tokens", {**token, "expiresIn": 1, "expiresAt": 1})
    await ask("POST", "/admin/tokens/rotate", {"id": token_id, "grace": 60_000})
    await ask("POST", "/admin/tokens/rotate", {"id": "none"})
    await ask("DELETE", f"/admin/tokens/{token_id}")
    await ask("DELETE", "/admin/tokens/none")
    await ask("GET", "/admin/tokens?account=billing")
    await ask("GET", "/admin/audit?limit=4")
    code = (await ask("POST", "/admin/session-code")).json["code"]
    own = {"Sec-Fetch-Site": "same-origin", "Authorization": ""}
    await ask("POST", "/session", {"code": code}, headers=own)
    await ask("GET", "/whoami")
    await ask("GET", "/settings")
    await _asker(corpus, world, {})("GET", "/promises/bare")


async def _batches(corpus: Corpus, world: World) -> None:
    ask = _asker(corpus, world, {})
    calls = [{"create": {"id": "together", "timeout": FAR_MS}}, {"read": {"id": "together"}}]
    done = {"complete": {"id": "together", "state": "RESOLVED", "idempotencyKey": "k"}}
    await ask("POST", "/promises/batch", [*calls, done, {"read": {"id": "none"}}, {}])
    await ask("POST", "/promises/batch", {})


async def _functions(corpus: Corpus, world: World) -> None:
    ask = _asker(corpus, world, tenant(world).headers)
    tag_id = (await ask("POST", "/v1/tag", {"name": "production", "color": "#fff"})).json["id"]
    bare_id = (await ask("POST", "/v1/tag", {"name": "bare"})).json["id"]
    await ask("PATCH", f"/v1/tag/{tag_id}", {"name": "prod"})
    await ask("GET", "/v1/tag/list")
    code = {"name": "f", "type": "CODE", "lang": "PY", "tag": [tag_id, {"id": bare_id}]}
    function_id = (await ask("POST", "/v1/function", code)).json["id"]
    await ask("GET", f"/v1/function/{function_id}")
    call = {"name": "h", "type": "HTTP", "url": "http://example.com/x", "description": "Calls"}
    called = {**call, "capabilities": {"timeout": 20}}
    call_id = (await ask("POST", "/v1/function", called)).json["id"]
    await ask("POST", "/v1/function", {**call, "lang": "PY"})
    await ask("GET", f"/v1/function/{call_id}")
    await ask("PATCH", f"/v1/function/{function_id}", {"description": "Runs"})
    await ask("POST", f"/v1/function/{function_id}/togglePause")
    demands = {"timeout": 7, "memSize": 64, "privilaged": True}
    await ask("POST", f"/v1/function/{function_id}/capabilities", demands)
    await ask("GET", f"/v1/function/{function_id}/capabilities")
    await ask("GET", "/v1/function/list")
    archive = plain_zip({"handler.py": "def handle(request):\n    return request\n"})
    build = f"/v1/build/{function_id}?arch=amd64"
    upload = {"Content-Type": "application/zip"}
    build_id = (await ask("POST", build, raw=archive, headers=upload)).json["id"]
    wrong = plain_zip({"handler.py": "def"})
    wrong_id = (await ask("POST", build, raw=wrong, headers=upload)).json["id"]
    with trio.fail_after(60):
        await world.builder.wait_settled()
    for one in (build_id, wrong_id, "none"):
        await ask("GET", f"/v1/build/{one}")
    await ask("GET", "/v1/build/list?limit=1")
    await ask("GET", f"/v1/build/{build_id}/archive")
    await ask("GET", f"/v1/function/{function_id}")
    await ask("GET", "/v1/metrics")
    await ask("DELETE", f"/v1/tag/{tag_id}")
    await ask("DELETE", f"/v1/function/{call_id}")
    await ask("GET", f"/v1/function/{call_id}")


async def _executions(corpus: Corpus, world: FunctionWorld) -> None:
    customer = tenant(world)
    ask = _asker(corpus, world, customer.headers)
    function_id = await world.function(customer.account_id, timeout_s=30, memory_mb=64)
    key = {"Idempotency-Key": "k"}
    for _ in range(2):
        await ask("POST", f"/v1/task/{function_id}?a=1", {"name": "Ann"}, headers=key)
    task_id = (await ask("POST", f"/v1/task/{function_id}", {"name": "Ann"})).json["id"]
    await ask("GET", f"/v1/task/{task_id}")
    await ask("GET", f"/v1/task/{task_id}/result")
    await ask("DELETE", f"/v1/task/{task_id}")
    await ask("GET", f"/v1/task/{task_id}/result")
    await ask("POST", "/v1/task/none")
    async with trio.open_nursery() as nursery:
        node = await ready_node(world, nursery, memSize=128)
        await _node_work(ask, node)
        nursery.cancel_scope.cancel()
    await ask("GET", "/v1/task/list")
    await ask("GET", "/v1/metrics")


async def _node_work(ask: Ask, node: ScriptedNode) -> None:
    at = f"/v1/node/{NODE}"
    offered = {"languages": ["PY"], "memSize": 128, "description": "Rack 3"}
    await ask("POST", at, offered)
    await ask("GET", "/v1/node/list")
    task_id, counter = await node.run_order()
    held = {"id": task_id, "counter": counter}
    for _ in range(2):
        await ask("POST", f"{at}/assign", held)
    await ask("POST", f"{at}/assign", {"id": "0" * 24, "counter": 1})
    other = {"id": "0" * 24, "counter": 1}
    await ask("POST", f"{at}/report", {"running": [{**held, "progress": 30}, other]})
    await ask("GET", f"/v1/task/{task_id}")
    status = {"Troth-Status": "200"}
    for _ in range(2):
        target = f"{at}/result/{task_id}/{counter}"
        await ask("POST", target, raw=b"hello", headers=status)
    await ask("GET", f"/v1/task/{task_id}/result")
    function_id = (await ask("GET", f"/v1/task/{task_id}")).json["functionId"]
    await ask("POST", f"/v1/task/{function_id}")
    task_id, counter = await node.run_order()
    await ask("POST", f"{at}/assign", {"id": task_id, "counter": counter})
    await ask("POST", f"{at}/return/{task_id}/{counter}")
    await ask("POST", f"{at}/exchange", {"results": [{**other, "status": 200}], "assign": [other]})
    await ask("PATCH", at, {"draining": True})
    await ask("GET", "/v1/node/list")
    await ask("DELETE", at)
    await ask("DELETE", at)
