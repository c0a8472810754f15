"""Who owns the credentials of a server of several processes, and who has a copy."""

import time

from troth.core.limits import COPY_LEASE_MS, COPY_LEASE_OF_NODES_MS
from troth.http.api.context import Api
from troth.http.identity.copied import CopiedCredentials, CredentialsCopy
from troth.http.identity.shared_attempts import SharedAttempts
from troth.http.identity.spreading import CredentialsOwner
from troth.http.supervision.seat import OWNER

from .mesh_member import MeshMember


def share_credentials(member: MeshMember, api: Api) -> CredentialsOwner | CredentialsCopy:
    """Make this process the owner of the credentials, or give it a copy. Before anything runs."""
    calls = member.mesh.calls
    is_shared = api.settings.mesh_listen is not None
    lease_ms = COPY_LEASE_OF_NODES_MS if is_shared else COPY_LEASE_MS
    api.credentials.attempts = SharedAttempts(
        api.settings.failed_attempts_limit_count, api.now_ms, api.shards.failures, calls
    )
    if member.place.process == OWNER:
        return CredentialsOwner(
            api.credentials,
            calls,
            epoch=member.place.incarnation,
            now_s=time.monotonic,
            now_ms=api.now_ms,
            of_cluster=api.settings.cluster is not None,
            lease_ms=lease_ms,
        )
    copied = CopiedCredentials(
        api.settings.basic_auth,
        api.credentials.attempts,
        api.now_ms,
        time.monotonic,
        lease_ms=COPY_LEASE_OF_NODES_MS if is_shared else None,
    )
    api.credentials = copied
    member.seated.on_unowned.append(copied.had_no_owner)
    return CredentialsCopy(copied, calls, now_s=time.monotonic, now_ms=api.now_ms)
