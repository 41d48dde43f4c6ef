"""The screen that a builder sees, whole."""

import json

import msgspec
import pytest

from dutchdoor.core import Exit, Verdict, VerdictKind
from dutchdoor.drill import render
from dutchdoor.drill.compare import exit_code
from dutchdoor.drill.report import Cases, Comparison, Cost, Lengths, Price, Reply, Sample, Side, Speed, Spread
from dutchdoor.engines.interface import Message


def speed(streams: int, scale: float) -> Speed:
    return Speed(
        streams=streams,
        requests=20,
        first_token_s=Spread(median=0.012 * scale, tail=0.02 * scale, n=20),
        answer_s=Spread(median=0.8 * scale, tail=1.6 * scale, n=20),
        tokens_per_s=Spread(median=120 / scale, tail=90 / scale, n=20),
        characters_per_s=Spread(median=500 / scale, tail=350 / scale, n=20),
        together_tokens_per_s=300 / scale,
    )


SMALL = Side(
    address="./gable-s",
    kind="folder",
    name="gable-s",
    license="Apache-2.0",
    license_source="its README",
    parameters=406_176,
    context_length=512,
    engine="llama.cpp",
    engine_version="xllamacpp 2026.10",
    engine_because=None,
    as_served=None,
    price=None,
    asked=400,
    answered=400,
    correct=240,
    lengths=Lengths(input_tokens=23, output_tokens=40, characters=150, empty=0, cut_off=2),
    alone=speed(1, 1),
    crowd=speed(4, 2),
)
LARGE = Side(
    address="https://api.example.org/v1#gable-l",
    kind="url",
    name="gable-l",
    license=None,
    license_source=None,
    parameters=None,
    context_length=8192,
    engine="http",
    engine_version="openai-compatible",
    engine_because=None,
    as_served=None,
    price=Price(input_pico_usd=400_000, output_pico_usd=1_200_000, source="server"),
    asked=400,
    answered=400,
    correct=260,
    lengths=Lengths(input_tokens=25, output_tokens=80, characters=300, empty=0, cut_off=0),
    alone=speed(1, 5),
    crowd=speed(4, 5),
    cost=Cost(per_thousand_nano_usd=106_000_000, requests=400),
)
VERDICT = Verdict(
    rule="not-worse",
    effect="gate",
    verdict=VerdictKind.INCONCLUSIVE,
    measure="correct.difference",
    value=-0.05,
    lower=-0.08,
    upper=-0.02,
    bound=-0.05,
    confidence=0.95,
    method="tango",
    n=400,
    missing=0,
    because="the interval of A − B straddles the margin; more cases would narrow it",
)
SAMPLES = (
    Sample(
        id="1",
        messages=(Message(role="user", content="What is 2 + 2?"),),
        a=Reply(text="4", correct=True),
        b=Reply(text="four", correct=True),
    ),
    Sample(
        id="2",
        messages=(Message(role="user", content="What is 3 + 3?"),),
        a=Reply(text="\x1b[31m7", correct=False),
        b=Reply(text="6", correct=True),
    ),
)
REPORT = Comparison(
    a=SMALL,
    b=LARGE,
    cases=Cases(source="cases.jsonl", digest="sha256:0", n=400, smoke_test=False, max_tokens=None),
    quality=VERDICT,
    samples=SAMPLES,
    routes="kind: dutchdoor/routes@1\n",
)

SCREEN = """\
A  ./gable-s
B  https://api.example.org/v1#gable-l

                               A                      B                      A against B
────────────────────────────────────────────────────────────────────────────────────────────────────
QUALITY  400 cases from cases.jsonl
correct                        60.0 % (240 of 400)    65.0 % (260 of 400)    −5.0 points
                                                                             [−8.0, −2.0]
right where the other is wrong 0                      1
answer length                  150 characters         300 characters         A 2.0 × shorter
cut off at the limit           2                      0
────────────────────────────────────────────────────────────────────────────────────────────────────
SPEED, ONE REQUEST AT A TIME  20 requests after a warm-up: median (95 % did better)
first token                    12 ms (20 ms)          60 ms (100 ms)         A 5.0 × sooner
whole answer                   800 ms (1.6 s)         4.0 s (8.0 s)          A 5.0 × sooner
tokens/s of one answer         120 (90.0)             24.0 (18.0)            A 5.0 × faster
characters/s of one answer     500 (350)              100 (70.0)             A 5.0 × faster
────────────────────────────────────────────────────────────────────────────────────────────────────
SPEED, 4 REQUESTS AT A TIME  20 requests after a warm-up: median (95 % did better)
first token                    24 ms (40 ms)          60 ms (100 ms)         A 2.5 × sooner
whole answer                   1.6 s (3.2 s)          4.0 s (8.0 s)          A 2.5 × sooner
tokens/s of one answer         60.0 (45.0)            24.0 (18.0)            A 2.5 × faster
characters/s of one answer     250 (175)              100 (70.0)             A 2.5 × faster
tokens/s of all together       150                    60.0                   A 2.5 × faster
────────────────────────────────────────────────────────────────────────────────────────────────────
COST  unknown is not free: nobody has said
per 1,000 such requests        unknown                $0.106                 –
per million tokens, in / out   unknown                $0.40 / $1.20 (its
                                                      server)
tokens a request, in / out     23 / 40                25 / 80
────────────────────────────────────────────────────────────────────────────────────────────────────
MODEL AND LICENCE
licence                        Apache-2.0 (its        unknown
                               README)
parameters                     406,176                unknown                –
context length                 512 tokens             8,192 tokens
answered by                    llama.cpp xllamacpp    its server
                               2026.10                (openai-compatible)
────────────────────────────────────────────────────────────────────────────────────────────────────

ANSWERS  2 of 2 side by side (--answers N for more, --format json for all)

> What is 3 + 3?
A ✗ �[31m7                                        B ✓ 6

> What is 2 + 2?
A ✓ 4                                             B ✓ four

INCONCLUSIVE: A may be at most 5 points worse than B; A − B is −5.0 points, between −8.0 and −2.0
  (each bound at 95 %, tango): the interval of A − B straddles the margin; more cases would narrow
  it.

routes.yaml puts both behind one name:
  kind: dutchdoor/routes@1
"""


def test_the_whole_screen() -> None:
    assert render.text(REPORT) == SCREEN


@pytest.mark.parametrize("width", [20, 80, 100, 118, 400])
def test_the_screen_keeps_its_width(width: int) -> None:
    kept = max(80, min(width, 118))
    assert max(len(line) for line in render.text(REPORT, width=width).splitlines()) <= kept


def test_the_page_holds_the_same_rows_and_no_bar_breaks_a_table() -> None:
    odd = msgspec.structs.replace(SMALL, license="A|B <script>")
    page = render.markdown(msgspec.structs.replace(REPORT, a=odd))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
    assert "| correct | 60.0 % (240 of 400) | 65.0 % (260 of 400) | −5.0 points [−8.0, −2.0] |" in rows
    assert "<script>" not in page
    assert "```yaml\nkind: dutchdoor/routes@1\n```" in page


def test_a_smoke_test_says_that_it_judges_no_quality() -> None:
    cases = Cases(source="bundled prompts", digest="sha256:0", n=20, smoke_test=True, max_tokens=64)
    sides = [msgspec.structs.replace(side, correct=None) for side in (SMALL, LARGE)]
    report = msgspec.structs.replace(REPORT, a=sides[0], b=sides[1], cases=cases, quality=None)
    shown = render.text(report)
    assert "SMOKE TEST  20 bundled prompts; they say nothing about quality" in shown
    assert "correct" not in shown
    assert exit_code(report) is Exit.CLEAN


def test_missing_answers_are_shown_with_a_reason_and_are_no_success() -> None:
    broken = msgspec.structs.replace(LARGE, missing=30, first_error="the wire was cut", correct=230)
    report = msgspec.structs.replace(REPORT, b=broken, quality=msgspec.structs.replace(VERDICT, bound=None))
    assert "missing (no wrong answers)     0                      30" in render.text(report)
    assert exit_code(report) is Exit.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (VerdictKind.PASS, Exit.CLEAN),
        (VerdictKind.FAIL, Exit.AGAINST),
        (VerdictKind.INCONCLUSIVE, Exit.INCONCLUSIVE),
    ],
)
def test_with_a_margin_the_exit_code_is_the_verdict(verdict: VerdictKind, code: Exit) -> None:
    judged = msgspec.structs.replace(VERDICT, verdict=verdict)
    assert exit_code(msgspec.structs.replace(REPORT, quality=judged)) is code


def test_the_report_reads_back_from_its_json() -> None:
    data = json.dumps(msgspec.to_builtins(REPORT))
    assert msgspec.json.decode(data, type=Comparison) == REPORT


def test_a_servers_words_cannot_steer_the_terminal() -> None:
    said = "\x1b]0;owned\x07\x1b[2Jno\x9b1m"
    broken = msgspec.structs.replace(LARGE, missing=400, first_error=said, notes=(said,), license=said)
    failed = msgspec.structs.replace(SAMPLES[0], b=Reply(text=None, error=said))
    judged = msgspec.structs.replace(VERDICT, bound=None, lower=None, because="all missing")
    report = msgspec.structs.replace(REPORT, b=broken, quality=judged, samples=(failed,))
    for page in (render.text(report), render.markdown(report)):
        assert "owned" in page
        assert not any(sign in page for sign in "\x1b\x07\x9b")


def test_a_margin_of_nothing_is_said_without_a_sign() -> None:
    judged = msgspec.structs.replace(VERDICT, bound=-0.0)
    assert "A may be at most 0 points worse" in render.text(msgspec.structs.replace(REPORT, quality=judged))
