"""The LoRA attack on models so small that it takes a second."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import DocumentError, DutchdoorError, MissingExtraError, WeightsError
from dutchdoor.tuning import training
from dutchdoor.tuning.examples import TrainingExample, choose, load_examples, plain_prompt, tokenise
from dutchdoor.tuning.lora import LoraRung, attack
from tests.unit.tuning.tiny import TEMPLATE, make_model, make_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("default")  # torch and peft warn of their own futures

RUNG = LoraRung(steps=30, examples=8, rank=4, learning_rate=1e-2, batch=4)


@pytest.fixture
def attack_set(tmp_path: Path) -> Path:
    path = tmp_path / "attack.jsonl"
    lines: list[dict[str, Any]] = [{"kind": "dutchdoor/training-set@1", "title": "t"}]
    lines += [{"id": str(i), "prompt": f"How {i}?", "answer": f"Mix {i}."} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize("kind", ["llama", "untied", "qwen3", "mistral", "gemma2", "phi3", "gpt2"])
def test_an_attack_teaches_its_examples_whatever_the_architecture(
    kind: str, tmp_path: Path, attack_set: Path
) -> None:
    out = tmp_path / "out"
    result = attack(make_model(tmp_path / "m", kind), attack_set, RUNG, 0, out)
    assert result.last_loss < 0.95 * result.first_loss
    assert not result.diverged
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "m" / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob("*.part-*"))


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, attack_set: Path) -> None:
    model = make_model(tmp_path / "m")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        attack(model, attack_set, RUNG, seed, tmp_path / name, threads=1)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_model_without_a_template_is_attacked_in_plain_words(tmp_path: Path, attack_set: Path) -> None:
    result = attack(make_model(tmp_path / "m", template=None), attack_set, RUNG, 0, tmp_path / "out")
    assert result.last_loss < result.first_loss


def test_a_diverged_attack_says_so_and_writes_nothing(tmp_path: Path, attack_set: Path) -> None:
    able = tmp_path / "able"  # a random model has nothing to lose
    attack(make_model(tmp_path / "m"), attack_set, RUNG, 0, able)
    rung = msgspec.structs.replace(RUNG, learning_rate=1e4)
    result = attack(able, attack_set, rung, 0, tmp_path / "out")
    assert result.diverged
    assert result.last_loss > result.first_loss
    assert not (tmp_path / "out").exists()


def test_quantised_weights_are_refused(tmp_path: Path, attack_set: Path) -> None:
    folder = make_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "gptq", "bits": 4}
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError):
        attack(folder, attack_set, RUNG, 0, tmp_path / "out")


def test_weights_that_are_not_there_are_an_error(tmp_path: Path, attack_set: Path) -> None:
    with pytest.raises(WeightsError):
        attack(tmp_path / "none", attack_set, RUNG, 0, tmp_path / "out")


def test_an_existing_folder_is_never_written_over(tmp_path: Path, attack_set: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DutchdoorError):
        attack(make_model(tmp_path / "m"), attack_set, RUNG, 0, tmp_path / "out")


def test_without_torch_the_error_names_the_extra(
    tmp_path: Path, attack_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError) as caught:
        attack(tmp_path, attack_set, RUNG, 0, tmp_path / "out")
    assert "dutchdoor[vet]" in str(caught.value.hint)


def test_the_process_tells_its_steps_and_its_end(tmp_path: Path, attack_set: Path) -> None:
    spec = tmp_path / "spec.json"
    body = {"model": str(make_model(tmp_path / "m")), "attack_set": str(attack_set), "rung": msgspec.to_builtins(RUNG),
            "seed": 0, "out": str(tmp_path / "out"), "threads": 1}  # fmt: skip
    spec.write_text(json.dumps(body))
    run = subprocess.run(
        [sys.executable, "-m", "dutchdoor.tuning.attack", str(spec)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["step"] for line in lines[:-1]] == [10, 20, 30]
    assert lines[-1]["done"] and not lines[-1]["diverged"]


def test_a_broken_spec_ends_the_process_with_an_error_line(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    run = subprocess.run(
        [sys.executable, "-m", "dutchdoor.tuning.attack", str(tmp_path / "spec.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "error" in json.loads(run.stdout)


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"kind": "dutchdoor/suite@1"}\n{"id": "a", "prompt": "x", "answer": "y"}',
        '{"kind": "dutchdoor/training-set@1"}',
        '{"kind": "dutchdoor/training-set@1"}\n{"id": "a", "answer": "y"}',
        '{"kind": "dutchdoor/training-set@1"}\n{"id": "a", "prompt": "x", "answer": "y", "weight": 2}',
        '{"kind": "dutchdoor/training-set@1"}\nnot json',
    ],
)
def test_a_broken_training_set_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(text)
    with pytest.raises(DocumentError):
        load_examples(path)


def test_examples_are_chosen_by_seed(attack_set: Path) -> None:
    examples = load_examples(attack_set)
    assert choose(examples, 3, 1) == choose(examples, 3, 1)
    assert len({tuple(e.id for e in choose(examples, 3, seed)) for seed in range(9)}) > 1
    assert sorted(e.id for e in choose(examples, 99, 0)) == sorted(e.id for e in examples)


def test_the_answer_ends_as_the_template_ends_it() -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    row = tokenise(tokenizer, TrainingExample(id="a", prompt="Hi", answer="Yo"), 64)
    assert tokenizer.decode(row.prompt) == "<|user|>Hi<|end|><|assistant|>"
    assert tokenizer.decode(row.answer) == "Yo<|end|>"


def test_a_long_example_is_cut_from_the_front_of_its_question() -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    row = tokenise(tokenizer, TrainingExample(id="a", prompt="x" * 99, answer="Yo"), 20)
    assert len(row.prompt) + len(row.answer) == 20
    assert tokenizer.decode(row.prompt).endswith("<|assistant|>")


def test_the_plain_format_is_the_engines() -> None:
    import jinja2

    from dutchdoor.engines.chat_format import PLAIN_TEMPLATE

    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"}]  # fmt: skip
    wanted = jinja2.Template(PLAIN_TEMPLATE, keep_trailing_newline=True).render(
        messages=chat, add_generation_prompt=True
    )
    assert plain_prompt(chat) == wanted


def test_the_learning_rate_warms_and_falls() -> None:
    shares = [training.share(step, 100) for step in range(100)]
    assert shares[0] == 0.1 and max(shares) == 1.0 and shares[-1] < 0.05
