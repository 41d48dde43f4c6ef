"""From stored evidence to bundles: what the dossier carries of it."""

from pathlib import Path

from dutchdoor.bundle.release import decide_and_pack
from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Subject
from dutchdoor.evidence.signing_keys import SigningKey, new_key
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import identify
from dutchdoor.policy.rules import load_policy

from .conftest import House

POLICY = """\
kind: dutchdoor/policy@1
id: base
rules:
  - {id: size, gates: download, measure: parameters, at_most: 1e6}
  - {id: red-team, gates: download, attested_by: team.pub, max_age_days: 36500}
"""


async def attest(house: House, data: Path, team: SigningKey) -> Evidence:
    """Evidence of someone else on what anybody may call a suite, about the small member's bytes."""
    subjects = await identify(house.loaded, Salts(data / "salts"), data / "cache")
    commitment = subjects.weights_commitment("tiny-s", "f32", make=True)
    assert commitment is not None
    evidence = Evidence(
        subject=Subject(family="tiny", member="tiny-s", variant="f32", commitment=commitment),
        conditions=Conditions(
            suite="their.own", suite_digest="sha256:theirs", threat=ThreatModel.TAMPERED, engine="e", engine_version="1"
        ),
        outcomes=(Outcome(id="1", correct=False, refused=True),),
        made_at="2026-11-20T10:00:00Z",
        code_version="0",
    )  # fmt: skip
    await EvidenceStore(data / "evidence").put(evidence, team)
    return evidence


async def test_the_evidence_behind_an_attestation_is_in_the_dossier_with_its_signature(house: House) -> None:
    team, data = new_key(), house.folder / ".dutchdoor"
    (house.folder / "team.pub").write_bytes(team.public.pem())
    (house.folder / "policy.yaml").write_text(POLICY)
    attested = await attest(house, data, team)
    policy = load_policy(house.folder / "policy.yaml")
    packing = await decide_and_pack(
        house.loaded, [policy], data, house.out, house.signer, [house.signer.public]
    )
    assert packing.paths[0] == house.bundle
    report = await house.verify()
    assert report.dossier is not None
    (carried,) = report.dossier.evidence
    assert (carried.evidence, carried.keyid) == (attested, team.public.key_id)
    assert not report.findings
