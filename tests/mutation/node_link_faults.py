"""Planted faults in links between nodes: who is let in, and what is heard. See `faults.py`."""

from .fault import Fault, fault

HANDSHAKE, TRUST, SEALING, GUARD = (
    f"shards/guard/{name}.py" for name in ("handshake", "trust", "sealing", "guarded_end")
)
HANDSHAKES, SEALED, GUARDED = (
    f"shards/guard/test_{name}.py" for name in ("handshake", "sealing", "guarded_end")
)

FAR_STREAMS = "http/links/test_far_streams.py"
OWNERS = "shards/mesh/test_owners.py"
SHARING = "http/processes/sharing_member.py"
SHARED = "http/processes/test_sharing_member.py"

NODE_LINK_FAULTS: tuple[Fault, ...] = (
    fault(
        "a node lets in who has another secret",
        HANDSHAKE,
        "if not is_same(introduction.proof, self._trust.asker_proof(meeting)):",
        "if False:",
        HANDSHAKES,
        is_quick=True,
    ),
    fault(
        "a node talks to a listener that has another secret",
        HANDSHAKE,
        "if not is_same(welcome.proof, expected):",
        "if False:",
        HANDSHAKES,
    ),
    fault(
        "a proof is good at every node",
        HANDSHAKE,
        "if callee != Callee(self._own.node, self._own.group, callee.use):",
        "if False:",
        HANDSHAKES,
    ),
    fault(
        "a node takes its own random number for another's",
        HANDSHAKE,
        " or theirs == ours",
        "",
        HANDSHAKES,
    ),
    fault(
        "a proof that was heard can be said again",
        TRUST,
        "            meeting.nonce_of_answerer,\n",
        "",
        HANDSHAKES,
    ),
    fault(
        "nodes of another cluster with the same secret are let in",
        TRUST,
        "_encode([_PURPOSE, cluster])",
        "_PURPOSE",
        HANDSHAKES,
    ),
    fault(
        "the incarnation of who answers is not proved",
        TRUST,
        'return self._sign(b"answers", meeting, incarnation)',
        'return self._sign(b"answers", meeting, 0)',
        HANDSHAKES,
    ),
    fault(
        "what one end has said can be said to it",
        TRUST,
        'b"key of answerer"',
        'b"key of asker"',
        HANDSHAKES,
    ),
    fault(
        "pieces of a link can be left out and said again",
        SEALING,
        "_COUNTED.pack(number, len(content))",
        "_COUNTED.pack(0, len(content))",
        SEALED,
        is_quick=True,
    ),
    fault(
        "what is said on a link between nodes can be changed",
        SEALING,
        "if not hmac.compare_digest(tag, _tag(self._key, self._number, content)):",
        "if False:",
        SEALED,
    ),
    fault(
        "a sealed piece may be of any length",
        SEALING,
        "if not 0 < length <= SEALED_LIMIT_BYTES:",
        "if not length:",
        SEALED,
    ),
    fault(
        "a stranger has all the time that it wants",
        GUARD,
        "return self._now_s() < self._until_s",
        "return True",
        GUARDED,
    ),
    fault(
        "strangers that wait are not limited",
        "http/links/strangers.py",
        "if len(self._here) >= self._limit_count:",
        "if False:",
        "http/links/test_node_door.py",
    ),
    fault(
        "a cluster's secret that other users can read is used",
        "http/links/cluster_secret.py",
        "if mode & _OTHERS:",
        "if False:",
        "http/links/test_cluster_secret.py",
        is_quick=True,
    ),
    fault(
        "a node without a certificate gets through TLS",
        "http/links/tls_end.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "context.verify_mode = ssl.CERT_OPTIONAL",
        "http/links/test_tls_end.py",
    ),
    fault(
        "a process that was succeeded gets a link again",
        "shards/mesh/place.py",
        "if hello.incarnation < epoch:",
        "if False:",
        OWNERS,
        is_quick=True,
    ),
    fault(
        "the next owner of a group is not noticed by what it says of itself",
        "shards/mesh/place.py",
        "        owners.heard_of(hello.process, hello.incarnation)\n",
        "",
        OWNERS,
    ),
    fault(
        "a process whose group has moved is still asked",
        "shards/mesh/link.py",
        "or self._is_succeeded",
        "or False",
        OWNERS,
    ),
    fault(
        "a process whose group has moved is still heard",
        "shards/mesh/answering.py",
        "or self._is_succeeded",
        "or False",
        OWNERS,
    ),
    fault(
        "what is known of owners goes back to an earlier one",
        "shards/mesh/owners.py",
        "if owner.epoch < self.epoch_of(group) or",
        "if",
        OWNERS,
    ),
    fault(
        "a process that may have lost its group answers calls",
        "shards/mesh/calls.py",
        "if self.may_answer is not None and not self.may_answer():",
        "if False:",
        OWNERS,
    ),
    fault(
        "a node says that it is another process than it has proved to be",
        "shards/mesh/mesh.py",
        "peer=peer,",
        "peer=None,",
        OWNERS,
    ),
    fault(
        "calls are answered whatever the lease of the log is",
        "http/processes/mesh_member.py",
        "self.mesh.calls.may_answer = shards.committer.may_answer",
        "pass",
        "http/processes/test_mesh_member.py",
    ),
    fault(
        "a stream stays at a home whose group has moved",
        "http/links/stream_carrier.py",
        "if carried.group == group and carried.epoch < epoch:",
        "if False:",
        FAR_STREAMS,
    ),
    fault(
        "a worker of a far home that reads slowly is cut off",
        "http/links/far_streams.py",
        "if self.is_writing:",
        "if False:",
        FAR_STREAMS,
    ),
    fault(
        "what a home says to a slow worker is kept without a limit",
        "http/links/far_streams.py",
        "            while self._outgoing:\n",
        "            while False:\n",
        FAR_STREAMS,
    ),
    fault(
        "what a worker says and its far home does not read is kept without a limit",
        "http/links/far_streams.py",
        "if len(self._unread) > UNREAD_LIMIT_BYTES:",
        "if False:",
        FAR_STREAMS,
    ),
    fault(
        "an owner that hangs is waited for when its group has another",
        "http/sockets/link_sockets.py",
        "link.asked[1] < epoch:",
        "False:",
        "http/links/test_node_links.py::"
        "test_an_owner_that_hangs_is_not_waited_for_when_there_is_another",
    ),
    fault(
        "a node claims a free group though it is another's turn",
        "persistence/streams/sharing.py",
        "now_ms - self._since_ms >= rank * CLUSTER_CLAIM_STEP_MS",
        "True",
        "persistence/streams/test_sharing.py",
        is_quick=True,
    ),
    fault(
        "a node that had a group and gave it up claims it first",
        "persistence/streams/sharing.py",
        "Sharing(self.groups_count, left, self.living - {before})",
        "Sharing(self.groups_count, left, self.living)",
        "persistence/streams/test_sharing.py",
    ),
    fault(
        "a node keeps two groups more than another",
        "persistence/streams/sharing.py",
        "len(groups[emptiest]) < 2:",
        "len(groups[emptiest]) < 3:",
        "persistence/streams/test_sharing.py",
    ),
    fault(
        "a group goes to a node that does not stand by for it",
        SHARING,
        " and seen.stands_by(target, group):",
        ":",
        SHARED,
        is_quick=True,
    ),
    fault(
        "several groups move at the same time",
        SHARING,
        " or one.since_ms < CLUSTER_MOVE_INTERVAL_MS:",
        ":",
        SHARED,
    ),
    fault(
        "a process of a node says its own number of a life, not its group's epoch",
        "http/processes/mesh_member.py",
        "self.place.incarnation = epoch",
        "pass",
        "http/processes/test_mesh_member.py",
    ),
    fault(
        "a node that stands by takes connections though others of it serve",
        "http/processes/waiting_room.py",
        "return self._seated.is_node_serving or self._ready.is_set()",
        "return self._ready.is_set()",
        "http/processes/test_waiting_room.py",
    ),
)
