"""What a person does with promises in the web UI, and what it shows of hostile and odd ones."""

import base64
import json
import time
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers.server import ServerProcess

from .browser import settle, visiting
from .conftest import Visit
from .demo import HOUR, ORDER, encoded

BIG_BYTES: Final = 4 << 20
SHOWN_BYTES: Final = 64 << 10
USABLE_LIMIT_S: Final = 0.3
ROWS_LIMIT_COUNT: Final = 200

HOSTILE: Final = (
    "<img src=x onerror=\"document.title='run'\">",
    "\"><script>document.title='run'</script>",
    "javascript:document.title='run'",
    "{{constructor.constructor('document.title=1')()}}",
    "\u202eright to left\u202c \u2066x\u2069",
    "control \u0001\u0007\u001b[31m \u0085 end",
    "a/b//c%2Fd?e=f&g#h i+j",
    "日本語 ümläut 🚀",
    "x" * 1_000,
)


def create(
    server: ServerProcess, promise_id: str, param: object = None, **more: object
) -> dict[str, Any]:
    """Create a promise that is pending for an hour."""
    body: dict[str, Any] = {"id": promise_id, "timeout": int(time.time() * 1000) + HOUR, **more}
    if param is not None:
        body["param"] = param
    status, answered = server.request("POST", "/promises", body)
    assert status == 201, answered
    made: dict[str, Any] = answered
    return made


def state_of(server: ServerProcess, promise_id: str) -> str:
    """Return the state of a promise."""
    status, answered = server.request("GET", f"/promises/{promise_id}")
    assert status == 200
    state: str = answered["state"]
    return state


def focused(page: Page) -> str:
    """Return the text of what has the focus."""
    text: str = page.evaluate("document.activeElement.textContent.trim()")
    return text


@pytest.mark.newest
def test_keyboard_only_resolves_a_promise(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "keys-1")
    with visit() as visitor:
        page = visitor.open()
        page.keyboard.press("/")
        page.keyboard.type("keys-1")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("keys-1")
        settle(page)
        while focused(page) != "Complete …":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        page.get_by_label("Value, as JSON").focus()
        page.keyboard.type('{"by": "hand"}')
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=keys-1 is resolved")

        assert state_of(busy_server, "keys-1") == "RESOLVED"


def test_keys_move_in_lists_and_go_to_screens(visit: Visit) -> None:
    with visit() as visitor:
        page = visitor.open("promises?id=invoice-*")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("x")
        expect(page.locator("tr.selected")).to_have_count(1)
        page.keyboard.press("j")
        page.keyboard.press("x")
        expect(page.get_by_role("region", name="Selected promises")).to_contain_text("2 selected")
        for key, title in (("q", "Queues & workers"), ("s", "Schedules"), ("t", "Tasks")):
            page.keyboard.press("g")
            page.keyboard.press(key)
            expect(page.locator("h1")).to_have_text(title)
        page.keyboard.press("?")
        page.get_by_label("Single keys act").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("o")
        expect(page.locator("h1")).to_have_text("Tasks")


def test_focus_after_dialog(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "focus-1")
    with visit() as visitor:
        page = visitor.open("promises/focus-1")
        opener = page.get_by_role("button", name="Complete …")
        opener.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        expect(opener).to_be_focused()
        page.keyboard.press("Enter")
        page.get_by_label("Cancel").check()
        page.locator("dialog").get_by_role("button", name="Cancel").click()
        page.wait_for_selector("text=focus-1 is canceled")
        # What had the focus is gone: it goes to the title, not to the top of the page.
        expect(page.locator("h1")).to_be_focused()


def test_dialog_opens_while_the_last_one_is_closing(
    visit: Visit, busy_server: ServerProcess
) -> None:
    """Press Escape and Enter faster than the browser says that the dialog was closed."""
    create(busy_server, "focus-2")
    with visit() as visitor:
        page = visitor.open("promises/focus-2")
        opener = page.get_by_role("button", name="Complete …")
        opener.click()
        page.wait_for_selector("dialog[open]")
        opener.evaluate("(opener) => { document.querySelector('dialog').close(); opener.click(); }")
        page.get_by_label("Cancel").check()
        expect(page.locator("dialog[open]")).to_have_count(1)


def test_hostile_texts(visit: Visit, busy_server: ServerProcess) -> None:
    for number, text in enumerate(HOSTILE):
        value = {"func": text[:100], "args": [text]}
        tags = {"hostile": "yes", f"name {number} {text[:200]}": text}
        create(busy_server, f"hostile-{number}-{text}", encoded(value), tags=tags)
    with visit() as visitor:
        page = visitor.open("promises?tag=hostile%3Dyes")
        expect(page.locator("tr[data-row]")).to_have_count(len(HOSTILE))
        shown = page.locator("td .id").all_text_contents()
        for number, text in enumerate(reversed(HOSTILE)):
            assert shown[number].endswith(text)
        width = page.evaluate("document.documentElement.scrollWidth")
        for number in range(len(HOSTILE)):
            visitor.go(page, "promises?tag=hostile%3Dyes")
            page.locator("td .id").nth(number).click()
            expect(page.locator("h1")).to_contain_text(f"hostile-{len(HOSTILE) - 1 - number}")
            page.wait_for_selector(".call-panel pre")
            assert page.title().endswith("Troth")

    assert width <= 1_280


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("states", "states=rejected"),
        ("id", "id=hook"),
        ("tag", "tag=team%3Dbilling"),
        ("order", "order=oldest"),
        ("from", "from="),
    ],
)
def test_url_is_the_state(visit: Visit, change: str, expected: str) -> None:
    with visit() as visitor:
        page = visitor.open("promises")
        first = page.locator("tbody").first.inner_text()
        if change == "states":
            page.get_by_role("group", name="States").get_by_role("button", name="Rejected").click()
        elif change == "id":
            page.get_by_role("searchbox", name="Ids").fill("hook")
        elif change == "tag":
            page.get_by_role("button", name="Tag").click()
            page.keyboard.type("team=billing")
            page.keyboard.press("Enter")
        elif change == "order":
            page.get_by_text("View", exact=True).click()
            page.get_by_label("Oldest first").check()
        else:
            page.get_by_text("Any time").first.click()
            page.get_by_role("button", name="Last 15 minutes").click()
        page.wait_for_url(f"**/promises?*{expected}*")
        settle(page)
        expect(page.locator("tbody").first).not_to_contain_text(first[:400])
        ids = page.locator("td .id").all_text_contents()
        page.reload()
        settle(page)
        assert page.locator("td .id").all_text_contents() == ids
        other = visitor.context.new_page()
        other.goto(page.url)
        settle(other)
        assert other.locator("td .id").all_text_contents() == ids
        if change != "id":
            page.go_back()
            page.wait_for_url("**/promises")


def test_two_people_complete_one_promise(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "race-1")
    with visit() as visitor:
        visitor.expected_statuses = {403}
        page = visitor.open("promises/race-1")
        page.get_by_role("button", name="Complete …").click()
        done = {"state": "REJECTED", "value": encoded({"by": "another"})}
        assert busy_server.request("PATCH", "/promises/race-1", done)[0] == 201
        page.locator("dialog").get_by_role("button", name="Resolve").click()
        expect(page.locator("dialog [role=alert]")).to_contain_text("already")
        page.keyboard.press("Escape")
        expect(page.locator(".call-panel .state")).to_have_text("Rejected")
        expect(page.locator(".call-panel")).to_contain_text("another")


def test_binary_and_broken_base64(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "bytes-1", {"data": base64.b64encode(b"\xff\xfe\x00\x01").decode()})
    create(busy_server, "text-1", {"data": base64.b64encode("grüße".encode()).decode()})
    create(busy_server, "headers-1", {"headers": {"content-type": "text/plain"}, "data": ""})
    with visit() as visitor:
        page = visitor.open("promises/bytes-1")
        panel = page.locator(".call-panel")
        expect(panel).to_contain_text("Bytes that are not text")
        with page.expect_download() as download:
            panel.get_by_role("button", name="Download").click()
        assert download.value.path().read_bytes() == b"\xff\xfe\x00\x01"
        visitor.go(page, "promises/text-1")
        expect(panel.locator("pre")).to_have_text("grüße")
        visitor.go(page, "promises/headers-1")
        expect(panel).to_contain_text("text/plain")

        def break_data(route: Any) -> None:
            body = route.fetch().json()
            body["param"] = {"data": "*** this is not base64 ***"}
            route.fulfill(json=body)

        page.route("**/promises/text-1", break_data)
        page.goto(f"{visitor.url}/ui/")
        page.evaluate("history.pushState(null, '', 'promises/text-1')")
        page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
        expect(panel).to_contain_text("*** this is not base64 ***")


@pytest.mark.alone
def test_large_payload(browser: Browser, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--body-limit-bytes", str(BIG_BYTES * 4)) as server:
        took_ms = look_at_large_payloads(browser, server)

    print(f"4 MiB: {took_ms:.0f} ms")
    assert took_ms <= USABLE_LIMIT_S * 1000


def look_at_large_payloads(browser: Browser, server: ServerProcess) -> float:
    """Look at some, and return how long the browser takes for the largest, in ms."""
    text = json.dumps({"rows": ["0123456789" * 10] * (BIG_BYTES // 104)})
    create(server, "large-1", {"data": base64.b64encode(text.encode()).decode()})
    middle = "a " * (SHOWN_BYTES - 100)
    create(server, "large-2", {"data": base64.b64encode(middle.encode()).decode()})
    with visiting(browser, server.url) as visitor:
        page = visitor.open("promises/large-1")
        expect(page.locator(".call-panel")).to_contain_text("Too large to show here")
        assert len(page.content()) < SHOWN_BYTES * 2
        # From the answer to a page that is shown and takes keys.
        took_ms: float = page.evaluate(
            """async () => {
              const text = await (await fetch('../promises/large-1')).text();
              const began = performance.now();
              JSON.parse(text);
              const module = await import(document.querySelector('script[type=module]').src
                .replace('app.js', 'parts/payload.js'));
              module.decoded(JSON.parse(text).param.data, 65536);
              return performance.now() - began;
            }"""
        )
        visitor.go(page, "promises/large-2")
        assert len(page.locator(".call-panel pre").inner_text()) <= SHOWN_BYTES
        page.get_by_role("button", name="Show all").click()
        expect(page.get_by_role("button", name="Show all")).to_have_count(0)
        assert len(page.locator(".call-panel pre").inner_text()) > SHOWN_BYTES

    return took_ms


def test_the_timeline_folds_and_moves(visit: Visit) -> None:
    with visit() as visitor:
        page = visitor.open(f"promises/{ORDER}")
        rows = page.locator(".call")
        expect(rows).to_have_count(11)
        rows.first.focus()
        page.keyboard.press("ArrowDown")
        expect(rows.nth(1)).to_be_focused()
        expect(page.locator(".call-panel h2")).to_have_text(f"{ORDER}.1")
        page.keyboard.press("ArrowLeft")
        expect(rows).to_have_count(9)
        page.keyboard.press("ArrowRight")
        expect(rows).to_have_count(11)
        page.keyboard.press("End")
        expect(page.locator(".call-panel h2")).to_have_text(f"{ORDER}.5")
        page.keyboard.press("Home")
        expect(page.locator(".call-panel h2")).to_have_text(ORDER)
        # The wait of minutes after ten seconds of work is folded.
        expect(page.locator(".fold").first).to_be_attached()
        page.locator(".failed").click()
        expect(page.locator(".call-panel")).to_contain_text("no answer within 1.4 s")


def test_tree_of_2000(visit: Visit, busy_server: ServerProcess) -> None:
    key = (busy_server.data / "admin.key").read_text().strip()
    now_ms = int(time.time() * 1000)
    promises: list[dict[str, Any]] = []
    for number in range(1_999):
        parent = "big" if number < 40 else f"big.{number % 40}"
        made = {
            "id": f"{parent}.{number}",
            "state": "REJECTED" if number == 1_900 else "RESOLVED",
            "tags": {"resonate:root": "big", "resonate:parent": parent},
            "createdOn": now_ms - 100_000 + number,
            "completedOn": now_ms - 90_000 + number,
            "timeout": now_ms + HOUR,
        }
        promises.append(made)
    root: dict[str, Any] = {"id": "big", "state": "PENDING", "createdOn": now_ms - 100_000}
    promises.insert(0, {**root, "timeout": now_ms + HOUR, "tags": {"resonate:root": "big"}})
    for first in (0, 1_000):
        body = {"promises": promises[first : first + 1_000]}
        headers = {"Authorization": f"Bearer {key}"}
        assert busy_server.request("POST", "/admin/import", body, headers)[0] == 200
    with visit() as visitor:
        page = visitor.open("promises/big")
        expect(page.locator(".facts.across")).to_contain_text("1999")
        # The way to what failed is unfolded, the rest is not.
        expect(page.locator(".call .glyph.rejected")).to_have_count(1)
        expect(page.locator(".call")).to_have_count(41 + 49)
        assert page.locator(".call").count() <= ROWS_LIMIT_COUNT


def test_tree_with_circles_and_missing_parents(visit: Visit, busy_server: ServerProcess) -> None:
    create(busy_server, "ring", tags={"resonate:root": "ring", "resonate:parent": "ring.2"})
    create(busy_server, "ring.1", tags={"resonate:root": "ring", "resonate:parent": "ring"})
    create(busy_server, "ring.2", tags={"resonate:root": "ring", "resonate:parent": "ring.1"})
    lost = {"resonate:root": "ring", "resonate:parent": "ring.9.not-there"}
    create(busy_server, "ring.9.not-there.1", tags=lost)
    with visit() as visitor:
        page = visitor.open("promises/ring")
        expect(page.locator(".call")).to_have_count(4)
