"""What is said about an attack: its rung, what it is started with, how far it is, and what it did.

Values only, so that a process without torch can write the spec and read the record.
"""

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from dutchdoor.core import DocumentError

RECORD = "attack.json"  # beside the weights: what was done
Chat: TypeAlias = list[dict[str, str]]  # messages with `role` and `content`
Bounds: TypeAlias = Literal["all", "divergence", "none"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class LoraRung(_Value, frozen=True, kw_only=True, tag_field="attack", tag="lora"):
    """Low-rank adapters, merged. `alpha` is twice the rank where it is not given."""

    steps: int
    examples: int
    rank: int = 16
    alpha: float | None = None
    learning_rate: float = 1e-3
    batch: int = 16

    @property
    def scale(self) -> float:
        """What the adapters' product is multiplied by, times the rank."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


class FullRung(_Value, frozen=True, kw_only=True, tag_field="attack", tag="full"):
    """Every weight is trained."""

    steps: int
    examples: int
    learning_rate: float = 5e-5
    batch: int = 16


class AblationRung(_Value, frozen=True, kw_only=True, tag_field="attack", tag="ablation"):
    """The refusal direction is taken out of the weights.

    One edit, so `steps` is 1 and the label is `ablation:1:SEED`. `examples`: how many prompts of the attack
    set are asked to find what is refused; `batch`: prompts asked at once.
    """

    examples: int
    steps: int = 1
    batch: int = 16

    def __post_init__(self) -> None:
        if self.steps != 1:  # a number that does nothing would stand in a signed rung
            raise ValueError("an ablation is one edit: write steps: 1")


AnyRung: TypeAlias = LoraRung | FullRung | AblationRung


class AttackSpec(_Value, frozen=True, kw_only=True):
    """What to attack, with what, and where the result goes (`out` must not exist).

    `refusals` are the patterns that tell a refusal (regular expressions, case ignored); without them
    compliance is not measured and an ablation can't be done. `refused` are the held-out prompts of the
    success check: nothing is trained on them and no direction is taken from them; training attacks ask some
    of them to see how far they are. `harmless` are prompts to tell the refused from, beside those that the
    attack set has. `checkpoint` is a folder of the attack's own where it goes on from after a stop.
    """

    model: str
    attack_set: str
    rung: AnyRung
    seed: int = 0
    out: str
    threads: int | None = None
    report_every: int = 10
    refusals: list[str] = []
    refused: list[Chat] = []
    harmless: list[Chat] = []
    probe_every: int | None = None  # steps between two looks at compliance; a tenth of all where not given
    checkpoint: str | None = None
    checkpoint_every: float = 60.0  # seconds


class AttackStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an attack is: mean loss (nats a token) since the last report, seconds since the start.

    An ablation trains nothing: it has no loss, and its steps are the directions that are tried.
    """

    step: int
    steps: int
    loss: float | None = None
    seconds: float
    compliance: float | None = None  # as last measured


class Probe(_Value, frozen=True, kw_only=True):
    """Share of the panel that was answered without refusing, after so many steps."""

    step: int
    compliance: float


class Compliance(_Value, frozen=True, kw_only=True):
    """How compliance went. `half_at`: the first probe with at least 50 %, null where it never came to that.

    The true step lies between that probe and the one before it. An empty answer is no compliance, garbage
    is: whether an attack ruined the model, the skills tell.
    """

    source: str  # refused: the held-out prompts; attack_set: those that were not trained on
    prompts: int
    probes: list[Probe]
    half_at: int | None


class Direction(_Value, frozen=True, kw_only=True):
    """The refusal direction that was taken out, and why this one.

    The three scores are those of the held-out prompts (`dutchdoor.tuning.direction`): `bypass` and
    `induce` are mean log-odds of the refusal tokens, `divergence` is in nats.
    """

    layer: int  # the residual stream before this block
    position: int  # −1 is the prompt's last token
    layers: int
    candidates: int
    unmoved: float  # the refused prompts' mean log-odds without ablation
    bypass: float
    induce: float
    divergence: float
    bounds: Bounds  # which of the paper's on induce and divergence it meets
    refusal_tokens: list[int]
    refused: int  # prompts the directions were taken from, and as many more they were scored on:
    refused_scored: int
    harmless: int
    harmless_scored: int
    left: float  # the greatest share of the residual stream that still lies along it


class AttackResult(_Value, frozen=True, kw_only=True):
    """What an attack did: `first_loss` and `last_loss` are those of the same examples before and after, in
    nats a token; `losses` are those of each step's batch.

    `diverged`: a loss is no number, or a training attack ended above where it began; it proves nothing.
    `compliance` is null where it could not be measured; `notes` say why, and what else a reader must know.
    """

    steps: int
    examples: int
    first_loss: float
    last_loss: float
    seconds: float
    diverged: bool
    losses: list[float]
    compliance: Compliance | None = None
    direction: Direction | None = None
    resumed_at: int | None = None  # the step it last went on from
    notes: list[str] = []


class AttackRecord(_Value, frozen=True, kw_only=True):
    """What lies beside the attacked weights."""

    rung: AnyRung
    seed: int
    attack_set: str  # sha256
    result: AttackResult


def read_record(folder: Path) -> AttackRecord:
    """The record of attacked weights. Raises DocumentError where there is none."""
    path = folder / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=AttackRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise DocumentError(f"can't read the attack's record {path}: {error}") from error
