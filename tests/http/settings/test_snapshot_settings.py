"""The settings of snapshots and of the archive: what fits together and what is refused."""

from pathlib import Path

import pytest

from troth.http.settings.sources import SettingsError, load


def test_a_schedule_and_its_directory_are_read(tmp_path: Path) -> None:
    file = tmp_path / "troth.toml"
    file.write_text('snapshot_directory = "backups"\nsnapshot_schedule = "0 3 * * *"\n')
    settings = load(file, {"TROTH_ARCHIVE_DIRECTORY": "archive"}, {"snapshot_keep_count": "3"})
    assert settings.snapshot_directory == Path("backups")
    assert settings.snapshot_schedule == "0 3 * * *"
    assert settings.snapshot_keep_count == 3
    assert settings.archive_directory == Path("archive")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"snapshot_schedule": "@daily"}, "unless snapshot_directory says where to"),
        (
            {"snapshot_schedule": "every day", "snapshot_directory": "x"},
            "a cron expression, such as 0 3",
        ),
        (
            {"snapshot_schedule": "@daily", "snapshot_directory": "x", "in_memory": True},
            "with in_memory there is nothing to copy",
        ),
        ({"archive_directory": "x", "in_memory": True}, "with in_memory there is nothing to copy"),
        ({"archive_directory": "x", "archive_keep_ms": "1"}, "60000"),
        ({"snapshot_keep_count": "0"}, "1 to"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, flags: dict[str, object], words: str
) -> None:
    empty = tmp_path / "troth.toml"
    empty.write_text("")
    with pytest.raises(SettingsError, match=words):
        load(empty, {}, flags)
