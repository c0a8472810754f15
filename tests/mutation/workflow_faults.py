"""The planted faults of the envelope protocol: workflow tasks, who waits, and their messages."""

from .fault import Fault, fault

STATE, COMPLETIONS = "core/state/workflows.py", "core/state/completions.py"
DECISIONS, VIEWS, PROMISES = (
    f"core/decisions/{name}.py" for name in ("workflows", "workflow_views", "workflow_promises")
)
MACHINE, POLLS = "core/machine.py", "shards/delivery/polls.py"
CASES, AGAINST_MODEL = "core/test_workflows.py", "core/test_workflows_against_model.py"
CHECKPOINTS, DELIVERY = "core/test_checkpointing.py", "shards/test_workflow_delivery.py"
LINEAGE = "core/test_retention_lineage.py"

WORKFLOW_FAULTS: tuple[Fault, ...] = (
    # Suspending and waking, in one shard and over several
    fault(
        "a workflow sleeps for ever if what it awaits settles before it hears of the waiter",
        STATE,
        "    else:\n        _tell_awaiter(state, message.awaiter, message.awaited, at)",
        "    else:\n        return",
        CASES,
        is_quick=True,
    ),
    fault(
        "a workflow is suspended on what has settled already",
        DECISIONS,
        "        if promise.state is not PENDING or promise.timeout <= now_ms:",
        "        if False:",
        CASES,
        is_quick=True,
    ),
    fault(
        "a workflow is suspended on what is past its deadline in another shard",
        DECISIONS,
        "        if promise.state is not PENDING or promise.timeout <= now_ms:",
        "        if promise.state is not PENDING:",
        CASES,
    ),
    fault(
        "a settled promise wakes nobody",
        COMPLETIONS,
        "        workflows.wake_awaiters(state, record.id, state.awaits.take(",
        "        (lambda *_: None)(state, record.id, state.awaits.take(",
        CASES,
        is_quick=True,
    ),
    fault(
        "a workflow that is woken twice is sent twice",
        STATE,
        "    else:\n        task.resumes += 1",
        "    else:\n        task.resumes += 1\n        _offer(state, task)",
        CASES,
    ),
    fault(
        "an ended workflow goes on waiting",
        STATE,
        "    for awaited in task.awaited or ():",
        "    for awaited in ():",
        CASES,
    ),
    fault(
        "what was awaited before is not asked for again",
        STATE,
        "        task.awaited = tuple(one for one in task.awaited if one != awaited)",
        "        pass",
        AGAINST_MODEL,
    ),
    # Claims and fences
    fault(
        "a claim of a workflow does not raise its version",
        STATE,
        "    task.version += 1\n",
        "",
        CASES,
        is_quick=True,
    ),
    fault(
        "a workflow's version also rises when it is given back",
        STATE,
        "    task.idle_count += 1\n",
        "    task.idle_count += 1\n    task.version += 1\n",
        CASES,
    ),
    fault(
        "a fence of another version is let through",
        VIEWS,
        "    if task.version != fence.version:",
        "    if False:",
        CASES,
        is_quick=True,
    ),
    fault(
        "a fence is let through after the lease has ended",
        VIEWS,
        "    if code is not _OK or end <= now_ms:",
        "    if code is not _OK:",
        CASES,
    ),
    fault(
        "a fence is let through after the workflow's own deadline",
        VIEWS,
        "    if timeout <= now_ms:",
        "    if False:",
        CASES,
    ),
    fault(
        "a heartbeat keeps the workflows of other processes",
        DECISIONS,
        "            and task.pid == pid\n",
        "",
        CASES,
    ),
    fault(
        "a heartbeat keeps a workflow that somebody else has claimed since",
        DECISIONS,
        "            and task.version == version\n            and",
        "            and",
        CASES,
    ),
    fault(
        "a claim is answered twice while the server lives",
        DECISIONS,
        "        and not task.is_fresh\n",
        "",
        CASES,
        is_quick=True,
    ),
    fault(
        "a claim whose answer was lost in a restart is refused",
        DECISIONS,
        "        and task.claim_id == claim_id\n",
        "        and task.claim_id is claim_id is None\n",
        CASES,
    ),
    fault(
        "a fulfilled workflow's version is forgotten",
        COMPLETIONS,
        "task_version=None if workflow is None else workflow.version",
        "task_version=None",
        CASES,
        is_quick=True,
    ),
    fault(
        "a promise of the envelope protocol that is past its deadline begins pending",
        PROMISES,
        "    is_late = timeout <= now_ms\n",
        "    is_late = False\n",
        CASES,
    ),
    fault(
        "through REST a target makes no workflow",
        "core/decisions/promises.py",
        "if tags is not None and TAG_TARGET in tags and claim is None:",
        "if False:",
        CASES,
    ),
    # What is sent, and when
    fault(
        "workflows that wait are not sent again after a start",
        MACHINE,
        "        state.touched_workflows.update(dict.fromkeys(state.workflows))\n",
        "",
        CASES,
        is_quick=True,
    ),
    fault(
        "listeners that were not told are forgotten in a restart",
        MACHINE,
        "            for promise_id, addresses in state.unblocks.items()\n            for address",
        "            for promise_id, addresses in ()\n            for address",
        CASES,
    ),
    fault(
        "a workflow that nobody gets anywhere with is sent at once, again and again",
        STATE,
        "    task.backs_off = True\n",
        "",
        CASES,
    ),
    fault(
        "the task of a timer is sent",
        MACHINE,
        'if promise.timeout <= now_ms or promise.tags.get(TAG_TIMER) == "true":',
        "if promise.timeout <= now_ms:",
        CASES,
    ),
    fault(
        "a workflow's delay is ignored",
        MACHINE,
        "if task.not_before is not None and task.not_before > now_ms:\n                state.arm",
        "if False:\n                state.arm",
        CASES,
    ),
    fault(
        "an ended workflow's message is not withdrawn",
        STATE,
        "    _recall(state, task)\n    state.arm_workflow(task.id, None)\n",
        "    state.arm_workflow(task.id, None)\n",
        "core/test_workflows.py",
    ),
    fault(
        "an unblock is forgotten when nobody is connected",
        PROMISES,
        "        context.state.new_unblocks.append((command.id, command.address))",
        "        pass",
        DELIVERY,
        is_quick=True,
    ),
    fault(
        "a killed worker's unclaimed workflows wait until they are sent again anyway",
        "shards/delivery/unclaimed.py",
        "            self._report(RetryExecute(subject, version))",
        "            continue",
        DELIVERY,
    ),
    fault(
        "a worker of the REST API gets messages of the envelope protocol",
        POLLS,
        "        return self.dialect is None or self.dialect is dialect",
        "        return True",
        DELIVERY,
    ),
    # What is kept
    fault(
        "checkpoints forget who awaits what",
        "persistence/checkpoints/writing.py",
        "    yield from _pair_writes(rows.AWAITS, shard, capture.awaits)\n",
        "",
        CHECKPOINTS,
    ),
    fault(
        "checkpoints forget listeners that were not told yet",
        "core/state/checkpointing.py",
        "    settled_at = state.unblocks.get(promise_id, {}).get(address)",
        "    settled_at = None",
        CHECKPOINTS,
    ),
    fault(
        "retention takes the children of a workflow that runs",
        "core/decisions/deletions.py",
        "            if len(path) > LINEAGE_LIMIT_COUNT or not self._may_go(origin):",
        "            if False:",
        LINEAGE,
    ),
)
