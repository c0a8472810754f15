"""Converting to another number of groups: every row is the same, and is in its group."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.seeds import seeds_count
from tests.persistence.groups import digests_of, write
from tests.shards.stage import EPOCH_MS, FAR_MS, WORKER
from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.grammar import task_ids
from troth.core.model import PromiseState, Value
from troth.persistence.conversion.convert import ConversionError, NewPlacement, convert
from troth.persistence.conversion.old_data import OldData
from troth.persistence.data_directory import DataDirectory, open_identity
from troth.persistence.errors import GroupsMismatch, LogDamaged
from troth.persistence.files import RealFiles
from troth.persistence.inspection.data_statistics import read_statistics
from troth.persistence.inspection.log_covered import verify_directory
from troth.persistence.placement import PlacementRule, by_id, by_rule, groups_by_shard
from troth.persistence.serials import GROUP_BITS
from troth.shards.storage import DirectoryStorage

GOLDEN = Path(__file__).parent / "golden"
SHARD_COUNT = 7
KILLS_COUNT = seeds_count(6, 20)
SEED = 16


def converted(data: Path, groups_count: int, **wanted: object) -> None:
    """Convert to a number of groups; the directory before it goes."""
    wished = NewPlacement(groups_count=groups_count, **wanted)  # type: ignore[arg-type]
    made = convert(data, wished, now_ms=EPOCH_MS, remove_old=True)
    assert made.groups_count == groups_count


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with entities of all kinds, of one group, without a log that goes on."""
    shutil.copytree(GOLDEN / "version_2" / "data", tmp_path / "data")
    (tmp_path / "data" / "admin.key").write_text("secret")
    converted(tmp_path / "data", 1, shard_count=SHARD_COUNT)
    return tmp_path / "data"


def test_every_row_is_the_same_whatever_the_groups(data: Path) -> None:
    before = digests_of(data)
    for table in ("promises", "live_promises", "live_tasks", "entries", "workflows", "listeners"):
        assert before[table][0] > 0, table
    for groups_count in (3, 2, SHARD_COUNT, 1):
        converted(data, groups_count)
        assert digests_of(data) == before, f"with {groups_count} groups"
        groups = sorted(path.name for path in (data / "groups").iterdir())
        assert groups == [str(group) for group in range(groups_count)]
        assert (data / "admin.key").read_text() == "secret"


def test_what_has_not_reached_another_group_is_applied(tmp_path: Path) -> None:
    """A resume, a wake and a listener's message, each of which another group's log lacks."""
    of_promise = by_rule(PlacementRule.ORIGIN, SHARD_COUNT)
    group_of = groups_by_shard((3, 2, 2))
    names = [f"name{number}" for number in range(100)]
    by_group = {
        group: [name for name in names if group_of[of_promise(name)] == group] for group in range(3)
    }
    root, leaf, flow, child = by_group[0][0], by_group[1][0], by_group[2][0], by_group[1][1]
    tags = {"resonate:target": WORKER}
    data = tmp_path / "data"
    write(
        data,
        [
            c.CreatePromise(root, FAR_MS),
            c.CreatePromise(leaf, FAR_MS),
            c.CreateCallback(leaf, root, FAR_MS, WORKER),
            c.CompletePromise(leaf, PromiseState.RESOLVED, Value({}, "aGk=")),
            w.CreateWorkflow(flow, FAR_MS, "pid", 10**9, tags=tags),
            c.CreatePromise(child, FAR_MS),
            w.SuspendWorkflow(flow, 1, (child,)),
        ],
        shard_count=SHARD_COUNT,
        groups_count=3,
    )
    converted(data, 2)
    old = OldData(data, EPOCH_MS)
    states = old.states
    assert not any(len(state.outbox) or state.inbox for state in states)
    assert task_ids.resume_id(root, leaf) in states[of_promise(root)].tasks
    assert states[of_promise(child)].awaits.waiters_of(child) == (flow,)
    serials = [states[of_promise(name)].promises[name].serial for name in (root, flow)]
    old.close()
    # They keep the group that gave them.
    assert [serial % (1 << GROUP_BITS) for serial in serials] == [0, 2]
    converted(data, 3)
    again = digests_of(data)
    converted(data, 1)
    assert digests_of(data) == again


def test_the_shards_of_a_group_follow_one_another(data: Path) -> None:
    """And what is in them is what the placement says."""
    converted(data, 3)
    for group, shards in enumerate((range(3), range(3, 5), range(5, 7))):
        _, lock, _ = open_identity(data, RealFiles(), None, 3, created_at_ms=1)
        opened = DataDirectory.open_group(lock, str(data), RealFiles(), group)
        assert opened.shards == shards
        opened.close()
    found = read_statistics(RealFiles(), data)
    old = OldData(data, EPOCH_MS)
    of_name = by_id(SHARD_COUNT)
    for state in old.states:
        assert all(of_name(name) == state.index for name in state.locks)
    assert [group.shard_count for group in found.groups] == [3, 2, 2]
    assert found.promises_count == sum(state.promises_count for state in old.states)
    assert found.rows["schedules"] == sum(len(state.schedules) for state in old.states)
    old.close()


def test_what_serves_one_group_refuses_several(data: Path) -> None:
    """In one line that names the command, and without a change."""
    converted(data, 3)
    before = digests_of(data)
    with pytest.raises(GroupsMismatch, match=r"troth data convert .* --groups 1"):
        DirectoryStorage(data)
    assert [verify_directory(RealFiles(), data, group)[0].is_sound for group in range(3)] == [
        *(True, True, True)
    ]
    assert digests_of(data) == before


def test_more_groups_than_shards_are_refused(data: Path) -> None:
    with pytest.raises(ConversionError, match="7 shards cannot be dealt to 8 groups"):
        converted(data, 8)
    converted(data, 8, shard_count=9)
    assert read_statistics(RealFiles(), data).shard_count == 9


def test_a_lost_group_is_noticed(data: Path) -> None:
    """Nothing is converted without it, and nothing is made."""
    converted(data, 3)
    shutil.rmtree(data / "groups" / "1")
    with pytest.raises((LogDamaged, ConversionError)):
        converted(data, 1)
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_what_processes_talk_through_is_not_copied(data: Path) -> None:
    (data / "run").mkdir()
    (data / "run" / "leftover").write_text("")
    converted(data, 2)
    assert not (data / "run").exists()


@pytest.mark.slow
@pytest.mark.seeds
def test_killed_at_any_moment_it_can_be_run_again(tmp_path: Path) -> None:
    """The directory is then as it was, or as it was to be; what was in it is the same."""
    data = tmp_path / "data"
    names = [f"order-{number}" for number in range(3_000)]
    commands: list[c.Command] = [c.CreatePromise(name, FAR_MS) for name in names]
    commands += [c.CompletePromise(name, PromiseState.RESOLVED) for name in names[::2]]
    write(data, commands, shard_count=SHARD_COUNT)
    converted(data, 2, shard_count=SHARD_COUNT + 1)
    wanted = digests_of(data)
    moments = random.Random(SEED)
    program = (
        "import sys; from pathlib import Path\n"
        "from troth.persistence.conversion.convert import NewPlacement, convert\n"
        "print('begun', flush=True)\n"
        "convert(Path(sys.argv[1]), NewPlacement(groups_count=int(sys.argv[2])),\n"
        "        now_ms=int(sys.argv[3]), remove_old=True)\n"
    )
    killed_count = ended_count = 0
    groups_count, duration_s = 3, 0.5
    while killed_count < KILLS_COUNT:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(data), str(groups_count), str(EPOCH_MS)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        started = time.monotonic()
        try:
            process.wait(moments.uniform(0, duration_s))
            ended_count += 1
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
        if process.wait() == 0:
            duration_s = max(duration_s, time.monotonic() - started)
        else:
            assert process.returncode == -signal.SIGKILL
            killed_count += 1
            duration_s *= 1.0 if ended_count else 1.3
        converted(data, groups_count)
        assert digests_of(data) == wanted, f"seed {SEED}, after {killed_count} kills"
        groups_count = groups_count % 4 + 1
    converted(data, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
