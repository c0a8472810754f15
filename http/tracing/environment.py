"""The variables of OpenTelemetry that say whether and how spans are exported.

They are OpenTelemetry's own, with its names and meanings, so there are no settings of ours for the
same. The SDK reads the rest of them: headers, timeout, compression, certificates, batches.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from .contexts import Sampler

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE_NAME: Final = "troth"
PROTOCOL: Final = "http/protobuf"
VARIABLES: Final[Mapping[str, str]] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Base URL of a collector, such as `http://localhost:4318`; "
    "without one there are no traces. `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is the whole URL.",
    "OTEL_EXPORTER_OTLP_HEADERS": "Headers of requests to the collector: `name=value`, separated "
    "by commas.",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "Seconds to wait for the collector (10).",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "`gzip`, `deflate` or `none` (none).",
    "OTEL_SERVICE_NAME": "The name under which the spans appear (troth).",
    "OTEL_RESOURCE_ATTRIBUTES": "More about this server: `name=value`, separated by commas.",
    "OTEL_TRACES_SAMPLER": "`parentbased_traceidratio` (default), `traceidratio`, `always_on`, "
    "`always_off`, `parentbased_always_on` or `parentbased_always_off`.",
    "OTEL_TRACES_SAMPLER_ARG": "The ratio of traces to sample, from 0 to 1 (1).",
    "OTEL_BSP_SCHEDULE_DELAY": "Milliseconds that a span waits for others, to leave with them "
    "(1000).",
    "OTEL_SDK_DISABLED": "`true` switches traces off.",
}
"""The variables for operators, as the documentation explains them."""

_RATIO_SAMPLERS: Final = {"traceidratio": False, "parentbased_traceidratio": True}
_FIXED_SAMPLERS: Final = {
    "always_on": Sampler.of(1.0, follows_parent=False),
    "always_off": Sampler.of(0.0, follows_parent=False),
    "parentbased_always_on": Sampler.of(1.0),
    "parentbased_always_off": Sampler.of(0.0),
}
_DEFAULT_SAMPLER: Final = "parentbased_traceidratio"
_log = structlog.get_logger("troth.http.tracing")


@dataclass(frozen=True, slots=True)
class TracingPlan:
    """What the environment asks for: which traces, and the name of the service."""

    sampler: Sampler
    service_name: str | None


def plan_of(environment: Mapping[str, str]) -> TracingPlan | None:
    """Return what is asked for; None if there are to be no traces, or there can be none."""
    endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
    if endpoint is None or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("", "otlp"):
        return None
    if not is_installed():
        _log.warning(
            f"{endpoint} is set, but OpenTelemetry is not installed, so there are no traces; "
            "install it with: pip install 'troth[otel]'"
        )
        return None
    protocol = environment.get(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    ).strip()
    if protocol not in ("", PROTOCOL):
        _log.warning("spans are sent in another protocol than asked for", protocol=PROTOCOL)
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return TracingPlan(sampler_of(environment), None if named else SERVICE_NAME)


def is_installed() -> bool:
    """Return whether the extra `otel` is, without importing it."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ImportError:
        return False


def sampler_of(environment: Mapping[str, str]) -> Sampler:
    """Return the sampler that is asked for; one that is unknown is the default, with a warning."""
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip() or _DEFAULT_SAMPLER
    if name in _FIXED_SAMPLERS:
        return _FIXED_SAMPLERS[name]
    if name not in _RATIO_SAMPLERS:
        _log.warning("OTEL_TRACES_SAMPLER names no sampler; the default is taken", given=name)
        name = _DEFAULT_SAMPLER
    given = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        ratio = float(given)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        _log.warning("OTEL_TRACES_SAMPLER_ARG is no ratio from 0 to 1; it is 1 now", given=given)
        ratio = 1.0
    return Sampler.of(ratio, follows_parent=_RATIO_SAMPLERS[name])
