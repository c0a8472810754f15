"""The planted faults of the web UI's side of the server: the live feed and sessions."""

from .fault import Fault, fault

CREDENTIALS, SESSIONS = "http/identity/credentials.py", "http/web/test_sessions.py"
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
        "nobody is told of promises whose tasks a completion makes",
        "core/state/watching.py",
        "self._note_resumed([*callbacks], state.awaits.waiters_of(record.id), state)",
        "del callbacks",
        "core/test_watching.py::test_a_promise_that_goes_on_and_the_origin_of_one_that_goes_are_told",
        is_quick=True,
    ),
    fault(
        "nobody is told of what is deleted below a promise",
        "core/state/watching.py",
        "                    self._note_origin(promise_id, state.find_promise(promise_id))\n",
        "                    del promise_id\n",
        "core/test_watching.py::test_a_promise_that_goes_on_and_the_origin_of_one_that_goes_are_told",
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
        CREDENTIALS,
        "for stop in list(self._watched.get(token.id, ())):",
        "for stop in ():",
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
    # Sessions
    fault(
        "a session's request needs no CSRF token",
        "http/api/session_cookies.py",
        "        if not hmac.compare_digest(token, session.csrf.encode()):\n",
        "        if False:\n",
        f"{SESSIONS}::test_session_needs_csrf_and_same_origin",
        is_quick=True,
    ),
    fault(
        "a cookie counts for pages of other ports",
        "http/api/session_cookies.py",
        '        return site == b"same-origin"\n',
        '        return site in (b"same-origin", b"same-site")\n',
        f"{SESSIONS}::test_session_needs_csrf_and_same_origin",
    ),
    fault(
        "a cookie counts for links that change something",
        "http/api/rows.py",
        "        if self.changes_by_link:\n            return SessionUse.REFUSED\n",
        "",
        f"{SESSIONS}::test_cookie_never_claims_by_link",
        is_quick=True,
    ),
    fault(
        "a session outlives its token",
        CREDENTIALS,
        "            session.forget = self.watch(principal, lambda: self.sessions.end(session))\n",
        "",
        f"{SESSIONS}::test_a_session_ends_with_its_token",
    ),
    fault(
        "a session's streams outlive it",
        "http/identity/sessions.py",
        "        for stop in list(session.streams):\n            stop()\n",
        "",
        f"{SESSIONS}::test_an_open_stream_is_use",
    ),
    fault(
        "a one-time code works again",
        "http/identity/sessions.py",
        "        code = self._codes.pop(digest_of(secret), None)\n",
        "        code = self._codes.get(digest_of(secret))\n",
        f"{SESSIONS}::test_one_time_code_works_once_within_a_minute",
    ),
    fault(
        "the Host of a request is not checked",
        "http/api/dispatch.py",
        "            self._hosts.refuse_stranger(request)\n",
        "            pass\n",
        "http/api/test_hosts.py::test_an_open_server_refuses_strangers_names_whatever_is_asked_for",
    ),
)
