"""Accounts and their tokens, and the audit log: for the server's operator.

An account's functions, tasks and nodes are kept apart from those of other accounts; a token lets a
program act for it. A token's text is shown once, when it is created. An account is never deleted,
only disabled: what it owns would be left without an owner, and a server that has had accounts must
not become open again.

Changes are made one at a time (`EntryChanges`): first in the shards, which store them, then
in the credentials, where they take effect, in all processes of the server (`Credentials.spread`),
then in the audit log. Then the request is answered.
"""

# ruff: noqa: ARG001 — handlers share one signature.

from typing import Final

from troth.core import limits
from troth.core.catalog import Account, Scope, Token, is_reserved
from troth.core.codes import Code
from troth.core.commands import CreateEntry, DeleteEntry, ReplaceEntry
from troth.core.limits import INTEGER_MAX, saturating_add
from troth.core.model import replace
from troth.http.api.context import Api
from troth.http.api.rows import Call, Endpoint, Parameter, Success, answer
from troth.http.api.shards_port import ask
from troth.http.functions.values import is_id, new_id
from troth.http.identity.credentials import TokenState, new_secret
from troth.http.identity.digests import digest_of
from troth.http.identity.entry_changes import DOUBTFUL, EntryChanges
from troth.http.wire.decoding import integer, query_parameters
from troth.http.wire.errors import ApiError, FieldProblem, invalid
from troth.http.wire.json_text import dump, dump_in_order
from troth.http.wire.requests import Request, Response, json_response

from .account_bodies import (
    ChangeAccountBody,
    CreateAccountBody,
    CreateTokenBody,
    RotateTokenBody,
)
from .answers import (
    ACCOUNTS,
    AUDIT_ENTRIES,
    TOKENS,
    AccountObject,
    CreatedObject,
    CreatedTokenObject,
    account_object,
    token_object,
)

_AUDIT_DEFAULT_COUNT: Final = 100
_NO_STORE: Final = [(b"cache-control", b"no-store")]


def entry_changes(api: Api, request: Request | None = None) -> EntryChanges:
    """Make what changes accounts and tokens, for a request if there is one."""
    return EntryChanges(
        api.credentials, lambda command: ask(api.shards, command, request, tolerated=DOUBTFUL)
    )


async def create_account(api: Api, call: Call) -> Response:
    """POST /admin/accounts."""
    body: CreateAccountBody = call.body
    name = body.name or ""
    credentials = api.credentials
    async with (
        entry_changes(api, call.request) as changes,
        api.audit.act(call.request, "account.add", name=name) as told,
    ):
        _check_name(name)
        if credentials.account(name) is not None:
            message = f"There is an account of the name {name!r}."
            raise ApiError(Code.ENTRY_EXISTS, message=message)
        if len(credentials.accounts()) >= limits.ACCOUNTS_LIMIT_COUNT:
            problem = f"would exceed the limit of {limits.ACCOUNTS_LIMIT_COUNT} accounts"
            raise invalid("name", problem)
        now_ms = api.now_ms()
        account = Account(new_id(now_ms), 1, now_ms, name)
        await changes.make(CreateEntry(account))
        credentials.put(account)
        await credentials.spread()
        told["account"] = account.id
    return answer(Code.CREATED, CreatedObject(account.id))


def _check_name(name: str) -> None:
    """Raise ApiError (400) for a name that would be mistaken for something else."""
    if not name.isprintable() or name != name.strip():
        raise invalid("name", "must be printable, without leading or trailing spaces")
    if is_id(name):
        raise invalid("name", "must not look like an id")


async def list_accounts(api: Api, call: Call) -> Response:
    """GET /admin/accounts."""
    made = [account_object(account) for account in api.credentials.accounts()]
    return json_response(200, dump(made))


async def change_account(api: Api, call: Call) -> Response:
    """PATCH /admin/accounts/{id}."""
    body: ChangeAccountBody = call.body
    disabled = bool(body.disabled)
    credentials = api.credentials
    act = "account.disable" if disabled else "account.enable"
    async with (
        entry_changes(api, call.request) as changes,
        api.audit.act(call.request, act, account=call.path["id"]) as told,
    ):
        account = _account(api, call.path["id"])
        told |= {"account": account.id, "name": account.name}
        if account.disabled != disabled:
            account = replace(account, revision=account.revision + 1, disabled=disabled)
            await changes.make(ReplaceEntry(account))
            credentials.put(account)
            if api.placement is not None:
                api.placement.withhold(credentials.disabled_accounts())
        await credentials.spread()  # also of what an earlier request has not waited for
    return answer(Code.OK, account_object(account))


def _account(api: Api, given: str) -> Account:
    account = api.credentials.account(given)
    if account is None:
        raise ApiError(Code.ACCOUNT_NOT_FOUND)
    return account


async def create_token(api: Api, call: Call) -> Response:
    """POST /admin/tokens."""
    body: CreateTokenBody = call.body
    credentials = api.credentials
    secret = new_secret()
    async with (
        entry_changes(api, call.request) as changes,
        api.audit.act(call.request, "token.create", account=body.account) as told,
    ):
        account = _account(api, body.account or "")
        token = _new_token(api, body, account, digest_of(secret))
        told |= {
            "account": account.id,
            "accountName": account.name,
            "token": token.id,
            "name": token.name,
            "scopes": " ".join(token.scopes),
            "idPrefix": token.id_prefix,
            "expiresOn": token.expires_on,
        }
        await _make_room(api, changes, account)
        await changes.make(CreateEntry(token))
        credentials.put(token)
        await credentials.spread()
    return json_response(201, dump(CreatedTokenObject(token.id, secret)), _NO_STORE)


def _new_token(api: Api, body: CreateTokenBody, account: Account, digest: str) -> Token:
    """Return the token that is asked for. Raises ApiError (400) with all that is wrong."""
    found = []
    now_ms = api.now_ms()
    scopes = tuple(scope for scope in Scope if scope.value in (body.scopes or ()))
    id_prefix = body.id_prefix or ""
    expires_on = body.expires_at
    if body.expires_in is not None:
        if expires_on is not None:
            found.append(FieldProblem("expiresIn", "must be absent if there is expiresAt"))
        expires_on = saturating_add(now_ms, body.expires_in)
    if expires_on is not None and not now_ms < expires_on <= INTEGER_MAX:
        found.append(FieldProblem("expiresAt", "must be in the future"))
    if id_prefix and Scope.ADMIN in scopes:
        problem = "must be empty with the scope admin, which applies to the whole server"
        found.append(FieldProblem("idPrefix", problem))
    if is_reserved(id_prefix):
        found.append(FieldProblem("idPrefix", "must not begin like the server's reserved ids"))
    name = body.name or ""
    if not name.isprintable():
        found.append(FieldProblem("name", "must be printable"))
    if found:
        raise ApiError(Code.INVALID, found)
    return Token(new_id(now_ms), 1, now_ms, account.id, digest, scopes, name, id_prefix, expires_on)


async def _make_room(api: Api, changes: EntryChanges, account: Account) -> None:
    """Delete the oldest token that no longer works if there are too many. Raises ApiError (400)."""
    tokens = api.credentials.tokens_of(account)
    if len(tokens) < limits.TOKENS_LIMIT_COUNT:
        return
    dead = {TokenState.REVOKED, TokenState.EXPIRED}
    oldest = next((one for one in tokens if api.credentials.state_of(one) in dead), None)
    if oldest is None:
        problem = f"has {len(tokens)} valid tokens, which is the limit; revoke some"
        raise invalid("account", problem)
    await changes.make(DeleteEntry(oldest.id, oldest.revision))
    api.credentials.drop(oldest)


async def list_tokens(api: Api, call: Call) -> Response:
    """GET /admin/tokens."""
    given = query_parameters(call.request.query)
    credentials = api.credentials
    if given.get("account"):
        tokens = credentials.tokens_of(_account(api, given["account"]))
    else:
        tokens = credentials.tokens()
    made = [
        token_object(
            token,
            credentials.account(token.account_id),
            credentials.state_of(token),
            credentials.used_on(token),
        )
        for token in tokens
    ]
    return json_response(200, dump(made))


async def revoke_token(api: Api, call: Call) -> Response:
    """DELETE /admin/tokens/{id}."""
    credentials = api.credentials
    token_id = call.path["id"]
    async with (
        entry_changes(api, call.request) as changes,
        api.audit.act(call.request, "token.revoke", token=token_id) as told,
    ):
        token = credentials.token(token_id)
        if token is None:
            raise ApiError(Code.TOKEN_NOT_FOUND)
        told |= {"account": token.account_id, "name": token.name}
        if token.revoked_on is None:
            token = replace(token, revision=token.revision + 1, revoked_on=api.now_ms())
            await changes.make(ReplaceEntry(token))
            credentials.put(token)
        await credentials.spread()  # also of what an earlier request has not waited for
    return Response(204)


async def rotate_token(api: Api, call: Call) -> Response:
    """POST /admin/tokens/rotate."""
    body: RotateTokenBody = call.body
    credentials = api.credentials
    secret, grace_ms = new_secret(), body.grace or 0
    if grace_ms > limits.TOKEN_GRACE_LIMIT_MS:
        allowed = f"between 0 and {limits.TOKEN_GRACE_LIMIT_MS}"
        raise invalid("grace", f"must be {allowed} (got {grace_ms})")
    async with (
        entry_changes(api, call.request) as changes,
        api.audit.act(call.request, "token.rotate", token=body.id, graceMs=grace_ms) as told,
    ):
        token = _valid_token(api, body.id or "")
        told |= {"token": token.id, "account": token.account_id, "name": token.name}
        token = replace(
            token,
            revision=token.revision + 1,
            digest=digest_of(secret),
            old_digest=token.digest if grace_ms else "",
            old_until=saturating_add(api.now_ms(), grace_ms) if grace_ms else None,
        )
        await changes.make(ReplaceEntry(token))
        credentials.put(token)
        if not grace_ms:
            credentials.end_streams(token)
        await credentials.spread()
    return json_response(200, dump(CreatedTokenObject(token.id, secret)), _NO_STORE)


def _valid_token(api: Api, given: str) -> Token:
    """Return the token of an id, or the only valid one of a name. Raises ApiError."""
    credentials = api.credentials
    token = credentials.token(given)
    if token is None:
        named = [
            one
            for one in credentials.tokens()
            if given and one.name == given and credentials.state_of(one) is TokenState.ACTIVE
        ]
        if len(named) > 1:
            problem = f"is the name of {len(named)} valid tokens; give the id of one"
            raise invalid("id", problem)
        token = named[0] if named else None
    if token is None:
        raise ApiError(Code.TOKEN_NOT_FOUND)
    state = credentials.state_of(token)
    if state in (TokenState.REVOKED, TokenState.EXPIRED):
        raise invalid("id", f"names a token that is {state}; make a new one")
    return token


async def show_audit_log(api: Api, call: Call) -> Response:
    """GET /admin/audit."""
    text = query_parameters(call.request.query).get("limit", "")
    limit_count = integer("query limit", text) if text else _AUDIT_DEFAULT_COUNT
    if not 1 <= limit_count <= limits.AUDIT_PAGE_LIMIT_COUNT:
        allowed = f"between 1 and {limits.AUDIT_PAGE_LIMIT_COUNT}"
        raise invalid("query limit", f"must be {allowed} (got {limit_count})")
    return json_response(200, dump_in_order(await api.audit.read(limit_count)), _NO_STORE)


_ACCOUNT_PARAMETER = Parameter(
    "id",
    "The account's id, or its name, percent-encoded.",
    {"type": "string", "minLength": 1},
    required=True,
    example="billing",
)

ENDPOINTS = (
    Endpoint(
        name="createAccount",
        group="Accounts",
        method="POST",
        path="/admin/accounts",
        summary="Create an account",
        description=(
            "The first account ends open access: from then on every request needs credentials."
        ),
        handler=create_account,
        scope=Scope.ADMIN,
        body=CreateAccountBody,
        successes=(Success(201, "The account was created.", CreatedObject),),
        refusals=(Code.ENTRY_EXISTS,),
    ),
    Endpoint(
        name="listAccounts",
        group="Accounts",
        method="GET",
        path="/admin/accounts",
        summary="List the accounts",
        handler=list_accounts,
        scope=Scope.ADMIN,
        successes=(Success(200, "All of them.", ACCOUNTS),),
    ),
    Endpoint(
        name="changeAccount",
        group="Accounts",
        method="PATCH",
        path="/admin/accounts/{id...}",
        summary="Disable or enable an account",
        description=(
            "Disabling takes effect immediately: no token of the account works, and its "
            "streams end. What it owns is kept. Its waiting function tasks do not start "
            "until it is enabled again, unless they have timed out by then. Running ones "
            "continue."
        ),
        handler=change_account,
        scope=Scope.ADMIN,
        body=ChangeAccountBody,
        path_parameters=(_ACCOUNT_PARAMETER,),
        successes=(Success(200, "The account after the change.", AccountObject),),
        refusals=(Code.ACCOUNT_NOT_FOUND,),
    ),
    Endpoint(
        name="createToken",
        group="Accounts",
        method="POST",
        path="/admin/tokens",
        summary="Make a token",
        description=(
            "The token's text is in this answer and never shown again; the server stores "
            "only a digest of it. A token with an `idPrefix` may name only ids of promises, "
            "schedules and locks that begin with it, and may listen only to groups that do."
        ),
        handler=create_token,
        scope=Scope.ADMIN,
        body=CreateTokenBody,
        successes=(Success(201, "The token was created.", CreatedTokenObject),),
        refusals=(Code.ACCOUNT_NOT_FOUND,),
    ),
    Endpoint(
        name="listTokens",
        group="Accounts",
        method="GET",
        path="/admin/tokens",
        summary="List the tokens",
        handler=list_tokens,
        scope=Scope.ADMIN,
        query=(
            Parameter(
                "account", "Only tokens of this account, given by id or name.", {"type": "string"}
            ),
        ),
        successes=(Success(200, "All tokens, without their texts.", TOKENS),),
        refusals=(Code.ACCOUNT_NOT_FOUND,),
    ),
    Endpoint(
        name="rotateToken",
        group="Accounts",
        method="POST",
        path="/admin/tokens/rotate",
        summary="Give a token a new secret",
        description=(
            "The token keeps its id and all it may do. Its new text is in this answer and never "
            "shown again. The text before works for the time of `grace`; then, or immediately, its "
            "streams end, and clients with the new text come again."
        ),
        handler=rotate_token,
        scope=Scope.ADMIN,
        body=RotateTokenBody,
        successes=(Success(200, "The token has a new secret.", CreatedTokenObject),),
        refusals=(Code.TOKEN_NOT_FOUND,),
        examples=("troth token rotate prometheus --grace 1h",),
    ),
    Endpoint(
        name="revokeToken",
        group="Accounts",
        method="DELETE",
        path="/admin/tokens/{id}",
        summary="Revoke a token",
        description=(
            "Takes effect immediately and permanently; the token's streams end. Safe to repeat."
        ),
        handler=revoke_token,
        scope=Scope.ADMIN,
        path_parameters=(
            Parameter(
                "id",
                "The token's id, not its text.",
                {"type": "string", "minLength": 1},
                required=True,
                example="65fb40f0a1b2c3d4e5f60718",
            ),
        ),
        successes=(Success(204, "The token is revoked."),),
        refusals=(Code.TOKEN_NOT_FOUND,),
    ),
    Endpoint(
        name="showAuditLog",
        group="Accounts",
        method="GET",
        path="/admin/audit",
        summary="List administrative changes",
        description="Who changed what, without secrets. The data directory has the whole log.",
        handler=show_audit_log,
        scope=Scope.ADMIN,
        query=(
            Parameter(
                "limit",
                "Maximum number of entries, the newest ones.",
                {"type": "integer", "minimum": 1, "maximum": limits.AUDIT_PAGE_LIMIT_COUNT},
                example=20,
            ),
        ),
        successes=(Success(200, "The newest entries.", AUDIT_ENTRIES),),
    ),
)
