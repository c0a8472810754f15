"""The metrics of the process that `prometheus_client` knows: memory, descriptors, the interpreter.

The library takes a tenth of the time of a server's start, so this module is loaded after it.
"""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.openmetrics import exposition as openmetrics


def _made() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


_REGISTRY: Final = _made()


def text_of_process(*, is_open: bool) -> bytes:
    """Return the text of these metrics, in OpenMetrics format if `is_open`."""
    return (openmetrics.generate_latest if is_open else generate_latest)(_REGISTRY)
