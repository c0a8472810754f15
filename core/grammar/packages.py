"""The code of a function as a zip archive: what may be in it.

The server checks a package with `inspect` when it is uploaded; a node makes files of it with
`node/unpacking.py`. Both go through `read_package` and `file_pieces`, so what one accepts the
other unpacks: plain files with plain names, no more and no larger than the limits, counted while
they are read. Touches no file itself and needs no part of the server.
"""

import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from troth.core import limits as core_limits
from troth.core.catalog import Language

from .zip_format import Member, ZipRefused, pieces, read_members, show

ENTRY_FILES: Final = {
    Language.PYTHON: ("handler.py",),
    Language.JAVASCRIPT: ("handler.js", "handler.mjs"),
}
"""Where a function's code begins: exactly one of these files is in the package, at its top."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")
_SEGMENT_LIMIT_BYTES: Final = 255  # what usual file systems can name
_PROBLEMS_LIMIT_COUNT: Final = 20
_EMPTY_BYTES: Final = 2  # nothing, deflated
_COMPRESSION_FREE_BYTES: Final = 1024 * 1024  # below this, no ratio is refused


@dataclass(frozen=True, slots=True)
class PackageLimits:
    """How much a package may hold. `compression_ratio` is unpacked to packed, of the whole."""

    package_bytes: int = core_limits.BUILD_LIMIT_BYTES
    unpacked_bytes: int = core_limits.CODE_UNPACKED_LIMIT_BYTES
    entries_count: int = core_limits.CODE_ENTRIES_LIMIT_COUNT
    path_bytes: int = core_limits.CODE_PATH_LIMIT_BYTES
    depth_count: int = core_limits.CODE_DEPTH_LIMIT_COUNT
    compression_ratio: int = core_limits.CODE_COMPRESSION_LIMIT_RATIO


DEFAULT_LIMITS: Final = PackageLimits()


class PackageRefused(Exception):
    """A package that may not be unpacked. Each of `problems` is a line for its author."""

    def __init__(self, problems: list[str]) -> None:
        """Keep the first problems, and say how many more there are."""
        kept = problems[:_PROBLEMS_LIMIT_COUNT]
        if len(problems) > len(kept):
            kept.append(f"and {len(problems) - len(kept)} more problems")
        super().__init__("; ".join(kept))
        self.problems = tuple(kept)


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A file in a package; `path` is relative, with slashes."""

    path: str
    is_executable: bool
    size_bytes: int
    member: Member


@dataclass(frozen=True, slots=True)
class Package:
    """What a package holds. `directories` has those that files need too, parents first."""

    files: tuple[CodeFile, ...]
    directories: tuple[str, ...]
    content: bytes

    @property
    def unpacked_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises PackageRefused if they are damaged, KeyError if absent.
        """
        for file in self.files:
            if file.path == path:
                return b"".join(file_pieces(self.content, file))
        raise KeyError(path)

    def entry_file(self, language: Language) -> str:
        """Return the path of the file where code begins.

        Raises PackageRefused if it is not clear.
        """
        allowed = ENTRY_FILES[language]
        found = [path for path in allowed if any(file.path == path for file in self.files)]
        if len(found) == 1:
            return found[0]
        if found:
            raise PackageRefused([f"has {' and '.join(found)}; keep one of them"])
        problem = f"has no {' or '.join(allowed)} at its top"
        inside = {
            file.path.partition("/")[0]
            for file in self.files
            if file.path.partition("/")[2] in allowed
        }
        if inside:
            problem += f"; zip what is in the folder {min(inside)!r}, not the folder itself"
        raise PackageRefused([problem])


def inspect(content: bytes, limits: PackageLimits = DEFAULT_LIMITS) -> Package:
    """Check a package completely, its data too. Raises PackageRefused."""
    package = read_package(content, limits)
    problems = []
    for file in package.files:
        try:
            for _ in pieces(content, file.member):
                pass
        except ZipRefused as error:
            problems.append(str(error))
    if problems:
        raise PackageRefused(problems)
    return package


def file_pieces(content: bytes, file: CodeFile) -> Iterator[bytes]:
    """Unpack a file of a package, piece by piece. Raises PackageRefused if it is damaged."""
    try:
        yield from pieces(content, file.member)
    except ZipRefused as error:
        raise PackageRefused([str(error)]) from error


def read_package(content: bytes, limits: PackageLimits) -> Package:
    """Check everything about a package except its data. Raises PackageRefused."""
    if len(content) > limits.package_bytes:
        raise PackageRefused([too_large(limits)])
    try:
        members = read_members(content, limits.entries_count)
    except ZipRefused as error:
        raise PackageRefused([str(error)]) from error
    tree = _Tree(limits)
    for member in members:
        tree.add(member)
    unpacked_bytes = sum(member.size_bytes for member in members)
    if unpacked_bytes > limits.unpacked_bytes:
        tree.problems.append(
            f"must have at most {limits.unpacked_bytes} bytes unpacked (got {unpacked_bytes})"
        )
    allowed_bytes = max(_COMPRESSION_FREE_BYTES, len(content) * limits.compression_ratio)
    if unpacked_bytes > allowed_bytes:
        tree.problems.append(
            f"must unpack to at most {limits.compression_ratio} times its size (got "
            f"{unpacked_bytes // max(1, len(content))} times)"
        )
    if not tree.files and not tree.problems:
        tree.problems.append("has no files")
    if tree.problems:
        raise PackageRefused(tree.problems)
    return Package(tuple(tree.files), tuple(tree.directories), content)


def too_large(limits: PackageLimits) -> str:
    """Return the message about a package that is too large."""
    return f"must have at most {limits.package_bytes} bytes"


class _Tree:
    """The files and directories of a package while they are collected, and what is wrong."""

    def __init__(self, limits: PackageLimits) -> None:
        self.files: list[CodeFile] = []
        self.directories: list[str] = []
        self.problems: list[str] = []
        self._limits = limits
        self._spelled: dict[
            str, str
        ] = {}  # by the form that a file system without upper case or Unicode forms compares
        self._is_file: dict[str, bool] = {}
        self._listed: set[str] = set()

    def add(self, member: Member) -> None:
        """Add a member, or note what is wrong with it."""
        problem = self._take(member)
        if problem is not None:
            self.problems.append(f"{show(member.name)}: {problem}")

    def _take(self, member: Member) -> str | None:
        try:
            name = member.name.decode()
        except UnicodeDecodeError:
            return "its name is not UTF-8; rename it or use another zip program"
        path = name.removesuffix("/")
        is_directory = path != name
        problem = _name_problem(path, self._limits)
        if problem is None and _is_command_link(path, member):
            return None
        problem = problem or _kind_problem(member, is_directory)
        if problem is not None:
            return problem
        parents = path.split("/")[:-1]
        for count in range(1, len(parents) + 1):
            problem = self._place("/".join(parents[:count]), is_file=False)
            if problem is not None:
                return problem
        if path in self._listed:
            return "is in the archive twice"
        self._listed.add(path)
        problem = self._place(path, is_file=not is_directory)
        if problem is None and not is_directory:
            is_executable = bool(member.mode & 0o111)
            self.files.append(CodeFile(path, is_executable, member.size_bytes, member))
        return problem

    def _place(self, path: str, *, is_file: bool) -> str | None:
        """Add a path; return why that is impossible, or None."""
        known = self._is_file.get(path)
        if known is not None:
            return None if known is is_file else f"{path!r} is both a file and a folder"
        compared = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        other = self._spelled.setdefault(compared, path)
        if other != path:
            return f"differs from {other!r} only in upper and lower case or in how it is encoded"
        self._is_file[path] = is_file
        if not is_file:
            self.directories.append(path)
        return None


def _name_problem(path: str, limits: PackageLimits) -> str | None:
    """Return why nothing may have this path, or None."""
    segments = path.split("/")
    if not path.isprintable():
        return "its name has characters that cannot be shown; rename it"
    if "\\" in path:
        return "its name has a backslash; the separator in a zip archive is `/`"
    if path.startswith("/") or _DRIVE.match(path):
        return "its name is absolute; names are relative to the function's folder"
    if any(segment in ("", ".", "..") for segment in segments):
        return "its name has an empty part, `.` or `..`; files may be only in the function's folder"
    if len(path.encode()) > limits.path_bytes or any(
        len(segment.encode()) > _SEGMENT_LIMIT_BYTES for segment in segments
    ):
        return (
            f"its name must have at most {limits.path_bytes} bytes, and each part of it at most "
            f"{_SEGMENT_LIMIT_BYTES}"
        )
    if len(segments) > limits.depth_count:
        return f"is nested deeper than {limits.depth_count} folders"
    return None


def _is_command_link(path: str, member: Member) -> bool:
    """Return whether this is one of npm's links to commands: left out, no code needs them."""
    is_link = stat.S_IFMT(member.mode) == stat.S_IFLNK
    return is_link and path.split("/")[-3:-1] == ["node_modules", ".bin"]


def _kind_problem(member: Member, is_directory: bool) -> str | None:
    """Return why this is not a plain file or folder, or None if it is one."""
    kind = stat.S_IFMT(member.mode)
    if kind == stat.S_IFLNK:
        return "is a symbolic link; put the file itself into the archive"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device, pipe or socket; only files and folders are allowed"
    if kind and is_directory != (kind == stat.S_IFDIR):
        return "is a folder by its mode or by its name, but not by both"
    if is_directory and (member.size_bytes or member.end - member.start > _EMPTY_BYTES):
        return "is a folder with data in it"
    if not is_directory and member.mode & (stat.S_ISUID | stat.S_ISGID):
        return "would run with another user's or group's rights; remove its setuid and setgid bits"
    return None
