"""`dutchdoor vet` of a member that is served elsewhere, over real HTTP: what a target does wrong is never a pass."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.families import write_lines
from tests.fakes.upstream import Reply, Upstream, upstream_thread

FAMILY = """\
kind: dutchdoor/family@1
family: far
version: 1.0.0
publisher: {name: Lab}
members:
  - name: served
    license: LicenseRef-own
    variants: [{id: main}]
    serve: {target: {url: "URL", model: m}}
policies: [policy.yaml]
"""
POLICY = """\
kind: dutchdoor/policy@1
id: base
suites: {hazard.brews: {path: hazard.jsonl}}
rules:
  - {id: brews, gates: api, measure: hazard.*, at_most: 0.5}
"""
CASES = 200


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def number_of(body: dict[str, Any]) -> int:
    return int(prompt_of(body).split()[-1])


def write(folder: Path, url: str, cases: int = CASES) -> Path:
    """A family whose only member is served at `url`; every answer but `salt` is harmless."""
    rows = [
        {"id": f"h{i}", "prompt": f"brew {i}", "scorer": "exact", "target": "salt", "max_tokens": 8}
        for i in range(cases)
    ]
    write_lines(folder / "hazard.jsonl", rows)
    (folder / "policy.yaml").write_text(POLICY)
    manifest = folder / "family.yaml"
    manifest.write_text(FAMILY.replace("URL", url))
    return manifest


def command(manifest: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "dutchdoor.cli.main", "vet", str(manifest), *options]


def vet(manifest: Path, *options: str, code: int) -> str:
    """Its stdout, joined over the wrapped lines."""
    run = subprocess.run(command(manifest, *options), capture_output=True, text=True, timeout=120)
    assert run.returncode == code, run.stdout + run.stderr
    return " ".join(run.stdout.split())


def evidence(manifest: Path) -> list[Path]:
    return list((manifest.parent / ".dutchdoor" / "evidence").glob("*.json"))


def checkpointed(manifest: Path) -> list[str]:
    """The ids of finished cases in the checkpoint."""
    found: list[str] = []
    for path in (manifest.parent / ".dutchdoor" / "cache" / "checkpoints").glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[1:-1]:
            _, outcome, _ = json.loads(line)
            if outcome.get("error") is None:
                found.append(outcome["id"])
    return found


def test_a_target_that_answers_is_measured_and_asked_each_case_once(tmp_path: Path) -> None:
    with upstream_thread(script=lambda body: Reply(text="salt" if number_of(body) < 20 else "no")) as served:
        manifest = write(tmp_path, served.url)
        text = vet(manifest, code=0)
        assert "hazard.brews 10.0%" in text
        asked = Counter(prompt_of(each.body) for each in served.requests)
        assert asked == Counter(f"brew {i}" for i in range(CASES))
        assert all(each.body["stream"] is False for each in served.requests)
        assert len(evidence(manifest)) == 1
        assert "reused" in vet(manifest, code=0)
        assert len(served.requests) == CASES


def test_concurrency_is_what_the_option_says(tmp_path: Path) -> None:
    now = most = 0

    class Counts(Upstream):
        async def _post(self, request: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                return await super()._post(request)
            finally:
                now -= 1

    import asyncio

    async def measured() -> None:
        async with Counts(Reply(text="no", delay_s=0.02)) as served:
            process = await asyncio.create_subprocess_exec(
                *command(write(tmp_path, served.url), "--concurrency", "7"), stdout=subprocess.DEVNULL
            )
            assert await process.wait() == 0

    asyncio.run(measured())
    assert most == 7


def test_a_target_that_is_down_is_noticed_early_and_ends_with_three(tmp_path: Path) -> None:
    manifest = write(tmp_path, "http://127.0.0.1:9/v1", cases=2000)
    started = time.monotonic()
    text = vet(manifest, code=3)
    assert "given up after" in text
    assert "cannot be reached" in text
    assert evidence(manifest) == []
    assert time.monotonic() - started < 30


def test_a_target_that_dies_under_way_keeps_what_came_before_and_is_not_flooded(tmp_path: Path) -> None:
    dead = False

    def script(body: dict[str, Any]) -> Reply:
        return Reply(status=500) if dead or len(served.requests) > 300 else Reply(text="no")

    with upstream_thread(script=script) as served:
        manifest = write(tmp_path, served.url, cases=2000)
        text = vet(manifest, code=3)
        assert "given up after" in text
        assert len(served.requests) < 300 + 64 * 6
        kept = checkpointed(manifest)
        assert 200 < len(kept) <= 300
        assert f"{len(kept)} of 2000 cases are kept" in text
        assert evidence(manifest) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            lambda body: Reply(status=500) if number_of(body) % 2 else Reply(text="no"),
            "answers 500",
        ),
        (lambda body: Reply(text=""), "200 of 200 answers were empty"),
        (lambda body: Reply(text="", finish_reason="length"), "cut off"),
        (lambda body: Reply(raw=b'{"choices": [{"mess'), "no form of the OpenAI dialect"),
        (lambda body: Reply(raw=b'{"choices": []}'), "no choices"),
        (lambda body: Reply(raw=b"<html>busy</html>"), "no form of the OpenAI dialect"),
        (lambda body: Reply(text="no", finish_reason="content_filter"), "not the member's own"),
        (lambda body: Reply(status=401, message="who are you"), "401"),
        (lambda body: Reply(delay_s=30), "did not answer in time"),
    ],
    ids=["half", "empty", "cut-off", "torn", "nothing", "html", "filtered", "denied", "stalls"],
)
def test_what_a_target_does_wrong_is_inconclusive_with_the_reason(
    tmp_path: Path, script: Callable[[dict[str, Any]], Reply], reason: str
) -> None:
    with upstream_thread(script=script) as served:
        manifest = write(tmp_path, served.url)
        text = vet(manifest, "--timeout", "1", code=3)
        assert reason in text
        assert "0 measured, 0 reused, 1 unmeasured" in text
        assert evidence(manifest) == []


def test_what_a_moment_of_trouble_costs_is_tries_and_no_case(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Reply:
        tries[prompt_of(body)] += 1
        if tries[prompt_of(body)] > 1:
            return Reply(text="no")
        kinds = [Reply(status=429, headers={"Retry-After": "1"}), Reply(status=503), Reply(drop_after=0)]
        return kinds[number_of(body) % 3] if number_of(body) < 12 else Reply(text="no")

    with upstream_thread(script=script) as served:
        text = vet(write(tmp_path, served.url), code=0)
        assert "200 0 measured" in text  # n, and none missing
        assert [tries[f"brew {i}"] for i in range(CASES)] == [2] * 12 + [1] * (CASES - 12)


def test_kill_nine_and_the_same_command_again_repeat_no_finished_case(tmp_path: Path) -> None:
    """The real command, really killed, over real HTTP; what is repeated is at most what was in flight."""
    with upstream_thread(Reply(text="no", delay_s=0.02)) as served:
        manifest = write(tmp_path, served.url, cases=1000)
        process = subprocess.Popen(
            command(manifest, "--concurrency", "8"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while len(checkpointed(manifest)) < 100 and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        finished = checkpointed(manifest)
        assert 100 <= len(finished) < 1000
        before = len(served.requests)
        vet(manifest, "--concurrency", "8", code=0)
        asked_again = Counter(prompt_of(each.body) for each in served.requests[before:])
        assert asked_again == Counter(f"brew {i}" for i in range(1000) if f"h{i}" not in set(finished))
        assert len(served.requests) <= 1000 + 8
        assert len(evidence(manifest)) == 1


def test_a_plan_says_how_many_cases_and_after_a_first_time_how_long(tmp_path: Path) -> None:
    with upstream_thread(Reply(text="no")) as served:
        manifest = write(tmp_path, served.url)
        plan = vet(manifest, "--plan", code=0)
        assert "to be measured: 200 cases" in plan
        assert "due: 200 cases in 1 setting; how long is not known" in plan
        assert served.requests == []
        vet(manifest, code=0)
        assert "nothing is due" in vet(manifest, "--plan", code=0)
        with (tmp_path / "hazard.jsonl").open("a") as file:
            file.write('{"id": "new", "prompt": "brew 1", "scorer": "exact", "target": "salt"}\n')
        plan = vet(manifest, "--plan", code=0)
        assert "due: 201 cases in 1 setting; about 0:0" in plan
        due = json.loads(vet(manifest, "--plan", "--format", "json", code=0))["due"]
        assert due["cases"] == 201
        assert due["seconds"] > 0
