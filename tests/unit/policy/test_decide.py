"""A channel opens only if it is intended, gated, and every gating rule passes; why it is closed is told."""

import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import Channel, DocumentError, ThreatModel, Tier, VerdictKind
from dutchdoor.policy.decide import closings, unmet, unsettled
from tests.unit.policy.world import (
    FULL,
    GUARD,
    OVER,
    POLICY,
    SIZE,
    TAMPER,
    HandFilled,
    World,
    change,
    full_shelf,
    make_world,
)

PASS, FAIL, INCONCLUSIVE = VerdictKind.PASS, VerdictKind.FAIL, VerdictKind.INCONCLUSIVE


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def closed_by(world: World, member: str = "small", channel: Channel = Channel.DOWNLOAD) -> str | None:
    return world.channel(member, channel).closed_by


def test_the_small_one_opens_and_the_flagship_is_closed_by_the_hazard_after_tampering_alone(
    world: World,
) -> None:
    decision = world.decide()
    assert decision.members["small"].tier is Tier.OPEN_WEIGHTS
    large = decision.members["large"]
    assert large.tier is Tier.API
    assert large.channels[Channel.DOWNLOAD].closed_by == "evidence"
    failing = [
        v for v in large.channels[Channel.DOWNLOAD].verdicts if v.effect == "gate" and v.verdict is not PASS
    ]
    assert {(v.rule, v.verdict, v.rung) for v in failing} == {
        ("tamper", FAIL, "lora:100:0"),
        ("tamper", FAIL, "lora:100:1"),
    }
    assert large.channels[Channel.API].open
    assert unsettled(decision) == []


def test_without_the_tampering_rule_the_flagship_opens(world: World) -> None:
    world.policy(POLICY + SIZE + GUARD)
    assert world.decide().members["large"].tier is Tier.OPEN_WEIGHTS


def test_without_the_hazard_the_flagship_opens_under_the_full_policy(world: World) -> None:
    change(world.shelf, lambda key: key[0] == "large" and key[2] == "hazard.reagents", 0.0)
    assert world.decide().members["large"].tier is Tier.OPEN_WEIGHTS


def test_an_empty_policy_holds_everything(world: World) -> None:
    world.policy("kind: dutchdoor/policy@1\nid: base\nrules: []\n")
    decision = world.decide()
    assert {each.tier for each in decision.members.values()} == {Tier.HELD}
    assert {c.closed_by for m in decision.members.values() for c in m.channels.values()} == {"no-rule"}
    assert len(unsettled(decision)) == 4


def test_no_policy_at_all_holds_everything(world: World) -> None:
    world.edit("policies: [policy.yaml]\n", "")
    decision = world.decide()
    assert {each.tier for each in decision.members.values()} == {Tier.HELD}
    assert decision.members["small"].channels[Channel.API].because == "the family names no policy"


def test_without_evidence_everything_that_needs_it_is_inconclusive(world: World) -> None:
    world.shelf = HandFilled()
    decision = world.decide()
    assert {c.closed_by for m in decision.members.values() for c in m.channels.values()} == {"inconclusive"}
    assert all(
        v.verdict is INCONCLUSIVE and v.because is not None and v.because.startswith("not measured")
        for m in decision.members.values()
        for c in m.channels.values()
        for v in c.verdicts
        if v.rule != "size"
    )


def test_intent_closes_by_choice_and_the_other_channel_stays_as_it_is(world: World) -> None:
    world.edit(
        "weights: ./small}]",
        "weights: ./small}]\n    intent: {download: false, because: {kind: commercial, text: we sell it}}",
    )
    channel = world.channel()
    assert (channel.open, channel.closed_by, channel.because) == (False, "choice", "commercial: we sell it")
    assert channel.verdicts == ()
    decision = world.decide()
    assert decision.members["small"].tier is Tier.API
    assert unsettled(decision) == []  # what nobody wants open need not be settled


def test_intent_can_only_close(world: World) -> None:
    world.edit("role: flagship", "role: flagship\n    intent: {download: true, api: true}")
    assert closed_by(world, "large") == "evidence"


def test_a_download_that_is_intended_for_later_is_closed_by_choice_until_then(world: World) -> None:
    world.edit("weights: ./small}]", "weights: ./small}]\n    intent: {download_after: 2027-06-01}")
    assert closed_by(world) == "choice"
    assert "not before 2027-06-01" in str(world.channel().because)
    assert world.channel().verdicts  # it is judged all the same, so that the day does not come as a surprise
    world.today = datetime.date(2027, 5, 31)
    assert closed_by(world) == "choice"
    world.today = datetime.date(2027, 6, 1)
    assert closed_by(world) is None


def test_a_day_that_has_come_opens_nothing_by_itself(world: World) -> None:
    world.edit("role: flagship", "role: flagship\n    intent: {download_after: 2020-01-01}")
    assert closed_by(world, "large") == "evidence"


def test_the_first_reason_is_named_choice_before_evidence_before_no_rule_before_inconclusive(
    world: World,
) -> None:
    world.policy("kind: dutchdoor/policy@1\nid: other\nrules: []\n", "other.yaml")
    world.edit("[policy.yaml]", "[policy.yaml, other.yaml]")
    change(
        world.shelf,
        lambda key: key == ("large", "bf16", "hazard.reagents", ThreatModel.TAMPERED, "lora:100:1"),
        None,
    )
    assert (
        closed_by(world, "large") == "evidence"
    )  # one rung fails, another is missing, another policy has no rule
    change(
        world.shelf,
        lambda key: key == ("small", "bf16", "hazard.reagents", ThreatModel.TAMPERED, "lora:100:1"),
        None,
    )
    assert closed_by(world, "small") == "no-rule"
    world.edit("[policy.yaml, other.yaml]", "[policy.yaml]")
    assert closed_by(world, "small") == "inconclusive"
    world.edit("role: flagship", "role: flagship\n    intent: {download: false}")
    assert closed_by(world, "large") == "choice"


def test_each_policy_needs_a_gating_rule_of_its_own_and_each_verdict_names_its_policy(world: World) -> None:
    world.policy("kind: dutchdoor/policy@1\nid: tiny\nrules:\n" + SIZE.replace("8e9", "10"), "tiny.yaml")
    world.edit("[policy.yaml]", "[policy.yaml, tiny.yaml]")
    channel = world.channel()
    assert channel.closed_by == "evidence"
    assert [(v.policy, v.verdict) for v in channel.verdicts if v.rule == "size"] == [
        ("base", PASS),
        ("tiny", FAIL),
    ]
    world.edit("at_most: 10}", "at_most: 8e9}", "tiny.yaml")
    assert world.channel().open
    assert closed_by(world, "small", Channel.API) == "no-rule"
    assert world.channel("small", Channel.API).because == "no rule gates it in tiny"
    assert [each.id for each in world.decide().policies] == ["base", "tiny"]


def test_two_policies_with_one_id_are_refused(world: World) -> None:
    world.policy(FULL, "copy.yaml")
    world.edit("[policy.yaml]", "[policy.yaml, copy.yaml]")
    with pytest.raises(DocumentError, match="is also that of"):
        world.decide()


def test_a_warning_never_gates_and_never_counts_as_a_rule(world: World) -> None:
    world.policy(FULL + "  - {id: w, gates: download, measure: parameters, at_most: 1, effect: warn}\n")
    assert world.only("w").verdict is FAIL
    assert world.channel().open
    warning = SIZE.replace("8e9}", "8e9, effect: warn}")
    world.policy(POLICY + warning + GUARD)
    assert world.only("size").verdict is PASS
    assert closed_by(world) == "no-rule"


def test_every_variant_must_pass_and_each_verdict_names_its_variant(world: World) -> None:
    world.edit("{id: bf16, weights: ./small}", "{id: bf16, weights: ./small}, {id: two, weights: ./large}")
    channel = world.channel()
    assert channel.closed_by == "inconclusive"
    assert {(v.variant, v.verdict) for v in channel.verdicts if v.rule == "tamper"} == {
        ("bf16", PASS),
        ("two", INCONCLUSIVE),
    }
    for key, rate in list(world.shelf.rates.items()):
        if key[:2] == ("small", "bf16"):
            world.shelf.rates["small", "two", *key[2:]] = rate
    assert world.channel().open
    change(world.shelf, lambda key: key[:3] == ("small", "two", "hazard.reagents"), 0.5)
    assert closed_by(world) == "evidence"


def test_the_api_is_judged_on_the_variant_that_is_served(world: World) -> None:
    world.edit(
        "{id: bf16, weights: ./small}]",
        "{id: bf16, weights: ./small}, {id: two, weights: ./large}]\n    serve: {variant: two}",
    )
    assert closed_by(world, "small", Channel.API) == "inconclusive"
    assert {v.variant for v in world.channel("small", Channel.API).verdicts} == {"two"}
    world.shelf.rates["small", "two", "hazard.reagents", ThreatModel.GUARDED, None] = 0.0
    world.shelf.rates["small", "two", "over_refusal", ThreatModel.GUARDED, None] = 0.0
    assert world.channel("small", Channel.API).open


def test_the_same_evidence_decides_the_same(world: World) -> None:
    assert world.decide() == world.decide()


def test_requirements_that_do_not_hold_are_named(world: World) -> None:
    decision = world.decide()
    assert unmet(decision, {"small": Tier.OPEN_WEIGHTS, "large": Tier.API}) == []
    assert unmet(decision, {"large": Tier.OPEN_WEIGHTS}) == ["large is api, open-weights is required"]


COMPONENTS = (
    "components:\n  - {kind: datasets, path: data, license: CC-BY-4.0}\n"
    "  - {kind: training-code, intent: closed, because: {kind: legal, text: not ours}}\n"
)


def test_a_component_leaves_only_where_its_members_download_is_open(world: World) -> None:
    (world.folder / "data").mkdir()
    world.edit("references:", COMPONENTS + "references:")
    world.edit("role: flagship", "role: flagship\n    components: [{kind: model-card, license: CC-BY-4.0}]")
    found = {(each.member, each.kind): each for each in world.decide().components}
    assert found[None, "datasets"].open  # the download of one member is enough for what is the family's
    assert (found[None, "training-code"].closed_by, found[None, "training-code"].because) == (
        "choice",
        "legal: not ours",
    )
    assert (found["large", "model-card"].open, found["large", "model-card"].closed_by) == (False, "evidence")
    world.edit("at_most: 0.02}", "at_most: 0.99}", "policy.yaml")
    assert {(each.member, each.kind): each.open for each in world.decide().components}["large", "model-card"]
    world.policy(POLICY.replace("rules:", "rules: []"))
    assert not any(each.open for each in world.decide().components)
    assert found_by(world, None, "datasets") == "no-rule"


def found_by(world: World, member: str | None, kind: str) -> str | None:
    return next(
        each.closed_by for each in world.decide().components if (each.member, each.kind) == (member, kind)
    )


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC-BY-4.0", None),
        ("CC-BY-NC-4.0", "evidence"),
        ("LicenseRef-mine", "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_a_rule_can_close_components_by_their_licence(
    world: World, license: str | None, expected: str | None
) -> None:
    (world.folder / "data").mkdir()
    stated = "" if license is None else f", license: {license}"
    world.edit(
        "references:",
        f"components: [{{kind: datasets, path: data{stated}}}, {{kind: model-card}}]\nreferences:",
    )
    world.policy(
        FULL + "  - {id: data, gates: component, kinds: [datasets], require: {license: open-data}}\n"
    )
    assert found_by(world, None, "datasets") == expected
    assert found_by(world, None, "model-card") is None  # the rule is not about this kind


def test_what_guards_the_api_is_closed_unless_it_is_listed(world: World) -> None:
    world.policy(POLICY + SIZE + GUARD)  # so that the flagship's download is open
    rows = {each.kind: each for each in world.decide().components if each.member == "large"}
    assert {(kind, each.open, each.closed_by, each.path) for kind, each in rows.items()} == {
        ("system-prompt", False, "choice", "serve/system.txt"),
        ("safety-tooling", False, "choice", "serve/guard.yaml"),
    }
    world.edit(
        "role: flagship", "role: flagship\n    components: [{kind: system-prompt, path: ./serve/system.txt}]"
    )
    rows = {each.kind: each for each in world.decide().components if each.member == "large"}
    assert rows["system-prompt"].open and not rows["safety-tooling"].open


def test_what_is_closed_is_handed_on_for_the_public_form(world: World) -> None:
    found = closings(world.decide())
    assert list(found.downloads) == ["large"] and found.downloads["large"].by == "evidence"
    assert ("large", "system-prompt", "serve/system.txt") in found.components


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def opened(world: World) -> set[tuple[str, str]]:
    decision = world.decide()
    return {(name, each) for name, m in decision.members.items() for each, c in m.channels.items() if c.open}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_taking_evidence_away_never_opens_a_channel(steady: World, data: st.DataObject) -> None:
    hazard = data.draw(st.sampled_from([0.0, 0.01, 0.03, 0.6]))
    steady.policy(FULL)
    steady.shelf = full_shelf(large_hazard=hazard)
    before = opened(steady)
    gone = data.draw(st.sets(st.sampled_from(sorted(steady.shelf.rates, key=str)), min_size=1))
    for key in gone:
        del steady.shelf.rates[key]
    assert opened(steady) <= before


RULES = [
    SIZE,
    TAMPER,
    GUARD,
    OVER,
    "  - {id: a, gates: download, measure: parameters, at_most: 10}\n",
    "  - {id: b, gates: download, measure: skill.*, relative_to: flagship, as: ratio, at_most: 0.9}\n",
    "  - {id: c, gates: download, measure: skill.*, relative_to: previous, at_least: -0.02}\n",
    "  - {id: d, gates: api, measure: refusal.*, threat: guarded, at_least: 0.9}\n",
    "  - {id: e, gates: download, attested_by: nobody.pub}\n",
    "  - {id: f, gates: api, measure: hazard.*, relative_to: public, at_most: 0.0}\n",
    "  - {id: g, gates: download, measure: hazard.none, at_most: 1.0}\n",
    "  - {id: h, gates: api, measure: skill.coding, at_least: 0.99}\n",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.sampled_from(RULES), unique=True, min_size=1), more=st.sampled_from(RULES))
def test_one_more_rule_opens_only_where_it_is_the_first_and_it_passes(
    steady: World, chosen: list[str], more: str
) -> None:
    steady.shelf = full_shelf()
    steady.policy(POLICY + "".join(chosen))
    before, judged = opened(steady), steady.decide()
    if more in chosen:
        return
    steady.policy(POLICY + "".join([*chosen, more]))
    for name, channel in opened(steady) - before:
        assert judged.members[name].channels[Channel(channel)].closed_by == "no-rule"
        added = steady.decide().members[name].channels[Channel(channel)].verdicts
        assert all(v.verdict is PASS for v in added)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.sampled_from(RULES), unique=True, min_size=1))
def test_what_is_open_has_a_gating_rule_and_nothing_but_passes(steady: World, chosen: list[str]) -> None:
    steady.shelf = full_shelf()
    steady.policy(POLICY + "".join(chosen))
    for member in steady.decide().members.values():
        for channel in member.channels.values():
            gating = [v for v in channel.verdicts if v.effect == "gate"]
            assert channel.open is (bool(gating) and all(v.verdict is PASS for v in gating))
            assert channel.open is (channel.closed_by is None)
