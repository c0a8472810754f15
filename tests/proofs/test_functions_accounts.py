"""What belongs to one account is not there for another, on a real server and on every endpoint.

The endpoints are those that the server describes (`/openapi.json`): one that is new fails here
until `functions_walk.requests` says how it would name somebody else's things.
"""

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.helpers.server import ServerProcess

from .functions_setup import SCOPES, Caller, make_account, make_token, operator_of
from .functions_walk import (
    MAKING,
    NODE_WORK,
    SEVERAL,
    SHOWING,
    Household,
    WorkStream,
    comparable,
    described,
    random_things,
    requests,
)

LACKS_SCOPE = 40312
SOON_S = 10.0  # at once; the rest is for machines that do other things, too


@pytest.fixture
def households(server: ServerProcess) -> Iterator[tuple[Household, Household]]:
    """Two accounts, each with one of everything."""
    with ExitStack() as opened:
        made = []
        for name in ("ann", "ben"):
            household = Household.make(opened.enter_context(make_account(server, name)))
            opened.callback(household.stream.close)
            opened.enter_context(household.reporting())
            made.append(household)
        ann, ben = made
        yield ann, ben


@pytest.mark.slow
def test_what_is_anothers_is_answered_as_what_does_not_exist(
    server: ServerProcess, households: tuple[Household, Household]
) -> None:
    ann, ben = households
    walked = set(requests(ben.things))
    assert set(described(server, "/v1/")) == walked, "an endpoint that is not walked"
    ben.assert_untouched()
    stranger = random_things()
    # Those of the other account and those of nobody; then the same with a node of one's own.
    # Registering says whether a node exists: ids that nobody has are for new ones.
    pairs = (
        (ben.things, stranger, walked - MAKING),
        (ann.with_tasks_of(ben.things), ann.with_tasks_of(stranger), NODE_WORK),
    )
    for theirs, nobodys, names in pairs:
        for name in sorted(names):
            of_nobody = requests(nobodys)[name]
            for request, other in zip(requests(theirs)[name], of_nobody, strict=True):
                answer = request.sent_by(ann.caller)
                _assert_hidden(name, answer.status, own_node=theirs is not ben.things)
                for task in ben.things.tasks if name not in SEVERAL else ():
                    assert task.encode() not in answer.body
                if name != "registerNode":
                    expected = comparable(other.sent_by(ann.caller), nobodys)
                    assert comparable(answer, theirs) == expected, request
                ben.assert_untouched()
                ann.assert_untouched()

    assert ben.finish(ben.things.running).status == 201
    ben.take(ben.things.waiting)
    assert ben.finish(ben.things.waiting).status == 201
    result = ben.caller.send("GET", f"/v1/task/{ben.things.waiting}/result")
    assert (result.status, result.body) == (200, b"done")


def _assert_hidden(name: str, status: int, *, own_node: bool) -> None:
    if name in SHOWING or (own_node and name in SEVERAL):
        assert status == 200, name
    else:
        assert status in ({404, 409} if own_node else {404}), name


@pytest.mark.slow
def test_lists_show_nothing_of_another(households: tuple[Household, Household]) -> None:
    ann, ben = households
    for one, other in ((ann, ben), (ben, ann)):
        for name in SHOWING:
            for request in requests(one.things)[name]:
                answer = request.sent_by(one.caller)
                text = answer.body.decode()
                assert answer.status == 200
                assert other.things.hidden(text) == text, request
                assert name == "showUsage" or one.things.hidden(text) != text, request
        for request in requests(other.things)["listFunctionTasks"][1:]:
            assert request.sent_by(one.caller).json == []


@pytest.mark.slow
def test_a_token_does_what_its_scopes_say_and_nothing_else(server: ServerProcess) -> None:
    with make_account(server, "ann"):
        callers = {
            scope: Caller(server.url, make_token(server, "ann", (scope,))[0]) for scope in SCOPES
        }
    for name, operation in described(server, "/v1/").items():
        assert operation["scopes"] <= set(SCOPES), name
        # Of nothing: who may ask is told that it is not there.
        for request in requests(random_things())[name]:
            for scope, caller in callers.items():
                answer = request.sent_by(caller)
                is_refused = answer.status == 403 and answer.json["error"]["code"] == LACKS_SCOPE
                assert is_refused == (scope not in operation["scopes"]), (name, scope, answer)
                assert answer.status != 401
    for caller in callers.values():
        caller.close()


@pytest.mark.slow
def test_a_revoked_token_is_worth_nothing_at_once(server: ServerProcess) -> None:
    addresses = (f"127.0.1.{number}" for number in itertools.count(1))
    with make_account(server, "ann") as ann:
        token, token_id = make_token(server, "ann")
        household = Household.make(Caller(server.url, token))
        poll_port = Caller(server.poll_url, token)
        streams = [
            household.stream,
            WorkStream(household.caller, "/poll/group/one"),
            WorkStream(poll_port, "/group/two"),
        ]
        guarded = [
            (operation["method"], re.sub(r"\{[^}]*\}", "x", operation["path"]))
            for operation in described(server, "/").values()
            if operation["scopes"]
        ]
        assert len(guarded) > len(requests(household.things))
        # One connection for each request from an address of its own: the server counts failures.
        callers = [Caller(server.url, token, address=next(addresses)) for _ in guarded]
        for caller in callers:
            assert caller.send("GET", "/v1/function/list").status == 200
        assert not any(stream.ended_at for stream in streams)

        with operator_of(server) as operator:
            begun = time.monotonic()
            assert operator.send("DELETE", f"/admin/tokens/{token_id}").status in {200, 204}
        for caller, (method, path) in zip(callers, guarded, strict=True):
            answer = caller.send(method, path)
            assert answer.status == 401, (method, path, answer)
            caller.close()
        with Caller(server.poll_url, token, address=next(addresses)) as caller:
            assert caller.send("GET", "/group/two").status == 401
        asked_s = time.monotonic() - begun
        while not all(stream.ended_at for stream in streams):
            assert time.monotonic() - begun < SOON_S, "a stream of a revoked token lives on"
            time.sleep(0.01)

        assert asked_s < SOON_S, "too slow to prove anything"
        # The account's other tokens are as good as ever.
        assert ann.send("GET", f"/v1/function/{household.things.function}").status == 200
        for stream in streams:
            stream.close()
        household.caller.close()
        poll_port.close()
