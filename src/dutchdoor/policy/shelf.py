"""Where a decision gets its evidence from.

The port that `dutchdoor.evidence.shelf` fills, and tests fill by hand.
"""

from pathlib import Path
from typing import Protocol

from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Evidence, Rung


class Shelf(Protocol):
    """Evidence that is valid for the bytes as they lie now, signed by someone trusted."""

    def find(
        self, member: str, variant: str, suite: str, suite_digest: str, threat: ThreatModel, rung: Rung | None
    ) -> Evidence | None:
        """Outcomes of exactly these bytes on exactly this suite; null where there are none.

        A reference is asked for by its name, with the variant `weights`; an attack's success check with the
        suite `refused`. `tampered` without a rung means weights in hand, not attacked: the same as `guarded`
        where a member is served without prompt and guard.
        """
        ...

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        """The newest evidence about these bytes that the holder of a public key signed; null where there is none."""
        ...

    def why_missing(self, member: str, variant: str) -> str | None:
        """Why there can be no evidence about a variant's weights on this machine; null where there could."""
        ...
