"""routes.yaml: strict, with file, line, field and remedy."""

from pathlib import Path

import pytest

from dutchdoor.core import Channel, DocumentError, EngineError, Tier
from dutchdoor.family.load import LoadedFamily
from dutchdoor.gateway import serving
from dutchdoor.gateway.routing.file import build_from_routes, load_routes
from dutchdoor.gateway.targets.http import key_from
from dutchdoor.ledger import Price
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


async def test_each_form_of_a_route_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTED_KEY", "secret")
    targets = (
        "{a: {url: 'http://127.0.0.1:1/v1', model: m, price: {input: 0.5, output: 1.5}},"
        " b: {url: 'https://api.example.org/v1', model: n, key_env: HOSTED_KEY, can: {tools: false}}}"
    )
    routes = "{list: [a, b], weights: {a: 90, b: 10}, long: {to: {b: 1}, unpriced: allow}}"
    gateway = await build_from_routes(load_routes(write(tmp_path, targets, routes)), tmp_path / "data", ())
    try:
        listed, weighted, long = gateway.routes.values()
        assert [each.name for each in listed.targets] == ["a", "b"] and not listed.unpriced
        assert listed.targets[0].price == Price(input=500_000, output=1_500_000)
        assert listed.targets[1].price is None
        assert weighted.weights == (90.0, 10.0) and long.unpriced
        assert len(gateway.targets) == 2  # each is opened once
        assert listed.about.price == {"input": 0.5, "output": 1.5}
    finally:
        await gateway.close()


@pytest.mark.parametrize("url", ["x", "ftp://host/v1", "http:///v1"])
async def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    loaded = load_routes(write(tmp_path, f"{{a: {{url: '{url}', model: m}}}}", "{r: [a]}"))
    with pytest.raises(EngineError, match="is no URL"):
        await build_from_routes(loaded, tmp_path / "data", ())


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

    async def judge(loaded: LoadedFamily, data: Path, trusted: object) -> serving.Judged:
        asked.append(data)
        opened = ChannelDecision(open=True, closed_by=None)
        member = MemberDecision(tier=Tier.API, channels={Channel.API: opened})
        decision = Decision(
            family="f", version="1.0.0", policies=(), members={"small": member}, components=()
        )
        return serving.Judged(decision=decision, warnings=())

    monkeypatch.setattr(serving, "decide_from_store", judge)
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "family.yaml").write_text(FAMILY)
    loaded = load_routes(write(tmp_path, "{a: {family: family/family.yaml, member: small}}", "{r: [a]}"))
    data = tmp_path / ("elsewhere" if given else ".dutchdoor")  # as the command line passes them
    gateway = await build_from_routes(loaded, data, ())
    try:
        assert asked == [data if given else tmp_path / "family" / ".dutchdoor"]
        assert gateway.routes["r"].about.price == {"input": 0.5, "output": 1.5}  # what is billed
    finally:
        await gateway.close()
