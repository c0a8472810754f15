"""Planted faults where nodes share groups: clients that are passed on, restarts, who is let in."""

from .fault import Fault, fault

PASSING = "http/processes/passing_on.py"
CARRIER, FAR = "http/links/stream_carrier.py", "http/links/far_streams.py"
ROOM, PASSED = "http/processes/test_waiting_room.py", "http/links/test_passed_on.py"
SUPERVISOR = "cli/supervising/supervisor.py"
RESTARTS = "cli/supervising/test_restart.py"
SHARING_NODES = "cli/supervising/test_sharing_nodes.py"
ADMISSION, ADMITTED = "http/processes/admission.py", "http/processes/test_admission.py"
MEMBER, MEMBERS = "http/processes/mesh_member.py", "http/processes/test_mesh_member.py"

SHARING_FAULTS: tuple[Fault, ...] = (
    fault(
        "a claim whose owner was lost is asked again",
        PASSING,
        "is_again = is_whole and may_be_asked_again(asked)",
        "is_again = is_whole",
        ROOM,
    ),
    fault(
        "a fence is refused as soon as no owner can be reached",
        PASSING,
        "wait_s = LONG_WAIT_S if _WAITS.match(passed.received) is not None else SHORT_WAIT_S",
        "wait_s = SHORT_WAIT_S",
        ROOM,
    ),
    fault(
        "what waits for an owner does so when its process ends",
        PASSING,
        "            while not self._is_ending:\n",
        "            while True:\n",
        ROOM,
    ),
    fault(
        "a node without a group says that another one is ready",
        "http/processes/waiting_room.py",
        'frozenset({"ping", "health", "ready", "metrics"})',
        'frozenset({"ping", "health", "metrics"})',
        ROOM,
    ),
    fault(
        "a body that comes slowly is judged where no group is",
        "http/sockets/lane.py",
        "is_kept = self._kept is None or connection.reason == ENDPOINT",
        "is_kept = True",
        ROOM,
    ),
    fault(
        "a client is cut off when the group of its owner moves",
        CARRIER,
        "if carried.client is None and carried.group == group",
        "if carried.group == group",
        PASSED,
    ),
    fault(
        "a client that has its answer is told that its owner was lost",
        CARRIER,
        "                self.asked.answered(heard)\n",
        "",
        PASSED,
    ),
    fault(
        "a client that ends its own side loses the answer it waits for",
        CARRIER,
        "            while self.is_answering:  # noqa: ASYNC110  with time\n",
        "            while self.is_answering and False:\n",
        PASSED,
    ),
    fault(
        "an owner that says Continue counts as one that has answered",
        CARRIER,
        "        if not data.startswith(_CONTINUE):\n",
        "        if data:\n",
        PASSED,
    ),
    fault(
        "half a request is asked again as if it were whole",
        CARRIER,
        "            self.is_whole = False\n",
        "            pass\n",
        PASSED,
    ),
    fault(
        "an owner does not say what it has read of a client",
        FAR,
        "        self._read_bytes += count_bytes\n",
        "",
        PASSED,
    ),
    fault(
        "more of a client is on its way than its owner has room for",
        FAR,
        "            self.room_bytes -= len(data)\n",
        "            pass\n",
        PASSED,
    ),
    fault(
        "who waits hears nothing when its process ends",
        "http/sockets/lane_exchange.py",
        "            self._fail(ApiError(Code.SHUTTING_DOWN))\n            raise\n",
        "            raise\n",
        "http/test_serve.py",
    ),
    fault(
        "a group goes to another node during a restart",
        SUPERVISOR,
        "self._leaving is None and self._rolling is None and",
        "self._leaving is None and",
        SHARING_NODES,
    ),
    fault(
        "a restart goes on while a group goes to another node",
        SUPERVISOR,
        "        elif self._rolling is not None:\n            self._rolling.go_on(now_s)\n",
        "        if self._rolling is not None:\n            self._rolling.go_on(now_s)\n",
        SHARING_NODES,
    ),
    fault(
        "a restart drains a process before the next one has prepared itself",
        "cli/supervising/rolling.py",
        "is_prepared = self.successor.is_prepared or now_s >= self._ends_s",
        "is_prepared = True",
        f"{RESTARTS}::test_a_restart_waits_until_the_next_process_has_prepared_itself",
    ),
    fault(
        "a restart drains a process before it has made its checkpoint",
        "cli/supervising/rolling.py",
        "if old is not None and (old.has_checkpointed or now_s >= self._ends_s):",
        "if old is not None:",
        f"{RESTARTS}::test_a_process_makes_a_checkpoint_before_it_is_drained_in_a_restart",
    ),
    fault(
        "a restart waits until a process serves whose group another node has",
        SUPERVISOR,
        "return is_standing_by or (life.stage",
        "return (life.stage",
        SHARING_NODES,
    ),
    fault(
        "those that stand by take connections during a restart",
        SUPERVISOR,
        "return self._lives.is_any_ready or (rolling is not None and rolling.was_serving)",
        "return self._lives.is_any_ready",
        SHARING_NODES,
    ),
    fault(
        "a process that is started again does not know who had its seat",
        SUPERVISOR,
        "child.seat(self._seat(life), life.gone)",
        "child.seat(self._seat(life), [])",
        SHARING_NODES,
    ),
    fault(
        "a node that is stopped keeps its groups for nobody",
        SUPERVISOR,
        'child.tell({"tell": "stop", "is_left": self._plan.is_shared})',
        'child.tell({"tell": "stop"})',
        SHARING_NODES,
    ),
    fault(
        "a node that the others do not let in serves all the same",
        ADMISSION,
        "                if name in _refusals(book, trust, node, tls):\n",
        "                if False:\n",
        ADMITTED,
    ),
    fault(
        "a node that is refused by a process which ends is not asked once more",
        ADMISSION,
        "                if name in _refusals(book, trust, node, tls):\n",
        "                if name:\n",
        ADMITTED,
    ),
    fault(
        "a node that is gone is asked whether it lets others in",
        ADMISSION,
        " and one.seen_ms <= CLUSTER_LIVING_MS\n",
        "\n",
        ADMITTED,
    ),
    fault(
        "a drained node is ready",
        MEMBER,
        "return not self.is_drained() and all(",
        "return all(",
        MEMBERS,
    ),
    fault(
        "all nodes are unready while one group moves",
        MEMBER,
        "link.away_s < _AWAY_S for link in links",
        "not link.away_s for link in links",
        MEMBERS,
    ),
    fault(
        "a node that never had a link to a group is ready",
        MEMBER,
        "all(link.away_s < _AWAY_S for link in links)",
        "True",
        MEMBERS,
    ),
    fault(
        "the next owner is tried only after a pause",
        "http/sockets/link_sockets.py",
        "            with trio.move_on_after(wait_s):\n                await news.wait()\n",
        "            await trio.sleep(wait_s)\n",
        "http/links/test_node_links.py",
    ),
    fault(
        "the next owner on the same node is found by the book only",
        "shards/mesh/place.py",
        "            owners.met(hello.process, owners.here, hello.incarnation)\n",
        "            pass\n",
        "shards/mesh/test_owners.py",
    ),
    fault(
        "the link to an owner that was started again ends when the book names it",
        "http/sockets/link_sockets.py",
        "                    asked.epoch = max(asked.epoch, party.incarnation)\n",
        "                    asked.epoch += 0\n",
        "http/links/test_node_links.py",
    ),
)
