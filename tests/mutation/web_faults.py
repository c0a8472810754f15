"""The planted faults of the web UI's side of the server: the live feed and sessions."""

from .fault import Fault, fault

FEED, FEED_OF_SERVER = "http/web/test_feed.py", "http/web/test_feed_of_server.py"

WEB_FAULTS: tuple[Fault, ...] = (
    # The live feed
    fault(
        "events are told of promises that a token may not name",
        "core/state/watching.py",
        "            if changed.startswith(prefix):\n",
        "            if changed:\n",
        "core/test_watching.py::test_a_change_outside_of_the_prefix_is_none",
        is_quick=True,
    ),
    fault(
        "events of receivers and failures ignore the prefix",
        "http/web/feed.py",
        "        rights = Rights(Scope.METRICS_READ in principal.scopes, prefix)\n",
        '        rights = Rights(Scope.METRICS_READ in principal.scopes, "")\n',
        f"{FEED}::test_what_a_prefix_does_not_show_is_not_told",
        is_quick=True,
    ),
    fault(
        "promises outside of the prefix can be watched",
        "http/web/feed_endpoints.py",
        "        refuse_unless_within(principal, watched)\n",
        "",
        f"{FEED_OF_SERVER}::test_one_hears_what_one_may_read",
    ),
    fault(
        "a stream outlives its token",
        "http/identity/credentials.py",
        "        for stop in list(self._watched.get(token.id, ())):\n            stop()\n",
        "",
        f"{FEED_OF_SERVER}::test_a_stream_ends_with_its_token",
    ),
    fault(
        "events are kept for clients that read slowly",
        "http/web/feed_stream.py",
        "        self._newest[topic] = event\n",
        '        self._newest[topic] = self._newest.get(topic, b"") + event\n',
        f"{FEED}::test_stream_slow_reader_is_skipped_not_buffered",
        is_quick=True,
    ),
)
