"""How commands and replies are written between processes: msgpack, arrays with tags.

What msgpack cannot write (a client's JSON may have numbers of any size) is written as JSON; a flag
of the frame says so. A process that cannot read what another has sent ends the link.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from types import MappingProxyType, ModuleType
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from troth.core import commands, workflow_commands
from troth.core.catalog import Entry
from troth.core.commands import Command
from troth.core.json_bytes import appender, encoder, packer
from troth.core.json_errors import UNREADABLE_JSON
from troth.core.replies import Reply

from .frames import FrameFlag, LinkDamaged

LOCAL_COMMANDS: Final = frozenset(
    {commands.Expire, commands.ResumeTime, commands.RearmTimers, commands.GoOn}
)
"""Commands that a shard gives itself; no other process asks for them."""


def _defined_in(module: ModuleType) -> Iterator[type[Command]]:
    for found in vars(module).values():
        if (
            isinstance(found, type)
            and issubclass(found, Command)
            and found.__module__ == module.__name__
            and found not in {Command, *LOCAL_COMMANDS}
        ):
            yield found


COMMANDS: Final = (*_defined_in(commands), *_defined_in(workflow_commands))
"""All types of commands that one process may send another."""

_ENTRIES: Final = {kind.__name__: kind for kind in get_args(Entry)}


def _plain(value: Any) -> Any:
    """Return what stands for a value that no format has: a type of entries, a frozen mapping."""
    if type(value) is MappingProxyType:
        return dict(value)
    if isinstance(value, type) and value.__name__ in _ENTRIES:
        return value.__name__
    raise NotImplementedError(f"{value!r} cannot be sent to another process")


def _made_of(kind: Any, value: Any) -> Any:
    """Return what was written for a field that is any JSON, or a type of entries."""
    if kind is object:
        return value
    try:
        return _ENTRIES[value]
    except (KeyError, TypeError):
        raise ValueError(f"no entries are called {value!r}") from None


_COMMAND: Any = reduce(or_, COMMANDS)
encode_said: Final = packer(_plain)
"""Return the msgpack of what a call or a note says. Raises MemoryError."""
append_content: Final = appender(_plain)
"""Write msgpack into a buffer; see `appender`. Raises MemoryError, OverflowError."""
_encode_json: Final = encoder()


def content_decoder(
    kind: Any, dec_hook: Callable[[Any, Any], Any] | None = None
) -> Callable[[bytes, int], Any]:
    """Return what reads contents of a type that `encode_content` wrote, given body and flags.

    It raises LinkDamaged. With `dec_hook`, which is msgspec's, each field that is any JSON costs a
    call.
    """
    decode_msgpack = msgspec.msgpack.Decoder(kind, dec_hook=dec_hook).decode
    decode_json = msgspec.json.Decoder(kind, dec_hook=dec_hook).decode

    def decode(body: bytes, flags: int) -> Any:
        try:
            return decode_json(body) if flags & FrameFlag.JSON else decode_msgpack(body)
        except UNREADABLE_JSON as error:
            raise LinkDamaged(f"a content cannot be read: {error}") from error

    return decode


_decode_command: Final = content_decoder(_COMMAND, _made_of)

Question = tuple[int, int, bool, Command]
"""A correlation, the index of a shard, whether messages to workers wait for RELEASED, a command."""

Answer = tuple[int, bool, Reply]
"""A correlation, whether there are messages to workers that wait for RELEASED, a reply."""

decode_questions: Final[Callable[[bytes, int], list[Question]]] = content_decoder(
    list[tuple[int, int, bool, _COMMAND]], _made_of
)
"""Read the body of an ASK. Raises LinkDamaged."""

decode_answers: Final[Callable[[bytes, int], list[Answer]]] = content_decoder(list[Answer])
"""Read the body of a REPLY. Raises LinkDamaged."""


def encode_as_json(content: Any) -> bytes:
    """Return what msgpack cannot write."""
    return _encode_json(msgspec.to_builtins(content, enc_hook=_plain))


def encode_content(content: Struct) -> tuple[bytes, int]:
    """Return a body, and the flags that say how it is written."""
    try:
        return encode_said(content), 0
    except OverflowError:
        return encode_as_json(content), FrameFlag.JSON


def decode_command(body: bytes, flags: int) -> Command:
    """Read what `encode_content` wrote. Raises LinkDamaged."""
    command: Command = _decode_command(body, flags)
    return command
