"""routes.yaml: strict, with file, line, field and remedy."""

from pathlib import Path

import pytest

from dutchdoor.core import Channel, DocumentError, EngineError, Tier
from dutchdoor.family.load import LoadedFamily
from dutchdoor.gateway.routing import family as families
from dutchdoor.gateway.routing.file import load_routes
from dutchdoor.gateway.routing.keys import key_from
from dutchdoor.gateway.routing.opening import Opener
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.tariff import price_now
from dutchdoor.policy.decision import ChannelDecision, Decision, MemberDecision


def write(folder: Path, targets: str, routes: str) -> Path:
    path = folder / "routes.yaml"
    path.write_text(f"kind: dutchdoor/routes@1\ntargets: {targets}\nroutes: {routes}\n")
    return path


@pytest.mark.parametrize(
    ("targets", "routes", "words"),
    [
        ("{}", "{a: [b]}", "routes.a: there is no target 'b'"),
        ("{b: {}}", "{a: [b]}", "targets.b: expected one of url"),
        ("{b: 3}", "{a: [b]}", "targets"),
        (
            "{b: {provider: nobody, model: m}}",
            "{a: [b]}",
            "targets.b.provider: there is no provider 'nobody'",
        ),
        ("{b: {provider: groq}}", "{a: [b]}", "`model` is missing"),
        ("{b: {provider: gemini, model: m, timeout_s: 5}}", "{a: [b]}", "has no `timeout_s`"),
        ("{b: {provider: groq, url: 'http://x/v1', model: m}}", "{a: [b]}", "expected one of url"),
        ("{b: {url: 'http://x/v1', model: m, can: {context: true}}}", "{a: [b]}", "is a number of tokens"),
        ("{b: {url: 'http://x/v1', model: m, can: {tools: 3}}}", "{a: [b]}", "`tools` is true or false"),
        ("{b: {url: 'http://x/v1', model: m, timeout_s: 0}}", "{a: [b]}", "targets.b.timeout_s"),
        ("{b: {weights: x, timeout_s: 1}}", "{a: [b]}", "has no `timeout_s`"),
        ("{b: {weights: x, price: free}}", "{a: [b]}", "targets.b.price"),
        ("{b: {weights: x, price: {input: 1}}}", "{a: [b]}", "missing required field `output`"),
        (
            "{b: {weights: x, price: {input: 1, output: 2, x: 3}}}",
            "{a: [b]}",
            "targets.b.price.x: unknown field",
        ),
        ("{b: {weights: x, price: {input: 1.00000001, output: 2}}}", "{a: [b]}", "targets.b.price.input"),
        ("{b: {weights: x}}", "{a: {to: [b], retries: 1.5}}", "routes.a.retries: expected a whole number"),
        ("{b: {weights: x}}", "{a: {to: [b], retries: 11}}", "from 0 to 10"),
        ("{b: {weights: x}}", "{a: {to: [b], deadline_s: 0}}", "routes.a.deadline_s: expected seconds"),
        ("{b: {url: 'http://x/v1', weights: y}}", "{a: [b]}", "expected one of url"),
        ("{b: {url: 'http://x/v1'}}", "{a: [b]}", "`model` is missing"),
        ("{b: {family: f.yaml}}", "{a: [b]}", "`member` is missing"),
        ("{b: {weights: x, key_env: K}}", "{a: [b]}", "has no `key_env`"),
        ("{b: {weights: x, speed: 1}}", "{a: [b]}", "unknown field"),
        ("{b: {weights: x}}", "{}", "there is no route"),
        ("{b: {weights: x}}", "{a: []}", "there is no target"),
        ("{b: {weights: x}}", "{a: [b, b]}", "named twice"),
        ("{b: {weights: x}}", "{a: {b: -1}}", "expected a weight"),
        ("{b: {weights: x}}", "{a: {b: 0}}", "no weight is above 0"),
        ("{b: {weights: x}}", "{a: {to: [b], x: 1}}", "unknown field"),
        ("{b: {weights: x}}", "{a: {to: [b], unpriced: perhaps}}", "allow or refuse"),
        ("{b: {weights: x}}", "{a: {to: [{c: 1}]}}", "there is no target"),
        ("{b: {weights: x}}", "{a: {to: 7}}", "there is no target"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(
    tmp_path: Path, targets: str, routes: str, words: str
) -> None:
    with pytest.raises(DocumentError, match=r"routes\.yaml:\d+: ") as caught:
        load_routes(write(tmp_path, targets, routes))
    assert words in caught.value.message


def test_a_fault_is_told_with_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    rows = "  a:\n    weights: x\n  b:\n    weights: y\n    price:\n      input: 1\n      outptu: 2\n"
    path.write_text(f"kind: dutchdoor/routes@1\ntargets:\n{rows}routes: {{r: [a]}}\n")
    with pytest.raises(DocumentError, match=r"routes\.yaml:9: targets\.b\.price\.outptu: unknown") as caught:
        load_routes(path)
    assert caught.value.hint == "known here: input, output, cached_input"


async def build(path: Path, data: Path) -> dict[str, Route]:
    return (await Opener(data).build(load_routes(path))).routes


async def test_each_form_of_a_route_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTED_KEY", "secret")
    targets = (
        "{a: {url: 'http://127.0.0.1:1/v1', model: m, price: {input: 0.5, output: 1.5, cached_input: 0.1}},"
        " b: {url: 'https://api.example.org/v1', model: n, key_env: HOSTED_KEY, can: {tools: false},"
        " timeout_s: 5}}"
    )
    routes = (
        "{list: [a, b], weights: {a: 90, b: 10}, "
        "long: {to: {b: 1}, unpriced: allow, retries: 0, deadline_s: 30}}"
    )
    listed, weighted, long = (await build(write(tmp_path, targets, routes), tmp_path / "data")).values()
    assert [each.name for each in listed.targets] == ["a", "b"] and not listed.unpriced
    price = price_now(listed.targets[0].price)
    assert price is not None and (price.input, price.output, price.cached_input) == (
        500_000,
        1_500_000,
        100_000,
    )
    assert listed.targets[1].price is None
    assert weighted.weights == (90.0, 10.0) and long.unpriced
    assert (long.retries, long.deadline_s) == (0, 30) and listed.retries is None
    assert weighted.targets == listed.targets and long.targets[0] is listed.targets[1]  # each is opened once
    assert listed.about.price == {"input": 0.5, "output": 1.5, "cached_input": 0.1}


async def test_a_provider_stands_for_its_address_key_and_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "secret")
    targets = (
        "{known: {provider: groq, model: llama-3.3-70b-versatile}, odd: {provider: groq, model: nobody-knows-it},"
        " said: {provider: groq, model: llama-3.3-70b-versatile, price: unknown}}"
    )
    (route,) = (await build(write(tmp_path, targets, "{r: [known, odd, said]}"), tmp_path)).values()
    known, odd, said = (price_now(target.price) for target in route.targets)
    assert known is not None and known.input > 0 and known.source != "stated"
    assert odd is None and said is None
    monkeypatch.delenv("GROQ_API_KEY")
    with pytest.raises(EngineError, match="GROQ_API_KEY is not set"):
        await build(write(tmp_path, targets, "{r: [known]}"), tmp_path)


def test_those_of_weight_0_stand_in_as_they_are_written() -> None:
    route = Route(model="m", targets=("a", "b", "c", "d"), weights=(0.0, 1.0, 3.0, 0.0))  # type: ignore[arg-type]
    assert route.order(lambda: 0.0) == ("b", "c", "a", "d")
    assert route.order(lambda: 0.99) == ("c", "b", "a", "d")


@pytest.mark.parametrize("url", ["x", "ftp://host/v1", "http:///v1"])
async def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    path = write(tmp_path, f"{{a: {{url: '{url}', model: m}}}}", "{r: [a]}")
    with pytest.raises(EngineError, match="is no URL"):
        await build(path, tmp_path / "data")


def test_a_key_that_is_named_and_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(EngineError, match="NO_SUCH_KEY is not set"):
        key_from("NO_SUCH_KEY", "hosted")


FAMILY = """\
kind: dutchdoor/family@1
family: f
version: 1.0.0
publisher: {name: Test}
members:
  - name: small
    license: MIT
    variants: [{id: a}]
    serve: {target: {url: "http://127.0.0.1:1/v1", model: m}}
    price: {input: 0.5, output: 1.5}
"""


@pytest.mark.parametrize("given", [True, False])
async def test_a_member_is_judged_by_the_data_folder_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    asked: list[Path] = []

    async def judge(loaded: LoadedFamily, data: Path, trusted: object) -> families.Judged:
        asked.append(data)
        opened = ChannelDecision(open=True, closed_by=None)
        member = MemberDecision(tier=Tier.API, channels={Channel.API: opened})
        decision = Decision(
            family="f", version="1.0.0", policies=(), members={"small": member}, components=()
        )
        return families.Judged(decision=decision, warnings=())

    monkeypatch.setattr(families, "decide_from_store", judge)
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "family.yaml").write_text(FAMILY)
    path = write(tmp_path, "{a: {family: family/family.yaml, member: small}}", "{r: [a]}")
    data = tmp_path / ("elsewhere" if given else ".dutchdoor")  # as the command line passes them
    routes = await build(path, data)
    assert asked == [data if given else tmp_path / "family" / ".dutchdoor"]
    assert routes["r"].about.price == {"input": 0.5, "output": 1.5}  # what is billed
    assert routes["r"].targets[0].family == "f"
