"""Parts of a node by themselves: frames, files, builds."""

import hashlib
import json
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.node import frames
from troth.node.builds import Builds
from troth.node.errors import CodeRefused
from troth.node.files import empty, exceeds
from troth.node.frames import ChannelBroken, FrameReader, ResultTooLarge
from troth.node.limits import ResultLimits

from .fake_server import python


@given(st.lists(st.tuples(st.sampled_from("YFNXPRE"), st.binary(max_size=300))), st.randoms())
def test_frames_arrive_whole_however_they_are_cut(
    sent: list[tuple[str, bytes]], random: Random
) -> None:
    pairs = [(kind.encode(), content) for kind, content in sent]
    content = b"".join(frames.frame(kind, part) for kind, part in pairs)
    reader = FrameReader()
    found = []
    while content:
        count = random.randint(1, 50)
        reader.feed(content[:count])
        content = content[count:]
        while (one := reader.next()) is not None:
            found.append(one)

    assert found == pairs


def frames_read(content: bytes) -> list[tuple[bytes, bytes]] | None:
    """The frames in what a function's process sent; None if it has to be ended."""
    reader = FrameReader(ResultLimits(48, 48))
    reader.feed(content)
    read = []
    try:
        while (found := reader.next()) is not None:
            kind, payload = found
            if kind == frames.RESULT:
                frames.response(payload)
            elif kind == frames.PROGRESS:
                frames.progress(payload)
            else:
                frames.error_of(payload)
            read.append(found)
    except (ChannelBroken, ResultTooLarge):
        return None
    return read


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    read = frames_read(content)

    assert content.startswith(b"".join(frames.frame(*one) for one in read or []))


@pytest.mark.parametrize(
    "content",
    [
        b'{"type":"V\xff","message":""}',
        b'{"type":"V","message":"m","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'["V","m"]',
        b"",
    ],
)
def test_an_error_that_a_function_has_made_up_breaks_its_channel_and_nothing_else(
    content: bytes,
) -> None:
    with pytest.raises(ChannelBroken):
        frames.error_of(content)
    with pytest.raises(ChannelBroken):
        frames.response(len(content).to_bytes(4, "big") + content + b"body")


def result(meta: object, body: bytes = b"") -> frames.FunctionResponse:
    """What becomes of a result frame."""
    described = json.dumps(meta).encode()
    return frames.response(len(described).to_bytes(4, "big") + described + body)


def test_headers_that_belong_to_the_connection_are_left_out() -> None:
    headers = [["Content-Length", "9"], ["X-One", "1"], ["Transfer-Encoding", "chunked"]]

    assert result({"status": 200, "headers": headers}).headers == (("x-one", "1"),)


@pytest.mark.parametrize(
    "meta",
    [
        {"status": 100, "headers": []},
        {"status": 600, "headers": []},
        {"status": 200, "headers": [["a b", "1"]]},
        {"status": 200, "headers": [["", "1"]]},
        {"status": 200, "headers": [["a", "1\n2"]]},
        {"status": 200, "headers": [["a", "\x7f"]]},
        {"status": 200, "headers": [["a", "\u00fc"]]},
        {"status": 200, "headers": [["a", "1" * 8_193]]},
        {"status": 200, "headers": [["a" * 257, "1"]]},
        {"status": 200, "headers": [["Content-Encoding", "gzip"]]},
        {"status": 200, "headers": [["a", "1"]] * 65},
        {"status": 200, "headers": [["a", "1" * 13_000]]},
    ],
)
def test_a_response_that_cannot_be_sent_is_a_failure(meta: object) -> None:
    response = result(meta)

    assert response.status == 500
    assert (response.error or "").startswith("BadResponse")


@pytest.mark.parametrize("meta", [None, [], {}, {"status": "200", "headers": []}, {"status": 200}])
def test_a_result_of_another_form_breaks_the_channel(meta: object) -> None:
    with pytest.raises(ChannelBroken):
        result(meta)


def test_a_directory_is_emptied_whatever_is_in_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "work", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("stays")
    (inside / "link").symlink_to(outside)
    (inside / "folder-link").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    (inside / "closed").mkdir()
    (inside / "closed" / "file").write_text("")
    (inside / "closed").chmod(0)
    before = os.getcwd()
    os.chdir(inside)
    try:
        for _ in range(300):
            Path("d" * 100).mkdir()
            os.chdir("d" * 100)
        Path("file").write_text("deep")
    finally:
        os.chdir(before)

    empty(inside)

    assert [*inside.iterdir()] == []
    assert outside.read_text() == "stays"


def test_a_directory_is_measured_by_bytes_entries_and_depth(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(100_000))
    (tmp_path / "link").symlink_to("/")

    assert not exceeds(tmp_path, 200_000, 3)
    assert exceeds(tmp_path, 90_000, 3)
    assert exceeds(tmp_path, 200_000, 2)


class Fetcher:
    """Gives out an archive and counts how often it is asked."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.count = 0

    async def __call__(self) -> bytes:
        self.count += 1
        return self.archive


def opened(directory: Path, limit_count: int = 100) -> Builds:
    """Builds in a directory, without groups."""
    builds = Builds(directory, None, limit_count=limit_count)
    builds.open()
    return builds


async def test_a_build_is_fetched_once_and_found_again(tmp_path: Path) -> None:
    code = python("word = 1\n")
    fetch = Fetcher(code.archive)
    for _ in range(2):
        builds = opened(tmp_path / "builds")
        for _ in range(2):
            async with builds.fetched(code.digest, fetch) as build:
                assert (build.path / "handler.py").read_text() == "word = 1\n"
                assert (build.path / "handler.py").stat().st_mode & 0o222 == 0

    assert fetch.count == 1


async def test_what_was_not_finished_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "builds" / ".part-1" / "code").mkdir(parents=True)

    opened(tmp_path / "builds")

    assert [*(tmp_path / "builds").iterdir()] == []


async def test_a_wrong_digest_leaves_nothing(tmp_path: Path) -> None:
    builds = opened(tmp_path / "builds")
    with pytest.raises(CodeRefused):
        async with builds.fetched(hashlib.sha256().hexdigest(), Fetcher(python("").archive)):
            raise AssertionError

    assert [*(tmp_path / "builds").iterdir()] == []


async def test_the_build_unused_for_longest_goes_first(tmp_path: Path) -> None:
    builds = opened(tmp_path / "builds", limit_count=2)
    first, second, third = (python(f"word = {number}\n") for number in range(3))
    async with builds.fetched(first.digest, Fetcher(first.archive)):
        async with builds.fetched(second.digest, Fetcher(second.archive)):
            pass
        async with builds.fetched(third.digest, Fetcher(third.archive)):
            # The first is in use, the second is not.
            names = {path.name for path in (tmp_path / "builds").iterdir()}

    assert names == {first.digest, third.digest}
