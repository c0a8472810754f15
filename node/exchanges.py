"""Exchanges with the server: what executions want of it at one time, in one request.

Results that wait to be sent and executions that wait to be assigned go together, while one exchange
is under way all that come go with the next. The answer says what became of each, and
gives the node further executions: for each result that it takes, the server knows a free slot.

With a server that has no exchanges (`Link.exchange_version`), for a large result, and when an
exchange as a whole is refused, each goes in a request of its own.
"""

import base64
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
import trio

from troth.core.json_errors import UNREADABLE_JSON
from troth.core.limits import NODE_EXCHANGE_LIMIT_COUNT

from .client import ServerAnswer
from .errors import AnswerTooLarge, NotReached, ServerRefused
from .frames import FunctionResponse
from .link import RETRY_FIRST_S, RETRY_LIMIT_S, Assignment, Link, assignment_of, is_passing

TOGETHER_LIMIT_BYTES: Final = 16 * 1024
"""A result above this goes alone."""

_log = structlog.get_logger("troth.node.task")


class GivenExecution(msgspec.Struct):
    """An entry of an exchange's answer about an execution; without `assignment` it is to be asked
    for.
    """

    id: str
    counter: int
    status: int
    assignment: Assignment | None = None
    error: dict[str, Any] | None = None


class _TakenResult(msgspec.Struct):
    status: int
    error: dict[str, Any] | None = None


class _Answers(msgspec.Struct):
    results: list[_TakenResult]
    assigned: list[GivenExecution]


_answers: Final = msgspec.json.Decoder(_Answers)


class Wish:
    """What one execution wants of the server: that it takes a result or, without one, that it
    assigns the execution.

    `answered` is called once, unless the wish is dropped: with the answer, or None if there was
    none while the lease lived. `assigned` instead, if the answer is an assignment.
    """

    __slots__ = ("answered", "assigned", "counter", "id", "is_dropped", "lease_end", "response")

    def __init__(
        self,
        execution_id: str,
        counter: int,
        response: FunctionResponse | None,
        lease_end: Callable[[], float],
        answered: Callable[[ServerAnswer | None], None],
        assigned: Callable[[Assignment], None],
    ) -> None:
        self.id = execution_id
        self.counter = counter
        self.response = response
        self.lease_end = lease_end
        self.answered = answered
        self.assigned = assigned
        self.is_dropped = False

    @property
    def is_small(self) -> bool:
        """Return whether it goes together with others."""
        return self.response is None or len(self.response.body) <= TOGETHER_LIMIT_BYTES


class Exchanges:
    """The exchanges of one node. `run` makes them."""

    def __init__(
        self,
        link: Link,
        on_given: Callable[[GivenExecution, float], None],
        not_allowed: Callable[[ServerRefused], Exception],
    ) -> None:
        """Initialize. `on_given` gets what the server gives along, and the time since when.

        `not_allowed` makes the error that `run` raises when the server refuses this node.
        """
        self._link = link
        self._on_given = on_given
        self._not_allowed = not_allowed
        self._canceled: set[tuple[str, int]] = set()
        """What the server canceled while an exchange was under way whose answer may give it."""
        self._waiting: list[Wish] = []
        self._wanted = trio.Event()
        self._nursery: trio.Nursery
        self.has_room = True
        """Whether the server may give executions along."""

    def put(self, wish: Wish) -> None:
        """Take a wish, to be answered soon."""
        self._waiting.append(wish)
        self._wanted.set()

    def note_canceled(self, execution_id: str, counter: int) -> None:
        """Note that the server has canceled an execution that this node does not know."""
        self._canceled.add((execution_id, counter))

    async def run(self) -> None:
        """Make exchanges, forever. Raises what `not_allowed` makes, in groups."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                if not self._waiting:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
                wishes, self._waiting = (
                    self._waiting[:NODE_EXCHANGE_LIMIT_COUNT],
                    self._waiting[NODE_EXCHANGE_LIMIT_COUNT:],
                )
                has_exchanges = self._link.exchange_version > 0
                together = [wish for wish in wishes if has_exchanges and wish.is_small]
                for wish in wishes:
                    if wish not in together:
                        nursery.start_soon(self._ask_alone, wish)
                if together:
                    await self._exchange(together)

    async def _ask_alone(self, wish: Wish) -> None:
        if wish.is_dropped:
            return
        link = self._link
        try:
            if wish.response is not None:
                answer = await link.send_result(
                    wish.id, wish.counter, wish.response, wish.lease_end
                )
            else:
                answer = await link.assign(wish.id, wish.counter, wish.lease_end)
            if wish.is_dropped:
                return
            if wish.response is None and answer is not None and answer.is_success:
                wish.assigned(assignment_of(answer))
            else:
                wish.answered(answer)
        except ServerRefused as error:
            raise self._not_allowed(error) from error
        except NotReached as error:
            _log.error("a task cannot be run here", task=wish.id, problem=str(error))
            if not wish.is_dropped:
                wish.answered(None)

    async def _exchange(self, wishes: list[Wish]) -> None:
        """Exchange until there is an answer that counts, while the leases live."""
        pause_s = RETRY_FIRST_S
        log = _log.info
        path = f"{self._link.path}/exchange"
        while wishes := [wish for wish in wishes if not wish.is_dropped]:
            begin = trio.current_time()
            self._canceled.clear()
            try:
                answer = await self._link.client.ask("POST", path, self._body(wishes))
                if answer.status == 401:
                    raise self._not_allowed(answer.refusal())
                if not is_passing(answer.status):
                    self._take(wishes, answer, begin)
                    return
                problem = str(answer.refusal())
            except AnswerTooLarge:
                self._take_alone(wishes)
                return
            except NotReached as error:
                problem = str(error)
            for wish in [*wishes]:
                if trio.current_time() + pause_s > wish.lease_end():
                    _log.warning("gave up asking", task=wish.id, path=path, problem=problem)
                    wishes.remove(wish)
                    if not wish.is_dropped:
                        wish.answered(None)
            log("asking again", path=path, problem=problem)
            log = _log.debug
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LIMIT_S)

    def _body(self, wishes: list[Wish]) -> dict[str, object]:
        results, asked = _parted(wishes)
        return {
            "results": [self._result(wish) for wish in results],
            "assign": [{"id": wish.id, "counter": wish.counter} for wish in asked],
            "room": self.has_room,
        }

    def _result(self, wish: Wish) -> dict[str, object]:
        response = wish.response
        assert response is not None, "it is a result"
        return {
            "id": wish.id,
            "counter": wish.counter,
            "status": response.status,
            "headers": response.headers,
            "error": self._link.shown_error(response),
            "body": base64.b64encode(response.body).decode(),
        }

    def _take_alone(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            self._nursery.start_soon(self._ask_alone, wish)

    def _take(self, wishes: list[Wish], answer: ServerAnswer, begin: float) -> None:
        """Hand out the parts of an answer."""
        results, asked = _parted(wishes)
        answers = None
        if answer.is_success:
            try:
                answers = _answers.decode(answer.body)
            except UNREADABLE_JSON as error:
                _log.error("an exchange was answered in another form", problem=str(error))
        if (
            answers is None
            or len(answers.results) != len(results)
            or len(answers.assigned) < len(asked)
        ):
            # One of them may be what is refused: each alone is told what is wrong with it.
            self._take_alone(wishes)
            return
        for given in answers.assigned[len(asked) :]:
            if given.status < 300 and (given.id, given.counter) not in self._canceled:
                self._on_given(given, begin)
        for wish, taken in zip(results, answers.results, strict=True):
            if is_passing(taken.status):
                self._nursery.start_soon(self._ask_alone, wish)
            elif not wish.is_dropped:
                wish.answered(_as_alone(taken.status, taken.error))
        for wish, given in zip(asked, answers.assigned, strict=False):
            if wish.is_dropped:
                continue
            if given.assignment is not None:
                wish.assigned(given.assignment)
            elif given.status < 300 or is_passing(given.status):
                self._nursery.start_soon(self._ask_alone, wish)
            else:
                wish.answered(_as_alone(given.status, given.error))


def _parted(wishes: list[Wish]) -> tuple[list[Wish], list[Wish]]:
    """Return those with a result and those without."""
    return (
        [wish for wish in wishes if wish.response is not None],
        [wish for wish in wishes if wish.response is None],
    )


def _as_alone(status: int, error: dict[str, Any] | None) -> ServerAnswer:
    """Return the answer that one of an exchange's would have been alone."""
    return ServerAnswer(status, b"" if error is None else msgspec.json.encode({"error": error}))
