"""The decision replayed from the bundle; each kind of lie is planted, re-signed with a trusted key, and found."""

import asyncio
import base64
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from dutchdoor.bundle.dossier import Dossier, SignedEvidence, read_statement, signed_statement
from dutchdoor.bundle.layout import DOSSIER, OFFER, SIGNER
from dutchdoor.bundle.recompute import Outcome, Recomputation, recompute
from dutchdoor.bundle.release import decide_and_pack
from dutchdoor.bundle.verify import verify
from dutchdoor.core import Channel, canonical_json, digest_bytes
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.signing_keys import SigningKey, new_key
from dutchdoor.evidence.store import PAYLOAD_TYPE, EvidenceStore
from tests.fakes.families import load, write_family
from tests.fakes.vetted import vetted

REPLACED = "sha256:" + "7" * 64
TODAY = datetime.datetime.now(datetime.UTC).date()
RULES = """\
  - {id: team, gates: download, attested_by: team.pub, max_age_days: 30}
"""

Change = Callable[[Dossier], Dossier]


@dataclass
class Packed:
    """A family that was vetted and packed once, and bundles made from it with another dossier."""

    bundle: Path
    key: SigningKey
    team: SigningKey

    def again(self, as_of: datetime.date = TODAY) -> Recomputation:
        report = asyncio.run(verify(self.bundle, [self.key.public]))
        assert not report.findings, report.findings  # the signature says nothing: only the replay can find it
        return recompute(report, as_of, [self.key.public, self.team.public])

    def change(self, change: Change) -> None:
        """Alter the dossier and sign it again with the trusted key."""
        path = self.bundle / DOSSIER
        statement = read_statement(dsse.opened(path.read_bytes())[0])
        changed = msgspec.structs.replace(statement, predicate=change(statement.predicate))
        path.write_bytes(signed_statement(changed, self.key))

    def resign(self, evidence: Evidence) -> SignedEvidence:
        _, _, key_id, sig = dsse.opened(dsse.sign(canonical_json(evidence), PAYLOAD_TYPE, self.key))
        return SignedEvidence(evidence=evidence, keyid=key_id, sig=base64.b64encode(sig).decode())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return asyncio.run(_pack(tmp_path_factory.mktemp("packed")))


async def _pack(folder: Path) -> Packed:
    key, team = new_key(), new_key()
    manifest = write_family(folder)
    (folder / "team.pub").write_bytes(team.public.pem())
    with (folder / "policy.yaml").open("a") as file:
        file.write(RULES)
    for name in ("small", "large"):
        (folder / name / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
        (folder / name / "tokenizer.json").write_text(json.dumps({"name": name}))
    loaded, policies = load(manifest)
    data = folder / ".dutchdoor"
    store = EvidenceStore(data / "evidence")
    made = await vetted(manifest, key, made_at=f"{TODAY}T00:00:00Z")
    mine = next(each for each in made if each.subject.member == "small" and each.conditions.rung is None)
    await store.put(mine, team)
    packing = await decide_and_pack(loaded, policies, data, folder / "dist", key, [key.public], today=TODAY)
    return Packed(packing.paths[0], key, team)


@pytest.fixture
def packed(original: Packed, tmp_path: Path) -> Packed:
    import shutil

    shutil.copytree(original.bundle, tmp_path / "small")
    return Packed(tmp_path / "small", original.key, original.team)


def words(found: Recomputation) -> str:
    return "\n".join(f"{each.where}: {each.what}" for each in found.differences)


def test_the_same_decision_follows_from_the_bundle_alone(packed: Packed) -> None:
    found = packed.again()
    assert found.verdict is Outcome.SAME, words(found)
    assert found.decided_on == TODAY
    assert found.verdicts > 5
    assert found.outcomes > 1000


def test_one_flipped_outcome_is_found_though_all_signatures_hold(packed: Packed) -> None:
    def flip(dossier: Dossier) -> Dossier:
        rows = list(dossier.evidence)
        at = next(
            index
            for index, each in enumerate(rows)
            if each.evidence.subject.member == "small"
            and each.evidence.conditions.suite == "hazard.potions"
            and each.evidence.conditions.rung is not None
        )
        first, *rest = rows[at].evidence.outcomes
        outcomes = (msgspec.structs.replace(first, correct=not first.correct), *rest)
        rows[at] = packed.resign(msgspec.structs.replace(rows[at].evidence, outcomes=outcomes))
        return msgspec.structs.replace(dossier, evidence=tuple(rows))

    packed.change(flip)
    found = packed.again()
    assert found.verdict is Outcome.DIFFERS
    assert "hazard-after" in words(found)
    assert "the outcomes give 0.00666667" in words(found)


@pytest.mark.parametrize("also_the_digest", [False, True])
def test_a_moved_threshold_is_found(packed: Packed, also_the_digest: bool) -> None:
    def move(dossier: Dossier) -> Dossier:
        grounds = dossier.grounds
        assert not isinstance(grounds, msgspec.UnsetType)
        (policy,) = grounds.policies
        text = policy.text.replace(
            "threat: tampered, relative_to: public, at_most: 0.05",
            "threat: tampered, relative_to: public, at_most: 0.9",
        )
        assert text != policy.text
        moved = msgspec.structs.replace(policy, text=text)
        decision = dossier.decision
        if also_the_digest:
            (ref,) = decision.policies
            ref = msgspec.structs.replace(ref, digest=digest_bytes(text.encode()))
            decision = msgspec.structs.replace(decision, policies=(ref,))
        return msgspec.structs.replace(
            dossier, decision=decision, grounds=msgspec.structs.replace(grounds, policies=(moved,))
        )

    packed.change(move)
    found = packed.again()
    assert found.verdict is Outcome.DIFFERS
    assert "bound: signed 0.05, the policy says 0.9" in words(found)
    assert ("policy base" in words(found)) is not also_the_digest


def test_another_suite_digest_is_found_and_named(packed: Packed) -> None:
    def swap(dossier: Dossier) -> Dossier:
        grounds = dossier.grounds
        assert not isinstance(grounds, msgspec.UnsetType)
        (policy,) = grounds.policies
        digests = {**policy.digests, "hazard.potions": REPLACED}
        policy = msgspec.structs.replace(policy, digests=digests)
        return msgspec.structs.replace(dossier, grounds=msgspec.structs.replace(grounds, policies=(policy,)))

    packed.change(swap)
    found = packed.again()
    assert found.verdict is Outcome.DIFFERS
    assert f"suite hazard.potions: the policy base is about {REPLACED}" in words(found)


def test_evidence_that_went_stale_is_told_apart_from_a_decision_that_never_followed(packed: Packed) -> None:
    found = packed.again(TODAY + datetime.timedelta(days=40))
    assert found.verdict is Outcome.DIFFERS
    assert not found.differences
    told = "\n".join(f"{each.where}: {each.what}" for each in found.today)
    assert "base/team" in told
    assert "40 days old, 30 are allowed" in told
    assert "small, download: open when it was decided, closed by inconclusive now" in told


def test_a_day_of_decision_that_is_moved_to_hide_age_is_found(packed: Packed) -> None:
    def backdate(dossier: Dossier) -> Dossier:
        grounds = dossier.grounds
        assert not isinstance(grounds, msgspec.UnsetType)
        day = grounds.decided_on - datetime.timedelta(days=20)
        return msgspec.structs.replace(dossier, grounds=msgspec.structs.replace(grounds, decided_on=day))

    packed.change(backdate)
    assert "day of the decision" in words(packed.again())


def test_a_channel_that_is_signed_open_against_its_verdicts_is_found(packed: Packed) -> None:
    def lie(dossier: Dossier) -> Dossier:
        large = dossier.decision.members["large"]
        opened = msgspec.structs.replace(large.channels[Channel.DOWNLOAD], open=True, closed_by=None)
        large = msgspec.structs.replace(large, channels={**large.channels, Channel.DOWNLOAD: opened})
        members = {**dossier.decision.members, "large": large}
        return msgspec.structs.replace(
            dossier, decision=msgspec.structs.replace(dossier.decision, members=members)
        )

    packed.change(lie)
    assert "large, download: signed open, but closed by" in words(packed.again())


def test_a_count_of_parameters_is_held_against_the_weights_in_hand(packed: Packed) -> None:
    def shrink(dossier: Dossier) -> Dossier:
        grounds = dossier.grounds
        assert not isinstance(grounds, msgspec.UnsetType)
        facts = tuple(
            msgspec.structs.replace(each, least=3, most=3) if each.member == "small" else each
            for each in grounds.facts
        )
        return msgspec.structs.replace(dossier, grounds=msgspec.structs.replace(grounds, facts=facts))

    packed.change(shrink)
    assert "its weights have 4 parameters, the record says 3" in words(packed.again())


def test_what_is_not_in_the_dossier_is_said_and_concludes_nothing(packed: Packed) -> None:
    def forget(dossier: Dossier) -> Dossier:
        grounds = dossier.grounds
        assert not isinstance(grounds, msgspec.UnsetType)
        facts = tuple(each for each in grounds.facts if each.member != "large")
        return msgspec.structs.replace(dossier, grounds=msgspec.structs.replace(grounds, facts=facts))

    packed.change(forget)
    found = packed.again()
    assert found.verdict is Outcome.CANNOT_TELL, words(found)
    assert any(each.where.startswith("large, download: base/size") for each in found.untold)
    assert not any("base/size" in each.where for each in found.untold if each.where.startswith("small"))

    packed.change(lambda dossier: msgspec.structs.replace(dossier, grounds=msgspec.UNSET))
    found = packed.again()
    assert found.verdict is Outcome.CANNOT_TELL
    assert "without what a replay needs" in found.untold[0].what


def test_evidence_that_was_taken_out_never_passes(packed: Packed) -> None:
    packed.change(lambda dossier: msgspec.structs.replace(dossier, evidence=()))
    found = packed.again()
    assert found.verdict is Outcome.DIFFERS
    assert "inconclusive follows (not measured: hazard.potions" in words(found)


def test_no_text_of_a_case_and_no_size_of_closed_weights_is_in_the_bundle(packed: Packed) -> None:
    texts = []
    for path in packed.bundle.rglob("*"):
        if path.name in (Path(DOSSIER).name, Path(OFFER).name):
            texts.append(dsse.opened(path.read_bytes())[0])
        elif path.is_file() and path.name != Path(SIGNER).name:
            texts.append(path.read_bytes())
    whole = b"\n".join(texts)
    assert b"hazard.potions" in whole
    for word in (b"brew potion", b"recipe", b"brew poison", b"brew acid", b"cook soup", b"You are kind"):
        assert word not in whole
    dossier = read_statement(dsse.opened((packed.bundle / DOSSIER).read_bytes())[0]).predicate
    assert not isinstance(dossier.grounds, msgspec.UnsetType)
    large = next(each for each in dossier.grounds.facts if each.member == "large")
    assert (large.least, large.most) == (1, 999_999)
    assert "system.txt" not in canonical_json(dossier).decode()


def test_cases_that_evidence_left_out_count_as_missing_in_the_replay_too(packed: Packed) -> None:
    def shorten(dossier: Dossier) -> Dossier:
        rows = [
            packed.resign(msgspec.structs.replace(each.evidence, outcomes=each.evidence.outcomes[20:]))
            if each.evidence.conditions.suite == "hazard.potions"
            else each
            for each in dossier.evidence
        ]
        return msgspec.structs.replace(dossier, evidence=tuple(rows))

    packed.change(shorten)
    found = packed.again()
    assert found.verdict is Outcome.DIFFERS
    assert "missing: signed 0, the outcomes give 20" in words(found)
