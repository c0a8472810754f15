"""The endpoint table: every row, for each port."""

from troth.http.admin import (
    account_endpoints,
    admin_endpoints,
    import_endpoints,
    retention_endpoints,
    server_endpoints,
)
from troth.http.api.rows import Endpoint
from troth.http.bulk import endpoints as bulk_endpoints
from troth.http.envelope import endpoints as envelope_endpoints
from troth.http.executions import execution_endpoints
from troth.http.functions import build_endpoints, function_endpoints, label_endpoints
from troth.http.functions import usage_endpoints as usage
from troth.http.nodes import node_endpoints, node_exchange, node_work_endpoints
from troth.http.overview import (
    cluster_endpoints,
    failure_endpoints,
    statistics_endpoints,
    traffic_endpoints,
)
from troth.http.overview import server_endpoints as overview
from troth.http.promises import (
    batch_endpoints,
    lock_endpoints,
    promise_endpoints,
    schedule_control_endpoints,
    schedule_endpoints,
    search_endpoints,
    task_endpoints,
    worker_endpoints,
)
from troth.http.questions import list_endpoints, remedies, why_endpoints
from troth.http.web import feed_endpoints, session_endpoints, ui_endpoints

API_ENDPOINTS: tuple[Endpoint, ...] = (
    *promise_endpoints.ENDPOINTS,
    *batch_endpoints.ENDPOINTS,
    *task_endpoints.ENDPOINTS,
    *schedule_endpoints.ENDPOINTS,
    *schedule_control_endpoints.ENDPOINTS,
    *lock_endpoints.ENDPOINTS,
    *search_endpoints.ENDPOINTS,
    *why_endpoints.ENDPOINTS,
    *list_endpoints.ENDPOINTS,
    *remedies.ENDPOINTS,
    *bulk_endpoints.ENDPOINTS,
    *envelope_endpoints.ENDPOINTS,
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
    *node_exchange.ENDPOINTS,
    *worker_endpoints.ENDPOINTS,
    *overview.ENDPOINTS,
    *traffic_endpoints.ENDPOINTS,
    *failure_endpoints.ENDPOINTS,
    *statistics_endpoints.ENDPOINTS,
    *cluster_endpoints.ENDPOINTS,
    *feed_endpoints.ENDPOINTS,
    *session_endpoints.ENDPOINTS,
    *ui_endpoints.ENDPOINTS,
    *server_endpoints.ENDPOINTS,
)
"""What the API port serves."""

POLL_ENDPOINTS: tuple[Endpoint, ...] = (
    *worker_endpoints.POLL_PORT_ENDPOINTS,
    *(row for row in server_endpoints.ENDPOINTS if row.any_host),
)
"""What the poll port serves: streams, and what probes of either port ask."""
