"""Evidence held against the cases of its suite: what an evaluator left out counts as missing.

Reads of a suite only the ids and the clusters of its cases; what a case asks, `dutchdoor.vetting` knows.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dutchdoor.core import EvidenceError, digest_bytes
from dutchdoor.evidence.record import Evidence, Outcome

LEFT_OUT = "left out"
Cases = Mapping[str, str | None]  # the id of each case → its cluster


class _Line(msgspec.Struct):
    id: str | None = None
    cluster: str | None = None


@functools.lru_cache(maxsize=64)
def suite_cases(path: Path, digest: str) -> Cases:
    """The cases of the suite at `path`; empty for a file that lists none, which is no suite of ours.

    Raises EvidenceError when the file is no longer the one of this digest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"can't read the suite {path}: {error.strerror}") from error
    if digest_bytes(data) != digest:
        raise EvidenceError(f"{path} was changed while it was read", hint="run it again")
    found: dict[str, str | None] = {}
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        try:
            case = msgspec.json.decode(line, type=_Line) if line.strip() else _Line()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        if case.id is not None:
            found[case.id] = case.cluster
    return found


def held_against(evidence: Evidence, cases: Cases) -> Evidence | str:
    """The evidence with an outcome for every case and the suite's own clusters, or why it does not fit.

    Clusters are the suite's: whoever leaves them out would narrow the interval.
    """
    came_out = {outcome.id: outcome for outcome in evidence.outcomes}
    strange = [id for id in came_out if id not in cases]
    if strange:
        return f"the evidence holds {len(strange)} cases that the suite does not have: {strange[0]!r}"
    outcomes = tuple(
        msgspec.structs.replace(came_out[id], cluster=cluster)
        if id in came_out
        else Outcome(id=id, correct=None, refused=None, cluster=cluster, error=LEFT_OUT)
        for id, cluster in cases.items()
    )
    if outcomes == evidence.outcomes:
        return evidence
    return msgspec.structs.replace(evidence, outcomes=outcomes)
