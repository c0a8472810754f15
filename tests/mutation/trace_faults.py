"""The planted faults of traces: how spans hang together, which there are, what is kept of them."""

from .fault import Fault, fault

TRACING = "http/tracing"
REQUESTS, LIFETIMES = f"{TRACING}/requests.py", f"{TRACING}/lifetimes.py"
SENDINGS, SPANS = f"{TRACING}/sendings.py", f"{TRACING}/spans.py"
TEST_LIFETIMES, TEST_BOUNDS = f"{TRACING}/test_lifetimes.py", f"{TRACING}/test_bounds.py"
TEST_CONTEXTS = f"{TRACING}/test_contexts.py"

TRACE_FAULTS: tuple[Fault, ...] = (
    fault(
        "the life of a promise hangs below itself",
        LIFETIMES,
        "FinishedSpan(context, parent.span_id, kind,",
        "FinishedSpan(context, context.span_id, kind,",
        f"{TEST_LIFETIMES}::test_durations_on_simulated_clock",
        is_quick=True,
    ),
    fault(
        "a message leaves with the id of the creation and not of its sending",
        SENDINGS,
        "        self._outgoing.send(_with_trace(message, context.trace()))\n",
        "        self._outgoing.send(_with_trace(message, creation.trace()))\n",
        f"{TEST_LIFETIMES}::test_durations_on_simulated_clock",
    ),
    fault(
        "the span of a message that was sent never ends",
        SENDINGS,
        "            case TaskSent():\n                self._end(command.id",
        "            case TaskSent():\n                self._end(command.id[1:]",
        f"{TEST_LIFETIMES}::test_durations_on_simulated_clock",
    ),
    fault(
        "an attempt does not end with its promise",
        LIFETIMES,
        "        for key in list(self._keys_of.get(record.id, ())):\n",
        "        for key in list[str]():\n",
        TEST_BOUNDS,
    ),
    fault(
        "the flag of a trace is not looked at",
        f"{TRACING}/contexts.py",
        "        return bool(self.flags & SAMPLED)\n",
        "        return True\n",
        f"{TEST_LIFETIMES}::test_what_is_not_sampled_passes_untouched",
        is_quick=True,
    ),
    fault(
        "a caller that records its trace is taken for one that does not",
        REQUESTS,
        "[02468ace]",
        "[0-9a-f]",
        TEST_BOUNDS,
    ),
    fault(
        "a traceparent of zeros counts",
        "core/grammar/traceparents.py",
        "-(?!0{32})([0-9a-f]{32})",
        "-([0-9a-f]{32})",
        f"{TEST_CONTEXTS}::test_traceparent_table",
    ),
    fault(
        "servers with the same ratio choose other traces",
        REQUESTS.replace("requests", "contexts"),
        "        return trace_id & RATIO_MASK < self.bound\n",
        "        return trace_id >> 64 < self.bound\n",
        f"{TEST_CONTEXTS}::test_sampling_ratio_agrees_across_servers",
    ),
    fault(
        "spans are kept without a limit",
        SPANS,
        "self.failed_count >= self._limit_count:\n",
        "self.failed_count < 0:\n",
        f"{TEST_LIFETIMES}::test_too_many_spans_are_dropped_and_counted",
        is_quick=True,
    ),
    fault(
        "spans that a dead collector did not take count as under way forever",
        f"{TRACING}/exporter.py",
        "            self._queue.failed_count += len(spans)\n",
        "            self._queue.failed_count += 0\n",
        f"{TEST_BOUNDS}::test_spans_that_no_collector_takes_make_room_for_others",
    ),
    fault(
        "requests that were answered are remembered as under way",
        REQUESTS,
        "            del self._waiting[promise_id]\n",
        "            pass\n",
        f"{TEST_BOUNDS}::test_nothing_is_kept_of_what_has_ended",
    ),
    fault(
        "messages about tasks that have ended are remembered",
        SENDINGS,
        "        self._sent.pop(key, None)\n",
        "        self._sent.get(key)\n",
        f"{TEST_BOUNDS}::test_nothing_is_kept_of_what_has_ended",
    ),
    fault(
        "spans leave before what they tell of is durable",
        f"{TRACING}/tracing.py",
        "        if await durable():\n",
        "        if await durable() or count:\n",
        f"{TEST_BOUNDS}::test_spans_leave_only_when_what_they_tell_of_is_durable",
    ),
    fault(
        "the query of a function's URL goes into its span",
        LIFETIMES,
        'userinfo=b"", query=None,',
        'userinfo=b"",',
        f"{TEST_LIFETIMES}::test_function_tasks_say_what_http_clients_say",
    ),
    fault(
        "spans leave with the kind before theirs",
        f"{TRACING}/encoding.py",
        "_SMALL[span.kind.value + 1]",
        "_SMALL[span.kind.value]",
        f"{TRACING}/test_encoding.py::test_spans_are_encoded_as_by_the_library",
    ),
)
