"""The code a node has fetched: unpacked once for each digest, and kept while there is room.

- A build is there under its name only when it is complete and its package had the right digest:
  it is unpacked next to its place and renamed.
- No function can change it: its files belong to the node's user and are read-only. If executions
run as
  other users, each build has its own group, and only its executions are in it.
- Beyond the limits, builds that were not used for longest go, never one in use.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from troth.core.grammar.packages import PackageLimits, PackageRefused

from .errors import CodeRefused
from .limits import BUILDS_LIMIT_BYTES, BUILDS_LIMIT_COUNT, PACKAGE_LIMIT_BYTES, USERS_COUNT
from .unpacking import unpack

_PART_PREFIX: Final = ".part-"
_PACKAGE_LIMITS: Final = PackageLimits(package_bytes=PACKAGE_LIMIT_BYTES)

_log = structlog.get_logger("troth.node.builds")


@dataclass
class UnpackedBuild:
    """Code on this node's disk, which stays while `users_count` is not 0.

    `gid` is its group; None if executions run as the node's own user.
    """

    digest: str
    path: Path
    gid: int | None
    size_bytes: int
    users_count: int = 0


@dataclass
class Builds:
    """The unpacked builds in one directory; `first_gid` None: no groups are given out."""

    directory: Path
    first_gid: int | None
    limit_bytes: int = BUILDS_LIMIT_BYTES
    limit_count: int = BUILDS_LIMIT_COUNT
    # The one used last is at the end.
    _known: dict[str, UnpackedBuild] = field(default_factory=dict)
    _locks: dict[str, trio.Lock] = field(default_factory=dict)

    def open(self) -> None:
        """Take in what an earlier run has left, and remove what it did not finish."""
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o711)
        found = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in found:
            gid = path.stat().st_gid
            is_ours = self.first_gid is None or 0 <= gid - self.first_gid < USERS_COUNT
            if path.name.startswith(_PART_PREFIX) or not is_ours:
                _remove(path)
                continue
            shown_gid = None if self.first_gid is None else gid
            self._known[path.name] = UnpackedBuild(path.name, path, shown_gid, _size_bytes(path))

    @contextlib.asynccontextmanager
    async def fetched(
        self, digest: str, fetch: Callable[[], Awaitable[bytes]]
    ) -> AsyncIterator[UnpackedBuild]:
        """Give out a build, fetching its package if it is not here, and keep it for a block.

        Raises CodeRefused if the package is not what the digest says, or cannot be unpacked, and
        whatever `fetch` raises.
        """
        build = self._known.pop(digest, None)
        if build is not None:
            self._known[digest] = build
            build.users_count += 1
        else:
            build = await self._fetch(digest, fetch)
        try:
            yield build
        finally:
            build.users_count -= 1

    async def _fetch(self, digest: str, fetch: Callable[[], Awaitable[bytes]]) -> UnpackedBuild:
        """Fetch a build, once for all who want it at this time; return it with one user more."""
        lock = self._locks.setdefault(digest, trio.Lock())
        try:
            async with lock:
                build = self._known.get(digest)
                if build is None:
                    package = await fetch()
                    build = await trio.to_thread.run_sync(self._unpack, digest, package)
                    self._known[digest] = build
                build.users_count += 1
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(digest, None)
        try:
            await self._make_room()
        except BaseException:
            build.users_count -= 1
            raise
        return build

    def _unpack(self, digest: str, package: bytes) -> UnpackedBuild:
        if hashlib.sha256(package).hexdigest() != digest:
            raise CodeRefused("the server sent a different archive than it announced")
        part = self.directory / f"{_PART_PREFIX}{secrets.token_hex(8)}"
        part.mkdir(mode=0o700)
        try:
            packed, unpacked = part / "archive.zip", part / "code"
            packed.write_bytes(package)
            try:
                unpack(packed, unpacked, _PACKAGE_LIMITS)
            except PackageRefused as error:
                raise CodeRefused(f"the archive cannot be unpacked: {error}") from error
            gid = self._free_gid()
            size_bytes = _size_bytes(unpacked)
            _make_read_only(unpacked, gid)
            path = self.directory / digest
            # To move a folder, its own entry `..` is changed.
            unpacked.chmod(0o750)
            unpacked.rename(path)
            path.chmod(0o550)
        finally:
            _remove(part)
        _log.info("code fetched", digest=digest, bytes=size_bytes)
        return UnpackedBuild(digest, path, gid, size_bytes)

    def _free_gid(self) -> int | None:
        if self.first_gid is None:
            return None
        taken = {build.gid for build in self._known.values()}
        taken |= {path.stat().st_gid for path in self.directory.iterdir()}
        all_gids = range(self.first_gid, self.first_gid + USERS_COUNT)
        return next(gid for gid in all_gids if gid not in taken)

    async def _make_room(self) -> None:
        size_bytes = sum(build.size_bytes for build in self._known.values())
        for build in [*self._known.values()]:
            if size_bytes <= self.limit_bytes and len(self._known) <= self.limit_count:
                return
            if build.users_count == 0:
                del self._known[build.digest]
                size_bytes -= build.size_bytes
                # Under another name first: half of it must not be taken for all of it.
                part = self.directory / f"{_PART_PREFIX}{secrets.token_hex(8)}"
                build.path.rename(part)
                await trio.to_thread.run_sync(_remove, part)


def _paths(root: Path) -> Iterator[Path]:
    yield root
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *files))


def _size_bytes(root: Path) -> int:
    return sum(path.lstat().st_size for path in _paths(root))


def _make_read_only(root: Path, gid: int | None) -> None:
    for path in [*_paths(root)]:
        if gid is not None:
            os.chown(path, -1, gid, follow_symlinks=False)
        # Who may execute it is all that is kept of a file's permissions.
        path.chmod(0o550 if path.is_dir() or path.stat().st_mode & 0o100 else 0o440)


def _remove(root: Path) -> None:
    for path in [*_paths(root)]:
        if path.is_dir() and not path.is_symlink():
            # Its entries cannot be removed while it is read-only.
            path.chmod(0o700)
    shutil.rmtree(root)
