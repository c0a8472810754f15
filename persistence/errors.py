"""Every error of persistence, each with a one-line message for an operator.

A `DataDirectoryError` is raised while a data directory is opened and recovered: the message says
what was found, that nothing was changed, and what to do. The others come from a running server.
"""

import errno
import os

UNCHANGED = "Nothing was changed."


class PersistenceError(Exception):
    """The base class of this folder's errors; its text is one line for an operator."""


class DataDirectoryError(PersistenceError):
    """The data directory cannot be used as it is; it has not been changed."""


class DataDirectoryLocked(DataDirectoryError):
    """Another process holds the data directory."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is in use by another process. {UNCHANGED} "
            "Stop the other server or choose another directory with --data."
        )
        self.path = path


class DataDirectoryUnreadable(DataDirectoryError):
    """The directory, `troth.json` or a log file cannot be read or is not what it should be."""

    def __init__(self, path: str, problem: str, advice: str) -> None:
        super().__init__(f"{path}: {problem}. {UNCHANGED} {advice}")
        self.path = path


class DataDirectoryUnwritable(DataDirectoryError):
    """The disk refused a write while the directory was opened, as when it is full."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be written: {error.strerror or error}. Nothing acknowledged was "
            "changed. Free space or check the disk and the permissions, then start again."
        )
        self.path = path


class UnknownFormatVersion(DataDirectoryError):
    """The data was written in a format this version of Troth does not know."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format version {found}; this version of Troth knows {known}. {UNCHANGED} "
            "Start the version of Troth that wrote it, or a newer one."
        )
        self.path = path
        self.found = found
        self.known = known


class OldFormatVersion(DataDirectoryError):
    """The data was written in an older format, which `troth data convert` reads."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format version {found}; this version of Troth needs {known}. {UNCHANGED} "
            f"Convert it with `troth data convert {path}`, then start again."
        )
        self.path = path
        self.found = found


class GroupsMismatch(DataDirectoryError):
    """The directory has another number of groups than is wanted: a process has one of them."""

    def __init__(self, path: str, stored: int, wanted: int, shard_count: int = 0) -> None:
        """Say what is there and what is wanted; `shard_count` is the directory's, if known."""
        more = f" --shards {wanted}" if 0 < shard_count < wanted else ""
        groups = "1 group" if stored == 1 else f"{stored} groups"
        super().__init__(
            f"{path} has {groups} of shards, one for each process of a server, but "
            f"{wanted} {'is' if wanted == 1 else 'are'} wanted. {UNCHANGED} Convert it with "
            f"`troth data convert {path} --groups {wanted}{more}`, then start again."
        )
        self.path = path
        self.stored = stored
        self.wanted = wanted


class ClockTooLate(DataDirectoryError):
    """The clock shows a time for which there are no serials."""

    def __init__(self, now_ms: int) -> None:
        super().__init__(
            f"the clock of this machine shows {now_ms} ms since 1970, which is beyond the year "
            f"2094. {UNCHANGED} Set the clock, then start again."
        )


class UnknownRecord(DataDirectoryError):
    """The log holds a kind of record that this version does not know."""

    def __init__(self, sequence: int, problem: str) -> None:
        super().__init__(
            f"record {sequence} of the log is of a type unknown to this version of Troth "
            f"({problem}). "
            f"{UNCHANGED} Start the version of Troth that wrote it, or a newer one."
        )
        self.sequence = sequence


class ShardCountMismatch(DataDirectoryError):
    """A shard count was asked for that is not the one the directory was made with."""

    def __init__(self, path: str, stored: int, requested: int) -> None:
        super().__init__(
            f"{path} was made with {stored} shards, but {requested} were asked for; the number is "
            f"fixed when a directory is made. {UNCHANGED} Leave the setting out or set it to "
            f"{stored}."
        )
        self.path = path
        self.stored = stored
        self.requested = requested


class LogDamaged(DataDirectoryError):
    """The log is damaged in a way that no crash can explain: acknowledged data is at stake."""

    def __init__(self, file: str, offset: int, problem: str) -> None:
        super().__init__(
            f"{file} is damaged at byte {offset}: {problem}. {UNCHANGED} Restore a backup; or see "
            "the extent with `troth log verify` and give up what is damaged with "
            "`troth log repair`."
        )
        self.file = file
        self.offset = offset
        self.problem = problem


class LogConflict(PersistenceError):
    """An append expected another sequence than the log's next; nothing was written."""

    def __init__(self, expected_sequence: int, next_sequence: int) -> None:
        super().__init__(
            f"an append expected to begin at sequence {expected_sequence}, but the log's next is "
            f"{next_sequence}; nothing was written"
        )
        self.expected_sequence = expected_sequence
        self.next_sequence = next_sequence


class LogFailed(PersistenceError):
    """The log can no longer be written; the outcome of the last batch is unknown. Final."""


class MemoryRanOut(LogFailed):
    """Memory ran out where nothing can be taken back; nothing more is acknowledged."""

    def __init__(self, doing: str) -> None:
        super().__init__(
            f"memory ran out {doing}. Nothing acknowledged was lost. Allow this process more "
            "memory, then start it again."
        )


class DataDirectoryLost(LogFailed):
    """The opened data directory, or something in it, no longer has its name: writing is useless."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was deleted, moved or replaced while the server was using it. Nothing was "
            "written to what is there now, and nothing was acknowledged since. All acknowledged "
            "data is in the original directory. Put it back, or restore a backup, then start the "
            "server again."
        )
        self.path = path


class CheckpointFailed(PersistenceError):
    """The checkpoint store cannot be opened, read or written; what it held before is intact."""

    def __init__(self, path: str, problem: str, error: Exception) -> None:
        text = str(error)
        if os.strerror(errno.ENOSPC) in text:
            advice = "The disk is full: free space, then start the server again."
        elif isinstance(error, MemoryError):
            advice = "Allow this process more memory, then start it again."
        elif os.strerror(errno.ENOMEM) in text or "MDB_MAP_FULL" in text:
            advice = "Allow this process more address space (`ulimit -v`), then start it again."
        else:
            advice = "Check the disk, then start the server again."
        super().__init__(
            f"the checkpoints in {path} {problem}: {error}. Nothing acknowledged was lost: it is "
            f"in the log. {advice}"
        )
        self.path = path
        self.problem = problem
        self.cause = error


class CheckpointsOvertaken(DataDirectoryError):
    """Another process has written a checkpoint since this one has read them."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} has later checkpoints than this process has read. Nothing is lost: start it "
            "again."
        )


class CheckpointDamaged(DataDirectoryError):
    """The checkpoint store holds something other than what was written."""

    def __init__(self, table: str, problem: str) -> None:
        super().__init__(
            f"the checkpoints are damaged, in table {table}: {problem}. {UNCHANGED} Restore a "
            "snapshot (`troth snapshot restore`)."
        )
        self.table = table
        self.problem = problem
