"""`dutchdoor routes` and `dutchdoor targets`, as a user calls them; a swap under load is in the gateway's own tests."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cli import run
from tests.fakes.upstream import Reply, Upstream, upstream_thread

ROUTES = """\
kind: dutchdoor/routes@1
targets:
  # the one at home
  local: {url: "http://127.0.0.1:1/v1", model: small, price: {input: 0.50, output: 1.50}}
  hosted: {url: "http://127.0.0.1:2/v1", model: big}   # far away
routes:
  assistant: [local, hosted]   # in order
  split: {to: {local: 90, hosted: 10}, unpriced: allow, deadline_s: 30}
"""
CONFIG = """\
model_list:
  - model_name: chat
    litellm_params: {model: ollama/llama3.2, api_base: "http://localhost:11434"}
  - model_name: chat
    litellm_params: {model: openai/gpt-4o, api_key: sk-in-the-file}
litellm_settings: {drop_params: true}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    def script(body: dict[str, object]) -> Reply:
        return Reply(status=400) if "tools" in body else Reply(logprobs="logprobs" in body)

    with upstream_thread(script=script) as running:
        yield running


def test_a_route_is_set_in_one_line(place: Path) -> None:
    done = run("routes", "set", "assistant", "hosted", cwd=place)
    assert (done.returncode, done.stdout) == (0, "assistant → hosted\n"), done.stderr
    assert done.stderr == "no server serves routes.yaml; it was rewritten\n"
    assert (place / "routes.yaml").read_text() == ROUTES.replace("[local, hosted]", "[hosted]")
    done = run("routes", "set", "split", "hosted=3", "local=1", "--format", "json", cwd=place)
    row = json.loads(done.stdout)
    assert (row["to"], row["weights"], row["workers"]) == (["hosted", "local"], [3.0, 1.0], 0)
    assert (
        "{to: {hosted: 3, local: 1}, unpriced: allow, deadline_s: 30}" in (place / "routes.yaml").read_text()
    )


def test_routes_are_listed(place: Path) -> None:
    done = run("routes", "list", cwd=place)
    assert done.stdout.splitlines() == [
        "assistant  local, hosted",
        "split  local=90, hosted=10  unpriced: allow  deadline_s: 30",
    ]
    rows = json.loads(run("routes", "list", "--format", "json", cwd=place).stdout)
    assert [row["route"] for row in rows] == ["assistant", "split"]
    assert rows[1]["to"][0] == {"target": "local", "weight": 90.0, "model": "small"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["assistant", "nobody"], 1, "hint: targets: local, hosted"),
        (["nothing", "local"], 1, "hint: routes: assistant, split"),
        (["assistant", "local=1", "hosted"], 2, "give each one a weight"),
        (["assistant", "local=x"], 2, "'x' is no weight of local"),
        (["assistant", "local=-1"], 2, "a weight is a number"),
        (["assistant", "local=1", "local=2"], 2, "named twice"),
        (["assistant", "local", "local"], 1, "named twice"),
        (["assistant"], 2, "TARGET"),
        (["assistant", "local", "--routes", "none.yaml"], 1, "there is no such file"),
    ],
)
def test_what_cannot_be_set_changes_nothing(place: Path, arguments: list[str], code: int, words: str) -> None:
    done = run("routes", "set", *arguments, cwd=place)
    assert done.returncode == code and words in done.stderr
    assert (place / "routes.yaml").read_text() == ROUTES


def test_another_gateways_config_is_imported(place: Path) -> None:
    done = run("routes", "import", "config.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "sk-in-the-file" not in done.stdout + done.stderr
    assert "not taken over: litellm_settings.drop_params: parameters are never dropped" in done.stderr
    assert "# not taken over: litellm_settings.drop_params:" in done.stdout
    assert "the key of chat-2 belongs in the variable CHAT_2_KEY" in done.stderr
    (place / "new.yaml").write_text(done.stdout)
    assert run("routes", "list", "--routes", "new.yaml", cwd=place).stdout == (
        "chat  chat-1=1, chat-2=1  unpriced: allow\n"
    )
    row = json.loads(run("routes", "import", "config.yaml", "--format", "json", cwd=place).stdout)
    assert row["keys"] == {"chat-2": "CHAT_2_KEY"} and "drop_params" in str(row["left_out"])


def test_local_servers_become_a_routes_file(place: Path, upstream: Upstream) -> None:
    done = run("targets", "discover", "--url", upstream.url, "--timeout", "2", cwd=place)
    assert done.returncode == 0, done.stderr
    assert f"openai-compatible at {upstream.url} serves 1 models" in done.stderr
    (place / "found.yaml").write_text(done.stdout)
    listed = json.loads(run("routes", "list", "--routes", "found.yaml", "--format", "json", cwd=place).stdout)
    assert "m" in [row["route"] for row in listed]
    found = json.loads(
        run("targets", "discover", "--url", upstream.url, "--format", "json", cwd=place).stdout
    )
    assert upstream.url in [row["url"] for row in found]
    assert run("targets", "discover", "--url", "nowhere", cwd=place).returncode == 2


def test_targets_are_asked_and_what_they_can_is_written(place: Path, upstream: Upstream) -> None:
    text = ROUTES.replace("http://127.0.0.1:1/v1", upstream.url)
    (place / "routes.yaml").write_text(text)
    done = run("targets", "probe", "routes.yaml", "local", "--write", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "asking local: at most 15 requests of 8 tokens" in done.stderr and len(upstream.requests) <= 15
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert "cannot" in lines["tools"] and " can " in lines["logprobs"] and " can " in lines["n"]
    after = (place / "routes.yaml").read_text()
    start = text.index("1.50}}") + len("1.50}")
    assert after.startswith(
        text[:start] + ", can: {tools: false, json_schema: false, logprobs: true, n: true,"
    )
    assert after.endswith(text[start:])
    again = run("targets", "probe", "routes.yaml", "local", "--format", "json", cwd=place)
    assert {row["ability"]: row["verdict"] for row in json.loads(again.stdout)["local"]}["tools"] == "cannot"


def test_a_target_that_is_not_there_is_unknown(place: Path) -> None:
    done = run("targets", "probe", "routes.yaml", "--timeout", "2", cwd=place)
    assert done.returncode == 3 and "could not tell" in done.stdout and "cannot  " not in done.stdout
    assert run("targets", "probe", "routes.yaml", "nobody", cwd=place).returncode == 1
    assert (place / "routes.yaml").read_text() == ROUTES
