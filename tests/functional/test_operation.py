"""Running the gateway: several workers, signals, what holds at once in all of them, and what is told."""

import http.client
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.models import make_model
from tests.fakes.redis_server import RedisServer, redis_server  # noqa: F401 - a fixture
from tests.fakes.upstream import Reply, Upstream, upstream_thread
from tests.functional.server import PROGRAM, Serving, dutchdoor, serving

COST = 7 * 1000 + 4 * 3000  # nano-dollars of one answer of the fake upstream
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  t: {{url: "{url}", model: big, price: {{input: 1, output: 3}}}}
  other: {{url: "{url}", model: other, price: {{input: 1, output: 3}}}}
routes:
  m: [t]
"""


def answer(body: dict[str, Any]) -> Reply:
    """What the upstream says depends on what it is asked."""
    said = body["messages"][0]["content"]
    if said == "stall":
        return Reply(text="a b c d", stall_after=2)
    return Reply(text="a b c d", pause_s=0.15 if said == "slowly" else 0.0, delay_s=0.02)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with upstream_thread(script=answer) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, upstream: Upstream) -> Path:
    (tmp_path / "routes.yaml").write_text(ROUTES.format(url=upstream.url))
    return tmp_path


@pytest.fixture
def two(place: Path) -> Iterator[Serving]:
    """A server with two workers."""
    with serving("routes.yaml", "--workers", "2", cwd=place) as server:
        yield server


class Got:
    """An answer, or as much of it as came."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: Serving, path: str, key: str | None = None, body: Any = None, method: str = "") -> Got:
    """One request on a connection of its own."""
    where = urllib.parse.urlsplit(server.url)
    assert where.hostname
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    try:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        data = None if body is None else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        try:
            return Got(response.status, told, response.read())
        except (http.client.HTTPException, OSError) as error:
            return Got(response.status, told, getattr(error, "partial", b""))
    finally:
        connection.close()


def chat(server: Serving, key: str, said: str = "hello", **more: Any) -> Got:
    body = {"model": "m", "messages": [{"role": "user", "content": said}], **more}
    return ask(server, "/v1/chat/completions", key, body)


def many(count: int, one: Callable[[], Got]) -> list[Got]:
    """So many at once, each on a connection of its own."""
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda _: one(), range(count)))


def statuses(got: list[Got]) -> dict[int, int]:
    return {status: sum(each.status == status for each in got) for status in {each.status for each in got}}


def workers_of(server: Serving) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def soon(what: Callable[[], bool], *, within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


def events(server: Serving, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in list(server.log) if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def number(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            found += float(match[2])
    return found


# -- what holds at once in every worker


def test_a_revoked_key_is_refused_at_once_by_every_worker(two: Serving, place: Path) -> None:
    made = two.key()
    assert statuses(many(40, lambda: chat(two, made["key"]))) == {200: 40}  # all workers know it now
    assert dutchdoor("keys", "revoke", made["id"], cwd=place).returncode == 0
    assert statuses(many(50, lambda: chat(two, made["key"]))) == {401: 50}
    assert statuses(many(20, lambda: ask(two, "/v1/models", made["key"]))) == {401: 20}


def test_a_rotated_key_has_one_secret_in_every_worker(two: Serving, place: Path) -> None:
    old = two.key()
    assert statuses(many(40, lambda: chat(two, old["key"]))) == {200: 40}
    new = json.loads(dutchdoor("keys", "rotate", old["id"], "--format", "json", cwd=place).stdout)
    assert statuses(many(50, lambda: chat(two, old["key"]))) == {401: 50}
    assert statuses(many(50, lambda: chat(two, new["key"]))) == {200: 50}


def test_two_workers_cannot_overspend_a_budget_by_anything(two: Serving, place: Path) -> None:
    made = two.key("--budget", "0.02")
    got = statuses(many(300, lambda: chat(two, made["key"], max_tokens=4)))
    (row,) = json.loads(dutchdoor("keys", "list", "--format", "json", cwd=place).stdout)
    assert set(got) == {200, 429} and row["spent_nanodollars"] == got[200] * COST
    assert row["spent_nanodollars"] <= row["budget_nanodollars"] and row["held_nanodollars"] == 0


def test_two_workers_share_a_rate_limit_exactly_and_tell_it(two: Serving) -> None:
    made = two.key("--rpm", "20")
    got = many(80, lambda: chat(two, made["key"]))
    assert statuses(got) == {200: 20, 429: 60}
    refused = next(each for each in got if each.status == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert refused.json["error"]["code"] == "rate_limit_exceeded"


def test_two_servers_share_a_rate_limit_in_redis(
    place: Path,
    redis_server: RedisServer,  # noqa: F811 - the fixture
) -> None:
    limits = ("--limits", redis_server.url)
    with (
        serving("routes.yaml", *limits, cwd=place) as one,
        serving("routes.yaml", "--workers", "2", *limits, cwd=place) as other,
    ):
        key = one.key("--rpm", "30")["key"]
        assert statuses(many(60, lambda: chat(one, key)) + many(60, lambda: chat(other, key))) == {
            200: 30,
            429: 90,
        }


def test_a_route_is_swapped_in_every_worker_under_load_without_a_failed_request(
    two: Serving, place: Path
) -> None:
    key = two.key()["key"]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(chat, two, key) for _ in range(200)]
        done = dutchdoor("routes", "set", "m", "other", cwd=place)
        after = [pool.submit(chat, two, key) for _ in range(40)]
        got = [each.result() for each in asked]
    assert done.returncode == 0 and "2 workers switched" in done.stderr
    assert statuses(got) == {200: 200}
    assert {each.result().headers["x-dutchdoor-target"] for each in after} == {"other"}


# -- signals


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stream_under_way_is_whole_when_the_server_is_asked_to_end(place: Path, workers: str) -> None:
    with serving("routes.yaml", "--workers", workers, cwd=place) as server:
        key = server.key()["key"]
        with ThreadPoolExecutor(6) as pool:
            streams = [pool.submit(chat, server, key, "slowly", stream=True) for _ in range(6)]
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            got = [each.result() for each in streams]
        assert server.process.wait(30) == 0
    assert all(each.status == 200 and each.body.endswith(b"data: [DONE]\n\n") for each in got)
    bill = json.loads(dutchdoor("bill", "--format", "json", cwd=place).stdout)
    assert bill["total_nanodollars"] == 6 * COST and not bill["interrupted"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_does_not_wait(place: Path, workers: str) -> None:
    with serving("routes.yaml", "--workers", workers, cwd=place) as server:
        key = server.key()["key"]
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(chat, server, key, "stall", stream=True)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert server.process.poll() is None and not stream.done()
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(15) == 0
            assert b"stream_broken" in stream.result().body


def test_the_time_to_drain_is_kept(place: Path) -> None:
    with serving("routes.yaml", "--workers", "2", "--drain-s", "1", cwd=place) as server:
        key = server.key()["key"]
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(chat, server, key, "stall", stream=True)
            time.sleep(0.5)
            began = time.monotonic()
            assert server.stop() == 0
            assert 0.8 < time.monotonic() - began < 10
            assert b"stream_broken" in stream.result().body


def test_a_killed_worker_is_replaced_and_what_it_left_open_is_interrupted(two: Serving, place: Path) -> None:
    key = two.key()["key"]
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(chat, two, key, "stall", stream=True)
        soon(lambda: reservations(place) == 1)
        before = workers_of(two)
        assert len(before) == 2
        killed = []
        for each in before:
            each.kill()
            killed.append(each.pid)
            time.sleep(0.5)
            if stream.done():
                break
            soon(lambda: len(workers_of(two)) == 2)
        assert stream.done() and b"[DONE]" not in stream.result().body
    soon(lambda: len(workers_of(two)) == 2 and not {each.pid for each in workers_of(two)} & set(killed))
    soon(lambda: reservations(place) == 0)
    assert statuses(many(20, lambda: chat(two, key))) == {200: 20}
    bill = json.loads(dutchdoor("bill", "--format", "json", cwd=place).stdout)
    assert len(bill["interrupted"]) == 1 and bill["total_nanodollars"] == 20 * COST
    assert [each["how"] for each in events(two, "worker-ended")] == ["SIGKILL"] * len(killed)


def reservations(place: Path) -> int:
    (row,) = json.loads(dutchdoor("keys", "list", "--format", "json", cwd=place).stdout)
    return int(row["held_nanodollars"] > 0)


def test_workers_end_when_their_supervisor_is_killed(two: Serving) -> None:
    workers = workers_of(two)
    two.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive


def test_a_hangup_loads_the_routes_again_in_every_worker(two: Serving) -> None:
    assert not events(two, "routes")
    two.process.send_signal(signal.SIGHUP)
    soon(lambda: len(events(two, "routes")) == 2)


# -- what is refused


def test_a_file_that_cannot_be_served_is_said_once_and_ends_all(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text("kind: dutchdoor/routes@1\ntargets: {}\nroutes: {a: [b]}\n")
    done = dutchdoor("serve", "routes.yaml", "--port", "0", "--workers", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: routes.yaml:3: routes.a: there is no target 'b'\n\nhint: targets: none\n"


def test_weights_are_not_loaded_by_several_workers(tmp_path: Path) -> None:
    make_model(tmp_path / "tiny", "llama")
    text = (
        "kind: dutchdoor/routes@1\ntargets: {a: {weights: tiny}}\nroutes: {m: {to: [a], unpriced: allow}}\n"
    )
    (tmp_path / "routes.yaml").write_text(text)
    done = dutchdoor("serve", "routes.yaml", "--port", "0", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 1 and "would load the weights of a for itself" in done.stderr


def test_a_port_that_other_workers_have_is_not_shared_with_them(two: Serving, place: Path) -> None:
    port = str(urllib.parse.urlsplit(two.url).port)
    done = dutchdoor("serve", "routes.yaml", "--port", port, "--workers", "2", cwd=place)
    assert done.returncode == 1 and f"port {port} on 127.0.0.1 is in use" in done.stderr


def test_limits_in_memory_are_refused_for_several_workers(place: Path) -> None:
    done = dutchdoor("serve", "routes.yaml", "--workers", "2", "--limits", "memory", cwd=place)
    assert done.returncode == 2 and "counts in one process" in done.stderr


def test_a_config_of_litellm_is_served_and_what_is_left_out_is_said(
    tmp_path: Path, upstream: Upstream
) -> None:
    (tmp_path / "config.yaml").write_text(
        "model_list:\n"
        f"  - {{model_name: m, litellm_params: {{model: openai/big, api_base: '{upstream.url}', api_key: sk-x,"
        " input_cost_per_token: 0.000001, output_cost_per_token: 0.000003}}\n"
        "litellm_settings: {callbacks: [langfuse]}\n"
    )
    with serving("config.yaml", cwd=tmp_path) as server:
        key = server.key()["key"]
        assert chat(server, key).status == 200
        assert any(line.startswith("note: not taken over: litellm_settings.callbacks") for line in server.log)


# -- what is told


def test_one_worker_tells_the_numbers_of_all_and_a_killed_ones_are_not_lost(two: Serving) -> None:
    key, admin = two.key()["key"], two.key("--admin")["key"]
    assert ask(two, "/metrics").status == 401 and ask(two, "/metrics", key).status == 403
    assert statuses(many(60, lambda: chat(two, key))) == {200: 60}
    time.sleep(1.5)
    text = ask(two, "/metrics", admin).body.decode()
    assert number(text, "dutchdoor_requests_total", model="m", target="t", state="finished") == 60
    assert number(text, "dutchdoor_tokens_total", kind="output") == 240
    assert number(text, "dutchdoor_cost_usd_total") == pytest.approx(60 * COST / 1e9)
    assert number(text, "dutchdoor_request_duration_seconds_count") == 60
    assert number(text, "dutchdoor_workers") == 2
    assert key not in text and "key_" not in text
    workers_of(two)[0].kill()
    soon(lambda: bool(events(two, "worker-ended")))
    soon(lambda: len(workers_of(two)) == 2)
    time.sleep(1.5)
    for _ in range(6):
        text = ask(two, "/metrics", admin).body.decode()
        assert number(text, "dutchdoor_requests_total") == 60


def test_metrics_may_be_opened(place: Path) -> None:
    with serving("routes.yaml", "--open-metrics", cwd=place) as server:
        got = ask(server, "/metrics")
        assert got.status == 200 and got.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert number(got.body.decode(), "dutchdoor_build_info") == 1


def test_an_admin_swaps_a_route_and_it_holds_when_the_call_returns(two: Serving) -> None:
    key, admin = two.key()["key"], two.key("--admin")["key"]
    assert ask(two, "/admin/routes/m", key, {"to": ["other"]}, "PUT").status == 403
    done = ask(two, "/admin/routes/m", admin, {"to": ["other"]}, "PUT")
    assert done.status == 200 and done.json["workers"] == 2
    assert {each.headers["x-dutchdoor-target"] for each in many(30, lambda: chat(two, key))} == {"other"}
    unknown = ask(two, "/admin/routes/m", admin, {"to": ["nobody"]}, "PUT")
    assert unknown.status == 400 and "there is no target 'nobody'" in unknown.json["error"]["message"]


def test_an_admin_makes_and_ends_keys_that_hold_in_every_worker(two: Serving) -> None:
    admin = two.key("--admin")["key"]
    made = ask(two, "/admin/keys", admin, {"name": "bo", "budget": "0.5", "rpm": 1000})
    assert made.status == 201 and made.json["rpm"] == 1000 and made.json["budget"] == 500_000_000
    assert statuses(many(30, lambda: chat(two, made.json["key"]))) == {200: 30}
    assert ask(two, f"/admin/keys/{made.json['id']}", admin, method="DELETE").status == 200
    assert statuses(many(30, lambda: chat(two, made.json["key"]))) == {401: 30}


def test_an_admin_has_every_worker_load_its_routes_again(two: Serving) -> None:
    admin = two.key("--admin")["key"]
    assert ask(two, "/admin/reload", admin, {}).status == 202
    soon(lambda: len(events(two, "routes")) == 2)


def test_a_key_sees_its_own_usage(two: Serving) -> None:
    key, stranger = two.key("--budget", "1")["key"], two.key()["key"]
    chat(two, key)
    used = ask(two, "/v1/usage", key).json
    assert used["total_nanodollars"] == COST and used["by_model"][0]["requests"] == 1
    assert used["budgets"][0]["remaining_nanodollars"] == 10**9 - COST
    assert ask(two, "/v1/usage", stranger).json["total_nanodollars"] == 0
    assert ask(two, "/v1/usage?month=2026-13", key).status == 400 and ask(two, "/v1/usage").status == 401


def test_nobody_reads_stderr_and_it_still_serves(place: Path) -> None:
    reads, writes = os.pipe()
    process = subprocess.Popen(
        [PROGRAM, "serve", "routes.yaml", "--port", "0"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=writes,
        text=True,
    )
    try:
        os.close(writes)
        assert process.stdout
        shown = process.stdout.readline() + process.stdout.readline()
        found = re.search(r" at (http\S+)", shown)
        assert found
        server = Serving(process, found[1], shown, [], place)
        key = server.key()["key"]
        for _ in range(2):
            assert statuses(many(400, lambda: chat(server, key))) == {
                200: 400
            }  # more lines than a pipe holds
        os.close(reads)
        reads = -1
        assert statuses(many(40, lambda: chat(server, key))) == {200: 40}
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()
        if reads >= 0:
            os.close(reads)


def test_a_server_of_urls_is_ready_within_a_second(place: Path) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        with serving("routes.yaml", cwd=place) as server:
            assert ask(server, "/readyz").json == {"ok": True}
            took.append(time.monotonic() - began)
            assert ask(server, "/healthz").status == 200
    assert min(took) < 1.0, took
