"""A promise's screen shows the trace that it belongs to."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.helpers.server import ServerProcess

from .browser import visiting
from .demo import HOUR

pytestmark = pytest.mark.slow

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def test_a_promise_links_its_trace(browser: Browser, tmp_path: Path) -> None:
    place = "https://traces.example.com/trace/{trace_id}"
    with ServerProcess(tmp_path, "--in-memory", "--trace-url", place) as server:
        body = {"id": "traced", "timeout": int(time.time() * 1000) + HOUR}
        parent = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
        assert server.request("POST", "/promises", body, parent)[0] == 201
        with visiting(browser, server.url) as visitor:
            page = visitor.open("promises/traced")
            link = page.get_by_role("link", name=TRACE_ID)
            expect(link).to_have_attribute("href", place.replace("{trace_id}", TRACE_ID))
