"""A rule that could not decide anything, or says more than is read, is an error and not a silent pass."""

import re
from pathlib import Path

import pytest

from dutchdoor.core import DocumentError, digest_file
from dutchdoor.policy.rules import expand, load_policy, matching, rungs, suite_of
from tests.unit.policy.world import FULL, POLICY, make_world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_world(tmp_path)
    return tmp_path


def fault(folder: Path, text: str) -> DocumentError:
    path = folder / "policy.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError) as caught:
        load_policy(path)
    assert caught.value.message.startswith(f"{path}:")
    return caught.value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("gates: download", "this one has none of them"),
        ("gates: download, measure: parameters, at_most: 1, require: {license: MIT}", "measure and require"),
        ("gates: download, measure: parameters", "one bound: at_most or at_least"),
        ("gates: download, measure: parameters, at_most: 2, at_least: 1", "one bound: at_most or at_least"),
        ("gates: download, measure: speed, at_most: 1", "rules[0].measure: unknown measure 'speed'"),
        ("gates: download, measure: '*', at_most: 1", "rules[0].measure: unknown measure '*'"),
        ("gates: download, measure: hazard, at_most: 1", "rules[0].measure: unknown measure 'hazard'"),
        (
            "gates: weights, measure: parameters, at_most: 1",
            "rules[0].gates: the text 'weights' is not allowed here",
        ),
        (
            "gates: api, measure: hazard.*, threat: guard, at_most: 1",
            "rules[0].threat: the text 'guard' is not allowed",
        ),
        ("gates: api, measure: parameters, threat: tampered, at_most: 1", "the same under every threat"),
        (
            "gates: api, measure: hazard.*, as: ratio, at_most: 1",
            "rules[0].as: means nothing without relative_to",
        ),
        (
            "gates: api, measure: hazard.*, at_most: 1, confidence: 0.5",
            "rules[0].confidence: expected a number > 0.5",
        ),
        (
            "gates: api, measure: hazard.*, at_most: 1, confidence: 95",
            "rules[0].confidence: expected a number",
        ),
        (
            "gates: api, measure: hazard.*, at_most: 1, max_missing: 2",
            "rules[0].max_missing: expected a number ≥ 0",
        ),
        (
            "gates: api, measure: hazard.*, at_most: 2%",
            "rules[0].at_most: expected a number, got the text '2%'",
        ),
        ("gates: api, measure: hazard.*, at_most: .nan", "is no finite number"),
        ("gates: api, measure: hazard.*, at_moat: 1", "rules[0].at_moat: unknown field"),
        ("gates: api, attested_by: k.pub, at_most: 1", "rules[0].at_most: means nothing beside attested_by"),
        ("gates: api, measure: hazard.*, at_most: 1, max_age_days: 3", "means nothing without attested_by"),
        ("gates: component, measure: parameters, at_most: 1", "a rule that gates components needs require"),
        (
            "gates: api, kinds: [datasets], require: {license: MIT}",
            "only rules that gate components have kinds",
        ),
        (
            "gates: component, kinds: [weights], require: {license: MIT}",
            "rules[0].kinds[0]: the text 'weights'",
        ),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(folder: Path, fields: str, message: str) -> None:
    assert message in fault(folder, f"{POLICY}  - {{id: r, {fields}}}\n").message


def test_tampering_that_is_not_described_is_refused(folder: Path) -> None:
    rule = "{id: r, gates: api, measure: hazard.*, threat: tampered, at_most: 1}"
    text = f"kind: dutchdoor/policy@1\nid: p\nrules: [{rule}]\n"
    error = fault(folder, text)
    assert "the policy doesn't describe tampering" in error.message and "ladder" in (error.hint or "")


def test_two_rules_with_one_id_are_refused(folder: Path) -> None:
    assert (
        "size is also the id of rules[0]"
        in fault(folder, FULL + "  - {id: size, gates: api, measure: parameters, at_most: 1}\n").message
    )


@pytest.mark.parametrize("name", ["toxicity", "hazard", "hazard.", "refusal.x", "refused", "hazard.*"])
def test_a_suite_has_a_name_that_says_how_it_counts(folder: Path, name: str) -> None:
    text = f"kind: dutchdoor/policy@1\nid: p\nsuites: {{'{name}': {{path: hazard.jsonl}}}}\n"
    assert f"unknown kind of suite {name!r}" in fault(folder, text).message


def test_a_suite_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "coding.jsonl").unlink()
    error = fault(folder, FULL)
    assert "suites.skill.coding.path: can't read" in error.message and ":6: " in error.message


def test_the_policy_is_known_by_its_bytes_and_its_suites_by_theirs(folder: Path) -> None:
    policy = load_policy(folder / "policy.yaml")
    assert policy.digest == digest_file(folder / "policy.yaml")
    assert policy.digests["hazard.reagents"] == digest_file(folder / "hazard.jsonl")
    assert policy.digests["refused"] == digest_file(folder / "refused.jsonl")
    assert policy.suite_path("refused") == folder / "refused.jsonl"
    assert policy.suite_path("skill.coding") == folder / "coding.jsonl"


def test_every_seed_is_a_rung_and_carries_only_what_the_policy_states(folder: Path) -> None:
    policy = load_policy(folder / "policy.yaml")
    assert [each.label for each in rungs(policy)] == ["lora:100:0", "lora:100:1"]
    assert {each.attack_set for each in rungs(policy)} == {policy.digests["attack_set"]}
    assert rungs(policy)[0].settings == {}
    path = folder / "policy.yaml"
    path.write_text(FULL.replace("seeds: 2", "seeds: 1, rank: 4, learning_rate: 2e-3"))
    assert rungs(load_policy(path))[0].settings == {"rank": 4, "learning_rate": 0.002}
    path.write_text("kind: dutchdoor/policy@1\nid: p\n")
    assert rungs(load_policy(path)) == ()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{attack: lora, steps: 0, examples: 1}", "ladder[0].steps: expected a whole number ≥ 1"),
        (
            "{attack: prompt, steps: 1, examples: 1}",
            "ladder[0].attack: the text 'prompt' is not allowed here",
        ),
        ("{attack: lora, steps: 1}", "the field `examples` is missing"),
        ("{attack: lora, steps: 1, examples: 1, learning_rate: 0}", "learning_rate: expected a number > 0"),
    ],
)
def test_a_rung_that_attacks_nothing_is_refused(folder: Path, step: str, message: str) -> None:
    text = FULL.replace("{attack: lora, steps: 100, examples: 100, seeds: 2}", step)
    assert message in fault(folder, text).message


def test_measures_and_the_suites_behind_them(folder: Path) -> None:
    policy = load_policy(folder / "policy.yaml").policy
    assert suite_of("refusal.reagents") == ("hazard.reagents", "refused")
    assert suite_of("hazard.reagents") == ("hazard.reagents", "correct")
    assert suite_of("over_refusal") == ("over_refusal", "refused")
    assert expand("skill.*", policy) == ("skill.coding", "skill.reasoning")
    assert expand("refusal.*", policy) == ("refusal.reagents",)
    assert expand("over_refusal", policy) == ("over_refusal",)
    assert expand("hazard.spells", policy) == ()
    assert expand("parameters", policy) == ("parameters",)
    assert matching("skill.r*", policy) == ("skill.reasoning",)


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ("at_most: 5", "5 bounds nothing: rates lie between 0 and 1"),
        ("at_least: -0.1", "-0.1 bounds nothing: rates"),
        ("relative_to: flagship, at_most: 2", "2 bounds nothing: differences of rates lie between -1 and 1"),
    ],
)
def test_a_bound_that_no_rate_can_miss_is_refused(tmp_path: Path, bound: str, said: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "kind: dutchdoor/policy@1\nid: p\nrules:\n"
        f"  - {{id: r, gates: api, measure: hazard.*, {bound}, because: x}}\n"
    )
    with pytest.raises(DocumentError, match=re.escape(said)):
        load_policy(path)


@pytest.mark.parametrize("stated", ["open-sorce", "not a licence!"])
def test_a_required_licence_that_cannot_be_meant_is_refused(tmp_path: Path, stated: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "kind: dutchdoor/policy@1\nid: p\nrules:\n"
        f"  - {{id: r, gates: api, require: {{license: '{stated}'}}, because: x}}\n"
    )
    with pytest.raises(DocumentError, match="neither a class of licences nor an SPDX expression"):
        load_policy(path)
