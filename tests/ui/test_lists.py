"""What lists keep while the server changes: the cursor, the selection, the place on the page."""

import re
from collections.abc import Iterable
from typing import Any, Final

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.helpers.server import ServerProcess

from .browser import Visitor
from .conftest import Staffed, Visit
from .test_accessible import API
from .test_promises import create

LISTS: Final = (
    *("promises", "tasks", "queues", "schedules", "locks", "failures", "bulk", "functions"),
    *("access", "access/audit", "snapshots", "promises/pickup-20411?tab=tasks"),
)
"""The place of every list, on a server that has something to show in each."""
OTHER: Final = "another-"
"""How ids begin of what is new."""
MANY_COUNT: Final = 40

_PRESS_WITH_ROWS: Final = """
new MutationObserver((_, observer) => {
  if (document.querySelector('tr[data-row]') === null) return;
  observer.disconnect();
  document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}));
}).observe(document, {childList: true, subtree: true});
"""
_ROW: Final = "document.activeElement.closest('tr[data-row]')"
_UNDER: Final = "document.querySelector('tr[data-row]:hover')"
_SEEN: Final = """const seen = (row) => {
  const isAlone = document.querySelectorAll('#main table').length === 1;
  const top = isAlone ? 0 : row.closest('table').getBoundingClientRect().top;
  return [row.querySelector('.main-cell').innerText, row.getBoundingClientRect().top - top];
};"""
"""A row's text and where it is on the page; within its table, if there are several."""
_KEEP: Final = f"""() => {{
  {_SEEN}
  window.kept = document.activeElement;
  window.keptRow = {_ROW};
  return seen(window.keptRow);
}}"""
_KEPT: Final = f"""() => {{
  {_SEEN}
  const isKept = window.kept === document.activeElement && window.keptRow === {_ROW};
  return isKept ? seen(window.keptRow) : 'lost';
}}"""
_KEEP_UNDER_POINTER: Final = _KEEP.replace(_ROW, _UNDER)
_KEPT_UNDER_POINTER: Final = _KEPT.replace(_ROW, _UNDER)


def lists_of(answered: Any) -> Iterable[list[Any]]:
    """Yield the lists of objects that an answer has."""
    for value in [answered] if isinstance(answered, list) else answered.values():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield value


def another(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that differs from one in its id, and comes after it."""
    made = dict(row)
    for name in ("id", "receiver", "resourceId", "name", "hash", "request"):
        if isinstance(made.get(name), str):
            made[name] = OTHER + made[name]
    if "number" in made:
        made["number"] += 100_000
    return made


def turned_round(route: Route) -> None:
    """Answer what the server does, the other way round and with one more at each end."""
    if route.request.method != "GET":
        route.continue_()
        return
    answer = route.fetch()
    if "json" not in answer.headers["content-type"]:
        route.fulfill(response=answer)
        return
    answered = answer.json()
    for rows in lists_of(answered):
        rows[:] = [another(rows[0]), *reversed(rows), another(rows[-1])]
    route.fulfill(response=answer, json=answered)


def ask_again(page: Page) -> None:
    """Make the page ask for everything once more, as after a while in the background."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def newer(page: Page) -> Locator:
    """Find rows that are new, or the button that shows them."""
    return page.locator(f"tr[data-key*={OTHER}], button.new-rows")


def come_to_row(page: Page, path: str) -> None:
    """Press `j` until the second row has the focus, or the only one."""
    rows = page.locator("#main tr[data-row]")
    expect(rows.first, path).to_be_visible()
    for _ in range(min(2, rows.count())):
        page.keyboard.press("j")
    expect(page.locator("tr[data-row]:focus-within"), path).to_have_count(1)


def prepared(staffed: Staffed, visitor: Visitor) -> Page:
    """Open the page, with failures to show."""
    visitor.expected_statuses = {404}  # functions that are only in an answer
    visitor.context.add_init_script("try { localStorage.setItem('troth.pageSize', '25') } catch {}")
    for number in range(2):
        promise_id = f"list-{number}"
        staffed.client.send("POST", "/promises", {"id": promise_id, "timeout": 2**50})
        staffed.client.send("PATCH", f"/promises/{promise_id}", {"state": "REJECTED"})
    return visitor.open()


def over_an_update(page: Page, path: str, keep: str, kept: str) -> tuple[Any, Any]:
    """Return what two scripts say, one before and one after all lists have come turned round."""
    before = page.evaluate(keep)
    page.route(API, turned_round)
    ask_again(page)
    expect(newer(page).first, path).to_be_attached()
    after = page.evaluate(kept)
    page.unroute_all(behavior="ignoreErrors")
    return before, after


@pytest.mark.slow
def test_the_cursor_stays_in_every_list(staffed: Staffed) -> None:
    """The row that has the focus is the same element, at the same height, and so is the link."""
    lost = []
    with staffed.visit() as visitor:
        page = prepared(staffed, visitor)
        for path in LISTS:
            visitor.go(page, path)
            come_to_row(page, path)
            before, after = over_an_update(page, path, _KEEP, _KEPT)
            if after != before:
                lost.append((path, before, after))

    assert lost == [], lost


@pytest.mark.slow
def test_no_list_moves_under_the_pointer(staffed: Staffed) -> None:
    moved = []
    with staffed.visit() as visitor:
        page = prepared(staffed, visitor)
        for path in LISTS:
            page.mouse.move(0, 0)
            visitor.go(page, path)
            # Of two tables the lower one moves when the upper one grows.
            rows = page.get_by_role("table").first.locator("tr[data-row]")
            rows.nth(min(1, rows.count() - 1)).hover()
            before, after = over_an_update(page, path, _KEEP_UNDER_POINTER, _KEPT_UNDER_POINTER)
            if after != before:
                moved.append((path, before, after))

    assert moved == [], moved


def test_keys_act_as_soon_as_there_are_rows(visit: Visit) -> None:
    """`j` is pressed in the moment in which the first row is there."""
    with visit() as visitor:
        visitor.context.add_init_script(_PRESS_WITH_ROWS)
        page = visitor.open("locks")
        expect(page.locator("tr[data-row]").first).to_be_visible()
        page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))"
        )

        assert page.evaluate(f"{_ROW}?.getAttribute('data-row')") == "0"


def test_failures_wait_until_they_are_asked_for(staffed: Staffed) -> None:
    """More than a list that is shown whole, so that rows near the top would leave the page."""

    def fail(name: str) -> None:
        for number in range(MANY_COUNT):
            promise_id = f"{name}-{number}"
            staffed.client.send("POST", "/promises", {"id": promise_id, "timeout": 2**50})
            staffed.client.send("PATCH", f"/promises/{promise_id}", {"state": "REJECTED"})

    for name in ("wait-a", "wait-b", "wait-c", "wait-d"):
        fail(name)
    with staffed.visit() as visitor:
        page = visitor.open("failures?kind=promise")
        come_to_row(page, "failures")
        page.keyboard.press("j")
        before = page.evaluate(_KEEP)
        fail("wait-e")
        show = page.get_by_role("button", name="40 new · show")
        expect(show).to_be_visible()
        assert page.evaluate(_KEPT) == before
        show.focus()
        page.keyboard.press("Enter")
        expect(show).to_have_count(0)
        expect(page.locator("tr[data-row]").first).to_contain_text("wait-e-39")
        expect(page.locator("body:focus")).to_have_count(0)
        page.keyboard.press("j")
        expect(page.locator("tr[data-row]:focus-within")).to_contain_text("wait-e-39")


def test_a_list_keeps_selection_and_place(visit: Visit, busy_server: ServerProcess) -> None:
    for number in range(MANY_COUNT):
        create(busy_server, f"keep-{number:02}")
    with visit() as visitor:
        page = visitor.open("promises?id=keep-*&order=oldest")
        for number in (30, 31):
            page.get_by_label(f"Select keep-{number}").check()
        place = page.evaluate("scrollY")
        assert place > 0
        done = {"state": "RESOLVED"}
        assert busy_server.request("PATCH", "/promises/keep-31", done)[0] == 201
        row = page.locator("tr[data-row]", has_text="keep-31")
        expect(row.locator(".state")).to_have_text("Resolved")
        expect(page.get_by_role("region", name="Selected promises")).to_contain_text("2 selected")
        assert page.evaluate("scrollY") == place
        assert page.evaluate("document.activeElement.ariaLabel") == "Select keep-31"


def test_going_back_comes_to_the_same_row(visit: Visit, busy_server: ServerProcess) -> None:
    for number in range(MANY_COUNT):
        create(busy_server, f"back-{number:02}")
    with visit() as visitor:
        page = visitor.open("promises?id=back-*&order=oldest")
        expect(page.locator("tr[data-row]")).to_have_count(MANY_COUNT)
        page.get_by_role("link", name="back-35").click()
        expect(page.locator("h1")).to_have_text("back-35")
        page.go_back()
        expect(page.locator("tr[data-row]:focus-within")).to_contain_text("back-35")
        assert page.evaluate("scrollY") > 0
        page.keyboard.press("j")
        expect(page.locator("tr[data-row]:focus-within")).to_contain_text("back-36")
        page.keyboard.press("ArrowDown")
        expect(page.locator("tr[data-row]:focus-within")).to_contain_text("back-37")


_CONCERN: Final = "() => document.activeElement.closest('li').innerText.split('·')[0]"


def test_what_needs_attention_stays_under_the_cursor(visit: Visit) -> None:
    """A worse concern comes below those that are there, while the focus is among them."""

    def worse(route: Route) -> None:
        answer = route.fetch()
        answered = answer.json()
        bad = answered["queues"][0] | {"receiver": "nowhere://", "health": "undeliverable"}
        answered["queues"].insert(0, bad)
        route.fulfill(response=answer, json=answered)

    with visit() as visitor:
        page = visitor.open()
        region = page.get_by_role("region", name="Needs attention")
        region.get_by_role("link", name="Show queue").first.focus()
        before = page.evaluate(_CONCERN)
        page.route(re.compile(r"^http://[^/]+/queues\?"), worse)
        ask_again(page)
        expect(region).to_contain_text("impossible address")
        assert page.evaluate(_CONCERN) == before
        page.locator("h1").focus()
        ask_again(page)
        expect(region.locator("li").first).to_contain_text("impossible address")
        page.unroute_all(behavior="ignoreErrors")
