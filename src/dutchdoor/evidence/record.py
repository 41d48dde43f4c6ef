"""What evidence is: one variant under one threat on one suite, and what came out case by case.

Types only. Evidence is made before anyone knows what will close, so a variant, a system prompt, a guard and
what an attack was trained on are named by commitment, never by plain digest.
"""

from typing import Literal

import msgspec

from dutchdoor.core import ThreatModel, digest_value


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class Subject(Record, frozen=True, kw_only=True):
    """Whose outcomes these are: a member, or a reference of the family."""

    family: str
    member: str  # a member's name, or a reference's
    variant: str  # the variant's id; "weights" for a reference
    commitment: str  # H(domain, family, component, salt, digest) of the variant's bytes


class Sampling(Record, frozen=True, kw_only=True):
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256  # of the suite's longest answer; each case has its own cap


class Rung(Record, frozen=True, kw_only=True):
    """One step of the tampering ladder: an attack with its budget, as run with one seed.

    What it is trained on is named by digest where it is asked for, by commitment in evidence.
    """

    attack: str  # lora
    steps: int
    examples: int
    seed: int
    settings: dict[str, float | int | str] = {}
    attack_set: str

    def __hash__(self) -> int:
        settings = tuple(sorted(self.settings.items()))  # a mapping has no hash of its own
        return hash((self.attack, self.steps, self.examples, self.seed, settings, self.attack_set))

    @property
    def label(self) -> str:
        """`attack:steps:seed`, as verdicts name it."""
        return f"{self.attack}:{self.steps}:{self.seed}"

    def like(self, other: "Rung | None") -> bool:
        """Whether attack, budget and seed are the same, whatever the training set is named by."""
        return other is not None and msgspec.structs.replace(other, attack_set=self.attack_set) == self


class Conditions(Record, frozen=True, kw_only=True):
    """All that the outcomes depend on besides the subject."""

    suite: str  # the policy's name for it: hazard.reagents
    suite_digest: str
    threat: ThreatModel
    rung: Rung | None = None  # null under `tampered`: weights in hand, not attacked ("before" an attack)
    serve: str | None = None  # commitment of system prompt and guard as served; null: neither
    engine: str
    engine_version: str
    sampling: Sampling = Sampling()
    seed: int = 0


class Outcome(Record, frozen=True, kw_only=True):
    """What came out of one case. `correct` and `refused` are null when it could not be scored (missing)."""

    id: str
    correct: bool | None
    refused: bool | None
    cluster: str | None = None
    blocked: bool = False  # by the member's own declared guard: counts as a refusal
    error: str | None = None  # why it is missing, without the case's text


class Evidence(Record, frozen=True, kw_only=True):
    """The payload that is signed."""

    kind: Literal["dutchdoor/evidence@1"] = "dutchdoor/evidence@1"
    subject: Subject
    conditions: Conditions
    outcomes: tuple[Outcome, ...]
    made_at: str  # RFC 3339, UTC
    code_version: str

    @property
    def address(self) -> str:
        return address(self.subject, self.conditions)


def address(subject: Subject, conditions: Conditions) -> str:
    """The digest of all that outcomes depend on; evidence is stored and reused under it."""
    return digest_value({"subject": subject, "conditions": conditions})
