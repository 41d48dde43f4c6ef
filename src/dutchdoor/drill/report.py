"""What a comparison is: the two sides, the quality verdict, the samples, the routes.

Types only: this is the JSON that `compare --format json` prints. Seconds, tokens, fractions; money in integer
nano-dollars. Null means unknown or not measured, and is never to be read as zero.
"""

from typing import Literal

import msgspec

from dutchdoor.core import Verdict
from dutchdoor.engines.interface import FinishReason, Message

PriceSource = Literal["option", "offer", "family", "server"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class Spread(Row, frozen=True, kw_only=True):
    """Where values lie: the median, and the bad end.

    `tail` is the nearest-rank 95th percentile of what hurts: the longest times, the lowest rates. Below
    twenty values that is the worst one.
    """

    median: float
    tail: float
    n: int


class Speed(Row, frozen=True, kw_only=True):
    """How fast one side answered with `streams` requests at a time, after a warm-up.

    `tokens_per_s` is of one answer after its first token, `characters_per_s` of the whole answer, waiting
    included; `together_tokens_per_s` is all output over the wall clock. Two tokenizers' tokens differ in
    length; characters don't.
    """

    streams: int
    requests: int  # that were answered
    first_token_s: Spread | None
    answer_s: Spread | None
    tokens_per_s: Spread | None  # null where the target does not count tokens
    characters_per_s: Spread | None
    together_tokens_per_s: float | None


class Price(Row, frozen=True, kw_only=True):
    """Integer pico-dollars a token, and who says so."""

    input_pico_usd: int
    output_pico_usd: int
    source: PriceSource


class Cost(Row, frozen=True, kw_only=True):
    """What a thousand such requests cost.

    Each request is rounded up once to a nano-dollar, as in a bill; the sum is then scaled from the `requests`
    that were measured to a thousand, and rounded up once more.
    """

    per_thousand_nano_usd: int
    requests: int


class Lengths(Row, frozen=True, kw_only=True):
    """How long questions and answers were, on average; null where the target does not count tokens."""

    input_tokens: float | None
    output_tokens: float | None
    characters: float
    empty: int  # answers without a single character
    cut_off: int  # answers that ran into the limit


class Side(Row, frozen=True, kw_only=True):
    """One of the two: what it is, who answers for it, and how it did."""

    address: str  # as typed
    kind: Literal["folder", "gguf", "bundle", "member", "url"]
    name: str  # what tables and the routes file call it
    license: str | None
    license_source: str | None
    parameters: int | None
    context_length: int | None
    engine: str
    engine_version: str
    engine_because: str | None
    as_served: str | None  # what stands between question and model: system prompt, guard
    price: Price | None
    signer: str | None = None  # of a bundle; null: unknown or not a bundle
    notes: tuple[str, ...] = ()
    asked: int = 0
    answered: int = 0
    correct: int | None = None  # null without cases
    missing: int = 0  # not answered, or answered and not scorable
    first_error: str | None = None
    lengths: Lengths | None = None
    alone: Speed | None = None  # one request at a time
    crowd: Speed | None = None  # several at a time
    cost: Cost | None = None


class Cases(Row, frozen=True, kw_only=True):
    """What was asked, and how."""

    source: str  # a file as typed, or "bundled prompts"
    digest: str
    n: int  # that both were asked
    smoke_test: bool  # true: the bundled prompts; they say nothing about quality
    max_tokens: int | None  # the limit of an answer; null: each case's own
    temperature: float = 0.0  # greedy


class Reply(Row, frozen=True, kw_only=True):
    """What one side said to one case. `text` is null when there was no answer; `error` says why."""

    text: str | None
    error: str | None = None
    correct: bool | None = None  # null: not scored, or missing
    finish_reason: FinishReason | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    streams: int | None = None  # how many requests were under way at a time


class Sample(Row, frozen=True, kw_only=True):
    """One case with both answers."""

    id: str
    messages: tuple[Message, ...]
    cluster: str | None = None
    a: Reply
    b: Reply


class Comparison(Row, frozen=True, kw_only=True):
    """The whole report.

    `quality` is null without cases; without a margin its `bound` is null and it claims nothing. The
    difference is A − B, as a fraction of the cases.
    """

    kind: Literal["dutchdoor/comparison@1"] = "dutchdoor/comparison@1"
    a: Side
    b: Side
    cases: Cases
    quality: Verdict | None
    samples: tuple[Sample, ...]
    routes: str  # the text of a routes.yaml
