"""Planted faults in function tasks, their placement, nodes, builds, accounts and tokens.

See `faults.py`. Each is noticed by a test that needs no other process.
"""

from .fault import Fault, fault

DECISIONS, EXECUTION_STATE, DECIDING = (
    f"core/{name}.py" for name in ("decisions/executions", "state/executions", "deciding")
)
PLACEMENT, QUEUES, GATES, WORK, WITHHELD = (
    f"shards/placement/{name}.py"
    for name in ("placement", "execution_queues", "call_gates", "executions", "withheld")
)
CREDENTIALS, PERMISSIONS, ENDPOINTS = (
    f"http/{name}.py"
    for name in ("identity/credentials", "api/permissions", "executions/execution_endpoints")
)
EXECUTIONS, ENTRIES = "core/test_executions.py", "core/test_entries.py"
CORE_MODEL, REPLAY = "core/test_functions_against_model.py", "core/test_replay.py"
PLACING, CALLING = "shards/test_placement.py", "shards/test_call_gates.py"
DISABLING, REQUIREMENTS = "shards/test_withheld.py", "shards/test_many_requirements.py"
ACCOUNTS, TOKENS = "http/admin/test_accounts.py", "http/api/test_authentication.py"
TASKS, BUILDS, NODE_ENDPOINTS = (
    f"http/{name}.py"
    for name in (
        "executions/test_execution_endpoints",
        "functions/test_builds",
        "nodes/test_node_endpoints",
    )
)

FUNCTION_FAULTS: tuple[Fault, ...] = (
    # Executions
    fault(
        "a node that dies is not counted as lost",
        EXECUTION_STATE,
        "_unassign(state, execution, 1)",
        "_unassign(state, execution, 0)",
        EXECUTIONS,
        CORE_MODEL,
        is_quick=True,
    ),
    fault(
        "a node that gives a task back in order counts as lost",
        EXECUTION_STATE,
        "_unassign(state, state.executions[record.id], 0)",
        "_unassign(state, state.executions[record.id], 1)",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "one lost node more than the limit is put up with",
        DECIDING,
        ".lost_nodes_count > LOST_NODES_LIMIT_COUNT",
        ".lost_nodes_count > LOST_NODES_LIMIT_COUNT + 1",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "a node's result with a stale counter is accepted",
        DECISIONS,
        "        or task.counter != command.counter\n        or execution.node_id",
        "        or execution.node_id",
        EXECUTIONS,
        CORE_MODEL,
        is_quick=True,
    ),
    fault(
        "a node may speak for the node that holds the task",
        DECISIONS,
        "        or execution.node_id != command.node_id\n",
        "",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "a late result is taken for the repetition of the one that counts",
        DECISIONS,
        "        task.counter == command.counter\n        and promise.state",
        "        promise.state",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "a function runs a millisecond longer than it may",
        DECIDING,
        "elif ends_on <= until_ms:",
        "elif ends_on < until_ms:",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "the deadlines of executions are forgotten in a crash",
        "core/machine.py",
        "if ends_on is not None:",
        "if False:",
        REPLAY,
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "a day that is over is still counted as one of the last seven",
        EXECUTION_STATE,
        "if day > today - USAGE_DAYS_COUNT",
        "if day >= today - USAGE_DAYS_COUNT",
        EXECUTIONS,
        CORE_MODEL,
    ),
    fault(
        "an account's list of tasks shows other accounts' for the same function",
        DECISIONS,
        "tags = {FUNCTION_TAG: command.function_id, **tags}",
        "tags = {FUNCTION_TAG: command.function_id}",
        EXECUTIONS,
        CORE_MODEL,
    ),
    # The catalog
    fault(
        "the revision is not compared when an entry is replaced",
        "core/decisions/entries.py",
        " or entry.revision + 1 != command.entry.revision",
        "",
        ENTRIES,
        is_quick=True,
    ),
    fault(
        "the revision is not compared when an entry is deleted",
        "core/decisions/entries.py",
        "if entry.revision != command.revision:",
        "if False:",
        ENTRIES,
    ),
    # Placement
    fault(
        "whose turn it is does not depend on how much an account has running",
        QUEUES,
        "line.entry = (account.running_count, account.waiting_since, number, line)",
        "line.entry = (0, account.waiting_since, number, line)",
        PLACING,
        is_quick=True,
    ),
    fault(
        "a node is compared with all requirements of an account",
        QUEUES,
        "            if len(account.shown) < SHOWN_COUNT:\n                self._show(line)",
        "            if True:\n                self._show(line)",
        REQUIREMENTS,
        is_quick=True,
    ),
    fault(
        "what an account has behind does not come forward while nodes are busy",
        QUEUES,
        "            self._bring_forward(turn, fits)\n",
        "            pass\n",
        REQUIREMENTS,
    ),
    fault(
        "what an account has behind is not looked at when a node with more slots is free",
        PLACEMENT,
        "has_behind and node not in self._free\n        while node.has_room:\n",
        "has_behind and node not in self._free\n        while node.has_room:\n"
        "            becomes_free = becomes_free and node not in self._free\n",
        REQUIREMENTS,
    ),
    fault(
        "a slot is not free again when its task has ended",
        PLACEMENT,
        "            del node.executions[execution.promise_id]\n",
        "",
        PLACING,
        is_quick=True,
    ),
    fault(
        "a node gets one task more than it has slots",
        WORK,
        "len(self.executions) - len(self.ending) < entry.slots_count",
        "len(self.executions) - len(self.ending) <= entry.slots_count",
        PLACING,
    ),
    fault(
        "a draining node is given tasks",
        WORK,
        "entry.disabled or entry.draining or entry.deleted",
        "entry.disabled or entry.deleted",
        PLACING,
    ),
    fault(
        "a node runs the tasks of accounts that it does not work for",
        WORK,
        "return None if self.entry.shared else self.entry.account_id",
        "return None",
        PLACING,
    ),
    fault(
        "what a function demands of memory is not looked at",
        WORK,
        "            and requirement.memory_mb <= has.memory_mb\n",
        "",
        PLACING,
    ),
    fault(
        "what a node's stream had not written when it ended is lost",
        PLACEMENT,
        "returned = [execution for execution in unsent if execution.stage is Stage.HANDED]",
        "returned: list[PlacedExecution] = []",
        PLACING,
    ),
    fault(
        "a task's older message takes the place of a newer one",
        PLACEMENT,
        "if earlier.counter > task.counter:",
        "if False:",
        PLACING,
    ),
    fault(
        "a node that gave a task back is given it at once",
        PLACEMENT,
        "            node.is_resting = True\n",
        "            node.is_resting = False\n",
        PLACING,
    ),
    fault(
        "a node is not told that a task it works on has ended",
        PLACEMENT,
        "if not was_unread and not execution.is_ending:",
        "if False:",
        PLACING,
    ),
    fault(
        "one account's calls may take all places",
        GATES,
        "while account.parked and account.passed_count < self._per_account_count:",
        "while account.parked:",
        CALLING,
    ),
    fault(
        "a call that has ended leaves its place at its host taken",
        GATES,
        "        self._leave_host(self._hosts[execution.need], execution)\n",
        "",
        CALLING,
    ),
    fault(
        "a call that ended before it had a lease is forgotten",
        PLACEMENT,
        "            self._alarms.call_after(_CALL_AGAIN_MS, lambda: self._call_again(execution))",
        "            del self._executions[execution.promise_id]",
        CALLING,
    ),
    fault(
        "a call's lease is not noted",
        PLACEMENT,
        "            execution.stage = Stage.RUNNING\n        elif",
        "            return\n        elif",
        CALLING,
    ),
    # What belongs to whom
    fault(
        "a function task is shown to every account",
        ENDPOINTS,
        "if tags is None or tags.get(ACCOUNT_TAG) != account_of(call):",
        "if tags is None:",
        NODE_ENDPOINTS,
        is_quick=True,
    ),
    fault(
        "functions, builds and labels of other accounts can be named",
        "http/functions/entries.py",
        "if not isinstance(entry, kind) or entry.account_id != account_id:",
        "if not isinstance(entry, kind):",
        "http/functions/test_function_endpoints.py",
        BUILDS,
    ),
    fault(
        "a node's stream is opened for whoever knows the node's id",
        "http/nodes/node_endpoints.py",
        "if node is None or node.entry.account_id != require_account(call):",
        "if node is None:",
        NODE_ENDPOINTS,
    ),
    fault(
        "the code of every account can be fetched",
        "http/functions/build_endpoints.py",
        "        build.account_id == account_id\n        or (",
        "        True\n        or (",
        BUILDS,
    ),
    fault(
        "an archive is deleted while a task that needs it is unfinished",
        "http/functions/builder.py",
        "if build.id in needed:",
        "if False:",
        BUILDS,
        is_quick=True,
    ),
    fault(
        "an idempotency key is one for all functions of an account",
        ENDPOINTS,
        '"\\0".join((account_id, function_id, key))',
        '"\\0".join((account_id, key))',
        TASKS,
    ),
    fault(
        "a paused function is called",
        ENDPOINTS,
        "if function.paused:",
        "if False:",
        TASKS,
    ),
    fault(
        "an account may have any number of tasks waiting",
        ENDPOINTS,
        "if waiting_count >= api.settings.function_queue_limit_count:",
        "if False:",
        TASKS,
    ),
    # Accounts and tokens
    fault(
        "a revoked token stays in the directory",
        CREDENTIALS,
        " and not account.disabled and token.revoked_on is None:",
        " and not account.disabled:",
        ACCOUNTS,
        TOKENS,
        is_quick=True,
    ),
    fault(
        "a token lives a millisecond too long",
        CREDENTIALS,
        "if principal.expires_on is not None and principal.expires_on <= self._now_ms():",
        "if principal.expires_on is not None and principal.expires_on < self._now_ms():",
        ACCOUNTS,
        TOKENS,
    ),
    fault(
        "the tokens of a disabled account work",
        CREDENTIALS,
        "if account is not None and not account.disabled and",
        "if account is not None and",
        ACCOUNTS,
        TOKENS,
    ),
    fault(
        "the streams of a revoked token go on",
        CREDENTIALS,
        "for stop in list(self._watched.get(token.id, ())):",
        "for stop in ():",
        f"{NODE_ENDPOINTS}::test_a_stream_ends_when_its_token_is_revoked",
    ),
    fault(
        "where the operator has no key, an empty one will do",
        CREDENTIALS,
        "return OPERATOR if key and hmac",
        "return OPERATOR if hmac",
        ACCOUNTS,
        TOKENS,
        "http/identity/test_operator_key.py",
    ),
    fault(
        "a server with accounts is open",
        CREDENTIALS,
        "return self.is_loaded and not self._users and not self._accounts",
        "return self.is_loaded and not self._users",
        ACCOUNTS,
        TOKENS,
    ),
    fault(
        "the prefix of a token is not applied to the root of a callback",
        PERMISSIONS,
        "(command.promise_id, command.root_id), command.fence",
        "(command.promise_id,), command.fence",
        "http/api/test_permissions.py",
        is_quick=True,
    ),
    fault(
        "the prefix of a token is not applied to the task of a fence",
        PERMISSIONS,
        "return ids if fence is None else (*ids, task_ids.home(fence.task_id))",
        "return ids",
        "http/api/test_permissions.py",
    ),
    fault(
        "clients may name the server's own promises",
        PERMISSIONS,
        "if named.startswith(RESERVED_PREFIX):",
        "if False:",
        "http/api/test_permissions.py",
    ),
    fault(
        "wrong credentials are not counted",
        "http/api/authentication.py",
        "    if authorization:\n        credentials.attempts.failed(request.peer)\n",
        "",
        TOKENS,
        "http/identity/test_attempts.py",
    ),
    # Disabled accounts
    fault(
        "others do not start while an account that was disabled is being set aside",
        QUEUES,
        "                line.entry = None\n",
        "                pass\n",
        DISABLING,
    ),
    fault(
        "an account that is disabled while it is released goes on",
        WITHHELD,
        "            self._released.pop(account_id, None)\n",
        "",
        DISABLING,
        is_quick=True,
    ),
    fault(
        "what comes while an account is released starts before what has waited",
        WITHHELD,
        "            or account_id in self._released\n",
        "",
        DISABLING,
    ),
    fault(
        "what is on its way to a node when its account is disabled starts",
        PLACEMENT,
        "if not self._withheld.is_disabled(execution.account_id):\n            return False",
        "if True:\n            return False",
        DISABLING,
    ),
    # Credentials
    fault(
        "any password will do",
        "http/identity/credentials.py",
        "if hmac.compare_digest(given, expected) and known is not None:",
        "if known is not None:",
        "http/api/test_routing.py::test_strangers_are_refused",
    ),
    fault(
        "what a token may do is not looked at",
        "http/api/authentication.py",
        "if scope is None or scope not in principal.scopes:",
        "if scope is None:",
        "http/api/test_authentication.py",
    ),
    fault(
        "a token that is limited to some ids is good for all",
        "http/api/permissions.py",
        "if not all(one.startswith(prefix) for one in named):",
        "if False:",
        "http/api/test_codes.py",
    ),
)
