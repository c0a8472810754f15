"""What the commands of the catalog do: create, read, replace, delete and list its entries.

`http/` decides what an entry means and who may change it. The one rule here: an entry is replaced
or deleted only by a command that names its newest revision, so no change is lost.
"""

from troth.core import records as r
from troth.core.codes import Code
from troth.core.commands import CreateEntry, DeleteEntry, ListEntries, ReadEntry, ReplaceEntry
from troth.core.deciding import DecisionContext
from troth.core.replies import Reply


def create_entry(context: DecisionContext, command: CreateEntry, now_ms: int) -> Reply:
    """Put a new entry into the catalog."""
    assert command.entry.revision == 1, "a new entry has revision 1"
    if command.entry.id in context.state.entries.by_id:
        return Reply(Code.ENTRY_EXISTS)
    context.emit(r.EntryWritten(command.entry, now_ms))
    return Reply(Code.CREATED, entry=command.entry)


def read_entry(context: DecisionContext, command: ReadEntry, now_ms: int) -> Reply:
    """Read an entry."""
    entry = context.state.entries.by_id.get(command.id)
    if entry is None:
        return Reply(Code.ENTRY_NOT_FOUND)
    return Reply(Code.OK, entry=entry)


def replace_entry(context: DecisionContext, command: ReplaceEntry, now_ms: int) -> Reply:
    """Replace an entry's last revision with a changed one."""
    entry = context.state.entries.by_id.get(command.entry.id)
    if entry is None:
        return Reply(Code.ENTRY_NOT_FOUND)
    if type(entry) is not type(command.entry) or entry.revision + 1 != command.entry.revision:
        return Reply(Code.ENTRY_CHANGED)
    context.emit(r.EntryWritten(command.entry, now_ms))
    return Reply(Code.OK, entry=command.entry)


def delete_entry(context: DecisionContext, command: DeleteEntry, now_ms: int) -> Reply:
    """Take an entry out of the catalog; the reply has it as it was."""
    entry = context.state.entries.by_id.get(command.id)
    if entry is None:
        return Reply(Code.ENTRY_NOT_FOUND)
    if entry.revision != command.revision:
        return Reply(Code.ENTRY_CHANGED)
    context.emit(r.EntryDeleted(command.id, now_ms))
    return Reply(Code.NO_CONTENT, entry=entry)


def list_entries(context: DecisionContext, command: ListEntries, now_ms: int) -> Reply:
    """Return this shard's entries of a type."""
    entries = context.state.entries.of(command.kind, command.account_id)
    return Reply(Code.OK, entries=tuple(entries))
