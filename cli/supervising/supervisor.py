"""The supervisor of a server of several processes: starts them, watches them, ends them.

It serves nothing itself. It holds the data directory's lock and the listening sockets, which it
gives to the processes: so a process that is down has its new connections waiting, not refused, and
a second server is refused until the last process has gone, even if the supervisor was killed.

- A process that ends without having been told to is started again, with back-off (`lives.py`). A
  spare process that has loaded takes its seat, if there is one (`spare.py`).
- A process that says that its end concerns all (a failing disk, damage) ends the whole server,
  with its message and its status.
- While process 0, which owns accounts and tokens, is away, the others are told so again and again:
  they may go by their copies, since none can change.
- A process that says nothing for 2 s counts as down, which the others are told; after 10 s it is
  killed.
- SIGTERM, SIGINT and SIGHUP end all in good order: new connections are refused, so that clients can
  go elsewhere; what clients have in flight is finished while all groups still answer; then the
  groups end. A second signal ends them immediately.
- A restart (`troth restart`) replaces one process after the other (`rolling.py`). No group goes to
  another node in the meantime.
- In a cluster, process 0 says when it owns group 0: this node leads, and the other processes may
  own theirs. If another node owns group 0 later, the whole server ends, to stand by when it is
  started again. Where nodes share the groups, each process owns its group or stands by; one whose
  group is to go to another node ends, and is started again to stand by (`leaving.py`).
"""

import contextlib
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, final

import structlog

from troth.http.supervision.seat import OWNER, Message, ProcessSeat
from troth.persistence.process_memory import available_bytes

from .children import Child, end_words
from .leaving import Leaving
from .lives import Act, Life, LifeStage, Lives
from .notices import TimedNotices
from .plan import ServerEnd, ServerPlan
from .requests import ControlRequest, ControlSocket
from .rolling import Rolling
from .signals import signals_received
from .spare import Spare

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

STALL_S: Final = 1.0
"""If a pass comes this much later than it was to, the supervisor itself was held up."""

PASS_S: Final = 1.0
"""The longest pause between two passes."""

UNOWNED_INTERVAL_S: Final = 0.25
"""How often processes are told that none owns the accounts; they hear it once a pass at most."""

LOADING_LOOK_S: Final = 0.1
"""How often to look whether a program that is to serve immediately has loaded."""

_OTHER_LEADS: Final = (
    "Another server has taken over the cluster {}: {}. Nothing acknowledged is lost. Start this "
    "server again: it stands by until the other one ends."
)

ROOM_FACTOR: Final = 1.5
"""How much more memory there has to be than a process takes, to have it twice for a moment."""

_IMPATIENT: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that end a server which is stopping already: a closing terminal sends SIGHUP twice."""

_SIGNALS_BYTES: Final = 4096
_log = structlog.get_logger("troth.supervisor")


class Phase(Enum):
    """How far the end of all is."""

    SERVING = 1
    DRAINING = 2  # what clients have in flight is finished
    STOPPING = 3


@final
class Supervisor:
    """Runs the processes of a plan until they are to end."""

    def __init__(
        self,
        plan: ServerPlan,
        notices: TimedNotices,
        now_s: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._plan = plan
        self._notices = notices
        self._now_s = now_s
        self._now_ns = now_ns
        self._selector = selectors.DefaultSelector()
        self._lives = Lives.of(plan.processes_count, now_s())
        self._children: dict[int, Child] = {}
        self._ending: list[Child] = []
        """Processes that have said that they are gone, until the system has taken them away."""
        self._rolling: Rolling | None = None
        self._leaving: Leaving | None = None
        self._spare = Spare(self.spawn, self._release)
        self._incarnation = 0
        self._phase = Phase.SERVING
        self._phase_ends_s = float("inf")
        self._told_peers: dict[int, int] = {}
        self._told_serving = (False, False)
        self._told_unowned_s = float("-inf")
        self._is_announced = False
        self._leads = False
        self._led_epoch = 0
        """The last epoch in which group 0 of the cluster was this node's."""
        self._status = EXIT_OK
        self._problem: str | None = None

    def run(self) -> ServerEnd:
        """Start all processes and see to them until the last has ended."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._selector.close)
            requests = ControlSocket(self._plan.run_directory, self._selector, self._asked)
            closing.callback(requests.close)
            signals = closing.enter_context(signals_received())
            self._selector.register(
                signals, selectors.EVENT_READ, lambda: self._take_signals(signals)
            )
            due_s = self._now_s()
            while self._is_running:
                due_s = self._pass(due_s)
        return ServerEnd(self._status, self._problem)

    @property
    def _is_running(self) -> bool:
        """Return whether any program is left."""
        is_over = self._lives.are_gone and self._rolling is None and self._spare.child is None
        return not is_over or bool(self._ending)

    def _pass(self, due_s: float) -> float:
        """Wait until `due_s`, or for what happens before, and see to it; when to look next."""
        ready = self._selector.select(max(0.0, due_s - self._now_s()))
        now_s = self._now_s()
        if now_s - due_s >= STALL_S:
            for life in self._lives.lives:
                life.excuse(now_s - due_s)
            self._spare.excuse(now_s - due_s)
        for key, _ in ready:
            key.data()
        for child in [*self._children.values(), *self._waiting()]:
            self._hear(child, now_s)
            child.send_more()
        self._reap(now_s)
        for life in self._lives.lives:
            self._look(life, now_s)
        self._spare.look(now_s, is_wanted=self._is_spare_wanted())
        if self._leaving is not None:
            self._leaving.go_on(now_s)
        elif self._rolling is not None:
            self._rolling.go_on(now_s)
        self._end_phase(now_s)
        self._tell_peers()
        self._tell_unowned(now_s)
        self._notices.look(now_s)
        due_s = min(self._lives.due_s(), self._spare.due_s(), self._phase_ends_s)
        return min(now_s + PASS_S, due_s)

    # What happens

    def _take_signals(self, signals: socket.socket) -> None:
        for number in signals.recv(_SIGNALS_BYTES):
            if number == signal.SIGCHLD:
                continue  # that one has ended is seen in every pass
            name = signal.Signals(number).name
            if self._phase is Phase.SERVING:
                _log.info("stopping", signal=name)
                self.stop()
            elif number in _IMPATIENT:
                _log.warning("stopping immediately", signal=name)
                self._status = EXIT_FAILED
                for child in self._children.values():
                    child.kill()

    def _asked(self, request: ControlRequest, message: Message) -> None:
        match message.get("ask"):
            case "processes":
                shown = {"processes": self._shown(), "spare": self._spare.shown}
                request.answer(shown, is_last=True)
            case "restart" if self._phase is not Phase.SERVING:
                request.answer({"refused": "the server is stopping"}, is_last=True)
            case "restart" if self._is_standing_by:
                text = "this node of the cluster stands by: stop it and start it"
                request.answer({"refused": text}, is_last=True)
            case "restart" if self._rolling is not None:
                request.answer({"refused": "a restart is under way"}, is_last=True)
            case "restart":
                _log.info("restarting one process after the other")
                self._spare.discard()  # it has the files and settings of before
                self._rolling = Rolling(self, self._lives, request, self._plan.drain_s)
            case other:
                request.answer({"refused": f"{other!r} is unknown"}, is_last=True)

    def _shown(self) -> list[dict[str, object]]:
        return [
            {
                "process": life.process,
                "pid": self._children[life.process].process_id if life.is_alive else None,
                "stage": str(life.stage),
                "up": life.is_up,
                "stands_by": self._may_stand_by(life),
                "incarnation": life.incarnation,
                "starts": life.starts_count,
            }
            for life in self._lives.lives
        ]

    def _hear(self, child: Child, now_s: float) -> None:
        """Take in what a process has said."""
        if not child.is_open:
            return
        if child.process is None:
            self._hear_waiting(child, now_s)
            return
        life = self._lives.lives[child.process]
        is_current = self._children.get(life.process) is child
        for message in child.receive():
            if is_current:
                life.heard(now_s)
            match message.get("say"):
                case "loaded":
                    child.has_loaded = True
                case "prepared":
                    child.is_prepared = True
                    child.may_follow = message.get("may_follow", False)
                case "following":
                    child.is_following = True
                case "listening" if is_current:
                    life.is_listening = True
                case "owning":
                    child.is_owning = True
                case "leading" if is_current and life.process == OWNER:
                    self._led_epoch = message["epoch"]
                    self._lead(leads=True)
                case "follows" if is_current and life.process == OWNER:
                    if 0 < self._led_epoch < message["epoch"]:
                        self._fail(_OTHER_LEADS.format(self._plan.cluster, message["node"]), 0)
                case "ready" if is_current:
                    life.became_ready(now_s)
                    self._announce()
                case "stands_by" if is_current:
                    child.is_standing_by = True
                    self._announce()
                case "leaves" if is_current and self._may_leave(life):
                    _log.info("a group goes to another node", process=life.process)
                    self._leaving = Leaving(child, life, now_s + self._plan.drain_s)
                case "checkpointed":
                    child.has_checkpointed = True
                    child.is_covered = message.get("is_covered", False)
                    child.memory_bytes = message.get("memory_bytes", 0)
                case "drained":
                    child.has_drained = True
                    self._end_unasked(child)
                case "gone":
                    child.is_gone = life.stage is LifeStage.STOPPING
                case "fatal":
                    child.problem = str(message.get("problem"))
        self._see_close(child)

    def _hear_waiting(self, child: Child, now_s: float) -> None:
        """Take in what a program without a seat has said."""
        for message in child.receive():
            child.has_loaded |= message.get("say") == "loaded"
            self._spare.heard(now_s)
        self._see_close(child)

    def _see_close(self, child: Child) -> None:
        if not child.is_open:
            self._selector.unregister(child.control)

    def _lead(self, *, leads: bool) -> None:
        """Tell all whether group 0 of the cluster is this node's."""
        self._leads = leads
        for child in self._children.values():
            child.tell(self._lead_told())

    def _lead_told(self) -> Message:
        return {"tell": "lead", "leads": self._leads}

    def _end_unasked(self, child: Child) -> None:
        """Tell a process to end that began to stop by a signal of its own: it waits for that."""
        rolling = self._rolling
        is_asked = rolling is not None and rolling.process == child.process
        is_asked |= self._leaving is not None and self._leaving.child is child
        if self._phase is Phase.SERVING and not is_asked:
            child.tell({"tell": "stop"})

    @property
    def _is_standing_by(self) -> bool:
        """Return whether another node of the cluster serves all groups, or may."""
        plan = self._plan
        return plan.cluster is not None and not plan.is_shared and not self._leads

    def _may_stand_by(self, life: Life) -> bool:
        """Return whether a process does not serve since another node of the cluster may."""
        child = self._children.get(life.process)
        stands_by = self._is_standing_by or (child is not None and child.is_standing_by)
        return stands_by and life.stage is LifeStage.STARTING

    def _may_leave(self, life: Life) -> bool:
        """Return whether the group of a process may go to another node now: one at a time."""
        is_free = self._leaving is None and self._rolling is None and self._phase is Phase.SERVING
        return is_free and self._plan.is_shared and life.stage is LifeStage.READY

    def is_in_place(self, process: int) -> bool:
        """Return whether a process serves, or stands by where other nodes may serve its group."""
        life, child = self._lives.lives[process], self._children.get(process)
        is_standing_by = self._plan.is_shared and child is not None and child.is_standing_by
        return is_standing_by or (life.stage is LifeStage.READY and life.is_up)

    @property
    def _are_in_place(self) -> bool:
        return all(map(self.is_in_place, range(self._plan.processes_count)))

    def _is_spare_wanted(self) -> bool:
        """Return whether there is to be a spare process."""
        is_calm = self._phase is Phase.SERVING and self._rolling is None and self._leaving is None
        return is_calm and self._plan.processes_count > 1 and self._are_in_place

    def _announce(self) -> None:
        if not self._are_in_place or self._is_announced or self._phase is not Phase.SERVING:
            return
        self._is_announced = True
        count = self._plan.processes_count
        _log.info("ready", api=self._plan.served_at, directory=self._plan.data, processes=count)
        self._notices.ready(f"serving at {self._plan.served_at} with {count} processes")

    def _reap(self, now_s: float) -> None:
        """See to the processes that have ended."""
        for process, child in [*self._children.items()]:
            status = child.exit_status()
            if status is None and not child.is_gone:
                continue
            self._hear(child, now_s)
            if status is None:
                self._ending.append(child)
            else:
                self._release(child)
            del self._children[process]
            self._ended(self._lives.lives[process], child, status or 0, now_s)
        for child in [*self._ending]:
            if child.exit_status() is not None:
                self._release(child)
                self._ending.remove(child)
        for child in self._successors():
            if child.exit_status() is not None:
                self._hear(child, now_s)
                self._release(child)
                if child.problem:
                    _log.error("the next process has failed", problem=child.problem)
                assert self._rolling is not None
                self._rolling.successor_has_ended()
        self._spare.reap(now_s)

    def _release(self, child: Child) -> None:
        if child.is_open:
            self._selector.unregister(child.control)
        child.close()

    def _ended(self, life: Life, child: Child, status: int, now_s: float) -> None:
        process = life.process
        if self._leaving is not None and self._leaving.child is child:
            self._leaving = None
        if process == OWNER and self._leads:
            self._lead(leads=False)
        if child.problem is not None:
            life.ended(now_s, is_wanted=True)
            self._fail(child.problem, status)
        elif self._phase is not Phase.SERVING:
            life.ended(now_s, is_wanted=True)
            if status != 0 and self._status == EXIT_OK:
                self._status = EXIT_FAILED
                _log.error("a process has failed", process=process, **end_words(status))
        elif life.stage is LifeStage.STOPPING:
            # To be replaced: the next one is there already.
            life.ended(now_s, is_wanted=False)
            life.ends_count, life.start_at_s = 0, now_s
        else:
            life.ended(now_s, is_wanted=False)
            pause_s = round(life.start_at_s - now_s, 1)
            _log.error(
                "a process has ended", process=process, restarts_in_s=pause_s, **end_words(status)
            )

    def _fail(self, problem: str, status: int) -> None:
        """End all, since what ended one process concerns them all."""
        if self._problem is None:
            self._problem, self._status = problem, status if status > 0 else EXIT_FAILED
        self.stop()

    # What is done

    def stop(self) -> None:
        """Begin to end all processes in good order."""
        if self._phase is not Phase.SERVING:
            return
        self._phase, self._phase_ends_s = Phase.DRAINING, self._now_s() + self._plan.drain_s
        self._notices.stopping()
        self._leaving = None  # as all others do
        self._spare.discard()
        if self._rolling is not None:
            self._rolling.give_up("the server is stopping")
        for life in self._lives.lives:
            if not life.is_alive:
                life.told_to_stop()
        if self._plan.owns_ports:
            self._shut_ports()
        for child in self._children.values():
            child.tell({"tell": "drain"})

    def _shut_ports(self) -> None:
        """Refuse new connections: no process would serve them, and clients may have another server.

        Processes accept until then, so hardly any connection waits that is lost by it.
        """
        for one in {*itertools.chain(*self._plan.api, *self._plan.poll)}:
            with contextlib.suppress(OSError):  # the same socket once more
                one.shutdown(socket.SHUT_RDWR)

    def _end_phase(self, now_s: float) -> None:
        """Go on from finishing requests to ending the groups, when all are done with the former."""
        if self._phase is not Phase.DRAINING:
            return
        children = self._children.values()
        if now_s < self._phase_ends_s and not all(child.has_drained for child in children):
            return
        self._phase, self._phase_ends_s = Phase.STOPPING, float("inf")
        for child in children:
            assert child.process is not None, "it has a seat"
            self._lives.lives[child.process].told_to_stop()
            child.tell({"tell": "stop", "is_left": self._plan.is_shared})

    def _look(self, life: Life, now_s: float) -> None:
        match life.act(now_s):
            case Act.START:
                self._start(life, now_s)
            case Act.KILL:
                child = self._children[life.process]
                _log.error("a process says nothing and is killed", process=life.process)
                child.kill()

    def _start(self, life: Life, now_s: float) -> None:
        """Start a process, unless one that is to replace it has been started already."""
        rolling = self._rolling
        if rolling is not None and rolling.process == life.process and rolling.has_successor:
            child = rolling.take_successor()
            if child is None:
                life.start_at_s = now_s + LOADING_LOOK_S
                return
        else:
            spare = self._spare.take(now_s)
            try:
                child = spare or self.spawn(life.process)
            except OSError as error:
                life.ended(now_s, is_wanted=False)
                _log.error("no process can be started", process=life.process, reason=str(error))
                return
            if spare is not None:
                pid = child.process_id
                _log.info("the spare process takes its place", process=life.process, pid=pid)
        is_seated = child.incarnation is not None
        life.started(now_s, child.incarnation or self._next_incarnation())
        if child.has_loaded:
            life.heard(now_s)
        self._children[life.process] = child
        if is_seated:
            child.tell({"tell": "seated", "ended": [*life.gone]})
        else:
            child.seat(self._seat(life.process, life.incarnation), life.gone)
        if self._plan.cluster is not None and not self._plan.is_shared:
            child.tell(self._lead_told())
        child.tell(self._peers_told())

    def _next_incarnation(self) -> int:
        self._incarnation = max(self._incarnation + 1, self._now_ns() // 1000)
        return self._incarnation

    def may_follow(self, old: Child, new: Child) -> bool:
        """Return whether the next process can follow the old one's group before it has its seat.

        Both have all of its state in memory then.
        """
        is_readable = old.is_covered and new.may_follow and self._plan.is_shared
        return is_readable and available_bytes() >= ROOM_FACTOR * old.memory_bytes

    def seat_early(self, process: int, child: Child) -> None:
        """Tell the next process its seat, which another one still has."""
        _log.info("the next process reads the group of the old one", process=process)
        child.incarnation = self._next_incarnation()
        life = self._lives.lives[process]
        child.seat(self._seat(process, child.incarnation), life.gone, is_early=True)
        child.tell(self._peers_told())

    def _seat(self, process: int, incarnation: int) -> ProcessSeat:
        plan = self._plan
        return ProcessSeat(
            process=process,
            processes_count=plan.processes_count,
            incarnation=incarnation,
            data=plan.data,
            lock=plan.lock,
            api=tuple(one.fileno() for one in plan.api[process]),
            poll=tuple(one.fileno() for one in plan.poll[process]),
            api_address=plan.api_address,
            poll_address=plan.poll_address,
            mesh_directory=plan.run_directory,
            mesh=tuple(one.fileno() for one in plan.mesh),
            mesh_address=plan.mesh_address,
        )

    def spawn(self, process: int | None) -> Child:
        """Start a program that waits until it is told to serve; None: it is a spare one."""
        child = Child(process, self._plan.command, self._plan.environment)
        self._selector.register(
            child.control, selectors.EVENT_READ, lambda: self._hear(child, self._now_s())
        )
        return child

    def child_of(self, process: int) -> Child | None:
        """Return the process that has a seat now, if there is one."""
        return self._children.get(process)

    def rolled(self) -> None:
        """Note that a restart has ended, for better or worse."""
        self._rolling = None

    def _waiting(self) -> Iterator[Child]:
        """Yield the programs without a seat."""
        yield from self._successors()
        if self._spare.child is not None:
            yield self._spare.child

    def _successors(self) -> Iterator[Child]:
        if self._rolling is not None and self._rolling.successor is not None:
            yield self._rolling.successor

    def _peers_told(self) -> Message:
        up = [[*pair] for pair in self._lives.peers().items()]
        return {
            "tell": "peers",
            "up": up,
            "are_ready": self._lives.are_ready,
            "is_serving": self._is_serving,
        }

    @property
    def _is_serving(self) -> bool:
        """Return whether any process serves, or is about to again: connections wait for it."""
        rolling = self._rolling
        return self._lives.is_any_ready or (rolling is not None and rolling.was_serving)

    def _tell_peers(self) -> None:
        """Tell all processes which are up, and whether all serve, or any, if that is new."""
        peers, serving = self._lives.peers(), (self._lives.are_ready, self._is_serving)
        if peers == self._told_peers and serving == self._told_serving:
            return
        gone = self._told_peers.keys() - peers.keys()
        for process in sorted(gone) if self._phase is Phase.SERVING else ():
            _log.warning("a process is down", process=process)
        self._told_peers, self._told_serving = peers, serving
        early = [child for child in self._successors() if child.incarnation is not None]
        for child in (*self._children.values(), *early):
            child.tell(self._peers_told())

    def _tell_unowned(self, at_s: float) -> None:
        """Tell all that no process owns the accounts, if none did at a time before all was heard.

        What had been said before that time was heard after it: so no owner has begun by then. In a
        cluster one may have begun on another node, so there it is not known.
        """
        if self._plan.cluster is not None:
            return
        owner = self._children.get(OWNER)
        is_due = at_s - self._told_unowned_s >= UNOWNED_INTERVAL_S
        if is_due and (owner is None or not owner.is_owning):
            self._told_unowned_s = at_s
            for child in self._children.values():
                child.tell({"tell": "unowned", "at_s": at_s})
