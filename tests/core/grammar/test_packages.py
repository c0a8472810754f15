"""What may be in a function's package, and that checking and unpacking agree about it."""

import io
import os
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.zips import DEFLATED, FILE, STORED, Item, deflate, plain_zip, raw_zip
from troth.core.catalog import Language
from troth.core.grammar.packages import (
    DEFAULT_LIMITS,
    Package,
    PackageLimits,
    PackageRefused,
    inspect,
)
from troth.node.unpacking import unpack

SMALL = PackageLimits(
    package_bytes=64 * 1024,
    unpacked_bytes=4 * 1024 * 1024,
    entries_count=50,
    path_bytes=100,
    depth_count=5,
    compression_ratio=100,
)
HANDLER = Item("handler.py", b"def handle(request):\n    return 1\n")


def unpacked(content: bytes, place: Path, limits: PackageLimits = SMALL) -> dict[str, bytes]:
    """What `unpack` leaves on disk: file contents by path."""
    package_path = place / "archive.zip"
    package_path.write_bytes(content)
    directory = place / "unpacked"
    unpack(package_path, directory, limits)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def refusal(content: bytes, place: Path, limits: PackageLimits = SMALL) -> str:
    """Why a package is refused, by both; nothing may be left of it."""
    with pytest.raises(PackageRefused) as by_inspect:
        inspect(content, limits)
    with pytest.raises(PackageRefused):
        unpacked(content, place, limits)
    assert {path.name for path in place.iterdir()} == {"archive.zip"}
    return "\n".join(by_inspect.value.problems)


def test_a_plain_archive_is_unpacked_as_it_is(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "handler.py": HANDLER.content,
        "package/__init__.py": b"",
        "package/deep/data ü.bin": bytes(range(256)) * 1000,
    }

    assert unpacked(plain_zip(files), tmp_path) == files
    package = inspect(plain_zip(files, zipfile.ZIP_STORED), PackageLimits())
    assert package.directories == ("package", "package/deep")
    assert package.unpacked_bytes == 256_000 + len(HANDLER.content)
    assert package.read("package/__init__.py") == b""
    with pytest.raises(KeyError):
        package.read("package")


@pytest.mark.parametrize(
    "descriptor",
    [
        struct.pack("<3L", zlib.crc32(b"x"), 3, 1),
        b"PK\x07\x08" + struct.pack("<3L", zlib.crc32(b"x"), 3, 1),
        struct.pack("<L2Q", zlib.crc32(b"x"), 3, 1),
        b"PK\x07\x08" + struct.pack("<L2Q", zlib.crc32(b"x"), 3, 1),
    ],
)
def test_archives_that_were_written_in_one_go(descriptor: bytes, tmp_path: Path) -> None:
    item = Item("handler.py", flags=8, descriptor=descriptor)

    assert unpacked(raw_zip([item, Item("b")], comment=b"made by hand"), tmp_path) == {
        "handler.py": b"x",
        "b": b"x",
    }


def test_python_writes_to_a_pipe_what_is_accepted() -> None:
    class Pipe(io.RawIOBase):
        made = b""

        def write(self, content: object) -> int:
            piece = bytes(content)  # type: ignore[call-overload]
            Pipe.made += piece
            return len(piece)

        def writable(self) -> bool:
            return True

    with zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("handler.py", b"x" * 1000)
        package.mkdir("empty")

    assert inspect(Pipe.made).directories == ("empty",)


def test_links_to_commands_as_npm_makes_them_are_left_out(tmp_path: Path) -> None:
    link = Item("node_modules/.bin/a", b"../a/cli.js", mode=0o120777)
    deep = Item("b/node_modules/.bin/c", b"../c.js", mode=0o120777)

    assert [*unpacked(raw_zip([HANDLER, link, deep]), tmp_path)] == ["handler.py"]


@pytest.mark.parametrize("count", [1, 511, 70_000])
def test_zeros_behind_the_end_are_passed_over(count: int, tmp_path: Path) -> None:
    assert [*unpacked(raw_zip([HANDLER]) + bytes(count), tmp_path, DEFAULT_LIMITS)] == [
        "handler.py"
    ]


def test_permissions_are_made_harmless(tmp_path: Path) -> None:
    items = [
        Item("run.sh", mode=0o100777),
        Item("secret", mode=0o100000),
        Item("d/", b"", mode=0o042777, method=STORED),
        Item("no mode", mode=0),
    ]
    unpacked(raw_zip(items), tmp_path)

    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "unpacked").iterdir()
    }
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {
        "run.sh": 0o755 & ~umask,
        "secret": 0o644 & ~umask,
        "d": 0o755 & ~umask,
        "no mode": 0o644 & ~umask,
    }


GOOD = raw_zip([HANDLER])
ZIP64_END = b"PK\x06\x06" + b"\0" * 52 + b"PK\x06\x07" + b"\0" * 16
DAMAGED = bytearray(GOOD)
DAMAGED[41] ^= 0xFF

REFUSED = {
    "nothing": (b"", "is not a zip archive"),
    "no zip": (b"hello" * 100, "is not a zip archive"),
    "gzip": (b"\x1f\x8b\x08" + b"0" * 100, "compressed with gzip"),
    "cut off": (GOOD[:-30], "without its end"),
    "cut in the end": (GOOD[:-3], "several ends"),
    "no entries": (raw_zip([]), "has no files"),
    "only folders": (raw_zip([Item("d/", b"", mode=0o40755, method=STORED)]), "has no files"),
    "bytes before": (raw_zip([HANDLER], prefix=b"#!/bin/sh\n"), "before its first entry"),
    "bytes before nothing": (raw_zip([], prefix=b"junk"), "before its directory"),
    "bytes after": (raw_zip([HANDLER], suffix=b"junk"), "after its end"),
    "an end in the comment": (
        raw_zip([HANDLER], comment=GOOD[GOOD.index(b"PK\x05\x06") :]),
        "several ends",
    ),
    "bytes between": (raw_zip([HANDLER], before_end=b"junk"), "not where its end says"),
    "directory elsewhere": (raw_zip([HANDLER], directory_shift=-1), "not where its end says"),
    "too small a count": (raw_zip([HANDLER, Item("b")], count=1), "damaged directory"),
    "too large a count": (raw_zip([HANDLER], count=2), "damaged directory"),
    "several volumes": (raw_zip([HANDLER], disk=1), "one part of several"),
    "zip64": (raw_zip([HANDLER], before_end=ZIP64_END), "zip64"),
    "zip64 sizes": (
        raw_zip([Item("a", size_bytes=0xFFFFFFFF, packed_bytes=0xFFFFFFFF)]),
        "zip64",
    ),
    "encrypted": (raw_zip([Item("a", flags=1)]), "'a': is encrypted"),
    "strongly encrypted": (raw_zip([Item("a", flags=1 << 6 | 1)]), "'a': is encrypted"),
    "bzip2": (raw_zip([Item("a", method=12)]), "method 12"),
    "absolute": (raw_zip([Item("/etc/passwd")]), "'/etc/passwd': its name is absolute"),
    "a drive": (raw_zip([Item("c:a")]), "'c:a': its name is absolute"),
    "upwards": (raw_zip([Item("a/../../b")]), "'a/../../b': its name has an empty part"),
    "only upwards": (raw_zip([Item("..")]), "its name has an empty part"),
    "here": (raw_zip([Item("./a")]), "its name has an empty part"),
    "two slashes": (raw_zip([Item("a//b")]), "its name has an empty part"),
    "no name": (raw_zip([Item("")]), "its name has an empty part"),
    "backslash": (raw_zip([Item("..\\a")]), "backslash"),
    "nul": (raw_zip([Item(b"a.py\0.txt")]), "cannot be shown"),
    "newline": (raw_zip([Item("a\nb")]), "cannot be shown"),
    "right to left": (raw_zip([Item("a\u202eyp.b")]), "cannot be shown"),
    "latin-1": (raw_zip([Item(b"caf\xe9")]), "not UTF-8"),
    "a surrogate": (raw_zip([Item(b"\xed\xa0\x80")]), "not UTF-8"),
    "a long name": (raw_zip([Item("a/" * 4 + "b" * 93)]), "its name must have at most 100 bytes"),
    "deep": (raw_zip([Item("a/" * 5 + "b")]), "nested deeper than 5"),
    "link beside npm's": (
        raw_zip([HANDLER, Item("node_modules/bin/a", b"/etc", mode=0o120777)]),
        "symbolic link",
    ),
    "link in npm's place upwards": (
        raw_zip([HANDLER, Item("../node_modules/.bin/a", b"/etc", mode=0o120777)]),
        "its name has an empty part",
    ),
    "bytes behind zeros": (raw_zip([HANDLER]) + bytes(600) + b"x", "bytes after its end"),
    "symbolic link": (raw_zip([Item("a", b"/etc", mode=0o120777)]), "symbolic link"),
    "device": (raw_zip([Item("a", mode=0o020666)]), "device"),
    "pipe": (raw_zip([Item("a", mode=0o010666)]), "device"),
    "socket": (raw_zip([Item("a", mode=0o140666)]), "device"),
    "setuid": (raw_zip([Item("a", mode=0o104755)]), "setuid"),
    "setgid": (raw_zip([Item("a", mode=0o102755)]), "setuid"),
    "folder by mode": (raw_zip([Item("a", b"", mode=0o40755)]), "not by both"),
    "folder by name": (raw_zip([Item("a/", b"", mode=FILE)]), "not by both"),
    "full folder": (raw_zip([Item("a/", b"x", mode=0)]), "a folder with data"),
    "folder with hidden data": (
        raw_zip([Item("a/", b"", mode=0, packed=b"hidden")]),
        "a folder with data",
    ),
    "twice": (raw_zip([Item("a"), Item("a")]), "'a': is in the archive twice"),
    "folder twice": (
        raw_zip([Item("d/", b"", mode=0), Item("d/", b"", mode=0), HANDLER]),
        "is in the archive twice",
    ),
    "case": (raw_zip([Item("a/B"), Item("a/b")]), "only in upper and lower case"),
    "case of folders": (raw_zip([Item("A/x"), Item("a/y")]), "only in upper and lower case"),
    "ß": (raw_zip([Item("straße"), Item("STRASSE")]), "only in upper and lower case"),
    "normal forms": (raw_zip([Item("e\u0301"), Item("\u00e9")]), "how it is encoded"),
    "file under file": (raw_zip([Item("a"), Item("a/b")]), "both a file and a folder"),
    "file over file": (raw_zip([Item("a/b"), Item("a")]), "both a file and a folder"),
    "damaged": (bytes(DAMAGED), "'handler.py': is damaged"),
    "wrong checksum": (raw_zip([Item("a", crc=1)]), "'a': is damaged"),
    "larger than said": (raw_zip([Item("a", b"x" * 9, size_bytes=8)]), "not as large"),
    "smaller than said": (raw_zip([Item("a", b"x" * 9, size_bytes=10)]), "not as large"),
    "a hidden bomb": (raw_zip([Item("a", b"0" * 9_000_000, size_bytes=9)]), "not as large"),
    "stored but not": (raw_zip([Item("a", b"xyz", method=STORED, size_bytes=2)]), "not as large"),
    "ends too early": (
        raw_zip([Item("a", b"x" * 99, packed=deflate(b"x" * 99)[:-2])]),
        "too early",
    ),
    "goes on": (raw_zip([Item("a", packed=deflate(b"x") + b"more")]), "bytes after its end"),
    "goes on far": (
        raw_zip([Item("a", packed=deflate(b"x") + b"more" * 9000)]),
        "bytes after its end",
    ),
    "too large": (raw_zip([Item("a", b"0" * 5_000_000)]), "4194304"),
    "too well compressed": (raw_zip([Item("a", b"0" * 4_000_000)]), "times its size"),
    "too large an archive": (
        raw_zip([Item("a", bytes(65_536), method=STORED)]),
        "must have at most 65536 bytes",
    ),
    "too many": (raw_zip([Item(str(n)) for n in range(51)]), "at most 50 entries (got 51)"),
    "overlapping": (
        raw_zip([Item("a", b"x" * 50, method=STORED), Item("b", offset=40)]),
        "'a': shares bytes",
    ),
    "the same bytes twice": (raw_zip([Item("a"), Item("a", offset=0)]), "is not where"),
    "into the directory": (raw_zip([Item("a", packed_bytes=99)]), "shares bytes"),
    "elsewhere": (b"XX" + GOOD[2:], "is not where the directory says"),
    "bytes of nobody": (raw_zip([Item("a", after=b"junk"), HANDLER]), "contradict"),
    "another local name": (raw_zip([Item("a", local_name=b"../b")]), "contradict"),
    "another local method": (raw_zip([Item("a", local_method=0)]), "contradict"),
    "another local size": (raw_zip([Item("a", local_size_bytes=2)]), "contradict"),
    "locally encrypted": (raw_zip([Item("a", local_flags=1)]), "contradict"),
    "a wrong descriptor": (raw_zip([Item("a", flags=8, descriptor=b"\0" * 12)]), "contradict"),
    "no descriptor": (raw_zip([Item("a", flags=8)]), "contradict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    content, problem = REFUSED[name]

    assert problem in refusal(content, tmp_path)


def test_all_that_is_wrong_is_said_up_to_a_limit(tmp_path: Path) -> None:
    some = refusal(raw_zip([Item("/a"), Item("b\\c"), Item("d", mode=0o120777)]), tmp_path)
    many = refusal(raw_zip([Item(f"/{n}") for n in range(30)]), tmp_path)

    assert len(some.splitlines()) == 3
    assert many.splitlines()[20:] == ["and 10 more problems"]


def test_an_unpacked_archive_is_never_unpacked_over(tmp_path: Path) -> None:
    unpacked(GOOD, tmp_path)
    with pytest.raises(FileExistsError):
        unpacked(GOOD, tmp_path)


@pytest.mark.parametrize(
    ("paths", "language", "expected"),
    [
        (["handler.py", "handler.js"], Language.PYTHON, "handler.py"),
        (["handler.js"], Language.JAVASCRIPT, "handler.js"),
        (["handler.mjs"], Language.JAVASCRIPT, "handler.mjs"),
        (["handler.mjs", "handler.js"], Language.JAVASCRIPT, "keep one of them"),
        (["main.py"], Language.PYTHON, "has no handler.py at its top"),
        (["Handler.py"], Language.PYTHON, "has no handler.py at its top"),
        (["f/handler.py"], Language.PYTHON, "zip what is in the folder 'f'"),
        (["f/handler.py"], Language.JAVASCRIPT, "has no handler.js or handler.mjs at its top"),
    ],
)
def test_where_code_begins(paths: list[str], language: Language, expected: str) -> None:
    package = inspect(plain_zip(dict.fromkeys(paths, b"x")))
    try:
        found = package.entry_file(language)
    except PackageRefused as error:
        found = str(error)

    assert expected in found


def test_the_usual_program_makes_what_is_accepted(tmp_path: Path) -> None:
    """Info-ZIP's `zip`, with folders and its own fields in the headers; else Python's library."""
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "handler.py").write_text("x" * 5000)
    (source / "d" / "run").write_text("y")
    (source / "d" / "run").chmod(0o755)
    program = shutil.which("zip")
    if program is not None:
        subprocess.run([program, "-qr", "../a.zip", "."], cwd=source, check=True)
    else:
        shutil.make_archive(str(tmp_path / "a"), "zip", source)
    package = inspect((tmp_path / "a.zip").read_bytes())

    assert {file.path: file.is_executable for file in package.files} == {
        "handler.py": False,
        "d/run": True,
    }


# Names that meet each other in all ways; bytes that are nearly packages.
_SEGMENTS = st.sampled_from(["a", "A", "b", "..", ".", "", "é", "e\u0301", "c:", "x\\y", "a\0"])
_NAMES = st.lists(_SEGMENTS, min_size=1, max_size=3).map("/".join)
_ITEMS = st.builds(
    Item,
    name=_NAMES,
    content=st.sampled_from([b"", b"x", b"y" * 300]),
    mode=st.sampled_from([0, FILE, 0o100755, 0o40755, 0o120777, 0o104755]),
    method=st.sampled_from([STORED, DEFLATED]),
    size_bytes=st.sampled_from([None, None, None, 0, 1, 300]),
    flags=st.sampled_from([0, 0, 0, 1, 8]),
)


def agreed(content: bytes, place: Path) -> Package | None:
    """Check and unpack; both must say the same, and do nothing outside of their directory."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        package: Package | None = inspect(content, SMALL)
    except PackageRefused:
        package = None
    try:
        files = unpacked(content, place)
    except PackageRefused:
        assert package is None
        assert {path.name for path in place.iterdir()} == {"archive.zip"}
        return None
    assert package is not None
    assert files == {file.path: package.read(file.path) for file in package.files}
    assert {path.name for path in place.iterdir()} == {"archive.zip", "unpacked"}
    return package


@settings(max_examples=300, deadline=None, derandomize=True)
@given(items=st.lists(_ITEMS, max_size=5))
def test_checking_and_unpacking_agree(
    items: list[Item], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = raw_zip(items)
    package = agreed(content, tmp_path_factory.getbasetemp() / "agreed")

    if package is not None:
        # And with Python's own reader, which is laxer.
        with zipfile.ZipFile(io.BytesIO(content), metadata_encoding="utf-8") as other:
            assert {
                name: other.read(name) for name in other.namelist() if not name.endswith("/")
            } == {file.path: package.read(file.path) for file in package.files}


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_damage_gets_through_or_ends_in_another_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(raw_zip([HANDLER, Item("d/e", b"z" * 500), Item("f", method=STORED)]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))

    package = agreed(bytes(content), tmp_path_factory.getbasetemp() / "damaged")

    if package is not None:
        contents = {package.read(file.path) for file in package.files}
        assert contents == {HANDLER.content, b"z" * 500, b"x"}
