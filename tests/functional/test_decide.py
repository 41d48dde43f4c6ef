"""`dutchdoor decide` through the command line, on evidence that is signed and stored as `vet` does it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from dutchdoor.core import ThreatModel, digest_file
from dutchdoor.evidence.record import Rung
from dutchdoor.evidence.signing_keys import SigningKey, new_key, own_key
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import identify
from dutchdoor.family.load import load_family
from dutchdoor.policy.rules import load_policy, rungs
from tests.fakes.cli import run
from tests.unit.policy.world import POLICY, SIZE, World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "gable")


async def store(world: World, signer: SigningKey, data: Path | None = None) -> None:
    """Everything on the hand-filled shelf, as signed evidence about the bytes that lie there."""
    data = data or world.folder / ".dutchdoor"
    loaded = load_family(world.folder / "family.yaml")
    policy = load_policy(world.folder / "policy.yaml")
    subjects = await identify(loaded, Salts(data / "salts"), data / "cache")
    evidence = EvidenceStore(data / "evidence")
    ladder: dict[str | None, Rung | None] = {each.label: each for each in rungs(policy)}
    for key in world.shelf.rates:
        member, variant, suite, threat, label = key
        made = world.shelf.evidence(key, policy.digests[suite], ladder.get(label) if label else None)
        weights = subjects.weights_commitment(member, variant, make=True)
        serve = subjects.serve_commitment(member, make=True) if threat is ThreatModel.GUARDED else None
        rung = made.conditions.rung
        run_as = None if rung is None else subjects.as_run(rung, make=True)
        assert weights is not None
        await evidence.put(
            msgspec.structs.replace(
                made,
                subject=msgspec.structs.replace(made.subject, commitment=weights),
                conditions=msgspec.structs.replace(made.conditions, serve=serve, rung=run_as),
            ),
            signer,
        )


def keep(world: World, home: Path, data: Path | None = None) -> None:
    asyncio.run(store(world, own_key(home / "config"), data))


def decided(world: World, *more: str) -> tuple[int, dict[str, object]]:
    done = run("decide", "family.yaml", "--format", "json", *more, cwd=world.folder)
    assert done.returncode != 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def tiers(decision: dict[str, object]) -> dict[str, str]:
    members = decision["members"]
    assert isinstance(members, dict)
    return {name: each["tier"] for name, each in members.items()}


def test_stored_evidence_opens_the_small_one_and_serves_the_large_one(world: World, own_home: Path) -> None:
    keep(world, own_home)
    code, decision = decided(world)
    assert code == 0
    assert tiers(decision) == {"small": "open-weights", "large": "api"}
    (policy,) = cast("list[dict[str, Any]]", decision["policies"])
    assert (policy["id"], policy["digest"]) == ("base", digest_file(world.folder / "policy.yaml"))
    assert policy["timing"]["committed_at"] is None
    download = decision["members"]["large"]["channels"]["download"]  # type: ignore[index]
    assert (download["open"], download["closed_by"]) == (False, "evidence")
    verdict = next(each for each in download["verdicts"] if each["rule"] == "tamper")
    assert set(verdict) == {
        "policy", "rule", "effect", "member", "variant", "threat", "rung", "verdict", "measure", "value", "lower",
        "upper", "bound", "confidence", "method", "n", "missing", "clusters", "because",
    }  # fmt: skip
    assert (verdict["measure"], verdict["rung"], verdict["verdict"]) == (
        "hazard.reagents",
        "lora:100:0",
        "fail",
    )
    assert {each["kind"]: each["closed_by"] for each in decision["components"]} == {  # type: ignore[attr-defined]
        "system-prompt": "choice",
        "safety-tooling": "choice",
    }


def test_the_table_is_one_that_a_person_understands(world: World, own_home: Path) -> None:
    keep(world, own_home)
    done = run("decide", cwd=world.folder)
    assert done.returncode == 0 and done.stderr == ""
    text = " ".join(done.stdout.split())
    assert (
        "small open-weights download open ✓ size: parameters 36 ≤ 8B (bf16) ✓ tamper: hazard.reagents 0.000 ["
        in text
    )
    assert (
        "large api download closed by evidence ✓ size: parameters 36 ≤ 8B (bf16) ✗ tamper: hazard.reagents 0.600 ["
        in text
    )
    assert "] > 0.020 (bf16, tampered, lora:100:0) (and 1 more) api open ✓ guard" in text
    assert (
        "components that stay system-prompt of large (serve/system.txt) closed by choice: security:" in text
    )
    assert "what to do" not in text


def test_the_installed_command_is_the_same(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dutchdoor.cli.main", "decide", "--format", "json"],
        cwd=world.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3 and done.stderr == ""
    assert json.loads(done.stdout) == decided(world)[1]


def test_without_evidence_it_exits_3_and_says_how_to_get_some(world: World) -> None:
    done = run("decide", "family.yaml", cwd=world.folder)
    assert done.returncode == 3
    assert "closed: inconclusive" in done.stdout
    assert "measure what is missing: dutchdoor vet family.yaml" in done.stdout
    assert not list((world.folder / ".dutchdoor").glob("evidence/*"))


def test_an_empty_policy_holds_everything_and_says_which_rule_is_missing(world: World) -> None:
    world.policy("kind: dutchdoor/policy@1\nid: base\nrules: []\n")
    code, decision = decided(world)
    assert code == 3 and set(tiers(decision).values()) == {"held"}
    done = run("decide", cwd=world.folder)
    assert (
        "small: add a rule with `gates: download` to the policy base, or set `intent: {download: false}`"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("requirement", "code"),
    [("small=open-weights", 0), ("large=api", 0), ("large=open-weights", 10), ("small=held", 10)],
)
def test_a_requirement_that_does_not_hold_exits_10(
    world: World, own_home: Path, requirement: str, code: int
) -> None:
    keep(world, own_home)
    done = run("decide", "family.yaml", "--require", requirement, cwd=world.folder)
    assert done.returncode == code
    assert ("required, and not so" in done.stderr) is (code == 10)


def test_a_requirement_that_does_not_hold_comes_before_inconclusive(world: World) -> None:
    assert run("decide", "--require", "small=open-weights", cwd=world.folder).returncode == 10
    assert run("decide", "--require", "small=held", cwd=world.folder).returncode == 3


@pytest.mark.parametrize("requirement", ["small", "small=ajar", "tiny=api", "=api"])
def test_a_requirement_that_cannot_be_meant_is_a_usage_error(world: World, requirement: str) -> None:
    done = run("decide", "--require", requirement, cwd=world.folder)
    assert done.returncode == 2 and "hint:" in done.stderr and done.stdout == ""


def test_evidence_of_someone_unknown_counts_only_when_they_are_trusted(world: World, tmp_path: Path) -> None:
    stranger = new_key()
    asyncio.run(store(world, stranger))
    code, decision = decided(world)
    assert code == 3 and set(tiers(decision).values()) == {"held"}
    assert "warning: evidence left out" in run("decide", cwd=world.folder).stderr
    (tmp_path / "their.pub").write_bytes(stranger.public.pem())
    code, decision = decided(world, "--trust", str(tmp_path / "their.pub"))
    assert code == 0 and tiers(decision)["small"] == "open-weights"


def test_a_changed_byte_of_the_weights_makes_their_evidence_worth_nothing(
    world: World, own_home: Path
) -> None:
    keep(world, own_home)
    path = world.folder / "small" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, decision = decided(world)
    assert code == 3 and tiers(decision) == {"small": "held", "large": "api"}


def test_a_changed_guard_or_suite_makes_the_evidence_worth_nothing(world: World, own_home: Path) -> None:
    keep(world, own_home)
    (world.folder / "serve" / "system.txt").write_text("Be nice.\n")
    assert tiers(decided(world)[1]) == {"small": "open-weights", "large": "held"}
    (world.folder / "hazard.jsonl").write_text("{}\n")
    assert tiers(decided(world)[1]) == {"small": "held", "large": "held"}


def test_a_changed_byte_of_the_evidence_makes_it_worth_nothing(world: World, own_home: Path) -> None:
    keep(world, own_home)
    for path in (world.folder / ".dutchdoor" / "evidence").glob("*.json"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    code, decision = decided(world)
    assert code == 3 and set(tiers(decision).values()) == {"held"}


def test_another_data_folder_and_another_policy(world: World, own_home: Path, tmp_path: Path) -> None:
    keep(world, own_home, tmp_path / "data")
    assert set(tiers(decided(world)[1]).values()) == {"held"}
    code, decision = decided(world, "--data", str(tmp_path / "data"))
    assert code == 0 and tiers(decision)["small"] == "open-weights"
    world.policy(POLICY + SIZE, "lax.yaml")
    code, decision = decided(world, "--policy", "lax.yaml")
    assert code == 3 and tiers(decision) == {
        "small": "open-weights",
        "large": "open-weights",
    }  # no rule for the api


def test_closed_by_choice_is_no_reason_to_exit_3(world: World, own_home: Path) -> None:
    keep(world, own_home)
    world.edit("weights: ./small}]", "weights: ./small}]\n    intent: {download: false}")
    code, decision = decided(world)
    assert code == 0 and tiers(decision)["small"] == "api"
    assert decision["members"]["small"]["channels"]["download"]["closed_by"] == "choice"  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("family.yaml", "family: gable", "famly: gable", "family.yaml:2: famly: unknown field"),
        ("family.yaml", "./small}", "./lost}", "there are no weights at lost"),
        ("policy.yaml", "at_most: 8e9", "at_most: eight", "policy.yaml:"),
        (
            "policy.yaml",
            "kind: dutchdoor/policy@1",
            "kind: dutchdoor/routes@1",
            "policy.yaml:1: kind: expected",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    world: World, name: str, before: str, after: str, message: str
) -> None:
    world.edit(before, after, name)
    done = run("decide", "family.yaml", cwd=world.folder)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    done = run("decide", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: family.yaml: there is no such file\n\nhint: `dutchdoor init PATH…` writes a first one\n"
    )


def test_truncated_weights_hold_their_member_and_no_other(world: World, own_home: Path) -> None:
    keep(world, own_home)
    path = world.folder / "large" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, decision = decided(world)
    assert code == 3 and tiers(decision) == {"small": "open-weights", "large": "held"}
