"""The web UI's files: from memory, under every address that a browser may ask for."""

import gzip
import re
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.repository import IMPORT_ROOT, ROOT, files
from tests.helpers.server import ServerProcess
from tests.http.client import Answer, World, running
from troth.http.settings.settings import Settings
from troth.http.web import ui_files
from troth.http.web.ui_files import UI_HEADERS
from troth.http.wire.requests import Request
from troth.http.wire.static_files import StaticFile, takes_gzip

GZIP: Final = {"Accept-Encoding": "br, gzip"}


async def asset_of(world: World) -> str:
    """The address of the style, as the page names it."""
    page = (await world.send("GET", "/ui/")).body.decode()
    found = re.search(r'href="(assets/[0-9a-f]{16}/app\.css)"', page)
    assert found is not None, page
    return f"/ui/{found[1]}"


def has_ui_headers(answer: Answer) -> bool:
    """Whether an answer has every header of the UI, once."""
    return all(answer.header(name.decode()) == value.decode() for name, value in UI_HEADERS)


@pytest.mark.parametrize(
    "path", ["", "promises", "promises/a%2Fb/c", "promises/", "index.html", "%00"]
)
async def test_what_is_no_file_is_the_page(path: str) -> None:
    async with running() as world:
        answer = await world.send("GET", f"/ui/{path}")

        assert answer.status == 200
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert answer.header("cache-control") == "no-cache"
        assert b'<base href="/ui/">' in answer.body
        assert b"{{" not in answer.body


async def test_an_asset_is_kept_for_a_year() -> None:
    async with running() as world:
        answer = await world.send("GET", await asset_of(world))

        assert answer.status == 200
        assert answer.body == (ui_files.FOLDER / "app.css").read_bytes()
        assert answer.header("content-type") == "text/css; charset=utf-8"
        assert answer.header("cache-control") == "public, max-age=31536000, immutable"


async def test_a_file_is_compressed_for_those_who_take_it() -> None:
    async with running() as world:
        plain = await world.send("GET", "/ui/")
        compressed = await world.send("GET", "/ui/", headers=GZIP)

        assert plain.header("content-encoding") is None
        assert compressed.header("content-encoding") == "gzip"
        assert gzip.decompress(compressed.body) == plain.body
        assert len(compressed.body) < len(plain.body)
        assert plain.header("vary") == compressed.header("vary") == "Accept-Encoding"


def test_what_would_not_become_smaller_is_sent_as_it_is() -> None:
    file = StaticFile(b"short", [])

    answer = file.answer(Request("GET", b"/", b"", {b"accept-encoding": b"gzip"}))
    assert answer.body == b"short"
    assert b"content-encoding" not in dict(answer.headers)


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        (b"gzip", True),
        (b"br;q=1.0, GZIP;q=0.8, *;q=0.1", True),
        (b"*", True),
        (b"*;q=0.5", True),
        (b"", False),
        (b"br, deflate", False),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000", False),
        (b"gzip;q=0, *", False),
        (b"*;q=0", False),
        (b"identity;q=0, gzip;q=0.001", True),
    ],
)
def test_who_takes_gzip(accepted: bytes, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


async def test_a_browser_that_has_the_page_is_not_sent_it_again() -> None:
    async with running() as world:
        tag = (await world.send("GET", "/ui/")).header("etag")
        assert tag is not None
        for given in (tag, f'"x", {tag}', "*", tag.removeprefix("W/")):
            answer = await world.send("GET", "/ui/promises", headers={"If-None-Match": given})
            assert (answer.status, answer.body) == (304, b""), given
            assert answer.header("etag") == tag
        for given in ('W/"x"', tag.replace('"', "")):
            answer = await world.send("GET", "/ui/", headers={"If-None-Match": given})
            assert answer.status == 200, given


async def test_headers_of_every_ui_answer() -> None:
    async with running() as world:
        asset = await asset_of(world)
        tag = (await world.send("GET", "/ui/")).header("etag") or ""
        asked = [
            ("GET", "/ui/", {}, 200),
            ("GET", "/ui/", GZIP, 200),
            ("GET", "/ui/", {"If-None-Match": tag}, 304),
            ("HEAD", "/ui/", {}, 200),
            ("GET", "/ui/promises/x", {}, 200),
            ("GET", asset, {}, 200),
            ("HEAD", asset, {}, 200),
            ("GET", "/ui/assets/0123456789abcdef/app.css", {}, 404),
            ("GET", "/ui", {}, 308),
        ]
        for method, target, headers, status in asked:
            answer = await world.send(method, target, headers=headers)
            assert answer.status == status, (method, target)
            assert has_ui_headers(answer), (method, target)
        policy = (await world.send("GET", "/ui/")).header("content-security-policy") or ""

    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy


async def test_a_file_of_another_version_is_no_page() -> None:
    async with running() as world:
        for name in ("0123456789abcdef/app.css", "", "app.css"):
            answer = await world.send("GET", f"/ui/assets/{name}")
            assert (answer.status, answer.code) == (404, 40410), name


def test_modules_are_served_line_by_line_without_their_comments() -> None:
    modules = [path for path in ui_files.FOLDER.rglob("*.js") if path.parent.name != "vendor"]
    kept_count = 0
    for path in modules:
        served = ui_files.read_ui("/").assets
        name = path.relative_to(ui_files.FOLDER).as_posix()
        body = next(file.body for at, file in served.items() if at.split("/", 2)[2] == name)
        before, after = path.read_text().split("\n"), body.decode().split("\n")
        assert len(before) == len(after), name
        for was, sent in zip(before, after, strict=True):
            is_comment = was.lstrip().startswith(("/*", "*", "//"))
            bare = re.sub(r"/\*\* @.*?\*/ ?", "", was)
            assert sent == ("" if is_comment else bare), (name, was)
            kept_count += sent != ""
        assert "/**" not in body.decode(), name
    assert kept_count > 1_000


def test_what_is_no_comment_of_its_own_stays(tmp_path: Path) -> None:
    module = tmp_path / "module.js"
    module.write_text(
        '/** Says.\n * More. */\nlet a = "https://x"; // why\n  // all\n/* b */ c();\n'
    )

    assert ui_files.served(module) == b'\n\nlet a = "https://x"; // why\n\n/* b */ c();\n'


async def test_only_what_browsers_need_is_served() -> None:
    async with running() as world:
        ui = world.api.documents.ui

    assert ui is not None
    assert {name.rpartition(".")[2] for name in ui.assets} <= {"css", "js", "png", "svg"}
    assert len({name.split("/")[1] for name in ui.assets}) == 1
    assert not any("/../" in name or "//" in name for name in ui.assets)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        (None, "/ui/"),
        ("https://ops.example", "/ui/"),
        ("https://ops.example/troth", "/troth/ui/"),
        ("https://ops.example/a/b/", "/a/b/ui/"),
    ],
)
async def test_the_page_begins_its_addresses_where_the_proxy_does(
    url: str | None, base: str
) -> None:
    async with running(Settings(url=url)) as world:
        page = (await world.send("GET", "/ui/promises/x")).body.decode()

        assert f'<base href="{base}">' in page
        assert 'href="assets/' in page  # relative to that


async def test_it_can_be_switched_off() -> None:
    async with running(Settings(ui=False)) as world:
        for path in ("/ui", "/ui/", "/ui/assets/x/app.css"):
            answer = await world.send("GET", path)
            assert (answer.status, answer.code) == (404, 40410)
        page = await world.send("GET", "/", headers={"Accept": "text/html"})
        assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("accepted", "status"),
    [
        ({"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, 302),
        ({"Accept": "*/*"}, 200),
        ({}, 200),
    ],
)
async def test_a_browser_is_led_to_the_ui(accepted: dict[str, str], status: int) -> None:
    async with running() as world:
        answer = await world.send("GET", "/", headers=accepted)

        assert answer.status == status
        assert "Accept" in (answer.header("vary") or "").split(", ")
        assert answer.header("location") == ("ui/" if status == 302 else None)


async def test_a_stranger_s_name_does_not_get_the_page() -> None:
    async with running() as world:
        answer = await world.send("GET", "/ui/", headers={"Host": "evil.example"})

        assert answer.status == 421


def test_wheel_has_ui(shared_server: ServerProcess) -> None:
    """Also run with the installed wheel, by `tests/release/installed.py`."""
    place = IMPORT_ROOT / "troth" / "http" / "ui"
    expected = {path.relative_to(ROOT / "http" / "ui") for path in files("http/ui")}

    assert {path.relative_to(place) for path in place.rglob("*") if path.is_file()} == expected
    status, page = shared_server.request("GET", "/ui/")
    assert status == 200
    (asset,) = re.findall(r"assets/\w+/app\.css", page)
    assert shared_server.request("GET", f"/ui/{asset}")[0] == 200
