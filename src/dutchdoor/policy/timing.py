"""Was a policy committed before the evidence that it judges? What the release log says of it, in words.

A late policy closes nothing by itself; it is named, because rules that are written after the results can be
written to fit them.
"""

from collections.abc import Iterable, Sequence

import msgspec

from dutchdoor.core import digest_value
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.release_log import Logged, ReleaseLog, append, read
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.evidence.subjects import Subjects
from dutchdoor.policy.decision import Decision, Timing
from dutchdoor.policy.rules import ATTACK_SET, LoadedPolicy

KIND = "dutchdoor/policy-commitment@1"
NEVER_RUN = "commit:none"  # an attack set that has no salt yet: no evidence can name it


def told_digests(policy: LoadedPolicy, subjects: Subjects, *, make: bool = False) -> dict[str, str]:
    """The digests of a policy's suites as others may read them: the attack set by commitment."""
    told = dict(policy.digests)
    if (held := told.get(ATTACK_SET)) is not None:
        told[ATTACK_SET] = subjects.attack_set_commitment(held, make=make) or NEVER_RUN
    return told


def policy_subject(digest: str, digests: dict[str, str]) -> str:
    """What `policy commit` signs: the digest over the policy's bytes and all suites that it names."""
    return digest_value({"kind": KIND, "policy": digest, "digests": digests})


def timing(
    subject: str, digests: Iterable[str], evidence: Sequence[Evidence], entries: Sequence[Logged]
) -> Timing:
    """When the policy of this subject was committed, and how much of its evidence is older.

    Evidence counts as older by its own date, or if the log has it before the policy. `digests` are those of
    the policy's suites: other evidence is judged by another policy.
    """
    committed = [each for each in entries if each.entry.kind == "policy" and each.entry.subject == subject]
    suites = set(digests)
    judged = [each for each in evidence if each.conditions.suite_digest in suites]
    first = min(committed, key=lambda each: each.entry.sequence, default=None)
    if first is None:
        return Timing(committed_at=None, evidence=len(judged), earlier=len(judged))
    places = {
        each.entry.subject: each.entry.sequence for each in reversed(entries) if each.entry.kind == "evidence"
    }
    late = [
        each
        for each in judged
        if each.made_at < first.entry.at
        or places.get(each.address, first.entry.sequence) < first.entry.sequence
    ]
    return Timing(committed_at=first.entry.at, evidence=len(judged), earlier=len(late))


def with_timing(
    decision: Decision,
    digests: Sequence[dict[str, str]],
    evidence: Sequence[Evidence],
    entries: Sequence[Logged],
) -> Decision:
    """The decision, each policy with its timing; `digests` are `told_digests` of each policy, in order."""
    policies = tuple(
        msgspec.structs.replace(
            ref, timing=timing(policy_subject(ref.digest, told), told.values(), evidence, entries)
        )
        for ref, told in zip(decision.policies, digests, strict=True)
    )
    return msgspec.structs.replace(decision, policies=policies)


def log_decision(log: ReleaseLog, decision: Decision, signer: SigningKey) -> None:
    """Note a decision in the release log, unless it is the one that was noted last. Raises EvidenceError."""
    subject = digest_value(decision)
    last = [each.entry.subject for each in read(log, ()).entries if each.entry.kind == "decision"]
    if subject not in last[-1:]:
        append(log, "decision", subject, signer, name=f"{decision.family} {decision.version}")


def commit(
    log: ReleaseLog, policies: Sequence[LoadedPolicy], subjects: Subjects, signer: SigningKey
) -> list[tuple[LoadedPolicy, Logged, bool]]:
    """Sign each policy into the release log, unless this signer did before; its line, and whether it is new.

    Makes a salt for the attack set. Raises EvidenceError when the log or the salt can't be written.
    """
    held = {
        each.entry.subject: each
        for each in reversed(read(log, (signer.public,)).entries)
        if each.entry.kind == "policy" and each.trusted
    }
    found = []
    for policy in policies:
        subject = policy_subject(policy.digest, told_digests(policy, subjects, make=True))
        line = held.get(subject)
        new = line is None
        found.append((policy, line or append(log, "policy", subject, signer, name=policy.policy.id), new))
    return found
