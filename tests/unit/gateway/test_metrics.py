"""Numbers: what is counted, what several workers come to, and that Prometheus can read it."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dutchdoor.gateway.metrics import Gauges, Metrics, Share
from dutchdoor.gateway.record import Done, Refused, Tried

PATH = "/v1/chat/completions"
DONE = Done(
    id="req_1", key="key_1", dialect=PATH, model="m", target="t", state="finished", counted="reported",
    stream=True, input_tokens=7, output_tokens=4, cached_tokens=3, nanodollars=19_000, at=0.0, first_s=0.0123,
    total_s=0.5,
)  # fmt: skip

Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(metrics: Metrics) -> Read:
    """All samples, as Prometheus's own parser reads them."""
    families = list(text_string_to_metric_families(metrics.text()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def at(found: Read, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_a_request_is_counted_by_model_target_path_and_state() -> None:
    metrics = Metrics(lambda: Gauges(in_flight=2, unbooked=1, breakers={"t": True, "u": False}, commits=9))
    metrics.done(DONE)
    metrics.done(msgspec.structs.replace(DONE, state="left", alarm="too much", tries=3))
    metrics.tried(Tried(id="req_1", target="t", status=200, total_s=0.1))
    metrics.tried(Tried(id="req_1", target="t", failure="secret words", status=503, total_s=0.1))
    found = read(metrics)
    assert at(found, "dutchdoor_requests_total", model="m", target="t", path=PATH, state="finished") == 1
    assert at(found, "dutchdoor_requests_total", model="m", target="t", path=PATH, state="left") == 1
    assert at(found, "dutchdoor_tokens_total", model="m", target="t", kind="input") == 14
    assert at(found, "dutchdoor_tokens_total", model="m", target="t", kind="cached_input") == 6
    assert at(found, "dutchdoor_tokens_total", model="m", target="t", kind="output") == 8
    assert at(found, "dutchdoor_cost_usd_total", model="m", target="t") == pytest.approx(0.000038)
    assert at(found, "dutchdoor_target_tries_total", target="t", outcome="answered") == 1
    assert at(found, "dutchdoor_target_tries_total", target="t", outcome="failed_503") == 1
    assert at(found, "dutchdoor_further_tries_total", model="m") == 2
    assert at(found, "dutchdoor_alarms_total", target="t") == 1
    assert at(found, "dutchdoor_target_left_out", target="t") == 1
    assert at(found, "dutchdoor_target_left_out", target="u") == 0
    assert at(found, "dutchdoor_in_flight_requests") == 2 and at(found, "dutchdoor_unbooked_requests") == 1
    assert at(found, "dutchdoor_ledger_commits_total") == 9
    assert "secret words" not in metrics.text() and "key_1" not in metrics.text()


def test_times_fall_into_buckets_that_add_up() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.011, 500.0):
        metrics.done(msgspec.structs.replace(DONE, total_s=seconds))
    found, labels = read(metrics), {"model": "m", "path": PATH}
    name = "dutchdoor_request_duration_seconds"
    assert at(found, f"{name}_bucket", le="0.01", **labels) == 1
    assert at(found, f"{name}_bucket", le="0.02", **labels) == 2
    assert at(found, f"{name}_bucket", le="81.92", **labels) == 2
    assert at(found, f"{name}_bucket", le="+Inf", **labels) == at(found, f"{name}_count", **labels) == 3
    assert at(found, f"{name}_sum", **labels) == pytest.approx(500.021)
    assert at(found, "dutchdoor_time_to_first_token_seconds_count", **labels) == 3


def test_an_unknown_price_is_counted_apart_and_never_as_nothing() -> None:
    metrics = Metrics()
    metrics.done(msgspec.structs.replace(DONE, nanodollars=None))
    metrics.done(msgspec.structs.replace(DONE, nanodollars=None, state="failed"))
    assert at(read(metrics), "dutchdoor_unpriced_requests_total", model="m", target="t") == 1


def test_what_a_client_makes_up_is_no_label() -> None:
    metrics = Metrics()
    for name in ("nonsense-1", "nonsense-2"):
        metrics.refused(
            Refused(id="r", dialect=PATH, model=name, status=404, code="model_not_found", at=0, total_s=0)
        )
    metrics.refused(Refused(id="r", dialect=PATH, status=429, code="rate_limit_exceeded", at=0, total_s=0))
    found = read(metrics)
    assert at(found, "dutchdoor_refused_total", path=PATH, status="404", code="model_not_found") == 2
    assert at(found, "dutchdoor_rate_limited_total") == 1 and "nonsense" not in metrics.text()


@given(st.text(min_size=1))
def test_any_name_of_a_model_can_be_read_back(name: str) -> None:
    metrics = Metrics()
    metrics.done(msgspec.structs.replace(DONE, model=name))
    # the parser splits at what str.splitlines takes for an end of line, and Prometheus only at \n
    if len(f"x{name}x".replace("\n", "").splitlines()) == 1:
        assert at(read(metrics), "dutchdoor_cost_usd_total", model=name, target="t") > 0


def test_each_of_several_workers_tells_the_sum_and_never_less_than_before(tmp_path: Path) -> None:
    one, two = (Metrics(lambda: Gauges(in_flight=1, commits=5), Share(tmp_path, each)) for each in range(2))
    one.done(DONE)
    assert at(read(two), "dutchdoor_ledger_commits_total") == 5  # it knows nothing of the other yet
    one.keep()
    two.done(DONE)
    total = [
        at(read(each), "dutchdoor_tokens_total", model="m", target="t", kind="output") for each in (two, one)
    ]
    assert total == [8, 8]
    found = read(one)
    assert at(found, "dutchdoor_in_flight_requests") == 2 and at(found, "dutchdoor_workers") == 2
    assert at(found, "dutchdoor_ledger_commits_total") == 10


def test_who_takes_a_dead_workers_place_goes_on_from_its_numbers(tmp_path: Path) -> None:
    dead = Metrics(lambda: Gauges(in_flight=3, commits=7), Share(tmp_path, 0))
    dead.done(DONE)
    dead.keep()
    after = Metrics(lambda: Gauges(commits=2), Share(tmp_path, 0))
    after.done(DONE)
    found = read(after)
    assert at(found, "dutchdoor_requests_total", model="m", target="t", path=PATH, state="finished") == 2
    assert at(found, "dutchdoor_ledger_commits_total") == 9 and at(found, "dutchdoor_in_flight_requests") == 0
    assert at(found, "dutchdoor_request_duration_seconds_count", model="m", path=PATH) == 2


def test_a_file_that_is_broken_or_cannot_be_written_loses_numbers_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0").write_bytes(b"\xff broken")
    (tmp_path / "1").write_bytes(b"\xff broken")
    metrics = Metrics(share=Share(tmp_path, 0))
    metrics.done(DONE)
    assert at(read(metrics), "dutchdoor_workers") == 1
    away = Metrics(share=Share(tmp_path / "away", 0))
    away.close()
    assert caplog.text.count('"event":"metrics"') == 2


def test_the_codes_of_an_upstream_do_not_become_labels_without_end() -> None:
    metrics = Metrics()
    for number in range(1000):
        for code in (f'Bad {number} "secret"', f"code_{number}"):
            metrics.refused(Refused(id="r", dialect=PATH, status=400, code=code, at=0.0, total_s=0.1))
    found = read(metrics)
    refused = {name: value for name, value in found.items() if name[0] == "dutchdoor_refused_total"}
    assert len(refused) <= 201 and sum(refused.values()) == 2000
    assert "secret" not in metrics.text()
