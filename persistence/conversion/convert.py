"""Making a data directory of this version out of an older one, or one with another placement.

It is built next to its final place, as `DIR.converting`, and takes its place when all of it is
written, checked and synced; the old one is kept as `DIR.before-conversion`. The old directory is
locked until then and not changed. What an interruption leaves is recognized by a mark in it: either
the next attempt starts again, or, if only the names were left to change, it changes them.

The new directory has the secret and a data id of its own, as after a restore: its log is another
history. What else lies in the old one, as keys and audit logs, is copied.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from troth.core.bulk import BulkJob, BulkState
from troth.core.limits import GROUPS_LIMIT_COUNT, SHARDS_LIMIT_COUNT
from troth.persistence.building import BuildingInTheWay, Mark, marked
from troth.persistence.checkpoints import rows
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.checkpoints.store import LmdbStore
from troth.persistence.data_directory import (
    CONVERTING_SUFFIX,
    GROUPS_NAME,
    RUN_NAME,
    checkpoints_name,
    write_identity,
    write_new_log,
)
from troth.persistence.errors import (
    CheckpointFailed,
    DataDirectoryLocked,
    PersistenceError,
)
from troth.persistence.files import RealFiles, lock_left
from troth.persistence.identity import FORMAT_VERSION, IDENTITY_NAME, Identity
from troth.persistence.placement import PlacementRule, dealt_shards
from troth.persistence.wal.frames import DATA_ID_BYTES

from .dealing import Dealer
from .old_data import OldData, read_identity

BEFORE_SUFFIX: Final = ".before-conversion"
MARK: Final = Mark("being-converted", "a conversion")

_NOT_COPIED: Final = frozenset(
    {"log", "checkpoints", GROUPS_NAME, IDENTITY_NAME, RUN_NAME, "lost+found", MARK.name}
)
"""What a conversion makes itself, or has no use for."""

_AS_IT_WAS: Final = (
    "The old directory is as it was. Free space or check the disk and the permissions, then try "
    "again."
)

EntitiesDone = Callable[[int], None]
"""Told how many entities have been dealt so far."""


class ConversionError(PersistenceError):
    """A directory cannot be converted. The text is for an operator."""


@dataclass(frozen=True, slots=True)
class NewPlacement:
    """What the new directory is to have; None: what the old one has, or what new ones have."""

    placement: PlacementRule | None = None
    shard_count: int | None = None
    groups_count: int | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """What was made. `old` is where the old directory is kept, None if it was removed.

    `entities_count` is None if there was nothing to do.
    """

    path: Path
    old: Path | None
    data_id: str
    placement: PlacementRule
    shard_count: int
    groups_count: int
    entities_count: int | None


def convert(
    data: Path,
    wanted: NewPlacement,
    *,
    now_ms: int,
    remove_old: bool = False,
    progress: EntitiesDone = lambda _: None,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> Converted:
    """Convert the directory `data`. Nothing is done if it is as wanted already.

    Raises a PersistenceError; then `data` is as it was.
    """
    data = Path(os.path.realpath(data))
    building = data.with_name(data.name + CONVERTING_SUFFIX)
    before = data.with_name(data.name + BEFORE_SUFFIX)
    try:
        _finish_renaming(data, building, before)
        with locked(data):
            version, identity = read_identity(data)
            made = new_identity(version, identity, wanted)
            entities_count = None
            if made != identity or version < FORMAT_VERSION:
                _refuse_to_lose(data, before, remove_old=remove_old)
                identity = replace(made, data_id=random_bytes(DATA_ID_BYTES))
                with marked(building, MARK):
                    entities_count = _build(data, building, identity, now_ms, progress)
                if remove_old and before.exists():
                    shutil.rmtree(before)
                _exchange(data, building, before)
        (data / MARK.name).unlink(missing_ok=True)
        if remove_old and before.exists():
            shutil.rmtree(before)
    except BuildingInTheWay as error:
        raise ConversionError(str(error)) from error
    except CheckpointFailed as error:
        problem = error.__cause__ or error
        raise ConversionError(f"{building} cannot be written: {problem}. {_AS_IT_WAS}") from error
    except OSError as error:
        raise ConversionError(
            f"{data} cannot be converted: {error.strerror or error}. {_AS_IT_WAS}"
        ) from error
    return Converted(
        data,
        before if before.exists() else None,
        identity.data_id.hex(),
        identity.placement,
        identity.shard_count,
        identity.groups_count,
        entities_count,
    )


def _exchange(data: Path, building: Path, before: Path) -> None:
    """Give the new directory the name of the old one."""
    _rename(data, before)
    try:
        _rename(building, data)
    except OSError:
        _rename(before, data)
        raise


def _finish_renaming(data: Path, building: Path, before: Path) -> None:
    """Give the new directory its name, if an interruption left it without one."""
    if data.exists() or not before.exists() or not (building / IDENTITY_NAME).exists():
        return
    if (building / MARK.name).exists():
        _rename(building, data)


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Lock the old directory, so that no server starts on it. Raises a PersistenceError."""
    try:
        lock = lock_left(RealFiles(), str(data))
    except BlockingIOError as error:
        raise DataDirectoryLocked(str(data)) from error
    except FileNotFoundError as error:
        raise ConversionError(f"{data} does not exist. Nothing was changed.") from error
    with contextlib.closing(lock):
        yield


def new_identity(version: int, old: Identity, wanted: NewPlacement) -> Identity:
    """Return what a new directory is to be, with the old one's data id. Raises ConversionError."""
    placement, shard_count = wanted.placement, wanted.shard_count or old.shard_count
    groups_count = wanted.groups_count or old.groups_count
    if not 1 <= shard_count <= SHARDS_LIMIT_COUNT:
        raise ConversionError(
            f"the number of shards is 1 to {SHARDS_LIMIT_COUNT}, not {shard_count}. Nothing was "
            "changed."
        )
    if not 1 <= groups_count <= min(shard_count, GROUPS_LIMIT_COUNT):
        raise ConversionError(
            f"{shard_count} shards cannot be dealt to {groups_count} groups: each group needs one, "
            "and there may be more shards (--shards). Nothing was changed."
        )
    if placement is None:
        placement = old.placement if version == FORMAT_VERSION else PlacementRule.ORIGIN
    return replace(old, placement=placement, group_shards=dealt_shards(shard_count, groups_count))


def _refuse_to_lose(data: Path, before: Path, *, remove_old: bool) -> None:
    """Raise ConversionError if a name is taken, or `data` cannot be renamed."""
    if before.exists() and not remove_old:
        raise ConversionError(
            f"{before} is there, from an earlier conversion. Nothing was changed. If it is not "
            f"needed any more, remove it with `troth data convert {data} --remove-old`."
        )
    if data.is_mount():
        raise ConversionError(
            f"{data} is a file system of its own, and a directory is converted by renaming. "
            "Nothing was changed. Move what is in it into a directory inside it, and convert that."
        )


def _build(
    data: Path, building: Path, identity: Identity, now_ms: int, progress: EntitiesDone
) -> int:
    """Write all of the new directory, its identity last; how many entities it has."""
    files = RealFiles()
    for group in range(identity.groups_count):
        write_new_log(files, str(building), identity.data_id, group=group)
    entities_count = deal_out(data, building, identity, now_ms, progress)
    _copy_others(data, building)
    write_identity(files, str(building), identity)
    return entities_count


def deal_out(
    data: Path,
    building: Path,
    identity: Identity,
    now_ms: int,
    progress: EntitiesDone = lambda _: None,
) -> int:
    """Write the checkpoints of all groups, with everything that is in a directory.

    They are below `building`, which has the directories of the groups, and what the log of the
    directory holds is in them. Return how many entities there are. Raises a PersistenceError.
    """
    with contextlib.ExitStack() as closing:
        old = closing.enter_context(contextlib.closing(OldData(data, now_ms)))
        _refuse_running_jobs(data, old)
        new = []
        for group in range(identity.groups_count):
            path = building / checkpoints_name(group)
            store = LmdbStore(path, rows.TABLES)
            checkpoints = Checkpoints(store, identity.data_id, identity.shards_of(group))
            new.append(closing.enter_context(contextlib.closing(checkpoints)))
        dealer = Dealer(new, identity.placement, identity.group_shards, old.states)
        for promise in old.cold_promises():
            dealer.deal_promise(promise)
            progress(dealer.entities_count)
        for state, hot in old.hot():
            for memory_promise in map(state.promises.get, hot.promises):
                if memory_promise is not None:
                    dealer.deal_promise(memory_promise)
            dealer.deal_others(state, hot)
        # Those of one root are of one shard, and stay in their order.
        for task in old.tasks():
            dealer.deal_task(task)
            progress(dealer.entities_count)
        dealer.finish()
        for group, checkpoints in enumerate(new):
            checkpoints.renew()
            checkpoints.verify()
            for index in identity.shards_of(group):
                checkpoints.load(index)  # what is counted is there
        return dealer.entities_count


def _refuse_running_jobs(data: Path, old: OldData) -> None:
    """Raise ConversionError if a bulk job is under way: how far it is cannot be dealt out."""
    for state in old.states:
        for entry in state.entries.by_id.values():
            if isinstance(entry, BulkJob) and entry.state is BulkState.RUNNING:
                raise ConversionError(
                    f"the bulk job {entry.id} is under way in {data}. It is as it was. Start the "
                    "version of Troth that wrote it, and wait until the job has ended, or stop it."
                )


def _copy_others(data: Path, building: Path) -> None:
    """Copy what else is in the directory: keys, the audit log, when the last snapshot was made."""
    for path in data.iterdir():
        if path.name in _NOT_COPIED:
            continue
        target = building / path.name
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy2(path, target, follow_symlinks=False)
    for path in building.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _rename(old: Path, new: Path) -> None:
    old.rename(new)
    _sync(new.parent)


def _sync(directory: Path) -> None:
    RealFiles().sync_directory(str(directory))
