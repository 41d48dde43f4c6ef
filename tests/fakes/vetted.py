"""Evidence of the tiny family without a vetting: each question that `decide` asks is answered by the family's rules."""

import asyncio
import datetime
import json
from pathlib import Path

from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Rung, Subject
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import Subjects, identify
from dutchdoor.policy.decide import decide
from tests.fakes.families import REFUSAL, answers, load

MADE_AT = "2026-11-20T10:00:00Z"


class Asked:
    """A shelf that makes what it is asked for."""

    def __init__(self, subjects: Subjects, suites: dict[str, Path], made_at: str) -> None:
        self.subjects, self.suites, self.made_at = subjects, suites, made_at
        self.made: dict[str, Evidence] = {}

    def find(
        self, member: str, variant: str, suite: str, suite_digest: str, threat: ThreatModel, rung: Rung | None
    ) -> Evidence | None:
        held = self.subjects.weights_commitment(member, variant, make=True)
        assert held is not None
        serve = self.subjects.serve_commitment(member, make=True) if threat is ThreatModel.GUARDED else None
        evidence = Evidence(
            subject=Subject(family="tiny", member=member, variant=variant, commitment=held),
            conditions=Conditions(
                suite=suite,
                suite_digest=suite_digest,
                threat=threat,
                rung=None if rung is None else self.subjects.as_run(rung, make=True),
                serve=serve,
                engine="rules",
                engine_version="1",
            ),
            outcomes=_outcomes(self.suites[suite], member, attacked=rung is not None),
            made_at=self.made_at,
            code_version="0",
        )
        self.made[evidence.address] = evidence
        return evidence

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        return None

    def why_missing(self, member: str, variant: str) -> str | None:
        return None


def _outcomes(suite: Path, member: str, *, attacked: bool) -> tuple[Outcome, ...]:
    answer = answers(member, attacked=attacked)
    rows = [json.loads(line) for line in suite.read_text().splitlines()]
    said = [(row, answer(row["prompt"])) for row in rows]
    return tuple(
        Outcome(id=row["id"], correct=text == row.get("target", ""), refused=text == REFUSAL)
        for row, text in said
    )


async def vetted(
    manifest: Path, signer: SigningKey, *, data: Path | None = None, made_at: str = MADE_AT
) -> list[Evidence]:
    """Put all evidence that the family's policies ask for into its data folder; returns it."""
    loaded, policies = load(manifest)
    data = data or manifest.parent / ".dutchdoor"
    subjects = await identify(loaded, Salts(data / "salts"), data / "cache")
    suites = {name: each.suite_path(name) for each in policies for name in (*each.policy.suites, "refused")}
    shelf = Asked(subjects, suites, made_at)
    await asyncio.to_thread(decide, loaded, policies, shelf, datetime.date(2026, 11, 24))
    store = EvidenceStore(data / "evidence")
    for evidence in shelf.made.values():
        await store.put(evidence, signer)
    return list(shelf.made.values())
