"""`dutchdoor compare` as a builder meets it: real models, a server as a real process, every exit code."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from dutchdoor.cli.main import main
from dutchdoor.drill.report import Comparison
from dutchdoor.gateway.routing.file import load_routes
from tests.fakes.models import make_gguf, make_model, smollm2
from tests.functional.conftest import TOP
from tests.functional.server import PROGRAM, dutchdoor, serving

SERVER = """
import asyncio, hashlib, os
from tests.fakes.upstream import Reply, Upstream

WRONG = {"good": 5, "bad": 40, "slightly": 9, "empty": 0, "flaky": 5}  # of 100 cases

def luck(body, salt):
    said = body["messages"][-1]["content"]
    return int(hashlib.sha256((salt + said).encode()).hexdigest(), 16) % 100

def script(body):
    model, said = body["model"], body["messages"][-1]["content"]
    if model == "secret":
        return Reply(status=401, message="no such key")
    if model == "down" or (model == "dies" and "+" in said):
        return Reply(status=500, message="out of order")
    if model == "flaky" and luck(body, "flaky") < 50 and "+" in said:
        return Reply(status=400, message="half of them fail")
    if model == "slow":
        return Reply(delay_s=0.5)
    if model == "empty":
        return Reply(text="", output_tokens=0)
    if "+" not in said:
        return Reply(text="Hello there.")
    numbers = [int(word) for word in said.replace("?", " ").split() if word.isdigit()]
    wrong = luck(body, "") < WRONG.get(model, 0)
    return Reply(text=f"The answer is {sum(numbers) + wrong}.", input_tokens=10, output_tokens=5)

async def main():
    async with Upstream(script=script) as upstream:
        print(upstream.url, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server as a real process; its models answer sums more or less well, or fail."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=TOP,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models of different shape: a folder, and a GGUF."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "one", "llama", seed=0)
    (folder / "one" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# one\n")
    make_gguf(make_model(folder / "two", "qwen2", seed=1), folder / "two.gguf")
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    lines = [
        {"id": f"sum-{i}", "prompt": f"What is {i} + {2 * i} ?", "scorer": "numeric", "target": 3 * i}
        for i in range(200)
    ]
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def compare(*arguments: str | Path, cwd: Path, code: int, **env: str) -> tuple[str, str]:
    """The command, run in this process: starting one takes longer than most comparisons here."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, env),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(["compare", *map(str, arguments)])
    assert ended.value.code == code, f"exit {ended.value.code}\n{out.getvalue()[:3000]}\n{err.getvalue()}"
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def report(*arguments: str | Path, cwd: Path, code: int) -> dict[str, Any]:
    out, err = compare(*arguments, "--format", "json", cwd=cwd, code=code)
    assert err == ""  # stderr is no terminal here
    msgspec.json.decode(out, type=Comparison)  # as documented
    found: dict[str, Any] = json.loads(out)
    return found


def test_two_models_on_this_machine_without_any_configuration(models: Path, tmp_path: Path) -> None:
    arguments = (str(models / "one"), str(models / "two.gguf"), "--max-tokens", "8", "--seconds", "5")
    done = dutchdoor("compare", *arguments, cwd=tmp_path)  # as a process, with nothing around it
    out, err = done.stdout, done.stderr
    assert (done.returncode, err) == (0, "")
    assert out.startswith(f"A  {models / 'one'}\nB  {models / 'two.gguf'}\n")
    assert "bundled prompts; they say nothing about quality" in out
    assert "Apache-2.0 (its" in out
    assert "unknown is not free" in out
    assert "SPEED, ONE REQUEST AT A TIME" in out
    assert "SPEED, 4 REQUESTS AT A TIME" in out
    assert "\x1b" not in out
    assert max(map(len, out.split("routes.yaml")[0].splitlines())) <= 100


def test_the_json_says_all_of_it(models: Path, url: str, tmp_path: Path) -> None:
    found = report(
        models / "one",
        f"{url}#good",
        "--max-tokens",
        "8",
        "--seconds",
        "10",
        "--price-b",
        "0.10,0.20",
        cwd=tmp_path,
        code=0,
    )
    assert found.keys() == {"kind", "a", "b", "cases", "quality", "samples", "routes"}
    assert found["quality"] is None
    assert found["cases"]["smoke_test"] is True
    a, b = found["a"], found["b"]
    assert (a["kind"], a["license"], a["engine"], a["context_length"]) == (
        "folder",
        "Apache-2.0",
        "llama.cpp",
        512,
    )
    assert a["parameters"] == 92_800
    assert (b["kind"], b["license"], b["engine"]) == ("url", None, "http")
    assert (a["price"], a["cost"]) == (None, None)
    # 7 tokens in and 2 out at 0.10 and 0.20 USD a million, or 10 and 5: the sums among the prompts
    assert b["price"] == {"input_pico_usd": 100_000, "output_pico_usd": 200_000, "source": "option"}
    assert 1_100_000 <= b["cost"]["per_thousand_nano_usd"] <= 2_000_000
    assert b["alone"]["streams"] == 1
    assert b["crowd"]["streams"] == 4
    assert all(sample["a"]["text"] is not None for sample in found["samples"])


@pytest.mark.parametrize(
    ("candidate", "margin", "code", "verdict"),
    [
        ("good", "0.05", 0, "pass"),
        ("bad", "0.05", 10, "fail"),
        ("slightly", "0.05", 3, "inconclusive"),
        ("slightly", "0.20", 0, "pass"),
        ("empty", "0.05", 10, "fail"),
    ],
)
def test_a_planted_candidate_gets_the_verdict_it_deserves(
    url: str, cases: Path, candidate: str, margin: str, code: int, verdict: str
) -> None:
    arguments = (f"{url}#{candidate}", f"{url}#good", "--cases", cases, "--margin", margin)
    found = report(*arguments, cwd=cases.parent, code=code)
    quality = found["quality"]
    assert quality["verdict"] == verdict
    assert (quality["bound"], quality["n"], quality["missing"]) == (-float(margin), 200, 0)
    assert quality["lower"] <= quality["value"] <= quality["upper"]
    assert quality["value"] == pytest.approx((found["a"]["correct"] - found["b"]["correct"]) / 200)


def test_without_a_margin_a_worse_candidate_still_exits_clean(url: str, cases: Path) -> None:
    out, _ = compare(f"{url}#bad", f"{url}#good", "--cases", cases, cwd=cases.parent, code=0)
    assert "QUALITY  200 cases" in out
    assert "no margin, no verdict: A − B is −" in out


@pytest.mark.parametrize("margin", [(), ("--margin", "0.05")])
def test_an_endpoint_of_which_half_fails_is_inconclusive_and_its_failures_are_missing(
    url: str, cases: Path, margin: tuple[str, ...]
) -> None:
    found = report(f"{url}#flaky", f"{url}#good", "--cases", cases, *margin, cwd=cases.parent, code=3)
    assert 60 <= found["a"]["missing"] <= 140
    assert found["a"]["correct"] + found["a"]["missing"] > 180  # none of them was counted as wrong
    assert found["quality"]["verdict"] == "inconclusive"
    assert "half of them fail" in found["a"]["first_error"]


def test_an_endpoint_that_dies_after_the_warm_up_is_never_clean(url: str, cases: Path) -> None:
    out, _ = compare(
        f"{url}#dies", f"{url}#good", "--cases", cases, "--margin", "0.9", cwd=cases.parent, code=3
    )
    assert "out of order" in out


@pytest.mark.parametrize(
    ("b", "says", "hint"),
    [
        ("http://127.0.0.1:9/v1#m", "cannot be reached", "is it running"),
        ("URL#down", "out of order", ""),
        (
            "URL#secret",
            "answers 401",
            "no key was sent: the environment variable DUTCHDOOR_API_KEY is not set",
        ),
    ],
)
def test_an_endpoint_that_is_down_or_refuses_us_is_an_error_before_anything_is_asked(
    models: Path, url: str, tmp_path: Path, b: str, says: str, hint: str
) -> None:
    begun = time.monotonic()
    out, err = compare(models / "one", b.replace("URL", url), cwd=tmp_path, code=1)
    assert out == ""
    assert err.startswith("error: B, ")
    assert says in err
    assert hint in err
    assert time.monotonic() - begun < 60


def test_the_key_comes_from_the_variable_that_is_named(url: str, tmp_path: Path) -> None:
    arguments = (f"{url}#secret", f"{url}#good")
    _, err = compare(*arguments, "--key-env-a", "MY_KEY", cwd=tmp_path, code=2)
    assert "the environment variable MY_KEY is not set" in err
    _, err = compare(*arguments, "--key-env-a", "MY_KEY", cwd=tmp_path, code=1, MY_KEY="k-123")
    assert "the key came from the environment variable MY_KEY" in err
    assert "k-123" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no cases"),
        ("{", "cases.jsonl:1: "),
        ('{"id": "a", "prompt": "?", "scorer": "exact", "target": "x"}\n' * 2, "cases.jsonl:2: the id 'a'"),
        ('{"id": "a", "prompt": "?", "scorer": "magic", "target": "x"}', "`$.scorer`"),
        ('{"id": "a", "prompt": "?", "scorer": "exact", "target": "x", "weight": 2}', "`weight`"),
        ('{"id": "a", "prompt": "?", "scorer": "numeric", "target": "x"}', "cases.jsonl:1: target"),
        ('{"id": "a", "scorer": "exact", "target": "x"}', "either `prompt` or `messages`"),
        ('{"id": "a", "prompt": "?", "scorer": "refusal"}', "'refusal' judges no quality"),
    ],
)
def test_broken_cases_are_named_by_file_line_and_field(
    url: str, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "cases.jsonl").write_text(text)
    _, err = compare(f"{url}#good", f"{url}#bad", "--cases", "cases.jsonl", cwd=tmp_path, code=1)
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "URL#good"), "there is no model at nowhere"),
        (("URL#good", "URL"), "does not say which model"),
        (("URL#good", "URL#bad", "--margin", "0.05"), "--margin needs --cases"),
        (("URL#good", "URL#bad", "--margin", "5"), "5.0 is not in the range"),
        (("URL#good", "URL#bad", "--cases", "none.jsonl"), "does not exist"),
        (("URL#good", "URL#bad", "--price-a", "free"), "--price-a free is no price"),
        (("URL#good", "URL#bad", "--routes", "taken.yaml"), "taken.yaml exists already"),
    ],
)
def test_a_call_that_cannot_be_meant_is_a_usage_error(
    url: str, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "taken.yaml").touch()
    out, err = compare(*(each.replace("URL", url) for each in arguments), cwd=tmp_path, code=2)
    assert out == ""
    assert says in err


def test_code_and_constraints_are_judged_too(url: str, tmp_path: Path) -> None:
    lines = [
        {"id": "code", "prompt": "f", "scorer": "code", "target": {"function": "f", "tests": [[[1], 1]]}},
        {"id": "words", "prompt": "say", "scorer": "constraints", "target": [{"contains": "hello"}]},
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report(f"{url}#good", f"{url}#bad", "--cases", "cases.jsonl", cwd=tmp_path, code=0)
    assert [sample["a"]["correct"] for sample in found["samples"]] == [False, True]


def test_the_routes_file_serves_both_behind_one_name_and_swapping_is_one_word(
    models: Path, url: str, tmp_path: Path
) -> None:
    arguments = (models / "one", f"{url}#good", "--max-tokens", "4", "--seconds", "5")
    out, _ = compare(*arguments, "--routes", "routes.yaml", cwd=tmp_path, code=0)
    assert "written to routes.yaml" in out
    routes = tmp_path / "routes.yaml"
    loaded = load_routes(routes)
    assert [(plan.model, plan.to, plan.unpriced) for plan in loaded.routes] == [
        ("assistant", ("one", "good"), True)
    ]
    routes.write_text(routes.read_text().replace("[one, good]", "[good, one]"))
    with serving("routes.yaml", cwd=tmp_path) as server:
        arguments = (f"{server.url}#assistant", f"{url}#good", "--seconds", "5")
        key = server.key()["key"]
        found, _ = compare(*arguments, "--format", "json", cwd=tmp_path, code=0, DUTCHDOOR_API_KEY=key)
    samples = json.loads(found)["samples"]
    assert all(sample["a"]["text"] == sample["b"]["text"] for sample in samples)


FAMILY = """\
kind: dutchdoor/family@1
family: tiny
version: 1.0.0
publisher: {name: Test}
members:
  - name: tiny-s
    license: Apache-2.0
    variants: [{id: f32, weights: MODELS/one}]
    price: {input: 0.5, output: 1.5}
  - name: tiny-guarded
    license: LicenseRef-tiny
    variants: [{id: f32, weights: MODELS/one}]
    serve: {system_prompt: system.txt, guard: guard.yaml}
  - name: tiny-elsewhere
    license: MIT
    variants: [{id: there}]
    serve: {target: {url: "URL", model: good}}
"""


def test_members_of_a_family_are_compared_as_they_are_served(models: Path, url: str, tmp_path: Path) -> None:
    (tmp_path / "family.yaml").write_text(FAMILY.replace("MODELS", str(models)).replace("URL", url))
    (tmp_path / "system.txt").write_text("You are a test.")
    (tmp_path / "guard.yaml").write_text("kind: dutchdoor/guard@1\ninput: [{regex: France}]\n")
    arguments = ("family.yaml#tiny-guarded", "family.yaml#tiny-s", "--max-tokens", "4", "--seconds", "5")
    found = report(*arguments, cwd=tmp_path, code=0)
    a, b = found["a"], found["b"]
    assert (a["license"], a["as_served"], a["cost"]) == ("LicenseRef-tiny", "system prompt and guard", None)
    assert (b["license"], b["license_source"], b["price"]["source"]) == (
        "Apache-2.0",
        "its manifest",
        "family",
    )
    first = found["samples"][0]
    assert first["a"]["input_tokens"] > first["b"]["input_tokens"]  # its system prompt
    blocked = [
        sample["a"]["finish_reason"]
        for sample in found["samples"]
        if "France" in sample["messages"][0]["content"]
    ]
    assert blocked == ["content_filter"]
    assert "family: " in found["routes"]
    elsewhere = report("family.yaml#tiny-elsewhere", f"{url}#good", "--seconds", "5", cwd=tmp_path, code=0)
    assert (elsewhere["a"]["engine"], elsewhere["a"]["license"]) == ("http", "MIT")
    _, err = compare("family.yaml#nobody", f"{url}#good", cwd=tmp_path, code=2)
    assert "has no member 'nobody'" in err


POLICY = """\
kind: dutchdoor/policy@1
id: size
effective: 2026-11-01
suites: {}
rules:
  - {id: small, gates: download, measure: parameters, at_most: 1e9, because: it is only a test}
"""


def test_a_bundle_is_verified_and_brings_its_licence_and_price(
    models: Path, url: str, tmp_path: Path
) -> None:
    text = (
        FAMILY.split("  - name: tiny-guarded")[0].replace("MODELS", str(models)) + "policies: [policy.yaml]\n"
    )
    (tmp_path / "family.yaml").write_text(text)
    (tmp_path / "policy.yaml").write_text(POLICY)
    packed = dutchdoor("pack", "family.yaml", "--out", "dist", cwd=tmp_path)
    assert packed.returncode == 0, packed.stdout + packed.stderr
    bundle = tmp_path / "dist" / "tiny-s"
    store = {"DUTCHDOOR_STORE": str(tmp_path / "store")}
    arguments = (bundle, f"{url}#good", "--max-tokens", "4", "--seconds", "5")
    out, _ = compare(*arguments, "--format", "json", cwd=tmp_path, code=0, **store)
    a = json.loads(out)["a"]
    assert (a["kind"], a["name"], a["license"], a["license_source"]) == (
        "bundle",
        "tiny-s",
        "Apache-2.0",
        "its dossier",
    )
    assert a["price"] == {"input_pico_usd": 500_000, "output_pico_usd": 1_500_000, "source": "offer"}
    assert a["cost"]["per_thousand_nano_usd"] > 0
    assert a["notes"] == []
    elsewhere = {**store, "DUTCHDOOR_CONFIG": str(tmp_path / "somebody-else")}
    out, _ = compare(*arguments, cwd=tmp_path, code=0, **elsewhere)
    assert "A: the bundle holds together, but nobody you trust signed it" in out
    with (bundle / "config.json").open("a") as file:
        file.write(" ")
    _, err = compare(*arguments, cwd=tmp_path, code=1, **store)
    assert "is not what its dossier says: config.json: changed" in err


def test_a_real_instruct_model_against_a_url(url: str, tmp_path: Path) -> None:
    arguments = (smollm2(), f"{url}#good", "--max-tokens", "2", "--seconds", "1", "--streams", "1")
    found = report(*arguments, cwd=tmp_path, code=0)
    assert (found["a"]["license"], found["a"]["context_length"]) == ("Apache-2.0", 8192)
    assert 1.3e8 < found["a"]["parameters"] < 1.4e8
    assert 3 <= found["cases"]["n"] <= 20
    assert found["a"]["alone"]["first_token_s"]["median"] > 0
    assert found["a"]["crowd"] is None


def test_two_members_of_the_reference_family(tmp_path: Path) -> None:
    gable = TOP / "examples" / "gable"
    for name in ("gable-s", "gable-m"):
        assert (gable / name / "config.json").is_file()
    cases = gable / "suites" / "reasoning.jsonl"
    done = dutchdoor(
        *("compare", str(gable / "gable-s"), str(gable / "gable-m"), "--cases", str(cases)),
        *("--margin", "0.5", "--format", "json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr  # with so wide a margin whatever the recipe makes of them
    found = json.loads(done.stdout)
    assert (found["quality"]["verdict"], found["cases"]["n"], found["quality"]["missing"]) == ("pass", 400, 0)
    assert found["a"]["parameters"] < found["b"]["parameters"]
    assert {found["a"]["alone"]["requests"], found["a"]["crowd"]["requests"]} == {20, 380}


def test_ctrl_c_ends_it_quietly(models: Path, url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "compare", str(models / "one"), f"{url}#slow", "--max-tokens", "400"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == ""


def test_help_names_every_option_with_its_default() -> None:
    out, _ = compare("--help", cwd=Path.cwd(), code=0)
    assert re.search(r"Usage: dutchdoor compare \[OPTIONS\] A B", out)
    assert "Example: dutchdoor compare" in out
    for default in ("[default: 0.95", "[default: 4", "[default: 60"):
        assert default in out


def test_a_side_without_a_chat_template_is_noted(models: Path, url: str, tmp_path: Path) -> None:
    make_model(tmp_path / "bare", "qwen2", trained_chat_template=False)
    limits = ("--max-tokens", "2", "--seconds", "1")
    found = report(tmp_path / "bare", models / "one", *limits, cwd=tmp_path, code=0)
    assert ["no chat template" in note for note in found["a"]["notes"]] == [True]
    assert found["b"]["notes"] == []
    out, _ = compare(tmp_path / "bare", models / "one", *limits, cwd=tmp_path, code=0)
    assert "A: it has no chat template" in out
