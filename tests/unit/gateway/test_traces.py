"""Traces: OpenTelemetry's own exporter, against a collector that speaks OTLP over HTTP."""

import http.server
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dutchdoor.gateway.record import Done, Refused, Tried
from dutchdoor.gateway.traces import MOST_OPEN, Traces, wanted

AT = 1_780_000_000.25
DONE = Done(
    id="req_1", key="key_1", dialect="/v1/chat/completions", model="m", target="t", upstream_model="big",
    state="finished", counted="reported", stream=True, input_tokens=7, output_tokens=4, cached_tokens=3,
    nanodollars=19_000, at=AT, admitted_s=0.002, first_s=0.0123, total_s=0.5,
)  # fmt: skip


class Collector(http.server.ThreadingHTTPServer):
    """Takes what an exporter posts to `/v1/traces`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.taken: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[dict[str, object]]:
        found = []
        for request in self.taken:
            for resource in request.resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [read(span, service["service.name"]) for span in scope.spans]
        return found


class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        self.server.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def read(span: object, service: str) -> dict[str, object]:
    kinds = ("string_value", "int_value", "double_value", "bool_value")
    attributes = {
        each.key: next(getattr(each.value, kind) for kind in kinds if each.value.HasField(kind))
        for each in span.attributes  # type: ignore[attr-defined]
    }
    return {
        "service": service, "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(),  # type: ignore[attr-defined]
        "parent": span.parent_span_id.hex(), "kind": span.kind, "error": span.status.code == 2,  # type: ignore[attr-defined]
        "start": span.start_time_unix_nano, "end": span.end_time_unix_nano, **attributes,  # type: ignore[attr-defined]
    }  # fmt: skip


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join(5)


def test_a_request_is_a_span_with_the_names_of_the_conventions(collector: Collector) -> None:
    traces = Traces()
    traces.done(DONE)
    traces.close()
    (span,) = collector.spans
    assert span["name"] == "chat m" and span["kind"] == 2 and not span["error"] and span["parent"] == ""
    assert span["service"] == "dutchdoor"
    assert span["start"] == int(AT * 1e9) and span["end"] == int(AT * 1e9) + 500_000_000
    assert {name: value for name, value in span.items() if str(name).startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "dutchdoor",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "big",
        "gen_ai.response.id": "req_1",
        "gen_ai.response.time_to_first_chunk": 0.0123,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
    }
    assert span["dutchdoor.cost.nanodollars"] == 19_000 and span["dutchdoor.target"] == "t"


def test_each_try_is_a_span_within_it(collector: Collector) -> None:
    traces = Traces()
    traces.tried(Tried(id="req_1", target="gone", failure="it cannot be reached", status=502, total_s=0.2))
    traces.tried(Tried(id="other", target="t", status=200, total_s=0.1))
    traces.tried(Tried(id="req_1", target="t", status=200, total_s=0.1))
    traces.done(msgspec.structs.replace(DONE, at=time.time() - 0.5))
    traces.close()
    by_name = {span["name"]: span for span in collector.spans}
    assert set(by_name) == {"chat m", "ask gone", "ask t"}
    whole = by_name["chat m"]
    for name, error in (("ask gone", True), ("ask t", False)):
        assert by_name[name]["parent"] == whole["id"] and by_name[name]["trace"] == whole["trace"]
        assert by_name[name]["error"] is error and by_name[name]["kind"] == 3
    assert by_name["ask gone"]["error.type"] == "502"


def test_a_refusal_is_an_error_with_its_code(collector: Collector) -> None:
    traces = Traces()
    refused = Refused(
        id="req_2",
        dialect="/v1/embeddings",
        model="m",
        status=429,
        code="rate_limit_exceeded",
        at=AT,
        total_s=0.001,
    )
    traces.refused(refused)
    traces.close()
    (span,) = collector.spans
    assert span["name"] == "embeddings" and span["error"] and span["error.type"] == "rate_limit_exceeded"


def test_a_request_that_no_target_answered_has_one_span(collector: Collector) -> None:
    traces = Traces()
    traces.done(msgspec.structs.replace(DONE, state="failed"))
    traces.refused(
        Refused(id="req_1", dialect=DONE.dialect, status=502, code="no_target_answered", at=AT, total_s=0.5)
    )
    traces.close()
    (span,) = collector.spans
    assert span["error"] and span["error.type"] == "failed"


def test_a_callers_trace_goes_on(collector: Collector) -> None:
    traces = Traces()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traces.done(msgspec.structs.replace(DONE, traceparent=traceparent))
    traces.close()
    (span,) = collector.spans
    assert span["trace"] == "0af7651916cd43dd8448eb211c80319c" and span["parent"] == "b7ad6b7169203331"


def test_tries_of_requests_that_never_end_are_not_kept_for_ever() -> None:
    class Nowhere:
        def export(self, _: object) -> None: ...
        def shutdown(self) -> None: ...
        def force_flush(self, *_: object) -> bool:
            return True

    traces = Traces(Nowhere())  # type: ignore[arg-type]
    for each in range(MOST_OPEN + 10):
        traces.tried(Tried(id=str(each), target="t", total_s=0.1))
    assert len(traces._tries) == MOST_OPEN
    traces.close()


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_they_are_on_where_the_environment_names_a_collector(environ: dict[str, str], on: bool) -> None:
    assert wanted(environ) is on
