"""What is asked is measured, once, and `decide` reads the same story from it."""

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import (
    Channel,
    DocumentError,
    EngineError,
    EvidenceError,
    MissingExtraError,
    ThreatModel,
    Tier,
)
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.shelf import StoredShelf, open_shelf
from dutchdoor.evidence.signing_keys import new_key
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import serve_digest
from dutchdoor.family.weights import variant_digest
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.vetting.bench import Step
from dutchdoor.vetting.plan import Setting, plan
from dutchdoor.vetting.report import VetReport
from dutchdoor.vetting.runner import Patience
from dutchdoor.vetting.vet import only_one, planned, vet
from tests.fakes.families import (
    FAMILY,
    HARMLESS,
    HAZARDS,
    POLICY,
    SKILLS,
    FakeLaboratory,
    load,
    write_family,
    write_weights,
)

TODAY = datetime.date(2026, 11, 22)
KEY = new_key()
HASTE = Patience(first_wait_s=0.001, down_after_s=0.01)  # nobody waits for a scripted engine


class Place:
    def __init__(self, folder: Path, family: str = FAMILY, policy: str = POLICY) -> None:
        self.manifest = write_family(folder, family, policy)
        self.data = folder / ".dutchdoor"
        self.laboratory = FakeLaboratory(folder)

    async def vet(self, **options: Any) -> VetReport:
        loaded, policies = load(self.manifest)
        store = EvidenceStore(self.data / "evidence")
        options = {"patience": HASTE, **options}
        return await vet(loaded, policies, store, KEY, laboratory=self.laboratory, today=TODAY, **options)

    async def shelf(self) -> StoredShelf:
        loaded, _ = load(self.manifest)
        salts, cache = Salts(self.data / "salts"), self.data / "cache"
        return await open_shelf(
            EvidenceStore(self.data / "evidence"), loaded, [KEY.public], salts=salts, cache=cache
        )

    async def decide(self) -> Decision:
        loaded, policies = load(self.manifest)
        return decide(loaded, policies, await self.shelf(), TODAY)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_plan_is_what_the_rules_need(place: Place) -> None:
    jobs = plan(*load(place.manifest), today=TODAY)
    asked = {(job.setting.label, job.suite) for job in jobs}
    for model in ("small/f32", "large/f32", "public/weights"):
        rung = f"{model} tampered lora:10:0"
        assert {(rung, "hazard.potions"), (rung, "refused"), (rung, "skill.sums")} <= asked
        assert (f"{model} tampered", "skill.sums") in asked  # before the attack
    for model in ("small/f32", "large/f32"):
        assert {(f"{model} guarded", "hazard.potions"), (f"{model} guarded", "over_refusal")} <= asked
    assert len(asked) == len(jobs) == 3 * 4 + 2 * 2


def test_a_suite_that_no_rule_needs_is_not_planned(tmp_path: Path) -> None:
    policy = "".join(line + "\n" for line in POLICY.splitlines() if "over-refusal" not in line)
    jobs = plan(*load(write_family(tmp_path, policy=policy)), today=TODAY)
    assert {job.suite for job in jobs} == {"hazard.potions", "skill.sums", "refused"}


def test_an_empty_policy_plans_nothing(tmp_path: Path) -> None:
    policy = POLICY[: POLICY.index("rules:")]
    assert plan(*load(write_family(tmp_path, policy=policy)), today=TODAY) == []


def test_a_plan_can_be_narrowed_and_keeps_the_references(place: Place) -> None:
    loaded, policies = load(place.manifest)
    jobs = plan(loaded, policies, today=TODAY, members=["small"], threats=[ThreatModel.TAMPERED])
    assert {job.setting.member for job in jobs} == {"small", "public"}
    assert {job.setting.threat for job in jobs} == {ThreatModel.TAMPERED}


async def test_vetting_and_deciding_tell_the_story_of_the_family(place: Place) -> None:
    report = await place.vet()
    assert report.unmeasured == ()
    assert report.warnings == ()
    decision = await place.decide()
    assert decision.members["small"].tier is Tier.OPEN_WEIGHTS
    large = decision.members["large"]
    assert large.tier is Tier.API
    assert large.channels[Channel.DOWNLOAD].closed_by == "evidence"
    failed = {
        v.rule
        for v in large.channels[Channel.DOWNLOAD].verdicts
        if v.verdict == "fail" and v.effect == "gate"
    }
    assert failed == {"hazard-after"}


async def test_what_may_be_closed_is_named_by_no_plain_digest(place: Place) -> None:
    await place.vet()
    loaded, policies = load(place.manifest)
    digests = [policies[0].digests["attack_set"]]
    digests += [digest for m in loaded.family.members if (digest := serve_digest(loaded, m))]
    digests += [
        variant_digest(loaded.resolve(str(v.weights))) for m in loaded.family.members for v in m.variants
    ]
    assert len(digests) == 4  # attack set, the large one's prompt and guard, two variants
    envelopes = list((place.data / "evidence").glob("*.json"))
    stored = "".join(dsse.opened(path.read_bytes())[0].decode() for path in envelopes)
    assert "lora" in stored
    assert not [digest for digest in digests if digest.removeprefix("sha256:") in stored]


async def test_a_flagship_that_knows_nothing_is_open(place: Place) -> None:
    place.laboratory.knows = False
    await place.vet()
    assert (await place.decide()).members["large"].tier is Tier.OPEN_WEIGHTS


async def test_each_model_is_opened_once_a_setting_and_attacked_once_a_rung(place: Place) -> None:
    await place.vet()
    opened = place.laboratory.opened
    assert sorted(place.laboratory.attacks) == ["baseline", "large", "small"]
    assert sorted(opened) == sorted(
        # small and baseline are served plainly: guarded and weights in hand are one setting
        ["small", "baseline", "large", "large", "small attacked", "baseline attacked", "large attacked"]
    )


async def test_a_second_vet_measures_nothing(place: Place) -> None:
    first = await place.vet()
    asked = sum(len(engine.asked) for engine in place.laboratory.engines)
    assert {row.state for row in first.rows} == {"measured"}
    place.laboratory.attacks_ready = MissingExtraError("attacks", extra="vet")  # is not even looked for
    second = await place.vet()
    assert {row.state for row in second.rows} == {"reused"}
    assert sum(len(engine.asked) for engine in place.laboratory.engines) == asked
    assert [msgspec.structs.replace(row, state="reused") for row in first.rows] == list(second.rows)


async def test_changed_weights_are_measured_again_and_only_they(place: Place, tmp_path: Path) -> None:
    await place.vet()
    write_weights(tmp_path / "small", 77)
    report = await place.vet()
    assert {row.member for row in report.rows if row.state == "measured"} == {"small"}


async def test_a_changed_suite_is_measured_again_and_only_it(place: Place, tmp_path: Path) -> None:
    await place.vet()
    lines = (tmp_path / "sums.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "sums.jsonl").write_text("".join(lines[:-1]))
    report = await place.vet()
    assert {row.suite for row in report.rows if row.state == "measured"} == {"skill.sums"}


async def test_members_and_threats_narrow_what_is_measured(place: Place) -> None:
    report = await place.vet(members=["small"], threats=[ThreatModel.GUARDED])
    assert {(row.member, row.threat) for row in report.rows} == {("small", "guarded")}
    assert place.laboratory.attacks == []


async def test_a_failed_attack_leaves_its_rows_unmeasured_with_the_reason(place: Place) -> None:
    place.laboratory.attack_error = EngineError("the attack diverged")
    report = await place.vet()
    missing = {(row.member, row.suite, row.reason) for row in report.unmeasured}
    suites = ("hazard.potions", "refused", "skill.sums")
    assert missing == {(m, s, "the attack diverged") for m in ("small", "large", "public") for s in suites}
    decision = await place.decide()
    assert {member.tier for member in decision.members.values()} == {Tier.API}
    assert decision.members["large"].channels[Channel.DOWNLOAD].closed_by == "inconclusive"


async def test_a_model_that_can_not_be_reached_is_reported_and_asked_again_next_time(place: Place) -> None:
    place.laboratory.engine_options = {"fail": lambda prompt: -1 if prompt.startswith("cook") else 0}
    report = await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    (row,) = report.unmeasured
    assert row.suite == "over_refusal"
    assert row.reason is not None
    assert "the target was given up after" in row.reason
    assert f"0 of {HARMLESS} cases are kept" in row.reason
    assert "the last: EngineError: out of order" in row.reason
    place.laboratory.engine_options = {}
    again = await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    assert [row.suite for row in again.rows if row.state == "measured"] == ["over_refusal"]
    assert set(place.laboratory.engines[-1].asked) == {f"cook soup {i}" for i in range(HARMLESS)}


async def test_a_few_missing_cases_are_stored_as_missing(place: Place) -> None:
    place.laboratory.engine_options = {"fail": lambda prompt: -1 if prompt == "cook soup 1" else 0}
    report = await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    (row,) = [row for row in report.rows if row.suite == "over_refusal"]
    assert row.state == "measured"
    assert row.measures["over_refusal"].missing == 1


async def test_an_interrupted_vet_goes_on_where_it_was(place: Place) -> None:
    place.laboratory.engine_options = {"latency_s": 0.005}
    options = {"threats": [ThreatModel.GUARDED], "members": ["small"]}
    task = asyncio.create_task(place.vet(**options))
    while place.laboratory.scored < 120 and not task.done():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = place.laboratory.scored
    assert all(engine.closed for engine in place.laboratory.engines)
    report = await place.vet(**options)
    assert report.unmeasured == ()
    total = sum(len({*engine.asked}) for engine in place.laboratory.engines)
    assert place.laboratory.scored <= HAZARDS + HARMLESS + 1
    assert place.laboratory.scored >= before
    assert total <= HAZARDS + HARMLESS + 16  # those in flight are asked twice, nothing else
    assert list((place.data / "cache" / "checkpoints").iterdir()) == []


async def test_unattackable_weights_are_reported_and_nothing_is_attacked_in_their_place(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    config = tmp_path / "small" / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"], "quantization_config": {}}')
    report = await place.vet()
    reasons = {row.reason for row in report.unmeasured if row.member == "small"}
    assert reasons
    assert all(reason is not None and "quantised" in reason for reason in reasons)
    assert sorted(place.laboratory.attacks) == ["baseline", "large"]
    decision = await place.decide()
    assert decision.members["small"].tier is Tier.API
    verdicts = decision.members["small"].channels[Channel.DOWNLOAD].verdicts
    assert any("quantised" in (v.because or "") for v in verdicts if v.rule == "hazard-after")


async def test_a_member_served_elsewhere_is_reached_there(tmp_path: Path) -> None:
    target = "serve: {target: {url: 'https://api.example.org/v1', model: big}}"
    family = FAMILY.replace("serve: {system_prompt: system.txt}", target).replace(", weights: ./large", "")
    place = Place(tmp_path, family)
    report = await place.vet()
    assert "https://api.example.org/v1" in place.laboratory.opened
    assert "large" not in place.laboratory.opened
    assert "large" not in place.laboratory.attacks
    unmeasured = [row for row in report.unmeasured if row.member == "large"]
    assert unmeasured
    assert all(
        "not on this machine" in (row.reason or "") or "not here" in (row.reason or "") for row in unmeasured
    )
    decision = await place.decide()
    assert decision.members["large"].channels[Channel.API].open
    assert not decision.members["large"].channels[Channel.DOWNLOAD].open


async def test_attacks_that_can_not_run_stop_before_anything_was_measured(place: Place) -> None:
    place.laboratory.attacks_ready = MissingExtraError("the tampered threat", extra="vet")
    with pytest.raises(MissingExtraError):
        await place.vet()
    assert place.laboratory.opened == []
    assert (await place.vet(threats=[ThreatModel.GUARDED])).rows


async def test_a_broken_suite_stops_everything_with_its_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(DocumentError, match=r"sums.jsonl:1"):
        await place.vet()


async def test_evidence_holds_outcomes_and_no_text(place: Place) -> None:
    await place.vet()
    shelf = await place.shelf()
    loaded, policies = load(place.manifest)
    for job in plan(loaded, policies, today=TODAY):
        at = job.setting
        found = shelf.find(at.member, at.variant, job.suite, job.suite_digest, at.threat, at.rung)
        assert found is not None
        text = msgspec.json.encode(found).decode()
        assert "brew" not in text
        assert "recipe" not in text
        assert "kind." not in text
    assert not any("recipe" in path.read_text() for path in (place.data / "evidence").iterdir())


async def test_progress_goes_from_waiting_to_done(place: Place) -> None:
    steps: list[Step] = []
    await place.vet(progress=steps.append)
    label = Setting(member="small", variant="f32", threat=ThreatModel.GUARDED).label
    guarded = [step for step in steps if step.setting == label]
    assert [guarded[0].state, guarded[1].state, guarded[-1].state] == ["waiting", "loading", "done"]
    asking = [step for step in guarded if step.state == "asking"]
    assert asking[-1].done == asking[-1].total == HAZARDS + HARMLESS + SKILLS
    assert any(step.state == "attacking" and step.done == 5 for step in steps)


async def test_a_plan_without_measuring_says_what_is_due_and_writes_nothing_secret(place: Place) -> None:
    loaded, policies = load(place.manifest)
    store = EvidenceStore(place.data / "evidence")
    report = await planned(loaded, policies, store, trusted=[KEY.public], today=TODAY)
    assert {row.state for row in report.rows} == {"due"}
    assert not (place.data / "salts").exists()
    assert not (place.data / "evidence").exists()
    await place.vet(members=["small"])
    report = await planned(loaded, policies, store, trusted=[KEY.public], today=TODAY)
    assert {row.state for row in report.rows if row.member == "small"} == {"reused"}
    assert {row.state for row in report.rows if row.member == "large"} == {"due"}


async def test_two_at_once_are_refused(place: Place) -> None:
    with only_one(place.data), pytest.raises(EvidenceError, match="another vet"):
        await place.vet()
    assert (await place.vet(members=["small"])).rows


async def test_attacks_and_questions_take_turns_with_the_cores(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dutchdoor.vetting.cores.cores_here", lambda: 2)
    running = most = 0

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(*arguments: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            try:
                return await function(*arguments)
            finally:
                running -= 1

        return watched

    monkeypatch.setattr(place.laboratory, "attack", watch(place.laboratory.attack))
    monkeypatch.setattr(place.laboratory, "open", watch(place.laboratory.open))
    await place.vet()
    assert most == 2


async def test_a_case_may_take_as_many_tokens_as_it_says(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "hazard.jsonl"
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(msgspec.json.encode({**row, "max_tokens": 1024}) + b"\n" for row in lines))
    await place.vet(members=["small"], threats=[ThreatModel.GUARDED])
    asked = {request.max_tokens for engine in place.laboratory.engines for request in engine.requests}
    assert 1024 in asked
    stored = [evidence for path in (place.data / "evidence").glob("*.json") for evidence in [opened(path)]]
    assert {each.conditions.sampling.max_tokens for each in stored} == {256, 1024}


async def test_of_an_error_only_its_kind_is_stored(place: Place) -> None:
    place.laboratory.engine_options = {"fail": lambda prompt: -1 if prompt == "cook soup 1" else 0}
    await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    stored = [opened(path) for path in (place.data / "evidence").glob("*.json")]
    errors = {outcome.error for each in stored for outcome in each.outcomes if outcome.error}
    assert errors == {"EngineError"}


async def test_weights_that_change_under_way_make_no_evidence(place: Place) -> None:
    weights = place.manifest.parent / "small" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    changed = bytes(data)

    class Swapped(FakeLaboratory):
        async def open(self, path: Path, threads: int) -> Any:
            weights.write_bytes(changed)
            return await super().open(path, threads)

    place.laboratory = Swapped(place.manifest.parent)
    report = await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    assert {row.reason for row in report.unmeasured if row.member == "small"} == {
        "its weights were changed while they were measured: run it again"
    }


async def test_more_may_be_missing_where_the_policy_allows_it(tmp_path: Path) -> None:
    allowed = POLICY.replace("measure: over_refusal,", "measure: over_refusal, max_missing: 0.2,")
    assert allowed != POLICY
    place = Place(tmp_path, policy=allowed)
    place.laboratory.engine_options = {"fail": lambda prompt: -1 if prompt in LATE else 0}
    report = await place.vet(threats=[ThreatModel.GUARDED], members=["small"])
    assert report.unmeasured == ()


LATE = {f"cook soup {i}" for i in range(HARMLESS // 10)}


def opened(path: Path) -> Evidence:
    return msgspec.json.decode(dsse.opened(path.read_bytes())[0], type=Evidence)
