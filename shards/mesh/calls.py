"""What a process asks and tells another one that is not for a shard: by name, with typed contents.

A *call* is answered once, by a handler of the other process that runs in a task of its own, or it
is refused: `OutOfReach` if it was not carried out, `LinkBroken` if that is unknown, `CallFailed` if
the handler has a defect. A *note* is not answered and is lost with the link; notes and the
beginnings of calls that one process sends another are taken in the order in which they were sent.
A process that calls itself is served the same way.

The other end may run somewhere else, have another clock, and end at any time.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, final

import msgspec
import structlog
import trio

from troth.core.json_errors import UNREADABLE_JSON
from troth.core.limits import LINK_WAIT_MS, PROCESS_CALLS_LIMIT_COUNT
from troth.shards.errors import (
    CallFailed,
    LinkBroken,
    Overloaded,
    ShardsError,
    Stopping,
)

from .codec import encode_said
from .frames import LinkDamaged
from .link import MeshLink

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

_LEASE_LOOK_S: Final = 0.02
"""How often it is looked for a lease that is to be renewed."""

_log = structlog.get_logger("troth.mesh")


class ProcessCall(Generic[Asked, Answered]):
    """One kind of call: its name, and the types of what is asked and answered.

    Types are what msgpack of msgspec can carry: Structs, tuples, numbers, texts, bytes, None.
    """

    def __init__(self, name: str, asked: type[Asked], answered: type[Answered]) -> None:
        self.name = name
        self.read_asked = msgspec.msgpack.Decoder(asked).decode
        self.read_answered = msgspec.msgpack.Decoder(answered).decode


class ProcessNote(Generic[Asked]):
    """One kind of note: its name, and the type of what it says."""

    def __init__(self, name: str, said: type[Asked]) -> None:
        self.name = name
        self.read_said = msgspec.msgpack.Decoder(said).decode


class _Answer:
    """The answer that a caller waits for."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.body = b""
        self.error: ShardsError | None = None

    def answer(self, body: bytes) -> None:
        self.body = body
        self.arrived.set()

    def refuse(self, error: ShardsError) -> None:
        self.error = error
        self.arrived.set()


class _Taker(Generic[Answered]):
    """A caller that is told the answer later, or why there is none."""

    def __init__(
        self,
        call: ProcessCall[Any, Answered],
        take: Callable[["Answered | ShardsError"], None],
    ) -> None:
        self._call = call
        self._take = take

    def answer(self, body: bytes) -> None:
        try:
            found = self._call.read_answered(body)
        except UNREADABLE_JSON as error:
            _log.error("an answer cannot be read", call=self._call.name, exc_info=error)
            self._take(CallFailed())
        else:
            self._take(found)

    def refuse(self, error: ShardsError) -> None:
        self._take(error)


@final
class ProcessCalls:
    """The calls and notes of process `own`, by its links to the others.

    Handlers are registered before anything comes up. `when_linked` and `when_parted` are called
    with a process's number when the link to it has come up, and when it has ended; `when_looking`
    some times a second.
    """

    def __init__(self, own: int, links: dict[int, MeshLink]) -> None:
        self.own = own
        self.when_linked: list[Callable[[int], None]] = []
        self.when_parted: list[Callable[[int], None]] = []
        self.when_looking: list[Callable[[], None]] = []
        self.take_parcels: Callable[[int, bytes, int], None] = _take_none
        """Takes the body of a frame of parcels and its flags; see `parcels`."""
        self.running_count = 0
        self.may_answer: Callable[[], bool] | None = None
        """Whether this process may say what it knows, where its log has a lease; None: always."""
        self._links = links
        self._handlers: dict[str, Callable[[int, bytes], Awaitable[bytes]]] = {}
        self._listeners: dict[str, Callable[[int, bytes], None]] = {}
        self._nursery: trio.Nursery | None = None

    # What this process serves

    def handle(
        self,
        call: ProcessCall[Asked, Answered],
        handler: Callable[[int, Asked], Awaitable[Answered]],
    ) -> None:
        """Register the handler of a kind of call: it is given who asks, and what.

        It may raise ShardsError, which the caller gets.
        """
        assert call.name not in self._handlers, f"{call.name} has two handlers"

        async def carry_out(process: int, body: bytes) -> bytes:
            return encode_said(await handler(process, call.read_asked(body)))

        self._handlers[call.name] = carry_out

    def hear(self, note: ProcessNote[Asked], listener: Callable[[int, Asked], None]) -> None:
        """Register the listener of a kind of note: it is given who says it, and what."""
        assert note.name not in self._listeners, f"{note.name} has two listeners"
        self._listeners[note.name] = lambda process, body: listener(process, note.read_said(body))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run handlers until canceled."""
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # what is asked from here on is refused

    # What this process asks and tells

    @property
    def others(self) -> Sequence[int]:
        """The numbers of the other processes, whether or not they live."""
        return tuple(self._links)

    @property
    def linked(self) -> Sequence[int]:
        """The numbers of the other processes to which there is a link now."""
        return tuple(process for process, link in self._links.items() if link.is_up)

    def incarnation_of(self, process: int) -> int:
        """Return the incarnation of another process, as it was last linked."""
        return self._links[process].incarnation

    async def call(
        self,
        process: int,
        call: ProcessCall[Asked, Answered],
        asked: Asked,
        *,
        wait_ms: int = LINK_WAIT_MS,
    ) -> Answered:
        """Return what a process answers; a broken link is waited for, that long.

        Raises ShardsError.
        """
        body = encode_said(asked)
        if process == self.own:
            return call.read_answered(await self._handlers[call.name](process, body))
        answer = _Answer()
        self._links[process].call(call.name, body, answer, wait_ms)
        await answer.arrived.wait()
        if answer.error is not None:
            raise answer.error
        try:
            return call.read_answered(answer.body)
        except UNREADABLE_JSON as error:
            _log.error(
                "an answer cannot be read", call=call.name, peer_process=process, exc_info=error
            )
            raise CallFailed from error

    def ask(
        self,
        process: int,
        call: ProcessCall[Asked, Answered],
        asked: Asked,
        take: Callable[["Answered | ShardsError"], None],
    ) -> None:
        """Call another process to which there is a link, without waiting.

        `take` is told the answer, once. Raises ShardsError; then it is told nothing.
        """
        self._links[process].call(call.name, encode_said(asked), _Taker(call, take), 0)

    async def call_all(
        self,
        call: ProcessCall[Asked, Answered],
        asked: Asked,
        *,
        processes: Iterable[int] | None = None,
        wait_ms: int = LINK_WAIT_MS,
        limit_ms: int | None = None,
    ) -> dict[int, Answered | ShardsError]:
        """Return what each process answers, or why it does not: all of them, without `processes`.

        Who has not answered within `limit_ms` counts as out of reach (`LinkBroken`).
        """
        chosen = (self.own, *self._links) if processes is None else processes
        questions = dict.fromkeys(sorted(chosen), asked)
        return await self.call_each(call, questions, wait_ms=wait_ms, limit_ms=limit_ms)

    async def call_each(
        self,
        call: ProcessCall[Asked, Answered],
        asked: Mapping[int, Asked],
        *,
        wait_ms: int = LINK_WAIT_MS,
        limit_ms: int | None = None,
        needs_all: bool = False,
    ) -> dict[int, Answered | ShardsError]:
        """Do as `call_all` with a question for each of some processes.

        If it `needs_all`, no others are waited for when one does not answer.
        """
        found: dict[int, Answered | ShardsError] = {one: LinkBroken() for one in asked}

        async def ask(process: int) -> None:
            try:
                answered = await self.call(process, call, asked[process], wait_ms=wait_ms)
            except ShardsError as error:
                found[process] = error
                if needs_all:
                    nursery.cancel_scope.cancel()
            else:
                found[process] = answered

        limit_s = float("inf") if limit_ms is None else limit_ms / 1000
        with trio.move_on_after(limit_s):
            async with trio.open_nursery() as nursery:
                for process in asked:
                    nursery.start_soon(ask, process)
        return found

    def note(self, process: int, note: ProcessNote[Asked], said: Asked) -> None:
        """Tell a process something, if the link is up."""
        if process == self.own:
            self._listeners[note.name](process, encode_said(said))
        else:
            self._links[process].note(note.name, encode_said(said))

    def note_all(self, note: ProcessNote[Asked], said: Asked) -> None:
        """Tell all other processes something, as far as links are up."""
        body = encode_said(said)
        for link in self._links.values():
            link.note(note.name, body)

    def parcel(self, process: int, parcel: tuple[Any, ...]) -> int:
        """Hand another process a parcel by a link that is up; how many bytes it takes."""
        return self._links[process].parcel(parcel)

    # What comes by a link; see `answering`

    def begin(
        self,
        process: int,
        name: str,
        body: bytes,
        answer: Callable[[bytes], None],
        refuse: Callable[[ShardsError], None],
    ) -> None:
        """Begin to carry a call out. Raises LinkDamaged if nothing has its name."""
        handler = self._handlers.get(name)
        if handler is None:
            raise LinkDamaged(f"a call that is unknown: {name[:40]!r}")
        if self._nursery is None or self.running_count >= PROCESS_CALLS_LIMIT_COUNT:
            refuse(Overloaded())
            return
        self.running_count += 1
        self._nursery.start_soon(self._carry_out, handler, process, name, body, answer, refuse)

    def heard(self, process: int, name: str, body: bytes) -> None:
        """Take a note. Raises LinkDamaged if no listener has its name."""
        listener = self._listeners.get(name)
        if listener is None:
            raise LinkDamaged(f"a note that is unknown: {name[:40]!r}")
        try:
            listener(process, body)
        except UNREADABLE_JSON as error:
            raise LinkDamaged(f"the note {name} cannot be read: {error}") from error

    def brought(self, process: int, body: bytes, flags: int) -> None:
        """Take parcels. Raises LinkDamaged."""
        self.take_parcels(process, body, flags)

    def came_up(self, process: int) -> None:
        """Tell who has asked for it that the link to a process has come up."""
        for act in self.when_linked:
            act(process)

    def parted(self, process: int) -> None:
        """Tell who has asked for it that the link to a process has ended."""
        for act in self.when_parted:
            act(process)

    def look(self) -> None:
        """Tell who has asked for it that it is time to look."""
        for act in self.when_looking:
            act()

    async def _carry_out(
        self,
        handler: Callable[[int, bytes], Awaitable[bytes]],
        process: int,
        name: str,
        body: bytes,
        answer: Callable[[bytes], None],
        refuse: Callable[[ShardsError], None],
    ) -> None:
        try:
            found = await handler(process, body)
            if self.may_answer is not None and not self.may_answer():
                await self._until_may_answer()
        except ShardsError as error:
            refuse(error)
        except trio.Cancelled:
            refuse(Stopping())
            raise
        except Exception as error:
            _log.error("a call failed", call=name, peer_process=process, exc_info=error)
            refuse(CallFailed())
        else:
            answer(found)
        finally:
            self.running_count -= 1

    async def _until_may_answer(self) -> None:
        """Wait for the lease to be renewed: who has lost the group must not say what it knew.

        Raises LinkBroken after a while: it is unknown whether what was asked has been done.
        """
        assert self.may_answer is not None, "then it is waited for"
        with trio.move_on_after(LINK_WAIT_MS / 1000):
            while not self.may_answer():  # noqa: ASYNC110  the log's thread does not tell of it
                await trio.sleep(_LEASE_LOOK_S)
            return
        raise LinkBroken


def _take_none(process: int, body: bytes, flags: int) -> None:  # noqa: ARG001
    """Refuse parcels: nothing takes them."""
    raise LinkDamaged("parcels that nothing takes")


def the_first(found: dict[int, Any | ShardsError]) -> ShardsError | None:
    """Return the error of the lowest process in what `call_all` has returned, or None."""
    for process in sorted(found):
        if isinstance(found[process], ShardsError):
            error: ShardsError = found[process]
            return error
    return None
