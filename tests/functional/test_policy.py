"""`policy commit`, `policy log`, and what `decide`, `pack` and `verify --recompute` make of them."""

import asyncio
import datetime
import json
import os
from pathlib import Path

import pytest

from dutchdoor.evidence.signing_keys import own_key
from tests.fakes.cli import Done, run
from tests.fakes.families import write_family
from tests.fakes.vetted import vetted


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "house"
    folder.mkdir()
    write_family(folder)
    for name in ("small", "large"):
        (folder / name / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
        (folder / name / "tokenizer.json").write_text(json.dumps({"name": name}))
    return folder


def measure(house: Path, day: datetime.date | None = None) -> None:
    day = day or datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    key = own_key(Path(os.environ["DUTCHDOOR_CONFIG"]))
    asyncio.run(vetted(house / "family.yaml", key, made_at=f"{day}T00:00:00Z"))


def ok(done: Done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def timing(house: Path) -> dict[str, object]:
    decided = json.loads(ok(run("decide", "--format", "json", cwd=house)))
    found: dict[str, object] = decided["policies"][0]["timing"]
    return found


def test_a_policy_committed_before_its_evidence_is_in_time(house: Path) -> None:
    assert "base: committed" in ok(run("policy", "commit", cwd=house))
    assert "was committed already" in ok(run("policy", "commit", cwd=house))
    measure(house)
    found = timing(house)
    assert found["committed_at"] is not None
    assert (found["earlier"], found["evidence"]) == (0, 16)
    assert "committed" not in ok(run("decide", cwd=house))


def test_a_policy_that_came_late_or_was_never_committed_says_so_and_closes_nothing(house: Path) -> None:
    measure(house, datetime.date(2026, 11, 1))
    assert "base  was never committed to the release log" in ok(run("decide", cwd=house))
    ok(run("policy", "commit", cwd=house))
    shown = ok(run("decide", "--require", "small=open-weights", cwd=house))
    assert "after 16 of the 16 runs that it judges" in shown


def test_a_changed_policy_or_suite_is_another_policy(house: Path) -> None:
    ok(run("policy", "commit", cwd=house))
    with (house / "policy.yaml").open("a") as file:
        file.write("# a word more\n")
    measure(house)
    assert timing(house)["committed_at"] is None


def test_the_log_shows_what_happened_and_finds_what_was_touched(house: Path) -> None:
    assert run("policy", "log", cwd=house).returncode == 3
    ok(run("policy", "commit", cwd=house))
    measure(house)
    ok(run("decide", cwd=house))
    ok(run("decide", cwd=house))  # the same decision is not noted twice
    ok(run("pack", "--quiet", cwd=house))
    shown = ok(run("policy", "log", cwd=house))
    kinds = [line.split()[2] for line in shown.splitlines() if line.startswith("  ")]
    assert kinds[:2] == ["policy", "decision"]
    assert kinds[-1] == "pack"
    assert "the chain holds" in shown
    path = house / ".dutchdoor" / "release-log" / "tiny.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    broken = run("policy", "log", cwd=house)
    assert broken.returncode == 10
    assert "does not hold: line 1" in broken.stdout


def test_the_bundle_of_a_committed_policy_recomputes_and_says_so(house: Path) -> None:
    ok(run("policy", "commit", cwd=house))
    day = datetime.datetime.now(datetime.UTC).date()
    measure(house, day)
    ok(run("pack", "--quiet", cwd=house))
    shown = ok(run("verify", "dist/small", "--recompute", cwd=house))
    assert "recomputed: the same decision follows from" in shown
    found = json.loads(ok(run("verify", "dist/small", "--recompute", "--format", "json", cwd=house)))
    (bundle,) = found["bundles"]
    assert bundle["recomputation"]["verdict"] == "same"
    assert bundle["decision"]["policies"][0]["timing"]["committed_at"] is not None
    assert run("verify", "dist/small", "--as-of", "2027-01-01", cwd=house).returncode == 2
