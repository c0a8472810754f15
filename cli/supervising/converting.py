"""`troth serve --convert`: makes the data directory fit, before anything else is done with it."""

from pathlib import Path

import structlog

from troth.http.log_output import configure_logging, say_failed
from troth.http.settings.settings import Settings
from troth.persistence.conversion.convert import NewPlacement, convert
from troth.persistence.conversion.old_data import read_identity
from troth.persistence.data_directory import CONVERTING_SUFFIX
from troth.persistence.errors import PersistenceError
from troth.persistence.identity import IDENTITY_NAME

_log = structlog.get_logger("troth.serve")


def converted(settings: Settings, processes_count: int, *, now_ms: int) -> bool:
    """Convert the directory if it is not for so many processes; False, and said, if it cannot be.

    A directory that is not there yet is made as it has to be, later.
    """
    configure_logging(settings.log_level, settings.log_format)
    try:
        _convert(settings.data, settings.shards, processes_count, now_ms)
    except PersistenceError as error:
        say_failed(str(error), settings.log_format)
        return False
    return True


def _convert(data: Path, shard_count: int | None, groups_count: int, now_ms: int) -> None:
    if (data / IDENTITY_NAME).exists():
        _, identity = read_identity(data)
        # Each group needs a shard.
        shard_count = shard_count or max(identity.shard_count, groups_count)
    elif data.exists() or not data.with_name(data.name + CONVERTING_SUFFIX).exists():
        return  # there is nothing, and no conversion that was interrupted
    made = convert(data, NewPlacement(None, shard_count, groups_count), now_ms=now_ms)
    if made.entities_count is not None:
        _log.info(
            "the data directory was converted; remove the old one when all is well",
            directory=str(made.path),
            groups=made.groups_count,
            shards=made.shard_count,
            old=str(made.old),
        )
