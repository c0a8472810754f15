"""Converting data directories: what is under way, what is in the way, interruptions.

That all kinds of entities survive is in `test_golden.py`.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.persistence import groups
from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER, Outgoing, make_shards
from troth.core import bulk
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.deciding import Options
from troth.core.grammar import task_ids
from troth.core.model import PromiseState
from troth.persistence.conversion import convert as conversion
from troth.persistence.conversion.convert import ConversionError, Converted, NewPlacement, convert
from troth.persistence.errors import (
    DataDirectoryError,
    DataDirectoryLocked,
    DataDirectoryUnreadable,
)
from troth.persistence.files import RealFiles
from troth.persistence.placement import PlacementRule
from troth.shards.clock import SystemClock
from troth.shards.hashing import Homes
from troth.shards.shards import Shards
from troth.shards.storage import DirectoryStorage

SHARD_COUNT = 4
GOLDEN = Path(__file__).parent / "golden"
OLD = PlacementRule.ID

write = functools.partial(groups.write, shard_count=SHARD_COUNT, rule=OLD)


def opened(data: Path) -> Shards:
    """Return the shards of a directory, not running."""
    storage = DirectoryStorage(data)
    shards = make_shards(
        storage.shard_count, Outgoing(), clock=SystemClock(), placement=storage.placement
    )
    shards.recover(storage)
    storage.close()
    return shards


def converted(data: Path, **wanted: object) -> Converted:
    """Convert to the placement by origin."""
    return convert(data, NewPlacement(PlacementRule.ORIGIN, **wanted), now_ms=EPOCH_MS)  # type: ignore[arg-type]


def content(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def apart(placed: Callable[[str], int]) -> tuple[str, str]:
    """Two ids that live in different shards."""
    names = [f"name{number}" for number in range(100)]
    return names[0], next(name for name in names if placed(name) != placed(names[0]))


@pytest.fixture
def pair() -> tuple[str, str]:
    """A root and a leaf of different shards of the old directory."""
    return apart(Homes(OLD, SHARD_COUNT).of_promise)


def test_a_resume_under_way_becomes_its_task(tmp_path: Path, pair: tuple[str, str]) -> None:
    """The leaf's shard had told the root's, which had not yet written it down."""
    root, leaf = pair
    write(
        tmp_path / "data",
        [
            c.CreatePromise(root, FAR_MS),
            c.CreatePromise(leaf, FAR_MS),
            c.CreateCallback(leaf, root, FAR_MS, WORKER),
            c.CompletePromise(leaf, PromiseState.RESOLVED),
        ],
    )
    assert sum(len(state.outbox) for state in opened(tmp_path / "data").states()) == 1
    converted(tmp_path / "data")
    shards = opened(tmp_path / "data")
    assert not any(len(state.outbox) or state.inbox for state in shards.states())
    state = shards.states()[shards.shard_of(root)]
    assert state.tasks[task_ids.resume_id(root, leaf)].root_id == root
    assert (state.counts.unfinished_tasks_count, state.tasks_count) == (1, 1)


def test_a_wake_under_way_wakes(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Messages of the envelope protocol are applied too."""
    root, leaf = pair
    write(
        tmp_path / "data",
        [
            w.CreateWorkflow(root, FAR_MS, "pid", 10**9, tags={"resonate:target": WORKER}),
            c.CreatePromise(leaf, FAR_MS),
            w.SuspendWorkflow(root, 1, (leaf,)),
        ],
    )
    converted(tmp_path / "data")
    shards = opened(tmp_path / "data")
    leafs = shards.states()[shards.shard_of(leaf)]
    assert leafs.awaits.waiters_of(leaf) == (root,)
    assert root in shards.states()[shards.shard_of(root)].workflows


def test_a_completion_under_way_goes_on(tmp_path: Path) -> None:
    """What hangs on it is where it is."""
    commands: list[c.Command] = [c.CreatePromise("leaf", FAR_MS)]
    commands += [c.CreateSubscription("leaf", f"s{number}", FAR_MS, WORKER) for number in range(5)]
    commands.append(c.CompletePromise("leaf", PromiseState.RESOLVED))
    write(tmp_path / "data", commands, Options(completion_slice_count=1))
    converted(tmp_path / "data", shard_count=7)
    shards = opened(tmp_path / "data")
    state = shards.states()[shards.shard_of("leaf")]
    assert state.completions == {"leaf": EPOCH_MS}
    left = len(state.callbacks.get("leaf", {}))
    assert 0 < left <= 5
    assert left + state.tasks_count == 5


def test_a_tree_is_in_one_shard_afterwards(tmp_path: Path) -> None:
    names = ["root", *(f"root.{number}" for number in range(20)), "root:1.2"]
    write(tmp_path / "data", [c.CreatePromise(name, FAR_MS) for name in names])
    assert sum(map(bool, (state.promises for state in opened(tmp_path / "data").states()))) > 1
    made = converted(tmp_path / "data")
    assert made.entities_count == len(names)
    shards = opened(tmp_path / "data")
    home = shards.states()[shards.shard_of("root")]
    assert sorted(home.promises) == sorted(names)
    serials = [home.promises[name].serial for name in names]
    assert serials == sorted(serials)
    assert home.promises_count == len(names)
    back = convert(tmp_path / "data", NewPlacement(OLD, 3), now_ms=EPOCH_MS, remove_old=True)
    assert back.old is None, "it was not kept"
    assert back.shard_count == 3
    again = opened(tmp_path / "data")
    assert sorted(name for state in again.states() for name in state.promises) == sorted(names)


def test_a_bulk_job_under_way_is_refused(tmp_path: Path) -> None:
    job = bulk.BulkJob(
        *("job", 1, 5, "account", "me", next(iter(bulk.BulkSubject)), next(iter(bulk.BulkAction))),
        *(bulk.BulkFilter(), {}, 1, (1,)),
    )
    write(tmp_path / "data", [c.CreateEntry(job)])
    before = content(tmp_path)
    with pytest.raises(ConversionError, match="the bulk job job is under way"):
        converted(tmp_path / "data")
    assert content(tmp_path) == before


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of version 1, as a release wrote it, with files of its operator."""
    shutil.copytree(GOLDEN / "version_1_format_3" / "data", tmp_path / "data")
    (tmp_path / "data" / "admin.key").write_text("secret")
    (tmp_path / "data" / "audit").mkdir()
    (tmp_path / "data" / "audit" / "1.jsonl").write_text("{}")
    return tmp_path / "data"


def test_the_old_directory_is_kept_until_it_is_to_go(data: Path) -> None:
    before = content(data)
    made = converted(data)
    old = data.with_name("data.before-conversion")
    assert made.old == old
    assert content(old) == before
    assert sorted(path.name for path in data.parent.iterdir()) == ["data", old.name]
    assert sorted(path.name for path in data.iterdir()) == [
        *("admin.key", "audit", "groups", "troth.json")
    ]
    assert (data / "audit" / "1.jsonl").read_text() == "{}"
    after, before_identity = (json.loads((path / "troth.json").read_text()) for path in (data, old))
    assert after["secret"] == before_identity["secret"]
    assert after["data_id"] == made.data_id != before_identity["data_id"]

    again = converted(data)
    assert again.entities_count is None
    assert again.old == old
    gone = convert(data, NewPlacement(), now_ms=EPOCH_MS, remove_old=True)
    assert gone.entities_count is None
    assert gone.old is None
    assert not old.exists()


def test_an_earlier_old_directory_is_in_the_way(data: Path) -> None:
    old = data.with_name("data.before-conversion")
    old.mkdir()
    before = content(data)
    with pytest.raises(ConversionError, match="from an earlier conversion"):
        converted(data)
    assert content(data) == before
    made = convert(data, NewPlacement(), now_ms=EPOCH_MS, remove_old=True)
    assert made.entities_count
    assert not old.exists()


def test_a_directory_in_use_is_refused(data: Path) -> None:
    lock = RealFiles().lock(str(data))
    with pytest.raises(DataDirectoryLocked):
        converted(data)
    lock.close()


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="does not exist"):
        converted(tmp_path / "data")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataDirectoryUnreadable, match=r"troth\.json cannot be read"):
        converted(tmp_path / "data")


def test_a_strange_directory_is_not_replaced(data: Path) -> None:
    strange = data.with_name("data.converting")
    strange.mkdir()
    (strange / "mine").write_text("")
    with pytest.raises(ConversionError, match="in the way"):
        converted(data)
    assert (strange / "mine").exists()


def test_a_damaged_log_is_refused_and_nothing_is_left(data: Path) -> None:
    segment = sorted((data / "log").glob("*.log"))[-1]
    segment.write_bytes(b"x" * 64 + segment.read_bytes()[64:])
    before = content(data)
    with pytest.raises(DataDirectoryError):
        converted(data)
    assert content(data) == before
    assert [path.name for path in data.parent.iterdir()] == ["data"]


class Killed(BaseException):
    """The process was killed here: nothing after it ran."""


@pytest.mark.parametrize("place", range(3))
def test_an_interruption_is_made_good(
    data: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Before the names change, between the two renames, and after them."""
    renames = iter(range(2))
    rename, sync = conversion._rename, conversion._sync

    def rename_or_stop(old: Path, new: Path) -> None:
        if next(renames) == place:
            raise Killed
        rename(old, new)

    def sync_or_stop(directory: Path) -> None:
        sync(directory)
        if directory == data.parent and not data.with_name("data.converting").exists():
            raise Killed

    with monkeypatch.context() as patched:
        # A killed process does not tidy up.
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        patched.setattr(conversion, "_rename", rename_or_stop)
        if place == 2:
            patched.setattr(conversion, "_sync", sync_or_stop)
        with pytest.raises(Killed):
            converted(data)
    assert data.exists() == (place != 1)
    if place == 1:
        with pytest.raises(DataDirectoryUnreadable, match="that was interrupted"):
            DirectoryStorage(data)
        assert not data.exists()
    if place == 2:
        assert (data / conversion.MARK.name).exists()
    made = converted(data)
    assert made.old == data.with_name("data.before-conversion")
    assert sorted(path.name for path in data.parent.iterdir()) == ["data", made.old.name]
    assert not (data / conversion.MARK.name).exists()
    assert opened(data).counts().promises[PromiseState.PENDING] > 0
