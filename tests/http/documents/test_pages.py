"""The pages for people: complete, small, without anything that a strict browser refuses."""

import shlex
import subprocess

import pytest

from tests.helpers.server import ServerProcess
from tests.http.client import running
from troth.http.api.rows import Header
from troth.http.documents.api_page import curl_line
from troth.http.documents.page_parts import inline, paragraphs
from troth.http.documents.parameters import meaning_of
from troth.http.documents.table import API_ENDPOINTS
from troth.http.monitoring.tables import GROUPS

SIZE_LIMIT_BYTES = 123 * 1024
LOCAL = "http://127.0.0.1:8001"


async def test_the_page_has_every_endpoint_and_is_small() -> None:
    async with running() as world:
        answer = await world.send("GET", "/docs")
    page = answer.body.decode()

    assert len(answer.body) <= SIZE_LIMIT_BYTES
    for endpoint in API_ENDPOINTS:
        _, _, section = page.partition(f"<h3 id={endpoint.name}>")
        section = section.partition("<h3")[0]
        request, _, response = section.partition("<h4>Response</h4>")
        assert "<h4>Request</h4>" in request
        assert "<pre>curl " in request
        assert all(f"<dt>{one.status}<dd>" in response for one in endpoint.successes)
        assert all(f"#{code.value}>" in response for code in endpoint.refusals)
        assert all(inline(meaning_of(header)) in request for header in endpoint.headers)
    assert all(meaning_of(header) for header in Header)


def test_texts_become_html() -> None:
    assert inline("a `b<c>` & d") == "a <code>b&lt;c&gt;</code> &amp; d"
    assert paragraphs("one\n\n- a `b`\n- c") == "<p>one<ul><li>a <code>b</code><li>c</ul>"


@pytest.mark.parametrize("endpoint", API_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_commands_name_every_part_of_the_path(endpoint: object) -> None:
    assert hasattr(endpoint, "path")
    words = shlex.split(curl_line(endpoint, LOCAL))  # type: ignore[arg-type]

    assert words[0] == "curl"
    assert not any("{" in word and word.startswith("http") for word in words)


def test_commands_work_as_they_are_shown(shared_server: ServerProcess) -> None:
    """As pasted into a shell without a token, on a server without accounts."""
    by_name = {endpoint.name: endpoint for endpoint in API_ENDPOINTS}
    for name in ("createPromise", "readPromise", "completePromise", "searchPromises", "ping"):
        line = curl_line(by_name[name], shared_server.url)
        line = line.replace("order/42", "pasted").replace("order%2F42", "pasted")
        done = subprocess.run(
            ["/bin/sh", "-c", f"unset TOKEN; {line} -sSf"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr, done.stdout)


def test_every_metric_documented(shared_server: ServerProcess) -> None:
    status, page = shared_server.request("GET", "/docs/metrics")

    assert status == 200
    for group in GROUPS:
        for family in group.families:
            assert f"<code>{family.name}</code>" in page
            assert inline(family.help) in page
