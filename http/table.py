"""The endpoint table: every row, for each port."""

from . import (
    account_endpoints,
    admin_endpoints,
    build_endpoints,
    execution_endpoints,
    function_endpoints,
    import_endpoints,
    label_endpoints,
    lock_endpoints,
    node_endpoints,
    node_work_endpoints,
    promise_endpoints,
    retention_endpoints,
    schedule_endpoints,
    search_endpoints,
    server_endpoints,
    task_endpoints,
    usage,
    worker_endpoints,
)
from .endpoints import Endpoint

API_ENDPOINTS: tuple[Endpoint, ...] = (
    *promise_endpoints.ENDPOINTS,
    *task_endpoints.ENDPOINTS,
    *schedule_endpoints.ENDPOINTS,
    *lock_endpoints.ENDPOINTS,
    *search_endpoints.ENDPOINTS,
    *function_endpoints.ENDPOINTS,
    *label_endpoints.ENDPOINTS,
    *usage.ENDPOINTS,
    *build_endpoints.ENDPOINTS,
    *admin_endpoints.ENDPOINTS,
    *retention_endpoints.ENDPOINTS,
    *import_endpoints.ENDPOINTS,
    *account_endpoints.ENDPOINTS,
    *execution_endpoints.ENDPOINTS,
    *node_endpoints.ENDPOINTS,
    *node_work_endpoints.ENDPOINTS,
    *worker_endpoints.ENDPOINTS,
    *server_endpoints.ENDPOINTS,
)
"""What the API port serves."""

POLL_ENDPOINTS: tuple[Endpoint, ...] = worker_endpoints.POLL_PORT_ENDPOINTS
"""What the poll port serves."""
