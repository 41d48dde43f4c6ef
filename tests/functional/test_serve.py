"""`dutchdoor serve` as users meet it: a real process, the official `openai` client, real models, `kill -9`."""

import json
import os
import random
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.fakes.models import make_model
from tests.fakes.upstream import Reply, upstream_thread
from tests.functional.server import Serving, dutchdoor, serving

HI = [{"role": "user", "content": "hi"}]

FAMILY = """\
kind: dutchdoor/family@1
family: tiny
version: 1.0.0
publisher: {name: Test}
members:
  - name: tiny-s
    license: Apache-2.0
    variants: [{id: f32, weights: ./tiny}]
    price: {input: 0.5, output: 1.5}
  - name: tiny-prompted
    license: Apache-2.0
    variants: [{id: f32, weights: ./tiny}]
    serve: {system_prompt: system.txt, guard: guard.yaml}
    price: {input: 0.5, output: 1.5}
  - name: tiny-elsewhere
    license: Apache-2.0
    variants: [{id: f32, weights: ./tiny}]
    serve: {target: {url: "URL", model: there}}
  - name: tiny-held
    license: Apache-2.0
    variants: [{id: f32, weights: ./tiny}]
    intent: {api: false, because: {kind: commercial, text: not for sale}}
policies: [policy.yaml]
"""
POLICY = """\
kind: dutchdoor/policy@1
id: size
effective: 2026-11-01
suites: {}
rules:
  - {id: small, gates: api, measure: parameters, at_most: 1e9, because: it is only a test}
"""
GUARD = """\
kind: dutchdoor/guard@1
input: [{regex: forbidden}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    make_model(folder / "tiny", "llama")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "guard.yaml").write_text(GUARD)
    (folder / "system.txt").write_text("You are a test. " * 5)
    return folder


@pytest.fixture(scope="module")
def family(place: Path) -> Iterator[Serving]:
    with upstream_thread(Reply(text="from elsewhere")) as upstream:
        (place / "family.yaml").write_text(FAMILY.replace("URL", upstream.url))
        with serving("family.yaml", cwd=place) as server:
            yield server


@pytest.fixture(scope="module")
def client(family: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=family.url, api_key=family.key()["key"], max_retries=0) as made:
        yield made


def test_the_official_client_lists_what_is_served_and_nothing_that_is_held(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-s", "tiny-prompted", "tiny-elsewhere"]
    assert client.models.retrieve("tiny-s").id == "tiny-s"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny-held")


def test_the_official_client_chats(client: openai.OpenAI) -> None:
    asked = client.chat.completions.with_raw_response.create(
        model="tiny-s", messages=HI, max_tokens=6, temperature=0, seed=1, logprobs=True, top_logprobs=2
    )
    assert asked.headers["x-dutchdoor-target"] == "tiny-s"
    answer = asked.parse()
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert answer.usage and 0 < answer.usage.completion_tokens <= 6
    assert choice.logprobs and choice.logprobs.content
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in choice.logprobs.content)


def test_the_official_client_streams_with_usage_and_gets_the_same_text(client: openai.OpenAI) -> None:
    asked = {"model": "tiny-s", "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert [each.usage for each in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_the_members_own_prompt_is_counted_and_its_guard_holds(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="tiny-s", messages=HI, max_tokens=1)
    prompted = client.chat.completions.create(model="tiny-prompted", messages=HI, max_tokens=1)
    assert plain.usage and prompted.usage and prompted.usage.prompt_tokens > plain.usage.prompt_tokens + 5
    blocked = client.chat.completions.create(
        model="tiny-prompted", messages=[{"role": "user", "content": "a forbidden thing"}], max_tokens=9
    )
    assert blocked.choices[0].finish_reason == "content_filter" and not blocked.choices[0].message.content


def test_a_member_may_be_served_elsewhere(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny-elsewhere", messages=HI)
    assert answer.choices[0].message.content == "from elsewhere"


def test_the_official_client_gets_its_typed_errors(client: openai.OpenAI, family: Serving) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="tiny-held", messages=HI)
    with pytest.raises(openai.BadRequestError, match="tools") as refused:
        client.chat.completions.create(
            model="tiny-s", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert refused.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="tiny-s", messages=[{"role": "user", "content": "word " * 5000}])
    assert too_long.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=family.url, api_key="dd-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_budget_is_refused_as_an_exhausted_quota(family: Serving) -> None:
    poor = family.key("--budget", "0.000000001")["key"]
    with (
        openai.OpenAI(base_url=family.url, api_key=poor) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.chat.completions.create(model="tiny-s", messages=HI, max_tokens=1)
    assert refused.value.code == "insufficient_quota"


def test_a_revoked_key_is_refused_at_once_in_the_running_server(family: Serving, place: Path) -> None:
    made = family.key()
    with openai.OpenAI(base_url=family.url, api_key=made["key"], max_retries=0) as client:
        client.models.list()
        assert dutchdoor("keys", "revoke", made["id"], cwd=place).returncode == 0
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_the_log_holds_neither_prompts_nor_keys(client: openai.OpenAI, family: Serving) -> None:
    client.chat.completions.create(
        model="tiny-s", messages=[{"role": "user", "content": "a very private matter"}], max_tokens=2
    )
    time.sleep(0.2)
    lines = [json.loads(line) for line in family.log if line.startswith("{")]
    assert any(line["event"] == "request" and line["output_tokens"] for line in lines)
    assert "private" not in "".join(family.log) and client.api_key not in "".join(family.log)
    assert any("tiny-held is not served, closed by choice" in line for line in family.log)


def test_a_port_in_use_is_an_error_with_a_remedy(family: Serving, place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = dutchdoor("serve", "family.yaml", "--port", str(port), cwd=place)
    assert done.returncode == 1
    assert f"error: port {port} on 127.0.0.1 is in use" in done.stderr and "hint: " in done.stderr


def test_a_data_folder_that_cannot_be_written_is_an_error_with_a_remedy(family: Serving, place: Path) -> None:
    (place / "file").touch()
    done = dutchdoor("serve", "family.yaml", "--port", "0", "--data", "file/data", cwd=place)
    assert done.returncode != 0 and "error: " in done.stderr and "Traceback" not in done.stderr


def test_without_evidence_nothing_is_served(tmp_path: Path, place: Path) -> None:
    policy = POLICY.replace("suites: {}", "suites: {hazard.x: {path: suite.jsonl}}").replace(
        "measure: parameters, at_most: 1e9", "measure: hazard.x, threat: guarded, at_most: 0.1"
    )
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "suite.jsonl").write_text('{"id": "a", "prompt": "b", "scorer": "exact", "target": "c"}\n')
    weights = "./tiny}]\n    price: {input: 1, output: 1}\npolicies: [policy.yaml]\n"
    head = FAMILY.split("    price")[0].split("./tiny")[0]
    (tmp_path / "family.yaml").write_text(head + weights)
    (tmp_path / "tiny").symlink_to(place / "tiny")
    done = dutchdoor("serve", "family.yaml", "--port", "0", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert (
        "nothing is served" in done.stderr and "hint: measure first: dutchdoor vet family.yaml" in done.stderr
    )


ROUTES = """\
kind: dutchdoor/routes@1
targets:
  gone: {{url: "http://127.0.0.1:1/v1", model: m, price: {{input: 9, output: 9}}}}
  here: {{url: "{url}", model: m, price: {{input: 0.50, output: 1.50}}}}
  tiny: {{weights: {tiny}, price: {{input: 0.1, output: 0.1}}}}
routes:
  assistant: [gone, here]
  local: {{to: [tiny], unpriced: allow}}
"""


def test_a_broken_routes_file_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text("kind: dutchdoor/routes@1\ntargets: {}\nroutes: {a: [b]}\n")
    done = dutchdoor("serve", "routes.yaml", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: routes.yaml:3: routes.a: there is no target 'b'\n\nhint: targets: none\n"


def test_routes_fall_back_and_swap_and_are_billed(tmp_path: Path, place: Path) -> None:
    with upstream_thread(Reply(text="a b", input_tokens=10)) as upstream:
        (tmp_path / "routes.yaml").write_text(ROUTES.format(url=upstream.url, tiny=place / "tiny"))
        with serving("routes.yaml", cwd=tmp_path) as server:
            key = server.key()
            with openai.OpenAI(base_url=server.url, api_key=key["key"], max_retries=0) as client:
                asked = client.chat.completions.with_raw_response.create(model="assistant", messages=HI)
                assert asked.headers["x-dutchdoor-target"] == "here"
                client.chat.completions.create(model="local", messages=HI, max_tokens=3)
            bill = json.loads(dutchdoor("bill", "--format", "json", cwd=tmp_path).stdout)
            (here, tiny) = bill["lines"]
            assert here == {
                "key": key["id"],
                "model": "assistant",
                "target": "here",
                "requests": 1,
                "input_tokens": 10,
                "output_tokens": 2,
                "nanodollars": 8000,
            }
            assert bill["total_nanodollars"] == 8000 + tiny["nanodollars"] and bill["interrupted"] == []
            assert server.stop(signal.SIGTERM) == 0


def test_an_answer_under_way_is_finished_when_the_server_is_asked_to_stop(
    tmp_path: Path, place: Path
) -> None:
    with upstream_thread(Reply(text=" ".join("abcdefgh"), pause_s=0.1)) as upstream:
        (tmp_path / "routes.yaml").write_text(ROUTES.format(url=upstream.url, tiny=place / "tiny"))
        with serving("routes.yaml", cwd=tmp_path) as server:
            key = server.key()["key"]
            with openai.OpenAI(base_url=server.url, api_key=key, max_retries=0) as client:
                stream = client.chat.completions.create(model="assistant", messages=HI, stream=True)
                first = next(iter(stream))
                server.process.send_signal(signal.SIGTERM)
                rest = list(stream)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in [first, *rest])
            assert text == "a b c d e f g h" and server.process.wait(30) == 0


def test_a_second_signal_cuts_what_is_under_way_and_leaves_no_folder_of_an_engine(
    tmp_path: Path, place: Path
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="dd-"))  # short: a socket lies in it
    with upstream_thread(Reply(text="a b c", stall_after=2)) as upstream:
        (tmp_path / "routes.yaml").write_text(ROUTES.format(url=upstream.url, tiny=place / "tiny"))
        with serving("routes.yaml", cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)}) as server:
            key = server.key()["key"]
            with openai.OpenAI(base_url=server.url, api_key=key, max_retries=0) as client:
                client.chat.completions.create(model="local", messages=HI, max_tokens=2)
                assert list(scratch.iterdir())
                stream = client.chat.completions.create(model="assistant", messages=HI, stream=True)
                next(iter(stream))
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.5)
                server.process.send_signal(signal.SIGINT)
                with pytest.raises(openai.APIError, match="broke off"):
                    list(stream)
            assert server.process.wait(10) == 0
            scratch.rmdir()  # nothing was left in it
            assert not any("Traceback" in line for line in server.log)
    ledger = sqlite3.connect(tmp_path / ".dutchdoor" / "ledger.sqlite3")
    assert ledger.execute("SELECT count(*) FROM usage WHERE state = 'broken'").fetchone()[0] == 1
    ledger.close()


def test_after_kill_9_every_answer_that_came_in_full_is_in_the_ledger(tmp_path: Path, place: Path) -> None:
    rounds = random.Random(4)
    got: list[str] = []
    data = str(tmp_path / "data")
    with upstream_thread(script=lambda _: Reply(text="a b c", pause_s=0.002)) as upstream:
        (tmp_path / "routes.yaml").write_text(
            ROUTES.format(url=upstream.url, tiny=place / "tiny").split("  tiny")[0]
            + "routes:\n  assistant: [here]\n"
        )
        for _ in range(3):
            with serving("routes.yaml", "--data", data, "--quiet", cwd=tmp_path) as server:
                key = server.key("--budget", "1000")["key"]
                stop = threading.Event()
                clients = [
                    threading.Thread(target=ask_until, args=(server.url, key, got, stop)) for _ in range(6)
                ]
                for each in clients:
                    each.start()
                enough, end = len(got) + rounds.randrange(8, 25), time.monotonic() + 90
                while len(got) < enough and time.monotonic() < end:
                    time.sleep(0.002)
                time.sleep(rounds.random() / 50)  # anywhere in the answers that are under way
                server.stop(signal.SIGKILL)
                stop.set()
                for each in clients:
                    each.join(20)
        with serving("routes.yaml", "--data", data, "--quiet", cwd=tmp_path):
            bill = json.loads(dutchdoor("bill", "--data", data, "--format", "json", cwd=tmp_path).stdout)
    ledger = sqlite3.connect(tmp_path / "data" / "ledger.sqlite3")
    rows = dict(ledger.execute("SELECT id, state FROM usage").fetchall())
    still_open = ledger.execute("SELECT count(*) FROM reservations").fetchone()[0]
    held = ledger.execute("SELECT sum(held) FROM spend").fetchone()[0]
    ledger.close()
    assert len(got) > 20 and all(rows.get(each) == "finished" for each in got)
    assert still_open == held == 0
    assert len(bill["interrupted"]) == sum(state == "interrupted" for state in rows.values()) > 0


def ask_until(url: str, key: str, got: list[str], stop: threading.Event) -> None:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60) as client:
        while not stop.is_set():
            try:
                raw = client.chat.completions.with_raw_response.create(
                    model="assistant", messages=HI, stream=True
                )
                chunks = list(raw.parse())
                if chunks and chunks[-1].choices[0].finish_reason:
                    got.append(raw.headers["x-request-id"])
            except (openai.APIError, OSError):
                return
            except Exception as error:  # the client's own transport, cut in the middle
                if type(error).__module__.partition(".")[0] not in (
                    "httpx",
                    "httpx2",
                    "httpcore",
                    "httpcore2",
                ):
                    raise
                return
