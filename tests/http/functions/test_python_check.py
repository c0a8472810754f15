"""Whether Python source is judged rightly, and by a process that may perish."""

import errno
from typing import Any

import pytest
import trio

from troth.http.functions.python_check import check_python

GOOD = [
    "def handle(request): return 1",
    "async def handle(request):\n    return 1\n",
    "handle = lambda request: request",
    "from package import handle",
    "from package import main as handle",
    "from package import *",
    "if True:\n    def handle(request): ...\nelse:\n    handle = None\n",
    "try:\n    from a import handle\nexcept ImportError:\n    from b import handle\n",
    "with open('x') as f:\n    def handle(r): ...\n",
    "class handle:\n    def __new__(cls, request): ...\n",
    "# coding: latin-1\ndef handle(request): return 'é'",
    "for handle in [print]: pass",
    "(handle := print)",
]


@pytest.mark.parametrize("source", GOOD)
async def test_a_handler_is_found_without_running_anything(source: str) -> None:
    assert await check_python(source.encode("latin-1"), "handler.py") == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"def handle(request)\n    pass", "handler.py, line 1: expected ':'"),
        (b"def handle(request):\n    return 1\n return", "handler.py, line 3: "),
        (b"return 1", "'return' outside function"),
        (b"\xff\xfe", "handler.py"),
        (b"# coding: nothing\n", "handler.py"),
        (b"def handle(r): pass\0", "null bytes"),
        (b"def handler(request): pass", "has no function 'handle' at its top level"),
        (b"def outer():\n    def handle(r): ...\n", "has no function 'handle'"),
        (b"class A:\n    def handle(self): ...\n", "has no function 'handle'"),
        (b"", "has no function 'handle'"),
        (b"(" * 100_000, "handler.py"),
        (b"x = " + b"-" * 200_000 + b"1", "handler.py"),
        (b"a" * (1024 * 1024 + 1), "allowed are at most 1048576"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(source: bytes, problem: str) -> None:
    (found,) = await check_python(source, "handler.py")

    assert problem in found
    assert "\n" not in found
    assert len(found) < 500


async def test_what_needs_too_much_memory_is_given_up() -> None:
    source = b"x=" + b"[" * 90 + b"1," * 200_000 + b"]" * 90

    (found,) = await check_python(source, "handler.py", memory_bytes=40_000_000)

    assert "cannot be compiled" in found


async def test_what_needs_too_much_time_is_given_up() -> None:
    source = b"x = (" + b"1, " * 340_000 + b")\n"

    (found,) = await check_python(source, "handler.py", timeout_s=0)

    assert "within 0 seconds" in found


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_process_that_cannot_begin_for_now_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    left_count = 3
    real: Any = trio.run_process

    async def run_process(*arguments: object, **options: object) -> object:
        nonlocal left_count
        if left_count:
            left_count -= 1
            raise OSError(number, "not now")
        return await real(*arguments, **options)

    monkeypatch.setattr(trio, "run_process", run_process)

    assert await check_python(b"def handle(request): ...", "handler.py") == []
    assert left_count == 0


async def test_a_process_that_can_never_begin_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run_process(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "never")

    monkeypatch.setattr(trio, "run_process", run_process)

    with pytest.raises(PermissionError):
        await check_python(b"def handle(request): ...", "handler.py")
