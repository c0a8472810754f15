"""Accounts, tokens and sessions of a server of three processes: what one is told, all go by."""

import os
import select
import signal
import time

from tests.http.processes.tenancy import CONNECTIONS_COUNT, SHARDS_COUNT, Connection, Tenancy
from troth.persistence.placement import by_id, dealt_shards, groups_by_shard


def test_a_change_of_a_token_holds_in_all_processes_when_it_is_answered(tenancy: Tenancy) -> None:
    for place in range(4):
        token_id, secret = tenancy.new_token(place, "billing")
        bearer = f"Bearer {secret}"
        assert tenancy.statuses(Authorization=bearer) == {200}
        status, rotated = tenancy.admin(place + 1, "POST", "/admin/tokens/rotate", {"id": token_id})
        assert status == 200
        assert tenancy.statuses(Authorization=bearer) == {401}
        bearer = f"Bearer {rotated['token']}"
        assert tenancy.statuses(Authorization=bearer) == {200}
        assert tenancy.admin(place + 2, "DELETE", f"/admin/tokens/{token_id}")[0] == 204
        assert tenancy.statuses(Authorization=bearer) == {401}


def test_refusals_are_the_same_whoever_is_asked(tenancy: Tenancy) -> None:
    answers = [
        tenancy.admin(place, "POST", "/admin/accounts", {"name": "billing"})
        for place in range(CONNECTIONS_COUNT)
    ]
    for _, body in answers:
        for detail in body["error"]["details"]:
            del detail["metadata"]["requestId"]
    assert {status for status, _ in answers} == {409}
    assert all(body == answers[0][1] for _, body in answers)
    answers = [
        tenancy.admin(place, "POST", "/admin/tokens", {}) for place in range(CONNECTIONS_COUNT)
    ]
    assert {status for status, _ in answers} == {400}


def test_a_session_made_on_one_process_works_on_another_and_ends_everywhere(
    tenancy: Tenancy,
) -> None:
    _, secret = tenancy.new_token(0, "billing")
    page = {"X_Troth_UI": "1"}
    for place in range(3):
        tenancy.connections[place].send("POST", "/session", {"token": secret}, **page)
        status, made, cookie = tenancy.connections[place].receive()
        assert status == 201
        assert tenancy.statuses(Cookie=cookie, **page) == {200}
        for one in tenancy.connections:
            status, shown = one.ask("GET", "/session", Cookie=cookie, **page)
            assert (status, shown["csrf"]) == (200, made["csrf"])
        status, _ = tenancy.connections[place + 5].ask(
            "DELETE", "/session", Cookie=cookie, X_Troth_CSRF=made["csrf"], **page
        )
        assert status == 204
        assert tenancy.statuses(Cookie=cookie, **page) == {401}


def test_a_code_made_on_one_process_opens_one_session_on_another(tenancy: Tenancy) -> None:
    for place in range(3):
        status, made = tenancy.admin(place, "POST", "/admin/session-code")
        assert status == 201
        answers = [
            one.ask("POST", "/session", {"code": made["code"]}, X_Troth_UI="1")[0]
            for one in tenancy.connections[4:7]
        ]
        assert sorted(answers) == [201, 401, 401]


def test_an_account_is_disabled_while_one_process_hangs(tenancy: Tenancy) -> None:
    # What the catalog says of it must be in a group that goes on.
    _, made = tenancy.admin(0, "POST", "/admin/accounts", {"name": "shipping"})
    group = groups_by_shard(dealt_shards(SHARDS_COUNT, 3))[by_id(SHARDS_COUNT)(made["id"])]
    _, secret = tenancy.new_token(1, "shipping")
    bearer = f"Bearer {secret}"
    assert tenancy.statuses(Authorization=bearer) == {200}
    place = 1 if group == 2 else 2
    hung = tenancy.server.serving_ids()[place]
    began_s = time.monotonic()
    os.kill(hung, signal.SIGSTOP)
    try:
        for one in tenancy.connections:
            key = f"Bearer {tenancy.key}"
            one.send("PATCH", "/admin/accounts/shipping", {"disabled": True}, Authorization=key)
        # Whichever connections that process has are not answered.
        sockets = {one.http.sock: one for one in tenancy.connections}
        ready, _, _ = select.select(list(sockets), [], [], 30)
        assert [sockets[one].receive()[0] for one in ready[:1]] == [200]
        late = [Connection(tenancy.server) for _ in range(CONNECTIONS_COUNT)]
        for one in late:
            one.send("GET", "/whoami", Authorization=bearer)
    finally:
        os.kill(hung, signal.SIGCONT)
    answers = {one.receive()[0] for one in late}
    for one in late:
        one.http.close()
    assert answers <= {401, 503}, f"after {time.monotonic() - began_s:.1f} s"
