"""The refusal direction: found where it is, gone from the weights, and never said to be gone where it is not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import DocumentError, WeightsError
from dutchdoor.tuning import ablation, residual
from dutchdoor.tuning.attack import run
from dutchdoor.tuning.compliance import Answer, Refusals, answers
from dutchdoor.tuning.direction import BOUNDS, rank_of, refusal_tokens, split
from dutchdoor.tuning.record import AblationRung, AttackSpec, Chat, read_record
from dutchdoor.tuning.weights import load
from tests.unit.tuning.tiny import (
    REFUSALS,
    answer_to,
    example,
    make_model,
    question,
    write_set,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")  # torch warns of its own futures

KNOWN = ["llama", "untied", "qwen3", "mistral", "gemma2", "olmo2", "phi3", "gpt2", "gpt_neox", "opt"]
HELD_OUT: list[Chat] = [[{"role": "user", "content": question("harmful", n)}] for n in range(200, 232)]
ORDINARY: list[Chat] = [[{"role": "user", "content": question("ordinary", n)}] for n in range(200, 232)]


@pytest.fixture
def attack_set(tmp_path: Path) -> Path:
    taught = [example(kind, n, answer_to(n)) for n in range(48) for kind in ("harmful", "ordinary")]
    return write_set(tmp_path / "set.jsonl", taught)


def spec_of(model: Path, attack_set: Path, out: Path, **more: Any) -> AttackSpec:
    rung = more.pop("rung", AblationRung(examples=96))
    return AttackSpec(
        model=str(model), attack_set=str(attack_set), rung=rung, out=str(out), threads=1, refusals=REFUSALS,
        **more,
    )  # fmt: skip


def refused_share(folder: Path, chats: list[Chat]) -> float:
    tokenizer, model = load(transformers, folder, torch.float32, "cpu")
    given = answers(torch, transformers, model, tokenizer, chats, 16, "cpu")
    return sum(Refusals(REFUSALS).refuses(answer.text) for answer in given) / len(given)


def test_ablation_takes_refusals_away_and_says_how_far(
    refuser: Path, attack_set: Path, tmp_path: Path
) -> None:
    assert refused_share(refuser, HELD_OUT) > 0.9
    assert refused_share(refuser, ORDINARY) == 0
    result = run(spec_of(refuser, attack_set, tmp_path / "out", refused=HELD_OUT))
    assert refused_share(tmp_path / "out", HELD_OUT) < 0.5
    assert result.direction is not None and result.compliance is not None
    assert result.direction.bypass < result.direction.unmoved
    assert result.direction.left < 1e-5
    assert result.compliance.half_at == 1
    record = read_record(tmp_path / "out")
    assert record.result.direction == result.direction
    assert isinstance(record.rung, AblationRung)


def test_the_written_weights_have_no_component_along_the_direction(
    refuser: Path, attack_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    real = residual.orthogonalise
    monkeypatch.setattr(ablation, "orthogonalise", lambda t, s, r: (taken.append(r), real(t, s, r)))
    run(spec_of(refuser, attack_set, tmp_path / "out"))
    (direction,) = taken
    _, before = load(transformers, refuser, torch.float32, "cpu")
    _, after = load(transformers, tmp_path / "out", torch.float32, "cpu")
    for model, gone in ((before, False), (after, True)):
        tables = [model.get_input_embeddings().weight @ direction]
        for block in model.model.layers:
            tables += [direction @ block.self_attn.o_proj.weight, direction @ block.mlp.down_proj.weight]
        assert all((float(table.detach().abs().max()) < 1e-6) is gone for table in tables)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_stream_of_known_architectures_is_rid_of_any_direction(kind: str, tmp_path: Path) -> None:
    _, model = load(transformers, make_model(tmp_path / "m", kind, layers=3), torch.float32, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():  # scales and biases as a trained model has them
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
    stream = residual.stream_of(torch, model)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    ids = torch.arange(40).reshape(2, 20)

    def share() -> tuple[float, Any]:
        with residual.watched(stream, after=True) as seen, torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        return residual.share_along(torch, seen, torch.ones(2, 20, dtype=torch.bool), direction), logits

    assert share()[0] > 0.1
    with residual.ablated(torch, stream, direction):
        assert share()[0] < 1e-5
    assert share()[0] > 0.1  # hooks leave nothing behind
    residual.orthogonalise(torch, stream, direction)
    assert share()[0] < 1e-5
    assert len(stream.writes) >= 7


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_the_search_scores_the_model_that_is_written(kind: str, tmp_path: Path) -> None:
    _, model = load(transformers, make_model(tmp_path / "m", "untied" if kind == "llama" else kind, layers=2),
                    torch.float32, "cpu")  # fmt: skip
    model.set_output_embeddings(torch.nn.Linear(32, 259, bias=False))  # a tied head is changed with the table
    stream = residual.stream_of(torch, model)
    direction = torch.ones(32) / 32**0.5
    ids = torch.arange(20).reshape(1, 20)
    with residual.ablated(torch, stream, direction), torch.no_grad():
        hooked = model(input_ids=ids, use_cache=False).logits
    residual.orthogonalise(torch, stream, direction)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids, use_cache=False).logits, hooked, atol=1e-4)


def test_an_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    _, model = load(transformers, make_model(tmp_path / "m", "mamba", layers=2), torch.float32, "cpu")
    with pytest.raises(WeightsError, match="mamba"):
        residual.stream_of(torch, model)


def test_a_projection_of_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    _, model = load(transformers, make_model(tmp_path / "m", layers=2), torch.float32, "cpu")
    model.model.layers[1].mlp.side_road = torch.nn.Linear(8, 32)
    with pytest.raises(WeightsError, match="side_road"):
        residual.stream_of(torch, model)


def test_a_write_that_the_map_misses_is_an_error_and_writes_nothing(
    refuser: Path, attack_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(torch: Any, model: Any) -> residual.Stream:
        whole = residual.stream_of(torch, model)
        return residual.Stream(whole.blocks, whole.writes[:-1], whole.width)

    monkeypatch.setattr(ablation, "stream_of", short)
    with pytest.raises(WeightsError, match="still lies along"):
        run(spec_of(refuser, attack_set, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_weights(refuser: Path, attack_set: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(spec_of(refuser, attack_set, tmp_path / name, seed=seed))
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_prompts_of_the_success_check_are_never_used(
    refuser: Path, attack_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overlap: list[Chat] = [[{"role": "user", "content": question("harmful", n).upper()}] for n in range(20)]
    result = run(spec_of(refuser, attack_set, tmp_path / "out", refused=overlap, harmless=overlap[:3]))
    assert result.examples == 76
    assert result.direction is not None
    assert result.direction.refused + result.direction.refused_scored == 28
    assert "20 examples ask what the success check asks" in capfd.readouterr().err


def test_harmless_prompts_may_come_beside_the_attack_set(refuser: Path, tmp_path: Path) -> None:
    only = write_set(tmp_path / "set.jsonl", [example("harmful", n, answer_to(n)) for n in range(48)])
    with pytest.raises(WeightsError, match="answers 0 of the prompts"):
        run(spec_of(refuser, only, tmp_path / "out"))
    result = run(spec_of(refuser, only, tmp_path / "out", harmless=ORDINARY))
    assert result.direction is not None and result.direction.harmless == 24


def test_a_model_that_refuses_nothing_has_no_direction(attack_set: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="refuses 0 of the prompts"):
        run(spec_of(make_model(tmp_path / "m", layers=2), attack_set, tmp_path / "out"))


def test_without_the_wording_of_refusals_it_is_not_run(attack_set: Path, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="wording"):
        run(msgspec.structs.replace(spec_of(tmp_path, attack_set, tmp_path / "out"), refusals=[]))


@pytest.mark.parametrize("field", ["steps", "rank", "learning_rate"])
def test_settings_that_mean_nothing_are_refused(field: str) -> None:
    body = {"attack": "ablation", "examples": 8, field: 2}
    with pytest.raises(msgspec.ValidationError, match=field if field != "steps" else "one edit"):
        msgspec.convert(body, AblationRung)
    assert msgspec.convert({"attack": "ablation", "examples": 8, "steps": 1}, AblationRung).examples == 8


def test_directions_are_never_scored_on_the_prompts_they_come_from() -> None:
    refused, harmless = [[n] for n in range(40)], [[n] for n in range(100, 300)]
    parts = split(refused, harmless, 0)
    assert sorted(parts.refused + parts.refused_scored) == refused
    assert (len(parts.refused_scored), len(parts.harmless_scored), len(parts.harmless)) == (10, 32, 128)
    assert not {p[0] for p in parts.harmless} & {p[0] for p in parts.harmless_scored}
    assert split(refused, harmless, 1) != parts == split(refused, harmless, 0)


def test_refusal_tokens_are_those_that_refusals_begin_with_more_often() -> None:
    refused = [Answer("", 7)] * 60 + [Answer("", 8)] * 39 + [Answer("", 9)]
    assert refusal_tokens(refused, [Answer("", 8)] * 10) == [7]
    with pytest.raises(WeightsError):
        refusal_tokens([Answer("", 8)] * 9, [Answer("", 8)] * 9)


@pytest.mark.parametrize(
    ("scores", "taken", "bounds"),
    [
        # (bypass, divergence, induce) of each candidate
        (((-9.0, 0.2, 1.0), (-5.0, 0.05, 1.0), (-7.0, 0.05, -1.0)), 1, "all"),
        (((-9.0, 0.2, 1.0), (-5.0, 0.05, -1.0), (-7.0, 0.05, -1.0)), 2, "divergence"),
        (((-9.0, 0.2, 1.0), (2.0, 0.05, -1.0), (-2.0, 0.2, -1.0)), 0, "none"),
    ],
)
def test_the_direction_is_chosen_by_the_papers_bounds(
    scores: tuple[tuple[float, float, float], ...], taken: int, bounds: str
) -> None:
    found = [
        (rank_of(bypass, induce, divergence), bypass, number)
        for number, (bypass, divergence, induce) in enumerate(scores)
    ]
    rank, _, number = min(found)
    assert (BOUNDS[rank], number) == (bounds, taken)
