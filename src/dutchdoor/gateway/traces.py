"""A span for each request and each try, after OpenTelemetry's conventions for generative AI.

On where the environment names a collector, as for every OpenTelemetry program: OTEL_EXPORTER_OTLP_ENDPOINT or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. A caller's `traceparent` is honoured. Never a prompt, an answer or a key.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dutchdoor import __version__
from dutchdoor.core import MissingExtraError
from dutchdoor.gateway.record import Done, Refused, Tried

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MOST_OPEN = 10_000  # requests whose tries are kept until they end; one that its client left may never be told
GOODBYE_MS = 3000  # for the last spans, at the end
# https://github.com/open-telemetry/semantic-conventions-genai, gen_ai.operation.name
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
NANO = 1_000_000_000


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a collector, and does not turn OpenTelemetry off."""
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(environ.get(name) for name in ENDPOINTS)


class Traces:
    """Makes spans as an observer; they are sent by a thread of the SDK, in batches."""

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        """Raises MissingExtraError. Without an exporter it is OTLP over HTTP, set up by the environment."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingExtraError("sending traces", extra="otel") from error
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "dutchdoor"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dutchdoor.gateway", __version__)
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tries: dict[str, list[tuple[Tried, int]]] = {}
        self._failed: dict[str, None] = {}  # told already, and perhaps told once more as refused

    def tried(self, tried: Tried) -> None:
        if tried.id not in self._tries:
            _bounded(self._tries)
        self._tries.setdefault(tried.id, []).append((tried, time.time_ns()))

    def done(self, done: Done) -> None:
        operation = OPERATIONS.get(done.dialect, "chat")
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "dutchdoor",
            "gen_ai.request.model": done.model,
            "gen_ai.response.model": done.upstream_model or done.model,
            "gen_ai.response.id": done.id,
            "gen_ai.usage.input_tokens": done.input_tokens,
            "gen_ai.usage.output_tokens": done.output_tokens,
            "gen_ai.request.stream": done.stream,
            "http.route": done.dialect,
            "dutchdoor.target": done.target,
            "dutchdoor.state": done.state,
            "dutchdoor.counted": done.counted,
            "dutchdoor.key.id": done.key,
            "dutchdoor.admitted_s": done.admitted_s,
        }
        if done.cached_tokens:
            attributes["gen_ai.usage.cache_read.input_tokens"] = done.cached_tokens
        if done.stream and done.first_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = done.first_s
        if done.nanodollars is not None:
            attributes["dutchdoor.cost.nanodollars"] = done.nanodollars
        if done.state == "failed":
            _bounded(self._failed)
            self._failed[done.id] = None
        failed = None if done.state in ("finished", "left") else done.state
        self._span(f"{operation} {done.model}", done, attributes, failed)

    def refused(self, refused: Refused) -> None:
        if refused.id in self._failed:  # no target answered: it has its span
            del self._failed[refused.id]
            return
        operation = OPERATIONS.get(refused.dialect, "chat")
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "dutchdoor",
            "gen_ai.response.id": refused.id,
            "http.route": refused.dialect,
            "http.response.status_code": refused.status,
        }
        if refused.model is not None:
            attributes["gen_ai.request.model"] = refused.model
        if refused.key is not None:
            attributes["dutchdoor.key.id"] = refused.key
        self._span(operation, refused, attributes, refused.code or str(refused.status))

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._provider.force_flush(GOODBYE_MS)
        self._provider.shutdown()

    def _span(self, name: str, told: Done | Refused, attributes: dict[str, Any], failed: str | None) -> None:
        trace = self._trace
        came_with = told.traceparent
        parent = self._propagator.extract({"traceparent": came_with}) if came_with else None
        start = int(told.at * NANO)
        span = self._tracer.start_span(
            name, parent, kind=trace.SpanKind.SERVER, attributes=attributes, start_time=start
        )
        if failed is not None:
            span.set_attribute("error.type", failed)
            span.set_status(trace.StatusCode.ERROR)
        within = trace.set_span_in_context(span)
        for tried, ended in self._tries.pop(told.id, ()):
            self._try(tried, ended, within)
        span.end(start + int(told.total_s * NANO))

    def _try(self, tried: Tried, ended: int, within: Any) -> None:
        trace = self._trace
        attributes: dict[str, Any] = {"dutchdoor.target": tried.target}
        if tried.status is not None:
            attributes["http.response.status_code"] = tried.status
        span = self._tracer.start_span(
            f"ask {tried.target}",
            within,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=ended - int(tried.total_s * NANO),
        )
        if tried.failure is not None:
            span.set_attribute("error.type", str(tried.status or "unreachable"))
            span.set_status(trace.StatusCode.ERROR, tried.failure)
        span.end(ended)


def _bounded(kept: dict[str, Any]) -> None:
    """Let the oldest go where there are too many."""
    if len(kept) >= MOST_OPEN:
        del kept[next(iter(kept))]
